"""Packing and shards: every token of every document once, in whole images, wherever contexts end up."""

from collections import defaultdict
from itertools import pairwise

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing import test_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.engine import Commit
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardEntry, build_manifest
from mixloom.pipeline.order import ORDER
from mixloom.pipeline.run import PartReader, RunDirectory
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.tokenizers.interleave import encode_document
from mixloom.tokenizers.pack import pack_cell, shuffle_keys
from mixloom.tokenizers.shard_transform import ShardSpec, WriteShards, _begun, _contexts, contexts_of
from mixloom.tokenizers.stages import DomainLayout, ShardsConfig
from mixloom.tokenizers.tails import TailSpec, join_tails
from mixloom.tokenizers.transform import TOKENS
from mixloom.tokenizers.vocab import END_IMAGE, IMAGE, Vocabulary

VOCABULARY = Vocabulary.build(
    500, "a", image_size=50, image_fingerprint="b", speech_size=20, speech_fingerprint="c"
)
IMAGE_TOKENS = 6
CELLS = (3, 8)
UNITS = np.arange(VOCABULARY.block("speech").start, VOCABULARY.block("speech").stop)


def document(rng, words, images, spoken=False):
    kinds, texts, codes, units = [], [], [], []
    for _ in range(images):
        kinds += ["text", "image"]
        texts.append(rng.integers(0, 500, max(1, words // (images + 1))))
        codes.append(rng.integers(0, 50, IMAGE_TOKENS))
    kinds.append("text")
    texts.append(rng.integers(0, 500, max(1, words)))
    for _ in range(images if spoken else 0):
        kinds += ["speech", "text"]
        units.append(rng.integers(0, 20, words))
        texts.append(rng.integers(0, 500, 3))
    return encode_document(kinds, texts, codes, units, VOCABULARY)


def random_lengths(rng, n):
    """Lengths that add up to n."""
    edges = np.flatnonzero(np.append(rng.random(n - 1) < 0.3, True)) + 1
    return np.diff(edges, prepend=0).tolist()


def written(root, stage, tables):
    """A reader of a stage with these tables: name -> (table, rows of its row groups)."""
    directory = RunDirectory(str(root)).stage(stage)
    return PartReader(
        directory.store,
        {name: directory.write_table(f"{name}.parquet", name, *table) for name, table in tables.items()},
    )


def world(root, sizes, seed=0, groups=False, vectors=False, spoken=False):
    """A finished `tokenize` of two parts and cells 3 and 8, and the order of both; documents with their tokens.

    spoken: with recordings, patches and durations. groups: every third document of a cell is a near duplicate of the others of them. vectors: `order` tells them.
    """
    rng = np.random.default_rng(seed)
    parts = {"part-a": [], "part-b": []}
    for i, (words, images) in enumerate(sizes):
        ids, spans = document(rng, words, images, spoken)
        row = {"doc_id": f"{i:032x}", "source": f"s{i % 2}", "domain": 1, "cell": CELLS[i % 3 == 0]}
        row |= {"length": len(ids), "input_ids": ids.tolist(), "spans": [s._asdict() for s in spans]}
        if spoken:
            row |= {"patch_lengths": random_lengths(rng, len(ids)), "durations": None}
            units = int(np.isin(ids, UNITS).sum())
            row["durations"] = rng.integers(1, 99, units).tolist() or None
        parts["part-a" if i % 2 else "part-b"].append(row | {"text_bytes": words, "text_tokens": words})
    tokens = {}
    for name, rows in parts.items():
        rows.sort(key=lambda r: r["cell"])
        sizes_of_groups = (
            np.unique([r["cell"] for r in rows], return_counts=True)[1].tolist() if rows else [0]
        )
        tokens[name] = (pa.Table.from_pylist(rows, schema=TOKENS), sizes_of_groups)
    orders = {}
    for cell in CELLS:
        path = [(name, r["doc_id"]) for name, rows in parts.items() for r in rows if r["cell"] == cell]
        path = [path[i] for i in rng.permutation(len(path))]
        n = len(path)
        if not n:
            continue
        columns = {"doc_id": [d for _, d in path], "part": [p for p, _ in path], "row": [0] * n}
        columns |= {"domain": [1] * n, "cell": [cell] * n, "rank": list(range(n)), "similarity": [0.0] * n}
        columns |= {"near_duplicates": [0 if groups and i % 3 else -1 for i in range(n)], "copy": [0] * n}
        table = pa.table({name: pa.array(columns[name], ORDER.field(name).type) for name in ORDER.names})
        orders[f"cell-{cell:06d}"] = (table,)
        if vectors:
            flat = pa.array(rng.normal(size=4 * n).astype(np.float16))
            orders[f"vectors/cell-{cell:06d}"] = (
                pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, 4)}),
            )
    documents = {r["doc_id"]: np.array(r["input_ids"]) for rows in parts.values() for r in rows}
    return written(root, "tokenize", tokens), written(root, "order", orders), documents


