import apache_beam as beam
import numpy as np
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.components import (
    STARS,
    components_local,
    connected_components,
    edge_digest,
    large_star,
    small_star,
)
from mixloom.pipeline.doc_ids import columns, id_batch, partition_of
from mixloom.pipeline.shuffle import read_batches, write_batch
from mixloom.pipeline.storage import Store


def by_union_find(edges) -> dict[tuple[int, int], tuple[int, int]]:
    parent: dict[tuple[int, int], tuple[int, int]] = {}

    def find(x):
        while parent.setdefault(x, x) != x:
            x = parent[x]
        return x

    for a_hi, a_lo, b_hi, b_lo in edges.tolist():
        a, b = find((a_hi, a_lo)), find((b_hi, b_lo))
        parent[max(a, b)] = min(a, b)
    return {x: find(x) for x in parent if find(x) != x}


def as_dict(stars) -> dict[tuple[int, int], tuple[int, int]]:
    return {(a, b): (c, d) for a, b, c, d in stars.tolist()}


def by_star_rounds(edges, partitions: int) -> tuple[np.ndarray, int]:
    """The rounds without Beam: each partition sees only the rows of its own nodes."""

    def each(rows, function):
        at = partition_of(rows[:, :2], partitions)
        return np.concatenate([function(rows[at == p]) for p in range(partitions)])

    state, before, rounds = edges, None, 0
    while before is None or not np.array_equal(state, before):
        before = state
        grown = each(np.concatenate([state, state[:, [2, 3, 0, 1]]]), large_star)
        state = np.unique(each(grown, small_star), axis=0)
        rounds += 1
    return state, rounds


nodes = st.tuples(st.integers(0, 2), st.integers(0, 12))
graphs = st.lists(st.tuples(nodes, nodes).filter(lambda e: e[0] != e[1]), min_size=1, max_size=40)


@settings(deadline=None)
@given(graphs)
def test_local_components_are_those_of_union_find(pairs):
    edges = np.array([(*a, *b) for a, b in pairs], dtype=np.uint64)
    assert as_dict(components_local(edges)) == by_union_find(edges)


@settings(deadline=None, max_examples=60)
@given(graphs, st.integers(1, 5))
def test_star_rounds_end_in_the_components_of_union_find_for_any_partitions(pairs, partitions):
    edges = np.array([(*a, *b) for a, b in pairs], dtype=np.uint64)
    stars, _ = by_star_rounds(edges, partitions)
    assert as_dict(stars) == by_union_find(edges)
    assert len(stars) == len(as_dict(stars))


@settings(deadline=None)
@given(graphs)
def test_stars_are_what_the_paper_says_they_are(pairs):
    near: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for a, b in pairs:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    large, small = set(), set()
    for u, around in near.items():
        least = min(around | {u})
        large |= {(*v, *least) for v in around if v > u}
        lower = {v for v in around if v < u} | {u}
        small |= {(*v, *min(lower)) for v in lower if v != min(lower)}
    edges = np.array([(*a, *b) for a, b in pairs], dtype=np.uint64)
    adjacency = np.concatenate([edges, edges[:, [2, 3, 0, 1]]])
    assert [tuple(e) for e in large_star(adjacency).tolist()] == sorted(large)
    down = adjacency[[tuple(r[2:]) < tuple(r[:2]) for r in adjacency.tolist()]]
    assert [tuple(e) for e in small_star(down).tolist()] == sorted(small)


def chain(n: int, seed: int) -> np.ndarray:
    names = np.random.default_rng(seed).permutation(n).astype(np.uint64)
    both = np.stack([names[:-1], names[1:]], axis=1)
    return np.stack([np.zeros(n - 1, np.uint64), both[:, 0], np.zeros(n - 1, np.uint64), both[:, 1]], axis=1)


def test_long_chains_take_few_rounds():
    edges = chain(5000, 3)
    stars, rounds = by_star_rounds(edges, 4)
    assert as_dict(stars) == {(0, i): (0, 0) for i in range(1, 5000)}
    assert rounds <= 15
    assert as_dict(components_local(edges)) == as_dict(stars)


def test_a_star_around_its_smallest_node_is_final():
    stars = np.array([(0, i, 0, 0) for i in range(1, 100)], dtype=np.uint64)
    assert np.array_equal(by_star_rounds(stars, 3)[0], stars)


@settings(deadline=None)
@given(graphs)
def test_digests_of_parts_of_a_set_add_up_and_tell_sets_apart(pairs):
    edges = np.unique(np.array([(*a, *b) for a, b in pairs], dtype=np.uint64), axis=0)
    cut = len(edges) // 2
    a, b = edge_digest(edges[:cut]), edge_digest(edges[cut:])
    total = (a[0] + b[0], (a[1] + b[1]) % 2**64, (a[2] + b[2]) % 2**64)
    assert edge_digest(edges[::-1]) == total
    changed = edges.copy()
    changed[0, 3] += np.uint64(1000)
    assert edge_digest(changed)[1:] != total[1:]


def run(build) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    build(pipeline)
    pipeline.run().wait_until_finish()


def test_components_in_beam_rounds_equal_those_in_one_process(tmp_path):
    rng = np.random.default_rng(2)
    parts = [chain(60, 1), np.array([(1, i, 1, 0) for i in range(1, 50)], dtype=np.uint64)]
    random = np.concatenate([np.full((60, 1), 2), rng.integers(0, 50, (60, 1))], axis=1).astype(np.uint64)
    random = np.concatenate([random, random[rng.permutation(60)]], axis=1)
    edges = np.concatenate([*parts, random[random[:, 1] != random[:, 3]]])
    edges = edges[rng.permutation(len(edges))]
    store = Store.at(str(tmp_path))
    for i, piece in enumerate(np.array_split(edges, 3)):
        write_batch(store.child("edges"), i, id_batch(STARS, piece))

    runs = 0

    def counted(build) -> None:
        nonlocal runs
        runs += 1
        run(build)

    final = connected_components(store.child("edges"), store.child("rounds"), counted, partitions=3)
    stars = np.concatenate([columns(b, STARS.names) for b in read_batches(final)])
    assert as_dict(stars) == as_dict(components_local(edges))
    assert 2 <= runs <= 9

    runs = 0
    again = connected_components(store.child("edges"), store.child("rounds"), counted, partitions=3)
    assert (again, runs) == (final, 0)  # finished rounds are kept


def test_no_edges_need_no_round(tmp_path):
    store = Store.at(str(tmp_path))
    final = connected_components(store.child("edges"), store.child("rounds"), run, partitions=3)
    assert read_batches(final) == []
