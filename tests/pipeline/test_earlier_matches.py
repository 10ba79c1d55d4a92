import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.candidates import sorted_buckets
from mixloom.pipeline.dedup_index import shingle_keys
from mixloom.pipeline.doc_ids import columns
from mixloom.pipeline.earlier_matches import (
    MATCHES,
    NEW,
    RUN_BITS,
    Comparison,
    best_matches,
    bitmap_bytes,
    cross_pairs,
    exact_matches,
    mark,
    marked,
    matches_of,
    required,
)
from mixloom.pipeline.signatures import jaccard, shingle_sets
from mixloom.pipeline.verify import SKETCHES, Sets

COMPARISON = Comparison(5, 18, 6, 0.8, 3.0, 16, 20_000, True)


def sets_of(keys: list[list[int]], sizes: list[int]) -> Sets:
    arrays = [[0] * len(keys), list(range(len(keys))), sizes, keys]
    return Sets(
        pa.RecordBatch.from_arrays([pa.array(a, f.type) for a, f in zip(arrays, SKETCHES)], schema=SKETCHES)
    )


def pair(earlier: int, new: int) -> list[int]:
    return [9, earlier, earlier, 8, new, new]


members = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 20)), max_size=50, unique_by=lambda m: m
)


@settings(deadline=None)
@given(members, st.integers(1, 4), st.randoms(use_true_random=False))
def test_new_documents_meet_the_first_earlier_ones_of_their_buckets(members, cap, random):
    rows = [(key, int(NEW) if new else d % 5, 7, d, (0 if new else 1 << 56) + d) for key, new, d in members]
    random.shuffle(rows)
    pairs = cross_pairs(np.array(rows, dtype=np.uint64).reshape(-1, 5), cap)
    expected = set()
    for key in {m[0] for m in members}:
        earlier = sorted((d % 5, d) for k, new, d in members if k == key and not new)[:cap]
        expected |= {(d, n) for _, d in earlier for k, new, n in members if k == key and new}
    assert sorted(zip(pairs[:, 1].tolist(), pairs[:, 4].tolist())) == sorted(expected)
    assert (pairs[:, 2] >> RUN_BITS == 1).all()
    assert (pairs[:, 5] >> RUN_BITS == 0).all()


hashed = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 9)), max_size=30, unique=True
)


@given(hashed, st.randoms(use_true_random=False))
def test_an_exact_match_names_the_first_run_then_the_smallest_id(documents, random):
    rows = [(0, h, run == 0, 5, d, (run << 56) + h) for h, run, d in documents]
    random.shuffle(rows)
    found = columns(
        exact_matches(np.array(rows, dtype=np.uint64).reshape(-1, 6)), ["lo", "earlier_place", "earlier_lo"]
    )
    expected = []
    for h, run, d in documents:
        earlier = sorted((r, e) for g, r, e in documents if g == h and r > 0)
        if run == 0 and earlier:
            expected.append((d, *earlier[0]))
    got = [(d, place >> 56, e) for d, place, e in found.tolist()]
    assert sorted(got) == sorted(expected)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.booleans(),
            st.sampled_from([0.8, 0.9, 1.0]),
            st.integers(1, 3),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_of_several_matches_an_exact_one_wins_then_the_most_similar_then_the_first_run(matches):
    columns_ = {
        "hi": [1] * len(matches),
        "lo": [m[0] for m in matches],
        "place": [m[0] for m in matches],
        "exact": [int(m[1]) for m in matches],
        "earlier_hi": [3] * len(matches),
        "earlier_lo": [m[4] for m in matches],
        "earlier_place": [m[3] << 56 for m in matches],
        "similarity": [m[2] for m in matches],
        "limit": [0.8] * len(matches),
    }
    batch = pa.RecordBatch.from_pydict(columns_, schema=MATCHES)
    best = best_matches(batch).to_pylist()
    assert [b["lo"] for b in best] == sorted({m[0] for m in matches})
    for b in best:
        rank = [(not m[1], -m[2], m[3], m[4]) for m in matches if m[0] == b["lo"]]
        assert (not b["exact"], -b["similarity"], b["earlier_place"] >> 56, b["earlier_lo"]) == min(rank)


