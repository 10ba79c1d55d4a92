import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.bucket_kernel import by_partition
from mixloom.pipeline.candidates import (
    all_capped,
    band_keys,
    banded_buckets,
    bucket_keys,
    bucket_pairs,
    capped_buckets,
    signature_matrix,
    sorted_buckets,
)
from mixloom.pipeline.doc_ids import places


def test_band_keys_are_equal_exactly_where_all_rows_of_a_band_are_equal():
    rng = np.random.default_rng(0)
    signatures = rng.integers(0, 3, (300, 12)).astype(np.uint16)  # few values: bands collide often
    keys = band_keys(signatures, bands=4, rows=3)
    bands = signatures.reshape(300, 4, 3)
    for b in range(4):
        same = (bands[:, None, b] == bands[None, :, b]).all(axis=2)
        assert ((keys[:, None, b] == keys[None, :, b]) == same).all()
    assert len(set(keys[:, 0]) & set(keys[:, 1])) == 0


def test_rows_of_a_band_are_compared_in_their_order():
    keys = band_keys(np.array([[1, 2], [2, 1]], dtype=np.uint16), bands=1, rows=2)
    assert keys[0, 0] != keys[1, 0]


def test_more_bands_than_the_signature_holds_is_an_error():
    with pytest.raises(ValueError, match="need 15 hash values, the signatures have 14"):
        band_keys(np.zeros((1, 14), dtype=np.uint16), bands=5, rows=3)


def test_null_signatures_are_left_out_also_of_a_slice():
    signatures = [[1, 2], None, [3, 4], None, [5, 2**16 - 1]]
    minhash = pa.array(
        [None if s is None else np.array(s, "<u2").tobytes() for s in signatures], pa.binary(4)
    )
    matrix, rows = signature_matrix(minhash[1:])
    assert matrix.tolist() == [[3, 4], [5, 2**16 - 1]]
    assert rows.tolist() == [1, 3]
    assert len(signature_matrix(minhash[1:2])[0]) == 0


def test_a_place_names_part_and_row():
    found = places("b", np.array([7, 0], dtype=np.int32), ["a", "b", "c"])
    assert [(int(x) >> 32, int(x) & 0xFFFFFFFF) for x in found] == [(1, 7), (1, 0)]
    with pytest.raises(ValueError, match="'aa' is not among the 3 declared parts"):
        places("aa", np.array([0], dtype=np.int32), ["a", "b", "c"])


def bucket_rows(members: list[tuple[int, int, int]]) -> np.ndarray:
    rows = [(key, preference, 0, document, 100 + document) for key, preference, document in members]
    return np.array(rows, dtype=np.uint64).reshape(-1, 5)


buckets = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 30)),
    max_size=60,
    unique_by=lambda m: (m[0], m[2]),
)


@settings(deadline=None)
@given(buckets, st.integers(2, 6), st.integers(1, 4), st.integers(0, 3), st.randoms(use_true_random=False))
def test_small_buckets_give_all_pairs_and_large_ones_those_of_leaders_and_neighbours(
    members, cap, leaders, neighbours, random
):
    # One preference per document, as in a corpus.
    members = [(key, document % 3, document) for key, _, document in members]
    expected = set()
    for key in {m[0] for m in members}:
        ranked = sorted((p, d) for k, p, d in members if k == key)
        for i, j in itertools.combinations(range(len(ranked)), 2):
            if len(ranked) <= cap or i < min(leaders, cap) or j - i <= neighbours:
                expected.add((ranked[i], ranked[j]))
    random.shuffle(members)
    pairs = bucket_pairs(sorted_buckets(bucket_rows(members)), cap, leaders, neighbours)
    found = [((a % 3, a), (b % 3, b)) for a, b in zip(pairs[:, 1].tolist(), pairs[:, 4].tolist())]
    assert set(found) == expected
    assert len(found) == len(expected)
    assert (pairs[:, [2, 5]] == 100 + pairs[:, [1, 4]]).all()


def test_rows_alone_in_their_bucket_are_left_out_and_the_rest_sorted():
    rows = bucket_rows([(4, 1, 8), (2, 0, 9), (4, 0, 7), (3, 0, 6), (2, 0, 1)])
    assert sorted_buckets(rows)[:, [0, 1, 3]].tolist() == [[2, 0, 1], [2, 0, 9], [4, 0, 7], [4, 1, 8]]
    assert len(sorted_buckets(rows[:1])) == len(sorted_buckets(rows[:0])) == 0


