import itertools

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.doc_ids import concatenate
from mixloom.pipeline.preference import preference, source_priority
from mixloom.pipeline.survivors import component_keepers, greedy_keepers, incomplete, sorted_members
from mixloom.pipeline.verify import SKETCHES, Sets

ranked = st.tuples(st.integers(0, 300), st.floats(width=32), st.integers(0, 2**25))


@settings(deadline=None)
@given(st.lists(ranked, min_size=2, max_size=12))
def test_preference_sorts_by_priority_then_quality_then_length(documents):
    packed = preference(*(np.array(c) for c in zip(*documents)))

    def key(d):
        quality = -np.inf if np.isnan(d[1]) else d[1]
        return (min(d[0], 255), -quality, -min(d[2], 2**24 - 1))

    for i, j in itertools.combinations(range(len(documents)), 2):
        a, b = key(documents[i]), key(documents[j])
        assert (packed[i] < packed[j]) == (a < b)
        assert (packed[i] == packed[j]) == (a == b)


def test_sources_rank_in_the_order_given_and_the_rest_after_them():
    assert source_priority(pa.array(["b", "x", "a", "y"]), ("a", "b")).tolist() == [1, 2, 0, 2]
    assert source_priority(pa.array(["b", "x"]), ()).tolist() == [0, 0]


NOTHING = Sets(concatenate([], SKETCHES))


def members_of(n: int, component: list[int] | None = None) -> np.ndarray:
    """Document i has preference i (0 is the best) and id (9, 100 - i)."""
    root = component or [0] * n
    return sorted_members(np.array([(0, root[i], i, 9, 100 - i, i) for i in range(n)], dtype=np.uint64))


def edges_of(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array([(9, 100 - a, 9, 100 - b) for a, b in pairs], dtype=np.uint64).reshape(-1, 4)


def sets_of(shingles: list[set[int]]) -> Sets:
    columns = {
        "hi": [9] * len(shingles),
        "lo": [100 - i for i in range(len(shingles))],
        "size": [len(s) for s in shingles],
        "hashes": [sorted(s) for s in shingles],
    }
    arrays = [pa.array(columns[f.name], f.type) for f in SKETCHES]
    return Sets(pa.RecordBatch.from_arrays(arrays, schema=SKETCHES))


def test_in_a_chain_greedy_keeps_both_ends_and_components_only_the_best():
    members, edges, near = members_of(3), edges_of([(0, 1), (1, 2)]), np.array([0.9, 0.85])
    keeper, similarity = greedy_keepers(members, edges, near, NOTHING, 256, 0.8)
    assert keeper.tolist() == [0, 0, 2]
    assert similarity.tolist() == [0.0, 0.9, 0.0]
    keeper, similarity = component_keepers(members, edges, near)
    assert keeper.tolist() == [0, 0, 0]
    assert similarity.tolist() == [0.0, 0.9, 0.85]


def test_the_kept_document_named_is_the_most_similar_one():
    edges, near = edges_of([(0, 2), (1, 2)]), np.array([0.81, 0.95])
    keeper, similarity = greedy_keepers(members_of(3), edges, near, NOTHING, 256, 0.8)
    assert keeper.tolist() == [0, 1, 1]
    assert similarity[2] == 0.95


edge_lists = st.lists(
    st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda e: e[0] != e[1]), max_size=40
)


@settings(deadline=None)
@given(edge_lists, st.lists(st.integers(0, 2), min_size=15, max_size=15))
def test_greedy_over_edges_equals_its_plain_definition(pairs, component):
    pairs = [(a, b) for a, b in pairs if component[a] == component[b]]
    near = np.array([0.8 + (a * b) % 7 / 50 for a, b in pairs])
    keeper, similarity = greedy_keepers(members_of(15, component), edges_of(pairs), near, NOTHING, 256, 0.8)

    members = members_of(15, component)[:, 2].astype(int).tolist()  # documents in the order of the result
    value = {frozenset(p): x for p, x in zip(pairs, near)}
    kept: list[int] = []
    for i, document in enumerate(members):
        linked = [(value[frozenset((document, k))], -k, k) for k in kept if frozenset((document, k)) in value]
        if not linked:
            kept.append(document)
            assert (keeper[i], similarity[i]) == (i, 0.0)
        else:
            best = max(linked)
            assert members[keeper[i]] == best[2]
            assert similarity[i] == best[0]


shingle_lists = st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=9), min_size=2, max_size=12)


@settings(deadline=None)
@given(shingle_lists)
def test_with_shingles_at_hand_no_two_kept_documents_of_a_component_are_duplicates(shingles):
    n = len(shingles)
    none, nothing = edges_of([]), np.empty(0)
    keeper, similarity = greedy_keepers(members_of(n), none, nothing, sets_of(shingles), 256, 0.6)

    def jaccard(i, j):
        return len(shingles[i] & shingles[j]) / len(shingles[i] | shingles[j])

    kept = [i for i in range(n) if keeper[i] == i]
    assert all(jaccard(i, j) < 0.6 for i, j in itertools.combinations(kept, 2))
    for i in set(range(n)) - set(kept):
        assert keeper[i] in kept
        assert similarity[i] == jaccard(i, keeper[i]) == max(jaccard(i, k) for k in kept if k < i)
        assert similarity[i] >= 0.6


def test_of_equally_similar_kept_documents_the_best_is_named_however_it_was_found():
    shingles = [{1, 2, 3}, {2, 3, 4}, {1, 2, 3, 4}]
    found = greedy_keepers(members_of(3), edges_of([(1, 2)]), np.array([0.75]), sets_of(shingles), 256, 0.6)
    assert [x.tolist() for x in found] == [[0, 1, 0], [0.0, 0.0, 0.75]]


def test_components_above_the_cap_are_judged_by_their_verified_edges_alone():
    sets = sets_of([{1, 2, 3}] * 4)
    edges, near = edges_of([(0, 1)]), np.array([1.0])
    assert greedy_keepers(members_of(4), edges, near, sets, 4, 0.8)[0].tolist() == [0, 0, 0, 0]
    assert greedy_keepers(members_of(4), edges, near, sets, 3, 0.8)[0].tolist() == [0, 0, 2, 3]


def test_only_small_components_with_a_missing_edge_are_read_again():
    component = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    pairs = [(0, 1), (2, 3), (3, 4), (5, 6), (6, 7), (7, 5), (6, 5), (8, 9), (9, 10), (10, 11)]
    members = members_of(12, component)
    lacking = incomplete(members, edges_of(pairs), np.full(len(pairs), 0.9), compare_cap=3)
    assert members[lacking][:, 2].tolist() == [2, 3, 4]


def test_a_document_that_stands_at_two_places_is_one_member():
    members = np.array([(0, 1, 5, 9, 9, 70), (0, 1, 5, 9, 9, 60), (0, 1, 5, 9, 9, 60)], dtype=np.uint64)
    assert sorted_members(members).tolist() == [[0, 1, 5, 9, 9, 60]]
