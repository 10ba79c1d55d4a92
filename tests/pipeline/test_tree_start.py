import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.distances import squared_distances
from mixloom.pipeline.tree_start import cut_tree, merge_tree, nearest_others, smoothed


def unit(n: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.Generator(np.random.PCG64(seed)).normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 12), st.integers(0, 2**31), st.booleans())
def test_neighbours_are_the_nearest_others_in_order(n, count, seed, repeated):
    x = unit(n, 3, seed)
    if repeated:  # equal vectors: ties
        x = x[np.arange(n) % max(1, n // 3)]
    index, far = nearest_others(x, count)
    between = squared_distances(x, x)
    for i in range(n):
        others = sorted((float(between[i, j]), j) for j in range(n) if j != i)[:count]
        assert index[i].tolist() == [j for _, j in others]
        assert far[i].tolist() == [d for d, _ in others]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 25), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**31))
def test_smoothing_is_the_plain_walk_on_the_graph_of_neighbours(n, neighbours, rounds, seed):
    x = unit(n, 4, seed)
    index, far = nearest_others(x, neighbours)
    graph = np.zeros((n, n))
    for i in range(n):
        for j, d in zip(index[i], far[i], strict=True):
            graph[i, j] = graph[j, i] = max(1 - d / 2, 0.0)
    plain = x.astype(np.float64)
    for _ in range(rounds):
        weight = graph.sum(axis=1, keepdims=True)
        moved = plain + np.divide(graph @ plain, weight, out=np.zeros_like(plain), where=weight > 0)
        plain = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(smoothed(x, neighbours, rounds), plain, atol=2e-5)


def test_smoothing_draws_groups_together_and_leaves_lone_vectors_alone():
    x = unit(200, 16, 3) * 0.6
    x[:100, 0] += 1
    x[100:, 1] += 1
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    y = smoothed(x, 10, 2)

    def spread(v):
        return squared_distances(v[:100], v[:100]).mean() / squared_distances(v[:100], v[100:]).mean()

    assert spread(y) < 0.7 * spread(x)
    np.testing.assert_array_equal(smoothed(x[:1], 10, 2), x[:1])
    np.testing.assert_array_equal(smoothed(x, 10, 0), x)
    assert smoothed(np.zeros((0, 3), np.float32), 5, 2).shape == (0, 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 2**31))
def test_the_cut_of_the_tree_has_k_groups_as_in_scikit_learn(n, k, seed):
    from sklearn.cluster import AgglomerativeClustering

    x = unit(n, 3, seed)
    labels = cut_tree(merge_tree(x), k)
    assert labels.tolist() == sorted_by_first(labels)
    assert len(set(labels.tolist())) == min(n, k)
    if 1 <= k <= n and n > 1:
        theirs = AgglomerativeClustering(k, linkage="ward").fit(x.astype(np.float64)).labels_
        assert sorted_by_first(theirs) == labels.tolist()


def sorted_by_first(labels: np.ndarray) -> list[int]:
    names: dict[int, int] = {}
    return [names.setdefault(int(x), len(names)) for x in labels]


def test_every_coarser_cut_joins_groups_of_the_finer_one():
    merges = merge_tree(unit(60, 4, 1))
    for k in range(2, 60):
        fine, coarse = cut_tree(merges, k), cut_tree(merges, k - 1)
        assert all(len(set(coarse[fine == g].tolist())) == 1 for g in range(k))