def packed(root, tokens, order, config):
    """A reader of `pack` without its tails, as the shards see it; the documents kept; the facts of its units."""
    cells = [name for name in order.parts if "/" not in name]
    outputs = [pack_cell(order, tokens, name, config) for name in cells]
    tables = {t.name: (t.table,) for out in outputs for t in out.tables}
    left = tuple(name for name in cells if f"tails/{name}" in tables)
    if left:
        joined = join_tails(TailSpec(1, left), written(root, "pack", tables), config)
        outputs.append(joined)
        tables[joined.unit] = (joined.tables[0].table,)
    reader = written(root, "pack", {n: t for n, t in tables.items() if "/" not in n})
    return reader, sum(out.kept for out in outputs), {out.unit: out.info for out in outputs}


def served(contexts, tokens, shards=1):
    """Every context of the shards."""
    for shard in range(shards):
        rows = contexts_of(ShardSpec(1, shard, shards, tuple(contexts.parts)), contexts)
        yield from _contexts(rows, tokens, "uint16", 7, (int(UNITS[0]), int(UNITS[-1]) + 1))


SIZES = st.lists(st.tuples(st.integers(1, 90), st.integers(0, 3)), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.sampled_from([1, 4, 64]), st.integers(1, 3), st.sampled_from([0, 1, 4]), st.booleans())
def test_every_token_of_every_document_is_served_once_and_no_image_is_cut(
    tmp_path_factory, sizes, window, shards, join, groups
):
    root = tmp_path_factory.mktemp("pack")
    tokens, order, documents = world(root, sizes, groups=groups)
    contexts, kept, _ = packed(root, tokens, order, ShardsConfig(seq_len=40, window=window, join_tails=join))
    assert kept == len(documents)
    found: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for context in served(contexts, tokens, shards):
        assert len(context.input_ids) <= 40
        start = 0
        for doc_id, length, at in zip(context.doc_ids, context.doc_lengths, context.starts):
            piece = context.input_ids[start : start + length]
            assert (piece == IMAGE).sum() == (piece == END_IMAGE).sum(), "an image was cut"
            assert at not in found[doc_id]
            found[doc_id][at] = piece
            start += length
    for doc_id, ids in documents.items():
        pieces = [found[doc_id][at] for at in sorted(found[doc_id])]
        assert np.array_equal(np.concatenate(pieces), ids)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.sampled_from([1, 4, 64]), st.integers(1, 3))
def test_patches_and_durations_go_with_their_tokens_wherever_documents_are_cut(
    tmp_path_factory, sizes, window, shards
):
    root = tmp_path_factory.mktemp("pack")
    tokens, order, _ = world(root, sizes, spoken=True)
    contexts, _, _ = packed(root, tokens, order, ShardsConfig(seq_len=40, window=window))
    stored = {r["doc_id"]: r for name in tokens.parts for r in tokens.read(name).to_pylist()}
    begins: dict[str, set[int]] = defaultdict(set)
    heard: dict[str, dict[int, list[int]]] = defaultdict(dict)
    cuts: dict[str, set[int]] = defaultdict(set)
    for context in served(contexts, tokens, shards):
        edges = np.cumsum([0, *context.patch_lengths])
        assert edges[-1] == len(context.input_ids)
        lasting = iter(context.durations.tolist() if context.durations is not None else [])
        at = 0
        for doc_id, length, start in zip(context.doc_ids, context.doc_lengths, context.starts):
            assert at in edges, "a patch crosses the edge of a document"
            begins[doc_id] |= {start + int(e) - at for e in edges if at <= e < at + length}
            cuts[doc_id].add(start)
            units = np.isin(context.input_ids[at : at + length], UNITS).sum()
            heard[doc_id][start] = [next(lasting) for _ in range(units)]
            at += length
        assert not list(lasting)
    for doc_id, row in stored.items():
        whole = np.cumsum([0, *row["patch_lengths"][:-1]])
        assert begins[doc_id] == set(whole.tolist()) | cuts[doc_id]
        assert [n for at in sorted(heard[doc_id]) for n in heard[doc_id][at]] == (row["durations"] or [])


