from __future__ import annotations

import json
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.context_similarity import window_table, within_context_cosine
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.order_facts import ORDERS, merged
from mixloom.pipeline.packing import Blocks, cut_positions, pack


def unit(n: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def clustered(n: int, clusters: int, seed: int, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around a few centres, and the centre of each; cluster after cluster."""
    label = np.sort(np.arange(n) % clusters)
    x = unit(clusters, dim, seed)[label] + 0.3 * unit(n, dim, seed + 1)
    return x / np.linalg.norm(x, axis=1, keepdims=True), label


def slow(doc: np.ndarray, offsets: np.ndarray, vectors: np.ndarray) -> tuple[float, int]:
    """Every pair of different documents of every context, one by one."""
    total, pairs = 0.0, 0
    x = vectors.astype(np.float64)
    for start, stop in pairwise(offsets):
        for a, b in combinations(sorted(set(doc[start:stop].tolist())), 2):
            length = np.linalg.norm(x[a]) * np.linalg.norm(x[b])
            total += float(x[a] @ x[b] / length) if length else 0.0
            pairs += 1
    return total, pairs


@given(
    st.lists(st.lists(st.integers(0, 7), max_size=12), max_size=8),
    st.integers(0, 99),
    st.sampled_from(["f2", "f4"]),
)
@settings(max_examples=100, deadline=None)
def test_the_sum_agrees_with_every_pair_taken_by_itself(contexts, seed, dtype):
    vectors = (3 * unit(8, 5, seed)).astype(dtype)
    vectors[seed % 8] = 0
    doc = np.array([d for c in contexts for d in c], dtype=np.int64)
    offsets = np.cumsum([0, *map(len, contexts)]).astype(np.int64)
    cosine, pairs = within_context_cosine(doc, offsets, vectors)
    expected, count = slow(doc, offsets, vectors)
    assert pairs == count
    assert cosine == pytest.approx(expected, abs=1e-5)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_row_in_path_order_tells_what_the_plan_of_that_window_holds(lengths, seed):
    vectors = unit(len(lengths), 6, seed)
    rows = window_table(lengths, vectors, 20, (1, 4, 1000), seed)
    assert [(r["window"], r["order"]) for r in rows] == [(w, o) for w in (1, 4, 1000) for o in ORDERS]
    for row in (r for r in rows if r["order"] == "path"):
        plan = pack(lengths, 20, row["window"])
        expected, pairs = slow(plan.doc, plan.offsets, vectors)
        assert (row["contexts"], row["slots"]) == (len(plan), 20 * len(plan))
        assert row["tokens"] == sum(lengths) == int(plan.fills.sum())
        assert row["extra"] == len(plan) - -(-sum(lengths) // 20) >= 0
        assert row["cut_documents"] == sum(int(n > 1) for n in np.bincount(plan.doc)) >= row["long_documents"]
        assert row["pairs"] == pairs
        assert row["cosine"] == pytest.approx(expected, abs=1e-4)


def test_controls_hold_the_same_documents_and_tell_grouping_from_chance():
    vectors, _ = clustered(600, 12, 0)
    lengths = np.random.default_rng(1).integers(50, 400, 600)
    found = {(r["window"], r["order"]): r for r in merged([window_table(lengths, vectors, 1024, (1, 64), 3)])}
    assert len({r["tokens"] for r in found.values()}) == 1
    for window, path, cluster in ((1, 0.7, 0.6), (64, 0.4, 0.3)):
        assert found[window, "path"]["similarity"] > path
        assert found[window, "cluster"]["similarity"] > cluster
        assert abs(found[window, "random"]["similarity"]) < 0.2


def test_wide_windows_fill_contexts_and_part_neighbours():
    vectors, _ = clustered(512, 64, 5)
    lengths = np.random.default_rng(2).integers(30, 500, 512)
    found = {
        r["window"]: r
        for r in merged([window_table(lengths, vectors, 1024, (1, 16, 512))])
        if r["order"] == "path"
    }
    assert found[1]["similarity"] > found[16]["similarity"] > found[512]["similarity"]
    assert found[1]["cut_documents"] > found[512]["cut_documents"] == 0
    assert found[512]["fill"] > 0.98


def test_tables_of_cells_add_up_whatever_their_order():
    tables = [window_table([9] * n, unit(n, 4, n), 20, (1, 64), 7) for n in (3, 11, 6)]
    whole = merged(tables)
    assert whole == merged(tables[::-1])
    for row in whole:
        mine = [r for t in tables for r in t if (r["window"], r["order"]) == (row["window"], row["order"])]
        assert row["pairs"] == sum(r["pairs"] for r in mine)
        assert row["similarity"] == pytest.approx(sum(r["cosine"] for r in mine) / row["pairs"])
        assert row["fill"] == sum(r["tokens"] for r in mine) / sum(r["slots"] for r in mine)
    assert json.loads(json.dumps(tables)) == tables


def test_the_same_call_gives_the_same_table_and_another_seed_another_random_order():
    vectors, lengths = unit(200, 8, 1), [30] * 200
    first, again = (window_table(lengths, vectors, 256, (1,), 4) for _ in range(2))
    other = window_table(lengths, vectors, 256, (1,), 5)
    assert first == again
    by = {r["order"]: r["cosine"] for r in first}
    assert by["path"] == next(r for r in other if r["order"] == "path")["cosine"]
    assert by["random"] != next(r for r in other if r["order"] == "random")["cosine"]


def test_blocks_stay_whole_in_every_order():
    lengths = [16] * 6
    allowed = {d: cut_positions(16, [(1, 15)]) for d in range(6)}
    asked: list[int] = []

    def cuts(d: int) -> np.ndarray:
        asked.append(d)
        return allowed[d]

    rows = window_table(lengths, unit(6, 4, 0), 20, (1,), 0, cuts)
    assert set(asked) <= set(range(6))
    # A block of 14 fits into a context once, so each document has one of its own; anywhere else, five would do.
    assert {r["contexts"] for r in rows} == {6}
    assert {r["contexts"] for r in window_table(lengths, unit(6, 4, 0), 20, (1,), 0)} == {5}
    assert rows == window_table(lengths, unit(6, 4, 0), 20, (1,), 0, allowed)
    assert rows == window_table(lengths, unit(6, 4, 0), 20, (1,), 0, Blocks.of([[(1, 15)]] * 6))


def test_blocks_and_groups_follow_their_documents_into_every_order():
    rng = np.random.default_rng(3)
    lengths, vectors = rng.integers(8, 40, 60), unit(60, 4, 3)
    spans = [[(2, int(n) - 1)] if i % 3 else [] for i, n in enumerate(lengths)]
    allowed = {i: cut_positions(int(n), s) for i, (n, s) in enumerate(zip(lengths, spans))}
    rows = window_table(lengths, vectors, 32, (1, 16), 0, Blocks.of(spans))
    assert rows == window_table(lengths, vectors, 32, (1, 16), 0, allowed)
    assert rows != window_table(lengths, vectors, 32, (1, 16), 0)
    # All alike: no two documents may be neighbours, so every context of concatenation holds one document.
    apart = window_table([10] * 20, unit(20, 4, 0), 32, (1,), 0, groups=[0] * 20)
    assert {(r["contexts"], r["pairs"]) for r in apart} == {(20, 0)}
    half = window_table([10] * 20, unit(20, 4, 0), 32, (1,), 0, groups=[0] * 10 + [-1] * 10)
    assert all(r["contexts"] < 20 for r in half)


def test_cells_without_documents_or_without_vectors_have_rows_of_zeros():
    empty = window_table([], np.zeros((0, 4), np.float16), 16, (1, 64))
    assert {(r["contexts"], r["pairs"], r["cosine"]) for r in empty} == {(0, 0, 0.0)}
    assert merged([empty])[0]["similarity"] is None
    blank = window_table([5] * 9, np.zeros((9, 4), np.float16), 16, (1, 64))
    assert {r["cosine"] for r in blank} == {0.0}
    assert min(r["pairs"] for r in blank) > 0


def test_wrong_calls_are_told():
    with pytest.raises(ValueError, match="2 vectors for 3 documents"):
        window_table([1, 2, 3], unit(2, 4, 0), 16)
    with pytest.raises(UserError, match="window is 0"):
        window_table([1, 2], unit(2, 4, 0), 16, (0,))
