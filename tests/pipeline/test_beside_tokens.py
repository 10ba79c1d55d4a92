"""Patch lengths and durations beside the tokens of shards: cut where documents are cut, found again, and checked."""

from __future__ import annotations

import json

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.beside_tokens import cut_patches
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.integrity import check
from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard

SEQ_LEN = 40
SPEECH = range(768, 896)
# Of shards as they were before they could carry anything beside their tokens.
PLAIN = "190d4c856965612d0dbe7e15305a143462811425fea96b0683c96728ed1ff75c"
PLAIN_INDEX = "254c50a99a5c6bef27c0668100cbaef38290cbc77ad22615c8d8cef139f1f968"


def vocabulary():
    ranges = [("special", 0, 256, 0), ("text", 256, 256, 0), ("image", 512, 256, 1), ("speech", 768, 128, 2)]
    return {
        "version": 1,
        "size": 1024,
        "pad": 0,
        "dtype": "uint16",
        "ranges": [
            {"name": n, "start": s, "size": z, "used": z, "modality": m, "fingerprint": n}
            for n, s, z, m in ranges
        ],
        "fingerprint": "f" * 64,
    }


def cut_into(rng, n):
    """Random lengths that add up to n."""
    edges = np.flatnonzero(np.append(rng.random(n - 1) < 0.4, True)) + 1
    return np.diff(edges, prepend=0)


def contexts(n, seed=0, beside=True):
    rng = np.random.Generator(np.random.PCG64(seed))
    out = []
    for i in range(n):
        lengths = rng.integers(1, 10, int(rng.integers(1, 5))).tolist()
        ids = rng.integers(256, 896, sum(lengths)).astype(np.uint16)
        more = {}
        if beside:
            spoken = int(np.isin(ids, SPEECH).sum())
            more = {
                "patch_lengths": np.concatenate([cut_into(rng, k) for k in lengths]),
                "durations": rng.integers(1, 100_000, spoken) if spoken else None,
            }
        names = [f"{i:032x}"] * len(lengths)
        out.append(Context(ids, lengths, names, ["s"] * len(lengths), [0] * len(lengths), **more))
    return out


def write(root, rows, block=4):
    entry = write_shard(
        root,
        shard_name("d00", 0, 1),
        "d00",
        rows,
        prefix=key_prefix(0, 0),
        seq_len=SEQ_LEN,
        vocabulary=vocabulary(),
        block=block,
    )
    build_manifest([entry], vocabulary(), seq_len=SEQ_LEN).save(root)
    return entry


def slow_cut(lengths, start, stop):
    """Number every token by its patch, take the tokens, and count runs."""
    numbers = [i for i, n in enumerate(lengths) for _ in range(n)][start:stop]
    return [numbers.count(i) for i in sorted(set(numbers))]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.data())
def test_a_cut_document_keeps_its_patches_and_halves_those_at_the_cut(lengths, data):
    total = sum(lengths)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    cut = cut_patches(np.array(lengths, np.uint16), start, stop)
    assert cut.dtype == np.uint16
    assert cut.tolist() == slow_cut(lengths, start, stop)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 14), st.integers(1, 6), st.integers(0, 10**6))
def test_the_reader_and_a_webdataset_client_give_back_what_was_written(tmp_path_factory, n, block, seed):
    root = tmp_path_factory.mktemp("shards")
    rows = contexts(n, seed)
    entry = write(root, rows, block)
    reader = ShardReader(root, verify=True)
    for i, row in enumerate(rows):
        assert reader.patches("d00", i).tolist() == row.patch_lengths.tolist()
        spoken = int(np.isin(row.input_ids, SPEECH).sum())
        durations = reader.durations("d00", i)
        assert (durations is None) or len(durations) == spoken
        assert not spoken or durations.tolist() == row.durations.tolist()
    at = 0
    for sample in webdataset.WebDataset(
        str(root / entry.name), shardshuffle=False, empty_check=False
    ).decode():
        ids, patches = sample["input_ids.npy"], sample["patch_lengths.npy"]
        assert patches.dtype == np.uint16
        spoken = np.isin(ids, SPEECH)
        durations = sample.get("durations.npy", np.zeros(0, np.int32))
        assert durations.dtype == np.int32
        assert len(durations) == spoken.sum(), "a duration stands beside each speech id, in their order"
        where = np.flatnonzero(spoken.any(axis=1))
        wanted = [rows[at + r].durations for r in where]
        assert durations.tolist() == np.concatenate([np.zeros(0, int), *wanted]).tolist()
        for row, own in zip(rows[at : at + len(ids)], patches):
            assert own[own > 0].tolist() == row.patch_lengths.tolist()
            assert own.sum() == len(row.input_ids)
        at += len(ids)
    assert at == n