@settings(max_examples=25, deadline=None)
@given(SIZES, st.sampled_from([1, 4, 64]))
def test_near_duplicates_of_a_cell_are_never_neighbours_in_a_context(tmp_path_factory, sizes, window):
    root = tmp_path_factory.mktemp("pack")
    tokens, order, _ = world(root, sizes, groups=True)
    contexts, _, _ = packed(root, tokens, order, ShardsConfig(seq_len=40, window=window))
    near = {}
    for name in order.parts:
        table = order.read(name)
        near |= {
            d: (name, g)
            for d, g in zip(*(table[c].to_pylist() for c in ("doc_id", "near_duplicates")))
            if g >= 0
        }
    for context in served(contexts, tokens):
        for a, b in pairwise(context.doc_ids):
            assert a == b or near.get(a, a) != near.get(b, b)


def test_the_ends_of_cells_share_contexts(tmp_path):
    tokens, order, documents = world(tmp_path, [(14, 0)] * 9)
    alone, _, before = packed(tmp_path / "alone", tokens, order, ShardsConfig(seq_len=64, join_tails=0))
    joined, _, after = packed(tmp_path, tokens, order, ShardsConfig(seq_len=64))
    # Six documents of 16 tokens in one cell and three in the other: a context of four is full, the rest is left over.
    assert sorted(i["contexts"] for i in before.values()) == [1, 2]
    assert after["cell-000003"]["contexts"] == 1
    assert after["cell-000008"]["contexts"] == 0
    assert after["domain-001"]["contexts"] == 2
    assert [after[c]["fill_alone"] for c in ("cell-000003", "cell-000008")] == [0.75, 0.75]
    assert [after[c]["tails"] for c in ("cell-000003", "cell-000008")] == [1, 1]
    assert joined.read("domain-001")["cell"].to_pylist() == [-1, -1]
    assert sum(len(c.doc_ids) for c in served(joined, tokens)) == len(documents)
    assert sum(len(c.doc_ids) for c in served(alone, tokens)) == len(documents)


def test_a_domain_may_have_a_window_of_its_own(tmp_path):
    tokens, order, _ = world(tmp_path, [(20, 0)] * 20)
    plain = ShardsConfig(seq_len=40, window=64, join_tails=0)
    mine = plain.model_copy(update={"layout": {"domain-00[1-3]": DomainLayout(window=1)}})
    other = plain.model_copy(update={"layout": {"domain-002": DomainLayout(window=1)}})
    tables = [
        {n: r.read(n) for n in r.parts}
        for r in (
            packed(tmp_path / str(i), tokens, order, c)[0]
            for i, c in enumerate((plain, mine, other, plain.model_copy(update={"window": 1})))
        )
    ]
    assert tables[1] == tables[3] != tables[0] == tables[2]
    assert mine.window_of(3) == 1
    assert mine.window_of(4) == 64


def test_a_layout_for_a_domain_that_is_not_there_is_refused():
    config = ShardsConfig(layout={"domain-002": DomainLayout(window=1)})
    config.check_domains([0, 1, 2])
    with pytest.raises(UserError, match=r"shards\.layout names 'domain-002', and no domain is called so"):
        config.check_domains([0, 1])


def test_likeness_inside_contexts_is_measured_where_the_order_tells_vectors(tmp_path):
    sizes = [(30, 0)] * 12
    tokens, order, _ = world(tmp_path, sizes, vectors=True)
    _, _, info = packed(tmp_path, tokens, order, ShardsConfig(seq_len=96, measure_windows=(1, 4)))
    rows = info["cell-000003"]["windows"]
    assert {r["window"] for r in rows} == {1, 4}
    assert all(r["tokens"] == 8 * 32 for r in rows)
    assert any(r["pairs"] for r in rows)
    _, _, info = packed(tmp_path, tokens, order, ShardsConfig(seq_len=96, measure_windows=()))
    assert "windows" not in info["cell-000003"]


