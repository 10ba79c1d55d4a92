import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline import linking
from mixloom.pipeline.joining import join
from mixloom.pipeline.linking import Fragments, link, walk_fragments


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def units(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    x = rng(seed).normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


edges_of = st.integers(2, 14).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(1, 6).map(float)), max_size=50
        ),
    )
)


def arrays(edges):
    a = np.array([e[:2] for e in edges], np.int64).reshape(-1, 2)
    return a[:, 0], a[:, 1], np.array([e[2] for e in edges], np.float32)


def one_after_another(n, edges):
    """The sequential rule: from the heaviest edge down, keep what leaves degrees <= 2 and no circle."""
    degree, name, kept = [0] * n, list(range(n)), set()
    for _, a, b in sorted((-w, min(a, b), max(a, b)) for a, b, w in edges if a != b):
        if degree[a] < 2 and degree[b] < 2 and name[a] != name[b]:
            kept.add((a, b))
            degree[a] += 1
            degree[b] += 1
            name = [name[a] if x == name[b] else x for x in name]
    return kept


def links(fragments):
    return {
        (min(a, int(b)), max(a, int(b)))
        for a in range(len(fragments.mates))
        for b in fragments.mates[a]
        if b >= 0
    }


@settings(max_examples=200, deadline=None)
@given(edges_of)
def test_the_rounds_keep_the_edges_of_the_sequential_rule(case):
    n, edges = case
    found, _ = link(Fragments.single(n), *arrays(edges))
    assert links(found) == one_after_another(n, edges)


@settings(max_examples=60, deadline=None)
@given(edges_of, st.integers(0, 3))
def test_and_so_does_what_is_left_when_the_rounds_are_cut_short(case, most):
    n, edges = case
    low, high, weight = arrays(edges)
    before = linking._ROUNDS
    linking._ROUNDS = most
    try:
        found, rounds = link(Fragments.single(n), low, high, weight)
    finally:
        linking._ROUNDS = before
    assert links(found) == one_after_another(n, edges)
    assert rounds <= most + 1


def test_a_chain_of_ever_heavier_edges_is_linked_in_a_bounded_number_of_rounds():
    n = 5000
    found, rounds = link(
        Fragments.single(n), np.arange(n - 1), np.arange(1, n), np.arange(1, n, dtype=np.float32)
    )
    path, first = walk_fragments(found)
    assert path.tolist() == list(range(n))
    assert first.sum() == 1
    assert rounds <= 65


@settings(max_examples=60, deadline=None)
@given(edges_of)
def test_fragments_are_paths_that_hold_every_node_once(case):
    n, edges = case
    found, _ = link(Fragments.single(n), *arrays(edges))
    path, first = walk_fragments(found)
    assert sorted(path) == list(range(n))
    inside = {
        tuple(sorted(p)) for p, f in zip(zip(path[:-1].tolist(), path[1:].tolist()), first[1:]) if not f
    }
    assert inside == links(found)
    number = np.cumsum(first)
    assert len({(int(k), int(found.fragment[v])) for k, v in zip(number, path)}) == first.sum()
    again = Fragments.of_path(path, first)
    assert links(again) == links(found)
    assert walk_fragments(again)[0].tolist() == path.tolist()


def test_joining_brings_like_ends_together_and_leaves_fragments_whole():
    angle = np.linspace(0, 3, 60)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    names = rng(4).permutation(60)
    mixed = np.empty_like(x)
    mixed[names] = x  # point i of the arc is node names[i]
    pieces = [names[i : i + 5] for i in range(0, 60, 5)]
    shuffled = [pieces[i][:: 1 if i % 2 else -1] for i in rng(1).permutation(12)]
    starts = np.zeros(60, bool)
    starts[::5] = True
    path = join(mixed, Fragments.of_path(np.concatenate(shuffled), starts))
    assert path.tolist() in (names.tolist(), names[::-1].tolist())


@pytest.mark.parametrize("n", [900, 2500])
def test_joining_makes_one_path_of_single_nodes_far_better_than_chance(n):
    x = units(n)
    path = join(x, Fragments.single(n))
    assert sorted(path) == list(range(n))
    assert (x[path[1:]] * x[path[:-1]]).sum(axis=1).mean() > 0.7


def test_members_of_a_group_are_joined_only_when_nothing_else_is_left():
    x = units(40, seed=3)
    group = np.full(40, -1)
    group[:4] = 7
    x[:4] = x[0]
    path = join(x, Fragments.single(40), group)
    together = (group[path[1:]] == 7) & (group[path[:-1]] == 7)
    assert not together.any()
    everything = join(x, Fragments.single(40), np.zeros(40, np.int64))
    assert sorted(everything) == list(range(40))


def test_fragments_without_a_vector_come_last():
    x = units(30)
    x[[3, 8, 20]] = 0
    assert join(x, Fragments.single(30))[-3:].tolist() == [3, 8, 20]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_joins(n):
    assert join(units(n), Fragments.single(n)).tolist() == list(range(n))
