import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.apart import keep_apart
from mixloom.pipeline.near_copies import copy_groups
from mixloom.pipeline.neighbor_graph import pair_products
from mixloom.pipeline.order import OrderConfig, order_cell


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def units(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def spread(n: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    return units(rng(seed).normal(size=(n, dim)))


def planted(documents: int, crowds: list[int], noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors with crowds of copies of one document each (noise 0: exact), and the crowd of each, -1 for none."""
    r = rng(seed)
    x, label = [spread(documents, seed=seed)], [np.full(documents, -1)]
    for c, size in enumerate(crowds):
        x.append(units(x[0][c] + noise * r.normal(size=(size, 24)) / np.sqrt(24)))
        label.append(np.full(size, c))
        label[0][c] = c
    return np.concatenate(x), np.concatenate(label)


def ids_of(n: int, seed: int = 0) -> list[str]:
    return [f"{i:08x}" for i in rng(seed).permutation(2**20)[:n]]


def together(label: np.ndarray, path: np.ndarray) -> int:
    return int(((label[path[1:]] == label[path[:-1]]) & (label[path[1:]] >= 0)).sum())


@pytest.mark.parametrize("method", ["path", "linking", "cluster_sorted", "random"])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("join", [True, False])
def test_planted_copies_in_crowds_of_2_to_50_are_never_neighbours(method, noise, join):
    x, label = planted(600, [1, 1, 2, 5, 9, 10, 11, 20, 49, 49], noise)
    order = order_cell(x, ids_of(len(x)), OrderConfig(method=method, join=join))
    assert sorted(order.path) == list(range(len(x)))
    assert together(label, order.path) == 0
    assert order.stats.near_duplicate_neighbours == 0
    assert order.stats.near_duplicate_documents == (label >= 0).sum()
    groups = {
        (int(a), int(b)) for a, b in zip(label[order.path], order.near_duplicates, strict=True) if a >= 0
    }
    assert len(groups) == 10
    assert (order.near_duplicates[label[order.path] < 0] == -1).all()


@pytest.mark.parametrize("method", ["path", "linking"])
@pytest.mark.parametrize(("documents", "copies"), [(100, 98), (100, 99), (100, 150), (40, 500), (1, 60)])
def test_where_copies_are_the_majority_only_those_stay_neighbours_that_must(method, documents, copies):
    x, label = planted(documents, [copies], 0.0)
    order = order_cell(x, ids_of(len(x)), OrderConfig(method=method))
    crowd = copies + 1
    assert together(label, order.path) == max(0, crowd - (documents - 1) - 1)
    assert order.stats.near_duplicate_neighbours == together(label, order.path)


def test_two_crowds_that_fill_a_cell_take_turns():
    x = np.repeat(spread(2), 50, axis=0)
    order = order_cell(x, ids_of(100), OrderConfig(neighbours=3))
    assert together(np.repeat([0, 1], 50), order.path) == 0


def test_nothing_is_kept_apart_when_the_threshold_is_above_one():
    x, label = planted(100, [30], 0.0)
    order = order_cell(x, ids_of(len(x)), OrderConfig(near_duplicate=1.01))
    assert together(label, order.path) > 20
    assert (order.near_duplicates == -1).all()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(-1, 4), max_size=30))
def test_members_of_a_group_are_moved_apart_and_nothing_is_lost(numbers):
    groups, n = np.array(numbers, np.int64), len(numbers)
    x = np.eye(max(n, 1), dtype=np.float32)[:n]
    path = rng(n).permutation(n)
    out, moved, left = keep_apart(path, x, groups, 0.9)
    assert sorted(out) == list(range(n))
    assert left == together(groups, out) <= together(groups, path)
    if not together(groups, path):
        assert out.tolist() == path.tolist()
        assert moved == 0
    largest = max(np.bincount(groups[groups >= 0]), default=0)
    if (groups >= 0).sum() == largest:  # one group among documents of none: the best there can be
        assert left == max(0, largest - (n - largest) - 1)


def test_documents_above_the_threshold_are_moved_apart_without_a_group():
    x = units(np.array([[1, 0], [1, 0.1], [0, 1], [-1, 0.5], [-1, 0]]))
    out, moved, left = keep_apart(np.arange(5), x, np.full(5, -1), 0.95)
    assert (moved, left) == (1, 0)
    assert (np.abs(np.diff(out.tolist().index(1) - np.array([out.tolist().index(0)]))) != 1).all()
    assert (pair_products(x, out[:-1], out[1:]) <= 0.95).all()


def test_a_document_goes_to_the_nearest_place():
    groups = np.full(30, -1)
    groups[[14, 15]] = 0
    out, _, _ = keep_apart(np.arange(30), np.eye(30, dtype=np.float32), groups, 0.9)
    assert out.tolist() == [*range(15), 16, 15, *range(17, 30)]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(2, 12), st.sampled_from([0.3, 0.7, 0.9]), st.integers(0, 2**31))
def test_groups_are_stars_around_leaders_that_are_no_near_duplicates(n, width, near, seed):
    x = units(
        rng(seed).normal(size=(3, 5))[rng(seed).integers(0, 3, n)] + 0.5 * rng(seed).normal(size=(n, 5))
    )
    x[n // 2] = x[0]
    products = pair_products(x, np.repeat(np.arange(n), n), np.tile(np.arange(n), n)).reshape(n, n)
    width = min(width, n)
    found = np.argsort(-products, axis=1, kind="stable")[:, :width]
    group, _ = copy_groups(x, found, np.take_along_axis(products, found, axis=1), near)
    members = np.flatnonzero(group >= 0)
    assert (group[group[members]] == group[members]).all()
    for v in members[group[members] != members]:
        assert products[v, group[v]] > near
        leaders = np.unique(group[members])
        assert products[v, group[v]] >= products[v, leaders].max()
    leaders = np.unique(group[members])
    between = products[np.ix_(leaders, leaders)]
    assert (between[~np.eye(len(leaders), dtype=bool)] <= near).all()
    assert group[0] == group[n // 2] >= 0
    np.fill_diagonal(products, -1)
    assert set(members) <= set(np.flatnonzero((products > near).any(axis=1)))
