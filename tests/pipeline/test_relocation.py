import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.neighbor_graph import graph_from_edges, pair_products
from mixloom.pipeline.neighbors import nearest_neighbours
from mixloom.pipeline.path import walked_weights
from mixloom.pipeline.relocation import relocate


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def clustered(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    g = rng(seed)
    x = g.normal(size=(max(n // 12, 1), dim))[g.integers(0, max(n // 12, 1), n)] + g.normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def close(x: np.ndarray, groups: np.ndarray, near: float, path: np.ndarray) -> int:
    a, b = path[:-1], path[1:]
    return int(((pair_products(x, a, b) > near) | ((groups[a] == groups[b]) & (groups[a] >= 0))).sum())


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 90), st.integers(1, 8), st.integers(0, 2**31), st.sampled_from([0.85, 1.01]))
def test_no_move_costs_cosine_or_weight_or_puts_near_duplicates_together(n, k, seed, near):
    x = clustered(n, seed=seed)
    x[: n // 10] = x[:1]
    found = nearest_neighbours(x, k, near)
    graph = graph_from_edges(n, found.left, found.right, found.weights)
    path = rng(seed).permutation(n)
    out, moves = relocate(path, graph, x, found.groups, near, k, 5)
    assert sorted(out) == list(range(n))
    before, after = (pair_products(x, p[:-1], p[1:]).sum(dtype=np.float64) for p in (path, out))
    assert after >= before + 5e-7 * moves
    assert walked_weights(graph, out).sum() >= walked_weights(graph, path).sum() - 1e-4
    assert close(x, found.groups, near, out) <= close(x, found.groups, near, path)
    if moves == 0:
        assert out.tolist() == path.tolist()


def test_a_document_far_from_its_own_comes_back_to_them():
    angle = np.linspace(0, 3, 20)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    found = nearest_neighbours(x, 4)
    graph = graph_from_edges(20, found.left, found.right, found.weights)
    path = np.array([*range(5), *range(6, 20), 5])
    out, moves = relocate(path, graph, x, np.full(20, -1), 2.0, 4, 3)
    assert out.tolist() == list(range(20))
    assert moves == 1


def test_a_random_path_is_much_better_after_it():
    x = clustered(2000)
    found = nearest_neighbours(x, 10)
    graph = graph_from_edges(2000, found.left, found.right, found.weights)
    path = rng(1).permutation(2000)
    out, _ = relocate(path, graph, x, np.full(2000, -1), 2.0, 10, 10)
    before, after = (pair_products(x, p[:-1], p[1:]).mean() for p in (path, out))
    assert after > before + 0.3


@pytest.mark.parametrize("rounds", [0, 1])
def test_nothing_happens_without_rounds_or_edges(rounds):
    x = clustered(30)
    empty = graph_from_edges(30, np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32))
    path = rng().permutation(30)
    assert relocate(path, empty, x, np.full(30, -1), 2.0, 5, rounds)[0].tolist() == path.tolist()
    found = nearest_neighbours(x, 5)
    graph = graph_from_edges(30, found.left, found.right, found.weights)
    if rounds == 0:
        assert relocate(path, graph, x, np.full(30, -1), 2.0, 5, 0)[1] == 0
