import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.doc_ids import id_batch
from mixloom.pipeline.signatures import jaccard, shingle_sets
from mixloom.pipeline.verify import SKETCHES, Sets, in_blobs, set_similarity, sketch, verified_edges

small_sets = st.lists(st.sets(st.integers(0, 30), max_size=20), min_size=1, max_size=8)


def sets_of(values, max_shingles: int) -> Sets:
    lists = pa.array([sorted(v) for v in values], pa.large_list(pa.uint64()))
    hashes, sizes = sketch(lists, max_shingles)
    ids = np.array([(7, i) for i in range(len(values))], dtype=np.uint64)
    schema = pa.schema([SKETCHES.field("hi"), SKETCHES.field("lo")])
    arrays = [*id_batch(schema, ids).columns, pa.array(sizes), hashes]
    return Sets(pa.RecordBatch.from_arrays(arrays, schema=SKETCHES))


def all_pairs(n: int) -> np.ndarray:
    return np.array([(7, i, 7, j) for i in range(n) for j in range(n) if i != j], dtype=np.uint64).reshape(
        -1, 4
    )


@settings(deadline=None)
@given(small_sets, st.sampled_from([0.1, 0.5, 0.8, 1.0]))
def test_edges_are_the_pairs_whose_jaccard_similarity_reaches_the_threshold(values, threshold):
    edges, similarity = verified_edges(all_pairs(len(values)), sets_of(values, 1000), threshold)
    expected = {}
    for _, i, _, j in all_pairs(len(values)).tolist():
        union = values[i] | values[j]
        if union and len(values[i] & values[j]) / len(union) >= threshold:
            expected[i, j] = len(values[i] & values[j]) / len(union)
    assert dict(zip(map(tuple, edges[:, [1, 3]].tolist()), similarity.tolist())) == expected


def test_four_of_five_shingles_in_common_is_exactly_the_default_threshold():
    edges, similarity = verified_edges(all_pairs(2), sets_of([{1, 2, 3, 4}, {1, 2, 3, 4, 5}], 1000), 0.8)
    assert len(edges) == 2
    assert similarity.tolist() == [0.8, 0.8]


def test_empty_sets_are_similar_to_nothing_not_even_to_each_other():
    edges, _ = verified_edges(all_pairs(2), sets_of([set(), set()], 1000), 0.01)
    assert len(edges) == 0


def test_a_pair_with_a_document_that_was_not_read_is_no_edge():
    pairs = np.array([[7, 0, 7, 99]], dtype=np.uint64)
    assert len(verified_edges(pairs, sets_of([{1, 2}], 1000), 0.5)[0]) == 0


@settings(deadline=None)
@given(small_sets, st.integers(1, 6))
def test_the_estimate_for_large_sets_is_the_share_of_the_smallest_of_the_union(values, k):
    _, found = verified_edges(all_pairs(len(values)), sets_of(values, k), 1e-9)
    edges, _ = verified_edges(all_pairs(len(values)), sets_of(values, k), 1e-9)
    got = dict(zip(map(tuple, edges[:, [1, 3]].tolist()), found.tolist()))
    for _, i, _, j in all_pairs(len(values)).tolist():
        a, b = values[i], values[j]
        union = sorted(a | b)
        cut = union[:k] if max(len(a), len(b)) > k else union
        want = sum(x in a and x in b for x in cut) / len(cut) if a and b else 0.0
        assert got.get((i, j), 0.0) == want


def test_the_estimate_is_close_for_sets_of_random_hashes():
    rng = np.random.default_rng(1)
    shared, only_a, only_b = (rng.integers(0, 2**63, n).astype(np.uint64) for n in (80_000, 10_000, 10_000))
    a, b = np.unique(np.r_[shared, only_a]), np.unique(np.r_[shared, only_b])
    estimate = set_similarity(a[:20_000], len(a), b[:20_000], len(b))
    assert abs(estimate - 0.8) < 5 * 0.003
    part = np.sort(rng.choice(b, 20_000, replace=False))  # small enough to be compared whole
    one_sided = set_similarity(a[:20_000], len(a), part, len(part))
    assert abs(one_sided - jaccard(a, part)) < 5 * 0.003


def test_shingles_of_real_text_compare_as_their_own_module_compares_them():
    texts = ["the quick brown fox jumps over the lazy dog again and again", "a b c"]
    texts.append(texts[0].replace("lazy", "idle"))
    sets = shingle_sets(pa.array(texts, pa.large_string()), 5)
    a, c = (np.asarray(sets[i].values) for i in (0, 2))
    edges, similarity = verified_edges(all_pairs(3), sets_of([x.as_py() for x in sets], 1000), 0.05)
    assert 0 < jaccard(a, c) < 1
    assert edges[:, [1, 3]].tolist() == [[0, 2], [2, 0]]
    assert similarity.tolist() == [jaccard(a, c)] * 2


def test_large_blobs_of_sets_are_cut_between_documents():
    lists = pa.array([np.arange(100_000, dtype=np.uint64)] * 8, pa.large_list(pa.uint64()))
    batch = pa.RecordBatch.from_arrays([lists], names=["hashes"])
    blobs = list(in_blobs(batch))
    assert sum(b.num_rows for b in blobs) == 8
    assert len(blobs) > 1
    assert all(b.num_rows <= 3 for b in blobs)