def test_shards_without_patches_have_the_bytes_they_always_had(tmp_path):
    rng = np.random.Generator(np.random.PCG64(1))
    rows = []
    for i in range(10):
        lengths = rng.integers(1, 8, int(rng.integers(1, 5))).tolist()
        ids = rng.integers(256, 896, sum(lengths)).astype(np.uint16)
        k = len(lengths)
        names = [f"{1:02x}{i:04x}{j:026x}" for j in range(k)]
        starts = [0 if (i + j) % 3 else 40 for j in range(k)]
        rows.append(Context(ids, lengths, names, ["wiki" if j % 2 else "web é" for j in range(k)], starts))
    entry = write_shard(
        tmp_path,
        shard_name("d00", 0, 1),
        "d00",
        rows,
        prefix=key_prefix(0, 0),
        seq_len=32,
        vocabulary=vocabulary(),
        block=4,
    )
    assert (entry.sha256, entry.index_sha256) == (PLAIN, PLAIN_INDEX)
    build_manifest([entry], vocabulary(), seq_len=32).save(tmp_path)
    reader = ShardReader(tmp_path)
    assert reader.patches("d00", 3) is None
    assert reader.durations("d00", 3) is None


def test_the_same_contexts_give_the_same_bytes(tmp_path):
    entries = [write(tmp_path / place, contexts(9, 4)) for place in "ab"]
    assert entries[0] == entries[1]


def test_a_changed_byte_in_any_member_is_named_with_shard_and_sample(tmp_path):
    rows = contexts(7, 2)
    entry = write(tmp_path, rows)
    path = tmp_path / entry.name
    whole = path.read_bytes()
    samples = json.loads((tmp_path / f"{entry.name}.index.json").read_text())["samples"]
    assert not check(str(tmp_path)).damages
    for sample in samples:
        for member in ("patch_lengths", "durations", "input_ids", "doc_lengths"):
            size = int(np.prod(sample[member]["shape"])) * np.dtype(sample[member]["dtype"]).itemsize
            for at in (-600, 0, size - 1):  # in its header, first and last byte
                broken = bytearray(whole)
                broken[sample[member]["offset"] + at] ^= 4
                path.write_bytes(broken)
                (damage,) = check(str(tmp_path)).damages
                assert (damage.shard, damage.sample) == (entry.name, sample["key"])
                with pytest.raises(
                    UserError, match=f"sample {sample['key']} of shard {entry.name} is damaged"
                ):
                    look(ShardReader(tmp_path, verify=True), samples.index(sample))
    path.write_bytes(whole)
    look(ShardReader(tmp_path, verify=True), 0)


def look(reader, sample):
    reader.patches("d00", 4 * sample)
    reader.durations("d00", 4 * sample)


def test_an_index_with_a_member_outside_its_tar_is_refused(tmp_path):
    entry = write(tmp_path, contexts(5))
    file = tmp_path / f"{entry.name}.index.json"
    index = json.loads(file.read_text())
    for member in ("patch_lengths", "durations"):
        for field, value in (("offset", entry.bytes), ("dtype", "float64"), ("shape", [1])):
            broken = json.loads(json.dumps(index))
            broken["samples"][0][member][field] = value if field != "shape" or member[0] == "p" else [1, 1]
            file.write_text(json.dumps(broken))
            build_manifest(
                [entry.model_copy(update={"index_sha256": ""})], vocabulary(), seq_len=SEQ_LEN
            ).save(tmp_path)
            with pytest.raises(
                UserError, match="places sample d000-s00000-b0000 outside the tar, or in another"
            ):
                ShardReader(tmp_path).context("d00", 0)


def test_patches_and_durations_that_do_not_belong_to_their_tokens_are_refused(tmp_path):
    ids = np.array([300, 301, 800, 801], np.uint16)

    def one(patches=None, durations=None):
        return Context(ids, [2, 2], ["a", "b"], ["s", "s"], [0, 0], patches, durations)

    def refused(rows, match):
        with pytest.raises(UserError, match=match):
            write(tmp_path, rows)
        assert not list(tmp_path.glob("*.tar"))

    refused([one(np.array([3, 1]))], "do not match its pieces")  # over the edge of a document
    refused([one(np.array([2, 1]))], "2 patches of 3 tokens do not match")
    refused([one(np.array([2, 0, 2]))], "do not match its pieces")
    refused([one(np.zeros(0, int))], "0 patches of 0 tokens")
    refused([one(np.array([2, 2])), one()], "contexts with patches beside contexts without")
    refused([one(durations=np.array([1]))], "durations do not match the units of speech")
    refused([one(durations=np.array([1, 0]))], "durations do not match the units of speech")
    refused([one(durations=np.array([1, 2])), one()], "durations do not match the units of speech")
    write(tmp_path, [one(np.array([1, 1, 2]), np.array([7, 70_000]))])
    assert ShardReader(tmp_path).durations("d00", 0).tolist() == [7, 70_000]
