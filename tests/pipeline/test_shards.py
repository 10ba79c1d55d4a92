"""The shard format: what is written is what any reader gets back, byte for byte the same every time."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.integrity import verify_shard, verify_shards
from mixloom.pipeline.manifest import ShardManifest, build_manifest, modality_table
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard

SEQ_LEN = 32


def vocabulary(dtype: str = "uint16") -> dict[str, object]:
    ranges = [("special", 0, 256, 0), ("text", 256, 256, 0), ("image", 512, 256, 1), ("speech", 768, 128, 2)]
    return {
        "version": 1,
        "size": 1024,
        "pad": 0,
        "dtype": dtype,
        "ranges": [
            {"name": n, "start": s, "size": z, "used": z, "modality": m, "fingerprint": n}
            for n, s, z, m in ranges
        ],
        "fingerprint": "f" * 64,
    }


def some_contexts(n: int, seed: int = 0) -> list[Context]:
    rng = np.random.Generator(np.random.PCG64(seed))
    out = []
    for i in range(n):
        lengths = rng.integers(1, 8, int(rng.integers(1, 5))).tolist()
        ids = rng.integers(256, 896, sum(lengths)).astype(np.uint16)
        k = len(lengths)
        names = [f"{seed:02x}{i:04x}{j:026x}" for j in range(k)]
        starts = [0 if (i + j) % 3 else 40 for j in range(k)]
        out.append(Context(ids, lengths, names, ["wiki" if j % 2 else "web é" for j in range(k)], starts))
    return out


def write_run(
    root: Path, contexts: dict[str, list[list[Context]]], block: int = 4, dtype: str = "uint16"
) -> ShardManifest:
    entries = []
    for d, (domain, shards) in enumerate(contexts.items()):
        for s, rows in enumerate(shards):
            name = shard_name(domain, s, len(shards))
            common = {
                "prefix": key_prefix(d, s),
                "seq_len": SEQ_LEN,
                "vocabulary": vocabulary(dtype),
                "block": block,
            }
            entries.append(write_shard(root, name, domain, rows, **common))
    manifest = build_manifest(entries, vocabulary(dtype), seq_len=SEQ_LEN, config_fingerprint="c")
    manifest.save(root)
    return manifest


@pytest.fixture
def run(tmp_path):
    contexts = {"d00": [some_contexts(10, 1), some_contexts(3, 2)], "d01": [some_contexts(5, 3)]}
    return tmp_path, contexts, write_run(tmp_path, contexts)


def padded(row: Context) -> list[int]:
    return row.input_ids.tolist() + [0] * (SEQ_LEN - len(row.input_ids))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_plain_webdataset_client_reads_what_was_written(tmp_path, dtype):
    rows = some_contexts(10)
    write_run(tmp_path, {"d00": [rows]}, dtype=dtype)
    path = tmp_path / "d00-00000-of-00001.tar"
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=True).decode())
    assert [s["__key__"] for s in samples] == [f"d000-s00000-b000{b}" for b in range(3)]
    ids = np.concatenate([s["input_ids.npy"] for s in samples])
    assert ids.dtype == dtype
    assert ids.tolist() == [padded(r) for r in rows]
    lengths = [row[row > 0].tolist() for s in samples for row in s["doc_lengths.npy"]]
    assert lengths == [list(r.doc_lengths) for r in rows]
    about = [c for s in samples for c in s["json"]["contexts"]]
    assert about == [{"doc_ids": r.doc_ids, "sources": r.sources, "starts": r.starts} for r in rows]


def test_the_same_contexts_give_the_same_bytes_and_a_tar_of_fixed_owner_time_and_mode(tmp_path):
    for place in ("a", "b"):
        write_run(tmp_path / place, {"d00": [some_contexts(10)]})
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["d00-00000-of-00001.tar", "d00-00000-of-00001.tar.index.json", "manifest.json"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with tarfile.open(tmp_path / "a" / names[0]) as tar:
        assert tar.pax_headers == {}
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname) for m in tar} == {(0, 0, 0, 0o644, "", "")}
    assert (tmp_path / "a" / names[0]).stat().st_size % 10240 == 0


def test_the_reader_gives_every_context_and_its_documents(run):
    root, contexts, _ = run
    reader = ShardReader(root)
    assert reader.domains == ["d00", "d01"]
    for domain, shards in contexts.items():
        rows = [r for shard in shards for r in shard]
        assert reader.contexts(domain) == len(rows)
        assert reader.context_tokens(domain).tolist() == [len(r.input_ids) for r in rows]
        for i, row in enumerate(rows):
            ids, lengths = reader.context(domain, i)
            assert ids.tolist() == padded(row)
            assert lengths.tolist() == list(row.doc_lengths)
            info = reader.info(domain, i)
            assert (info["doc_ids"], info["sources"], info["starts"]) == (
                row.doc_ids,
                row.sources,
                row.starts,
            )
            assert info["domain"] == domain
    assert reader.info("d00", 11)["shard"] == "d00-00001-of-00002.tar"
    with pytest.raises(IndexError):
        reader.context("d01", 5)
    with pytest.raises(UserError, match=r"no domain 'd0'.*did you mean"):
        reader.contexts("d0")


@pytest.mark.parametrize("most_maps", [1, 64])
def test_a_batch_is_the_contexts_it_asks_for(run, most_maps):
    root, contexts, _ = run
    reader = ShardReader(root)
    reader._most_maps = most_maps  # with fewer than there are tars they are mapped again and again
    rows = [[r for shard in shards for r in shard] for shards in contexts.values()]
    rng = np.random.Generator(np.random.PCG64(1))
    for n in (0, 1, 5, 40):
        domain = rng.integers(0, 2, n)
        number = np.array([rng.integers(0, len(rows[d])) for d in domain], np.int64)
        out = np.full((n, SEQ_LEN), 7, np.uint16)
        ids, lengths = reader.batch(domain, number, out)
        assert ids is out
        assert ids.tolist() == [padded(rows[d][i]) for d, i in zip(domain, number)]
        assert lengths.dtype == np.int32
        pieces = [[x for x in row if x] for row in lengths.tolist()]
        assert pieces == [list(rows[d][i].doc_lengths) for d, i in zip(domain, number)]
        assert all(
            row[len(own) :] == [0] * (len(row) - len(own)) for row, own in zip(lengths.tolist(), pieces)
        )
    assert reader.batch(1, [0, 4])[0].tolist() == [padded(rows[1][0]), padded(rows[1][4])]
    for domain, number in ((1, [5]), (0, [-1]), (2, [0]), (-1, [0])):
        with pytest.raises(IndexError):
            reader.batch(domain, number)
    with pytest.raises(ValueError, match="out is uint32"):
        reader.batch(0, [0], np.zeros((1, SEQ_LEN), np.uint32))


def test_blocks_are_the_samples_of_a_domain_in_order(run):
    root, contexts, _ = run
    for domain, shards in contexts.items():
        found = list(ShardReader(root).blocks(domain))
        assert [len(ids) for ids, _ in found] == [
            min(4, len(s) - b) for s in shards for b in range(0, len(s), 4)
        ]
        assert np.concatenate([ids for ids, _ in found]).tolist() == [padded(r) for s in shards for r in s]
        assert not any(ids.flags.owndata for ids, _ in found)


def test_an_index_that_points_out_of_its_tar_is_refused(run):
    root, _, manifest = run
    file = root / "d01-00000-of-00001.tar.index.json"
    index = json.loads(file.read_text())
    index["samples"][1]["input_ids"]["offset"] += 1 << 20
    text = json.dumps(index).encode()
    file.write_bytes(text)
    changed = [
        e.model_copy(update={"index_sha256": hashlib.sha256(text).hexdigest()}) if e.domain == "d01" else e
        for e in manifest.shards
    ]
    build_manifest(changed, vocabulary(), seq_len=SEQ_LEN).save(root)
    with pytest.raises(UserError, match="places sample d001-s00000-b0001 outside the tar"):
        ShardReader(root).batch(1, [0])


def test_views_are_aligned_read_only_and_outlive_the_reader(run):
    root, contexts, _ = run
    reader = ShardReader(root)
    ids, _ = reader.context("d00", 2)
    assert not ids.flags.owndata
    assert not ids.flags.writeable
    index = json.loads((root / "d00-00000-of-00002.tar.index.json").read_text())
    assert all(s["input_ids"]["offset"] % 64 == 0 for s in index["samples"])
    del reader
    assert ids.tolist() == padded(contexts["d00"][0][2])


def test_counts_in_the_manifest_are_real_tokens_by_modality_and_source(run):
    _, contexts, manifest = run
    for domain, shards in contexts.items():
        rows = [r for shard in shards for r in shard]
        ids = np.concatenate([r.input_ids for r in rows])
        entry = manifest.domain(domain)
        want = {"text": int((ids < 512).sum()), "image": int(((ids >= 512) & (ids < 768)).sum())}
        assert entry.tokens_by_modality == {**want, "speech": int((ids >= 768).sum())}
        assert entry.tokens == len(ids) == sum(entry.tokens_by_source.values())
        web = sum(n for r in rows for s, n in zip(r.sources, r.doc_lengths) if s == "web é")
        assert entry.tokens_by_source["web é"] == web
        assert entry.documents == sum(s == 0 for r in rows for s in r.starts)
    assert manifest.totals.tokens == sum(d.tokens for d in manifest.domains)
    assert manifest.totals.contexts == 18
    assert manifest.totals.shards == 3


def test_the_manifest_survives_the_disk_and_does_not_depend_on_the_order_of_its_entries(run):
    root, _, manifest = run
    assert ShardManifest.load(root) == manifest
    assert ShardManifest.load(root / "manifest.json") == manifest
    again = build_manifest(reversed(manifest.shards), vocabulary(), seq_len=SEQ_LEN, config_fingerprint="c")
    assert again == manifest
    other = build_manifest(manifest.shards, vocabulary(), seq_len=SEQ_LEN, config_fingerprint="d")
    assert other.fingerprint != manifest.fingerprint


def test_shards_of_a_run_directory_are_found_from_its_root(tmp_path):
    manifest = write_run(tmp_path / "shards", {"d00": [some_contexts(2)]})
    assert ShardReader(tmp_path).manifest == manifest
    assert verify_shards(tmp_path) == manifest


def test_shards_can_be_written_to_and_verified_on_another_file_system():
    root = "memory://mixloom-test-shards"
    name = shard_name("d00", 0, 1)
    entry = write_shard(
        root, name, "d00", some_contexts(5), prefix="d000-s00000", seq_len=SEQ_LEN, vocabulary=vocabulary()
    )
    build_manifest([entry], vocabulary(), seq_len=SEQ_LEN).save(root)
    assert verify_shards(root).totals.contexts == 5
    fs = fsspec.filesystem("memory")
    assert sorted(p.rsplit("/", 1)[1] for p in fs.ls(root, detail=False)) == [
        name,
        name + ".index.json",
        "manifest.json",
    ]


def test_a_changed_byte_is_traced_to_its_shard_and_sample(run):
    root, _, manifest = run
    index = json.loads((root / "d00-00000-of-00002.tar.index.json").read_text())
    path = root / index["shard"]
    whole = path.read_bytes()
    entry = next(e for e in manifest.shards if e.name == index["shard"])
    verify_shard(root, entry)
    for sample in index["samples"]:
        broken = bytearray(whole)
        broken[sample["input_ids"]["offset"] + 7] ^= 1
        path.write_bytes(broken)
        with pytest.raises(UserError, match=f"sample {sample['key']} of shard {index['shard']} is damaged"):
            verify_shard(root, entry)
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match="the end of shard"):
        verify_shard(root, entry)


def test_a_truncated_tar_is_refused_by_the_reader_and_by_verify(run):
    root, _, manifest = run
    entry = manifest.shards[0]
    path = root / entry.name
    path.write_bytes(path.read_bytes()[:-10240])
    for look in (lambda: verify_shard(root, entry), lambda: ShardReader(root).context(entry.domain, 0)):
        with pytest.raises(UserError, match="truncated"):
            look()
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        verify_shard(root, entry)


def test_an_index_of_another_tar_is_refused(run):
    root, _, _ = run
    a, b = (root / f"d00-0000{i}-of-00002.tar.index.json" for i in (0, 1))
    a.write_bytes(b.read_bytes())
    with pytest.raises(UserError, match="is not the one the manifest names"):
        ShardReader(root).context("d00", 0)
    a.unlink()
    with pytest.raises(UserError, match=r"index .* is missing"):
        ShardReader(root).context("d00", 0)


def test_a_missing_old_edited_or_cut_manifest_is_a_clear_error(run):
    root, _, _ = run
    with pytest.raises(UserError, match="run the pipeline first"):
        ShardManifest.load(root / "nothing")
    file = root / "manifest.json"
    good = file.read_text()
    cases = [
        (
            good.replace('"version": 1,\n "voc', '"version": 9,\n "voc'),
            "format version 9; this mixloom reads version 1",
        ),
        (
            good.replace('"config_fingerprint": "c"', '"config_fingerprint": "z"'),
            "does not match its own fingerprint",
        ),
        (good[:-40], "is not JSON"),
        (good.replace('"seq_len": 32', '"seq_len": 0'), "field seq_len"),
    ]
    for text, said in cases:
        assert text != good
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            ShardManifest.load(root)


def context(ids: list[int], lengths: list[int], k: int | None = None) -> Context:
    n = len(lengths) if k is None else k
    return Context(np.array(ids, np.uint32), lengths, ["a"] * n, ["s"] * n, [0] * n)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (
            context([300] * (SEQ_LEN + 1), [SEQ_LEN + 1]),
            "context 1 of shard .* has 33 tokens; allowed: 1 to 32",
        ),
        (context([], []), "has 0 tokens"),
        (context([300] * 4, [3]), "do not match its pieces"),
        (context([300] * 4, [4, 0]), "do not match its pieces"),
        (context([300] * 4, [4], 2), "do not match its pieces"),
        (context([300, 5000], [2]), "token id 5000"),
        (context([300, 1000], [2]), "token id of no range"),
    ],
)
def test_a_context_that_cannot_be_right_is_refused_and_leaves_no_file(tmp_path, bad, said):
    rows = [context([300], [1]), bad]
    with pytest.raises(UserError, match=said):
        write_shard(
            tmp_path, "d.tar", "d", rows, prefix="d000-s00000", seq_len=SEQ_LEN, vocabulary=vocabulary()
        )
    assert list(tmp_path.iterdir()) == []


def test_names_that_webdataset_would_misread_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"domain name 'v1\.7'"):
        shard_name("v1.7", 0, 1)
    common = {"seq_len": SEQ_LEN, "vocabulary": vocabulary()}
    with pytest.raises(UserError, match=r"key prefix 'a\.b'"):
        write_shard(tmp_path, "d.tar", "d", some_contexts(1), prefix="a.b", **common)
    with pytest.raises(UserError, match="would be empty"):
        write_shard(tmp_path, "d.tar", "d", [], prefix="a", **common)


def test_a_rewritten_shard_replaces_the_old_one(tmp_path):
    write_run(tmp_path, {"d00": [some_contexts(9, 1)]})
    write_run(tmp_path, {"d00": [some_contexts(4, 2)]})
    assert verify_shards(tmp_path).totals.contexts == 4
    assert ShardReader(tmp_path).contexts("d00") == 4


def test_the_modality_table_follows_the_ranges_and_refuses_overlap():
    table = modality_table(vocabulary())
    assert [int(table[i]) for i in (0, 255, 256, 511, 512, 767, 768, 895, 896, 1023)] == [
        0,
        0,
        0,
        0,
        1,
        1,
        2,
        2,
        255,
        255,
    ]
    bad = vocabulary()
    bad["ranges"][1]["size"] = 300
    with pytest.raises(UserError, match="range 'image'"):
        modality_table(bad)


def test_arrays_in_the_tar_are_plain_npy_without_objects(run):
    root, _, _ = run
    with tarfile.open(root / "d01-00000-of-00001.tar") as tar:
        for member in tar:
            if member.name.endswith(".npy"):
                array = np.load(io.BytesIO(tar.extractfile(member).read()), allow_pickle=False)
                assert array.dtype.name in ("uint16", "int32")
                assert array.ndim == 2
