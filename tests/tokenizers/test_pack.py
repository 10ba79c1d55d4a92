"""Packing and shards: every token of every document once, in whole images, wherever contexts end up."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.order import ORDER
from mixloom.pipeline.run import PartReader, RunDirectory
from mixloom.tokenizers.interleave import encode_document
from mixloom.tokenizers.pack import ShardSpec, _contexts, contexts_of, pack_cell, shuffle_keys
from mixloom.tokenizers.stages import ShardsConfig
from mixloom.tokenizers.transform import TOKENS
from mixloom.tokenizers.vocab import END_IMAGE, IMAGE, Vocabulary

VOCABULARY = Vocabulary.build(
    500, "a", image_size=50, image_fingerprint="b", speech_size=20, speech_fingerprint="c"
)
IMAGE_TOKENS = 6


def document(rng, words, images):
    kinds, texts, codes = [], [], []
    for _ in range(images):
        kinds += ["text", "image"]
        texts.append(rng.integers(0, 500, max(1, words // (images + 1))))
        codes.append(rng.integers(0, 50, IMAGE_TOKENS))
    kinds.append("text")
    texts.append(rng.integers(0, 500, max(1, words)))
    return encode_document(kinds, texts, codes, [], VOCABULARY)


def world(root, sizes, seed=0):
    """A finished `tokenize` of two parts and cells 3 and 8, and the order of both cells."""
    rng = np.random.default_rng(seed)
    parts = {"part-a": [], "part-b": []}
    for i, (words, images) in enumerate(sizes):
        ids, spans = document(rng, words, images)
        row = {
            "doc_id": f"{i:032x}",
            "source": f"s{i % 2}",
            "domain": 1,
            "cell": (3, 8)[i % 3 == 0],
            "length": len(ids),
        }
        row |= {"input_ids": ids.tolist(), "spans": [s._asdict() for s in spans]}
        parts["part-a" if i % 2 else "part-b"].append(row)
    directory = RunDirectory(str(root)).stage("tokenize")
    written = {}
    for name, rows in parts.items():
        rows.sort(key=lambda r: r["cell"])
        groups = np.unique([r["cell"] for r in rows], return_counts=True)[1].tolist() if rows else [0]
        written[name] = directory.write_table(
            f"{name}.parquet", name, pa.Table.from_pylist(rows, schema=TOKENS), groups
        )
    orders = {}
    for cell in (3, 8):
        path = [(name, r) for name, rows in parts.items() for r in rows if r["cell"] == cell]
        path = [path[i] for i in rng.permutation(len(path))]
        rows = [
            {
                "doc_id": r["doc_id"],
                "part": name,
                "row": 0,
                "domain": 1,
                "cell": cell,
                "rank": k,
                "similarity": 0.0,
            }
            for k, (name, r) in enumerate(path)
        ]
        orders[cell] = pa.Table.from_pylist(rows, schema=ORDER)
    documents = {r["doc_id"]: np.array(r["input_ids"]) for rows in parts.values() for r in rows}
    return PartReader(directory.store, written), orders, documents


def packed(root, tokens, orders, config):
    directory = RunDirectory(str(root)).stage("pack")
    parts, kept = {}, 0
    for table in orders.values():
        if table.num_rows:
            out = pack_cell(table, tokens, config, config.seed)
            kept += out.kept
            parts[out.unit] = directory.write_table(f"{out.unit}.parquet", out.unit, out.tables[0].table)
    return PartReader(directory.store, parts), kept


SIZES = st.lists(st.tuples(st.integers(1, 90), st.integers(0, 3)), min_size=1, max_size=25)


@settings(max_examples=25)
@given(SIZES, st.sampled_from([1, 4, 64]), st.integers(1, 3))
def test_every_token_of_every_document_is_served_once_and_no_image_is_cut(
    tmp_path_factory, sizes, window, shards
):
    root = tmp_path_factory.mktemp("pack")
    tokens, orders, documents = world(root, sizes)
    config = ShardsConfig(seq_len=40, window=window)
    contexts, kept = packed(root, tokens, orders, config)
    assert kept == len(documents)
    found: dict[str, dict[int, np.ndarray]] = {}
    for shard in range(shards):
        rows = contexts_of(ShardSpec(1, shard, shards, tuple(contexts.parts)), contexts)
        for context in _contexts(rows, tokens, "uint16", 7):
            assert len(context.input_ids) <= 40
            start = 0
            for doc_id, length, at in zip(context.doc_ids, context.doc_lengths, context.starts):
                piece = context.input_ids[start : start + length]
                assert (piece == IMAGE).sum() == (piece == END_IMAGE).sum(), "an image was cut"
                assert at not in found.setdefault(doc_id, {})
                found[doc_id][at] = piece
                start += length
    for doc_id, ids in documents.items():
        pieces = [found[doc_id][at] for at in sorted(found[doc_id])]
        assert np.array_equal(np.concatenate(pieces), ids)


def test_contexts_fall_to_shards_by_their_key_and_lie_there_in_its_order(tmp_path):
    tokens, orders, _ = world(tmp_path, [(60, 0)] * 40)
    contexts, _ = packed(tmp_path, tokens, orders, ShardsConfig(seq_len=40))
    for shard in range(3):
        keys = np.asarray(contexts_of(ShardSpec(1, shard, 3, tuple(contexts.parts)), contexts)["key"])
        assert (keys % np.uint64(3) == shard).all()
        assert (np.diff(keys.astype(object)) >= 0).all()


def test_a_document_that_could_not_be_tokenized_is_passed_over(tmp_path):
    tokens, orders, documents = world(tmp_path, [(10, 0)] * 6)
    stranger = {**orders[3].to_pylist()[0], "doc_id": "f" * 32}
    orders[3] = pa.Table.from_pylist([stranger, *orders[3].to_pylist()], schema=ORDER)
    _, kept = packed(tmp_path, tokens, orders, ShardsConfig(seq_len=40))
    assert kept == len(documents)


def test_shuffle_keys_are_distinct_uniform_and_change_with_cell_and_seed():
    keys = np.concatenate([shuffle_keys(0, cell, 5000) for cell in range(4)])
    assert len(np.unique(keys)) == len(keys)
    counts = np.bincount((keys % np.uint64(16)).astype(int), minlength=16)
    assert abs(counts - len(keys) / 16).max() < 5 * np.sqrt(len(keys) / 16)
    first = np.argsort(keys[:5000])
    assert abs(np.corrcoef(first, np.arange(5000))[0, 1]) < 0.08
    assert not np.array_equal(shuffle_keys(0, 1, 9), shuffle_keys(1, 1, 9))
    assert shuffle_keys(3, 2, 0).shape == (0,)


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_shuffle_keys_are_the_same_on_every_call(seed):
    assert np.array_equal(shuffle_keys(seed, 5, 100), shuffle_keys(seed, 5, 100))
