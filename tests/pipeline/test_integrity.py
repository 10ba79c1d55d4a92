"""Damage anywhere in a run or in its shards is found, and named as exactly as it can be."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom import cli
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.stream import Stream
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.integrity import check
from mixloom.pipeline.ledger import Counts
from mixloom.pipeline.manifest import ShardManifest, build_manifest
from mixloom.pipeline.run import RunDirectory, StageManifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard

SEQ_LEN = 32
VOCABULARY = {
    "version": 1,
    "size": 1024,
    "pad": 0,
    "dtype": "uint16",
    "ranges": [{"name": "text", "start": 0, "size": 1024, "used": 1024, "modality": 0, "fingerprint": "t"}],
    "fingerprint": "v",
}


def write(root: Path, sizes: dict[str, tuple[int, ...]]) -> ShardManifest:
    """Shards of random contexts: contexts per shard by domain."""
    rng = np.random.Generator(np.random.PCG64(3))
    entries = []
    for d, (domain, shards) in enumerate(sizes.items()):
        for s, n in enumerate(shards):
            rows = []
            for i in range(n):
                lengths = rng.integers(1, 8, int(rng.integers(1, 5))).tolist()
                ids = rng.integers(1, 1000, sum(lengths)).astype(np.uint16)
                names = [f"{domain}{s}{i}{j}" for j in range(len(lengths))]
                rows.append(Context(ids, lengths, names, ["s"] * len(lengths), [0] * len(lengths)))
            common = {"seq_len": SEQ_LEN, "vocabulary": VOCABULARY, "block": 4}
            prefix, name = key_prefix(d, s), shard_name(domain, s, len(shards))
            entries.append(write_shard(root, name, domain, rows, prefix=prefix, **common))
    manifest = build_manifest(entries, VOCABULARY, seq_len=SEQ_LEN)
    manifest.save(root)
    return manifest


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    write(root, {"d00": (10, 3), "d01": (5,)})
    return root


@pytest.fixture
def run(tmp_path):
    """A finished stage `filter` with one part and one table of rejects, an unfinished `embed`, and shards."""
    run = RunDirectory(str(tmp_path / "run"))
    run.store.write("config.yaml", b"run_dir: run\n")
    run.save_plan(["filter", "shards", "embed"])
    some = pa.table({"doc_id": [f"{i:032x}" for i in range(50)]})
    directory = run.stage("filter")
    parts = [directory.write_table("part-0.parquet", "part-0", some)]
    rejects = [directory.write_table("rejects/part-0.parquet", "part-0", some.slice(0, 3))]
    finish(directory, parts, rejects)
    write(tmp_path / "run" / "shards", {"d00": (10, 3)})
    stage = run.stage("shards")
    names = [n for n in stage.store.names() if n != "manifest.json"]
    finish(stage, [stage.write_file(n, stage.store.read(n)) for n in [*names, "manifest.json"]], [])
    unfinished = run.stage("embed")
    unfinished.begin("k")
    return run


def finish(directory, parts, rejects):
    counts = Counts(documents_in=53, kept=50, dropped={"short": 3})
    directory.finish(StageManifest(directory.name, "k", {}, {}, counts, parts, rejects, 1, 0.0, 0.0, {}, {}))


def flip(path: Path, position: int, mask: int = 1) -> bytes:
    """Change a byte of a file; returns what it was."""
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[position] ^= mask
    path.write_bytes(broken)
    return whole


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_anywhere_in_a_shard_is_found_and_its_sample_named(shards, data):
    names = sorted(p.name for p in shards.glob("*.tar"))
    name = data.draw(st.sampled_from(names))
    path = shards / name
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    whole = flip(path, position, data.draw(st.integers(1, 255)))
    try:
        found = check(str(shards))
    finally:
        path.write_bytes(whole)
    samples = json.loads((shards / f"{name}.index.json").read_text())["samples"]
    inside = [s["key"] for s in samples if s["offset"] <= position < s["offset"] + s["bytes"]]
    assert [(d.shard, d.sample) for d in found.damages] == [(name, inside[0] if inside else "")]
    assert all(name in d.what and (not inside or inside[0] in d.what) for d in found.damages)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_byte_of_an_index_is_found(shards, data):
    path = data.draw(st.sampled_from(sorted(shards.glob("*.index.json"))))
    whole = flip(path, data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(1, 255)))
    try:
        found = check(str(shards), workers=2)
        with pytest.raises(UserError, match=r"\.index\.json"):
            ShardReader(shards).context("d00" if "d00" in path.name else "d01", 0)
    finally:
        path.write_bytes(whole)
    assert [(d.file, d.shard) for d in found.damages] == [(path.name, path.name[: -len(".index.json")])]


def test_whole_shards_are_whole_and_every_file_is_counted(shards):
    found = check(str(shards))
    assert found.damages == ()
    assert found.files == 1 + 2 * 3
    assert check(str(shards / "manifest.json")).files == 7


def test_a_truncated_shard_is_named_with_the_samples_it_lost(tmp_path):
    write(tmp_path, {"d00": (10,)})
    path = tmp_path / "d00-00000-of-00001.tar"
    samples = json.loads((tmp_path / f"{path.name}.index.json").read_text())["samples"]
    path.write_bytes(path.read_bytes()[: samples[1]["offset"] + 700])
    [damage] = check(str(tmp_path)).damages
    assert (damage.kind, damage.shard, damage.sample) == ("truncated", path.name, samples[1]["key"])
    assert "2 of 3 samples are lost, from d000-s00000-b0001 on" in damage.what
    path.write_bytes(b"")
    [damage] = check(str(tmp_path)).damages
    assert damage.kind == "truncated"


@pytest.mark.parametrize(
    "gone", ["d00-00000-of-00001.tar", "d00-00000-of-00001.tar.index.json", "manifest.json"]
)
def test_a_missing_file_of_the_shards_is_named(tmp_path, gone):
    write(tmp_path, {"d00": (6,)})
    (tmp_path / gone).unlink()
    found = check(str(tmp_path))
    assert [(d.file, d.kind) for d in found.damages] == [(gone, "missing")]


def test_a_shard_without_its_index_is_still_compared_with_its_hash(tmp_path):
    write(tmp_path, {"d00": (6,)})
    (tmp_path / "d00-00000-of-00001.tar.index.json").unlink()
    flip(tmp_path / "d00-00000-of-00001.tar", 3000)
    assert sorted((d.file, d.kind) for d in check(str(tmp_path)).damages) == [
        ("d00-00000-of-00001.tar", "damaged"),
        ("d00-00000-of-00001.tar.index.json", "missing"),
    ]


def test_an_edited_manifest_is_found(tmp_path):
    write(tmp_path, {"d00": (6,)})
    file = tmp_path / "manifest.json"
    file.write_text(file.read_text().replace('"seq_len": 32', '"seq_len": 33'))
    [damage] = check(str(tmp_path)).damages
    assert damage.file == "manifest.json"
    assert "does not match its own fingerprint" in damage.what


def test_every_file_of_a_run_is_checked(run):
    found = check(run.store.root)
    assert found.damages == ()
    assert found.unfinished == ("embed",)
    # Two stage files and one of the unfinished stage, two tables, two tars with their indexes, one manifest.
    assert found.files == 3 + 2 + 4 + 1


@pytest.mark.parametrize("file", ["filter/part-0.parquet", "filter/rejects/part-0.parquet"])
def test_damage_to_a_table_of_a_stage_is_named(run, file):
    path = Path(run.store.url(file))
    whole = flip(path, path.stat().st_size // 2)
    [damage] = check(run.store.root).damages
    assert (damage.stage, damage.file, damage.kind) == ("filter", file, "damaged")
    path.write_bytes(whole[:-7])
    [damage] = check(run.store.root).damages
    assert damage.kind == "truncated"
    path.write_bytes(whole + b"x")
    [damage] = check(run.store.root).damages
    assert damage.kind == "too_long"
    path.unlink()
    [damage] = check(run.store.root).damages
    assert damage.kind == "missing"


def test_damage_to_a_shard_of_a_run_names_stage_shard_and_sample(run):
    path = Path(run.store.url("shards/d00-00001-of-00002.tar"))
    flip(path, 2000)
    [damage] = check(run.store.root).damages
    assert (damage.stage, damage.file) == ("shards", "shards/d00-00001-of-00002.tar")
    assert (damage.shard, damage.sample) == (path.name, "d000-s00001-b0000")


@pytest.mark.parametrize("file", ["shards/manifest.json", "shards/stage.json", "filter/stage.json"])
def test_damage_to_what_describes_a_stage_is_found(run, file):
    path = Path(run.store.url(file))
    place = path.read_bytes().index(b'"sha256": "') + 12
    flip(path, place)
    assert [d.file for d in check(run.store.root).damages][:1] == [file]


def test_parts_of_a_stage_that_has_not_finished_are_checked_too(run):
    from mixloom.pipeline.stage import OutputTable, UnitOutput, commit_unit

    stage = run.stage("embed")
    commit_unit(stage, UnitOutput("part-0", (OutputTable("part-0", pa.table({"x": [1, 2, 3]})),), None, 3))
    assert check(run.store.root).damages == ()
    flip(Path(stage.store.url("part-0.parquet")), 40)
    [damage] = check(run.store.root).damages
    assert (damage.stage, damage.file) == ("embed", "embed/part-0.parquet")


def test_what_is_neither_a_run_nor_shards_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(UserError, match="no shard manifest"):
        check(str(tmp_path))
    assert cli.main(["verify", str(tmp_path)]) == 2


def test_the_command_tells_damage_by_its_exit_code_and_in_words(run, capsys):
    assert cli.main(["verify", run.store.root]) == 0
    said = capsys.readouterr().out
    assert "all whole" in said
    assert "embed has not finished" in said
    assert cli.main(["verify", run.store.root, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    flip(Path(run.store.url("shards/d00-00001-of-00002.tar")), 2000)
    assert cli.main(["verify", run.store.root, "--quiet", "--workers", "2"]) == 1
    line = "damaged: sample d000-s00001-b0000 of shard d00-00001-of-00002.tar is damaged"
    assert capsys.readouterr().out.startswith(line)
    assert cli.main(["verify", run.store.root, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["whole"] is False
    assert [d["sample"] for d in told["damages"]] == ["d000-s00001-b0000"]
    assert cli.main(["verify", run.store.root]) == 1
    assert "1 not as written" in capsys.readouterr().out


def test_the_reader_finds_damage_in_a_sample_when_it_first_reads_it_and_only_when_asked(tmp_path):
    write(tmp_path, {"d00": (10,), "d01": (4,)})
    index = json.loads((tmp_path / "d00-00000-of-00001.tar.index.json").read_text())
    sample = index["samples"][1]  # contexts 4 to 7
    flip(tmp_path / index["shard"], sample["input_ids"]["offset"] + 5)
    ShardReader(tmp_path).context("d00", 4)
    reader = ShardReader(tmp_path, verify=True)
    reader.context("d00", 3)
    said = f"sample {sample['key']} of shard {index['shard']} is damaged"
    for read in (
        lambda: reader.context("d00", 4),
        lambda: reader.info("d00", 7),
        lambda: reader.batch([1, 0], [0, 5]),
        lambda: reader.context_tokens("d00"),
        lambda: pickle.loads(pickle.dumps(reader)).context("d00", 6),
    ):
        with pytest.raises(UserError, match=said):
            read()
    reader.batch(0, [0, 1, 8])


def test_a_stream_finds_damage_in_what_it_serves(tmp_path):
    manifest = write(tmp_path, {"d00": (10,), "d01": (4,)})
    mixture = mixture_of(manifest)
    path = tmp_path / "d00-00000-of-00001.tar"
    flip(path, 2000)
    stream = Stream(ShardReader(tmp_path, verify=True), mixture, seed=1, batch_contexts=7, steps=2)
    with pytest.raises(
        UserError, match=r"sample d000-s00000-b0000 of shard d00-00000-of-00001\.tar is damaged"
    ):
        list(map(stream.contexts, range(2)))


def mixture_of(manifest: ShardManifest) -> Mixture:
    from mixloom.mixers.estimate import MixtureConfig
    from mixloom.mixers.stage import weigh

    return weigh(manifest, MixtureConfig(max_epochs=4), None)