keyed_documents = st.lists(
    st.tuples(st.lists(st.integers(0, 5), min_size=3, max_size=3), st.integers(0, 2)), max_size=150
)


@settings(deadline=None)
@given(keyed_documents, st.integers(1, 4))
def test_documents_by_band_and_by_partition_meet_in_the_same_buckets(documents, partitions):
    band = np.arange(3, dtype=np.uint64) << np.uint64(56)
    keys = np.array([k for k, _ in documents], dtype=np.uint64).reshape(-1, 3) | band
    rest = np.array([(p, 0, i, 100 + i) for i, (_, p) in enumerate(documents)], dtype=np.uint64).reshape(
        -1, 4
    )
    flat = [(int(k), *r) for ks, r in zip(keys, rest.tolist()) for k in ks]
    expected = sorted(row for row in flat if sum(row[0] == other[0] for other in flat) > 1)
    assert [tuple(r) for r in banded_buckets(np.ascontiguousarray(keys.T), rest).tolist()] == expected
    rows, bounds = by_partition(keys, rest, partitions)
    assert sorted(map(tuple, rows.tolist())) == sorted(flat)
    pieces = [rows[bounds[p] : bounds[p + 1]] for p in range(partitions)]
    assert all((piece[:, 0] % np.uint64(partitions) == p).all() for p, piece in enumerate(pieces))
    assert sorted(tuple(r) for piece in pieces for r in sorted_buckets(piece).tolist()) == expected


def test_a_row_that_was_sent_twice_counts_once():
    rows = bucket_rows([(1, 0, 5), (1, 0, 6), (1, 0, 5), (2, 0, 7), (2, 0, 7)])
    assert sorted_buckets(rows)[:, [0, 3]].tolist() == [[1, 5], [1, 6], [2, 7]]


def test_pairs_of_a_huge_bucket_are_linear_in_its_size_and_cover_it():
    pairs = bucket_pairs(bucket_rows([(9, 0, d) for d in range(20_000)]), cap=8, leaders=3, neighbours=4)
    assert len(pairs) <= (3 + 4) * 20_000
    assert len(np.unique(pairs[:, [1, 4]])) == 20_000


def test_a_document_met_twice_in_a_bucket_is_no_duplicate_of_itself():
    rows = bucket_rows([(1, 0, 5), (1, 0, 5)])
    rows[1, 4] = 999
    assert len(bucket_pairs(rows, cap=8, leaders=3)) == 0
    assert len(bucket_pairs(rows[:0], cap=8, leaders=3)) == 0


def test_the_key_of_a_bucket_tells_its_band_and_depends_on_band_and_media():
    signatures = np.array([[1, 2, 1, 2], [1, 2, 1, 2], [1, 2, 9, 2]], dtype=np.uint16)
    keys = bucket_keys(signatures, np.array([0, 5, 0], dtype=np.uint64), bands=2, rows=2)
    assert (keys >> np.uint64(56)).tolist() == [[0, 1]] * 3
    assert keys[0, 0] == keys[2, 0]
    assert keys[0, 1] != keys[2, 1]
    assert keys[0, 0] != keys[1, 0]  # other media
    assert keys[0, 0] & np.uint64(2**56 - 1) != keys[0, 1] & np.uint64(2**56 - 1)


def test_capped_buckets_are_counted_and_the_largest_named():
    small, capped = [(7, 0, d) for d in range(3)], [(8, 0, d) for d in range(5)]
    large = [((3 << 56) | 9, 1 if d else 0, d) for d in range(30, -1, -1)]
    told = capped_buckets(sorted_buckets(bucket_rows(small + capped + large)), cap=4, warn=10)
    named = {"band": 3, "key": "0300000000000009", "documents": 31, "example": "0" * 32}
    assert told == {"capped": 2, "largest": [named]}
    other = {"capped": 4, "largest": [{**named, "documents": 99, "band": 0}]}
    both = all_capped([told, {"capped": 0, "largest": []}, other])
    assert both == {"capped": 6, "largest": [other["largest"][0], named]}