def test_whole_sketches_are_compared_exactly_and_estimates_need_a_margin():
    whole = list(range(100))
    near = [*range(89), *range(200, 211)]  # 89 / 111 in common: 0.802
    sets = sets_of([whole, near, near], [100, 100, 5000])  # the last one is the beginning of a larger set
    found = matches_of(np.array([pair(0, 1)], np.uint64), sets, COMPARISON, by_signature=False).to_pylist()
    assert [(m["earlier_lo"], m["lo"], m["limit"]) for m in found] == [(0, 1, 0.8)]
    assert found[0]["similarity"] == 89 / 111
    assert matches_of(np.array([pair(2, 0)], np.uint64), sets, COMPARISON, by_signature=False).num_rows == 0
    assert required(0.8, 3.0, np.array([100, 0]))[0] == pytest.approx(0.8 + 3 * 0.04)
    assert required(0.8, 3.0, np.array([100, 0]))[1] == 0.8
    assert required(0.9, 10.0, np.array([4]))[0] == 1.0  # never more than can be reached


def test_signatures_are_compared_value_by_value():
    a = list(range(100, 200))
    b = [*range(100, 195), *range(500, 505)]
    c = [*range(100, 190), *range(500, 510)]
    sets = sets_of([a, b, c], [100] * 3)
    pairs = np.array([pair(0, 1), pair(0, 2), pair(0, 7)], np.uint64)
    found = matches_of(pairs, sets, COMPARISON, by_signature=True).to_pylist()
    assert [(m["lo"], m["similarity"]) for m in found] == [
        (1, 0.95)
    ]  # 0.90 is within the margin, 7 was not read
    assert found[0]["limit"] == pytest.approx(0.92)


words = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), max_size=40)


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=6), st.integers(1, 30))
def test_a_sketch_is_the_smallest_distinct_upper_halves_of_the_shingle_hashes(texts, most):
    array = pa.array([" ".join(t) for t in texts], pa.large_string())
    keys, sizes = shingle_keys(array, 2, most)
    for got, size, whole in zip(keys.to_pylist(), sizes.tolist(), shingle_sets(array, 2).to_pylist()):
        expected = sorted({h >> 32 for h in whole})
        assert got == expected[:most]
        assert size == len(expected)


def test_the_estimate_from_sketches_lies_within_its_stated_error_of_the_truth():
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(60):
        base = [f"w{x}" for x in rng.integers(0, 100_000, 3000)]
        other = [w if i % 130 else "edited" for i, w in enumerate(base)]
        texts = pa.array([" ".join(base), " ".join(other)], pa.large_string())
        a, b = (np.asarray(s.values) for s in shingle_sets(texts))
        keys, sizes = shingle_keys(texts, 5, 256)
        sets = sets_of(keys.to_pylist(), sizes.tolist())
        free = Comparison(5, 18, 6, 0.01, 0.0, 16, 20_000, True)
        found = matches_of(np.array([pair(0, 1)], np.uint64), sets, free, by_signature=False).to_pylist()
        truth = jaccard(a, b)
        errors.append((found[0]["similarity"] - truth) / np.sqrt(truth * (1 - truth) / 256))
    assert abs(np.mean(errors)) < 4 / np.sqrt(60)
    assert 0.6 < np.std(errors) < 1.4


def test_buckets_of_one_side_only_give_no_pair():
    earlier = [(1, 3, 7, d, (1 << 56) + d) for d in range(5)]
    new = [(2, int(NEW), 7, d, d) for d in range(5)]
    rows = sorted_buckets(np.array(list(itertools.chain(earlier, new)), dtype=np.uint64))
    assert len(cross_pairs(rows, 4)) == 0
    assert len(cross_pairs(rows[:0], 4)) == 0


@given(st.sets(st.integers(0, 2**64 - 1), max_size=200), st.sets(st.integers(0, 2**64 - 1), max_size=200))
def test_a_marked_key_is_always_found_and_others_seldom(ours, theirs):
    bitmap = np.zeros(bitmap_bytes(len(ours)), dtype=np.uint8)
    mark(bitmap, np.array(sorted(ours), dtype=np.uint64))
    assert marked(bitmap, np.array(sorted(ours), dtype=np.uint64)).all()
    others = np.array(sorted(theirs - ours), dtype=np.uint64)
    assert marked(bitmap, others).sum() <= 0.3 * len(others) + 3


def test_a_bitmap_is_a_power_of_two_with_room_and_a_bound():
    sizes = [bitmap_bytes(n) for n in (0, 1, 1024, 1025, 19_000_000, 10**12)]
    assert sizes == [1024, 1024, 1024, 2048, 1 << 25, 1 << 28]