@pytest.mark.parametrize("window", [1, 8])
def test_a_document_that_the_order_repeats_is_served_as_often_and_counted_once(tmp_path, window):
    tokens, order, documents = world(tmp_path, [(25, 1)] * 9)
    tables = {}
    for name in order.parts:
        table = order.read(name)
        twice = pa.concat_tables([table, table.slice(0, 2), table.slice(0, 1)])
        copies = pa.array([0] * table.num_rows + [1, 1, 2], pa.int32())
        at = twice.column_names.index("copy") if "copy" in twice.column_names else None
        twice = twice.append_column("copy", copies) if at is None else twice.set_column(at, "copy", copies)
        tables[name] = (twice.take(pa.array([0, len(twice) - 1, *range(1, len(twice) - 1)])),)
    contexts, kept, _ = packed(
        tmp_path, tokens, written(tmp_path, "order", tables), ShardsConfig(seq_len=60, window=window)
    )
    assert kept == len(documents)
    seen = defaultdict(int)
    for context in served(contexts, tokens):
        assert all(a != b for a, b in pairwise(context.doc_ids)), "two copies side by side"
        for doc_id, length in zip(context.doc_ids, context.doc_lengths):
            seen[doc_id] += length
    times = sorted(n // len(documents[d]) for d, n in seen.items())
    assert times == [1] * 5 + [2, 2, 3, 3]
    assert all(n % len(documents[d]) == 0 for d, n in seen.items())
    assert sum(_begun(contexts.read(n)) for n in contexts.parts) == len(documents)


def test_contexts_fall_to_shards_by_their_key_and_lie_there_in_its_order(tmp_path):
    tokens, order, _ = world(tmp_path, [(60, 0)] * 40)
    contexts, _, _ = packed(tmp_path, tokens, order, ShardsConfig(seq_len=40))
    for shard in range(3):
        keys = np.asarray(contexts_of(ShardSpec(1, shard, 3, tuple(contexts.parts)), contexts)["key"])
        assert (keys % np.uint64(3) == shard).all()
        assert (np.diff(keys.astype(object)) >= 0).all()


def test_a_document_that_could_not_be_tokenized_is_passed_over(tmp_path):
    tokens, order, documents = world(tmp_path, [(10, 0)] * 6, vectors=True)
    table = order.read("cell-000003")
    stranger = {**table.to_pylist()[0], "doc_id": "f" * 32}
    rows = pa.Table.from_pylist([stranger, *table.to_pylist()], schema=table.schema)
    flat = pa.array(np.ones(4 * rows.num_rows, np.float16))
    parts = {n: (order.read(n),) for n in order.parts} | {
        "cell-000003": (rows,),
        "vectors/cell-000003": (pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, 4)}),),
    }
    _, kept, info = packed(tmp_path, tokens, written(tmp_path, "order", parts), ShardsConfig(seq_len=40))
    assert kept == len(documents)
    assert info["cell-000003"]["windows"][0]["documents"] == info["cell-000003"]["documents"] == 4


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


def test_shards_of_a_run_carry_patches_and_durations_a_reader_finds(tmp_path):
    tokens, order, documents = world(tmp_path, [(30, 2), (200, 1), (5, 3)] * 4, spoken=True)
    config = ShardsConfig(seq_len=64, window=4, block=3)
    contexts, _, _ = packed(tmp_path, tokens, order, config)
    directory = RunDirectory(str(tmp_path)).stage("shards")
    specs = [ShardSpec(1, i, 2, tuple(contexts.parts)) for i in range(2)]
    with test_pipeline.TestPipeline(runner="FnApiRunner") as p:
        written_ = (
            p | beam.Create(specs) | WriteShards(directory, contexts, tokens, config, VOCABULARY.to_json())
        )
        written_ | Commit(directory)
    entries = [ShardEntry.model_validate(u.info["entry"]) for u in directory.units()]
    build_manifest(entries, VOCABULARY.to_json(), seq_len=64).save(directory.store.root)
    stored = {r["doc_id"]: r for name in tokens.parts for r in tokens.read(name).to_pylist()}
    reader, cut = ShardReader(tmp_path, verify=True), 0
    for i in range(reader.contexts("domain-001")):
        ids, lengths = reader.context("domain-001", i)
        info, at = reader.info("domain-001", i), 0
        edges = np.cumsum([0, *reader.patches("domain-001", i)])
        durations = reader.durations("domain-001", i)
        heard = 0
        for doc_id, length, start in zip(info["doc_ids"], lengths.tolist(), info["starts"]):
            row = stored[doc_id]
            inside = edges[(edges > at) & (edges < at + length)] - at + start
            whole = np.cumsum(row["patch_lengths"])
            assert inside.tolist() == whole[(whole > start) & (whole < start + length)].tolist()
            own = np.isin(documents[doc_id], UNITS)
            before, count = own[:start].sum(), own[start : start + length].sum()
            if count:
                assert durations[heard : heard + count].tolist() == row["durations"][before : before + count]
            heard += count
            cut += start > 0
            at += length
        assert edges[-1] == at == np.count_nonzero(ids)
    assert cut > 0, "no document was cut"
