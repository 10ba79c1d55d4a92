import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.distances import nearest
from mixloom.pipeline.kmeans import fit_centres
from mixloom.pipeline.linking import Fragments, link, walk_fragments
from mixloom.pipeline.neighbor_graph import Graph, graph_from_edges, pair_products
from mixloom.pipeline.neighbors import nearest_neighbours
from mixloom.pipeline.order import OrderConfig, mean_cosine, order_cell
from mixloom.pipeline.path import greedy_path, upper_bound, walked_weights


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def clustered(n: int, clusters: int = 40, dim: int = 32, spread: float = 1.0, seed: int = 0) -> np.ndarray:
    g = rng(seed)
    x = g.normal(size=(clusters, dim))[g.integers(0, clusters, n)] + spread * g.normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def ids_of(n: int, seed: int = 0) -> list[str]:
    return [f"{i:08x}" for i in rng(seed).permutation(2**20)[:n]]


def graph(n: int, edges: list[tuple[int, int, float]]) -> Graph:
    left, right, weights = zip(*edges) if edges else ((), (), ())
    return graph_from_edges(
        n, np.array(left, np.int64), np.array(right, np.int64), np.array(weights, np.float32)
    )


def matrix(g: Graph) -> np.ndarray:
    w = np.zeros((g.nodes, g.nodes))
    for a in range(g.nodes):
        for e in range(g.starts[a], g.starts[a + 1]):
            w[a, g.neighbours[e]] = g.weights[e]
    return w


def best_path_weight(w: np.ndarray) -> float:
    """Weight of the heaviest path through all nodes (Held and Karp), absent edges counting 0."""
    n = len(w)
    best = np.full((1 << n, n), -np.inf)
    for v in range(n):
        best[1 << v, v] = 0
    for seen in range(1 << n):
        for last in range(n):
            if best[seen, last] == -np.inf:
                continue
            for v in range(n):
                if not seen >> v & 1:
                    after = seen | 1 << v
                    best[after, v] = max(best[after, v], best[seen, last] + w[last, v])
    return float(best[-1].max())


graphs = st.integers(1, 8).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(1, 8).map(lambda w: w / 8)),
            max_size=14,
        ),
    )
)


@settings(max_examples=60, deadline=None)
@given(graphs)
def test_the_path_weighs_at_least_half_of_the_best_and_at_most_the_bound(case):
    g = graph(*case)
    path, reached = greedy_path(g)
    w = matrix(g)
    assert sorted(path) == list(range(g.nodes))
    np.testing.assert_allclose(reached[1:], w[path[:-1], path[1:]])
    best = best_path_weight(w)
    assert best / 2 - 1e-6 <= reached.sum() <= best + 1e-6
    assert best <= upper_bound(g) + 1e-6


@settings(max_examples=60, deadline=None)
@given(graphs)
def test_linking_weighs_at_least_half_of_the_best_too(case):
    g = graph(*case)
    left = np.repeat(np.arange(g.nodes), np.diff(g.starts))
    path, first = walk_fragments(link(Fragments.single(g.nodes), left, g.neighbours, g.weights)[0])
    weight = walked_weights(g, path)[~first[1:]].sum()
    assert sorted(path) == list(range(g.nodes))
    assert best_path_weight(matrix(g)) / 2 - 1e-6 <= weight


@pytest.mark.parametrize("method", ["path", "linking"])
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 9), k=st.integers(1, 9), seed=st.integers(0, 2**31), near=st.sampled_from([0.9, 1.01])
)
def test_a_whole_cell_keeps_half_of_the_best_where_nothing_is_cut(method, n, k, seed, near):
    x = clustered(n, clusters=2, dim=4, seed=seed)
    found = nearest_neighbours(x, k, near)
    config = OrderConfig(method=method, neighbours=k, near_duplicate=near)
    stats = order_cell(x, ids_of(n, 1), config).stats
    if (found.groups >= 0).any():  # what is repaired may weigh less
        assert stats.near_duplicate_documents > 0
        return
    best = best_path_weight(matrix(graph_from_edges(n, found.left, found.right, found.weights)))
    assert stats.path_weight >= best / 2 - 1e-6
    assert stats.path_weight <= stats.bound + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(0, 2**31), st.integers(0, 60))
def test_every_step_follows_the_rules_of_the_walk(n, seed, m):
    """Against the plain definition: heaviest unvisited neighbour, else least residual degree, ties by index."""
    r = rng(seed)
    g = graph(n, [(int(r.integers(n)), int(r.integers(n)), float(r.integers(1, 5)) / 4) for _ in range(m)])
    w, left = matrix(g), set(range(n))
    plain, reached = [], []
    while left:
        here = plain[-1] if plain else None
        options = [(-w[here, v], v) for v in left if w[here, v] > 0] if here is not None else []
        if options:
            weight, following = min(options)
            reached.append(-weight)
        else:
            following = min((sum(w[v, u] > 0 for u in left), v) for v in left)[1]
            reached.append(0.0)
        plain.append(following)
        left.remove(following)
    path, got = greedy_path(g)
    assert path.tolist() == plain
    assert got.tolist() == reached


def test_a_path_graph_comes_back_as_itself_without_a_jump():
    names = rng(3).permutation(30)
    g = graph(30, [(int(names[i]), int(names[i + 1]), 0.1 + 0.02 * i) for i in range(29)])
    path, reached = greedy_path(g)
    assert path.tolist() in (names.tolist(), names[::-1].tolist())
    assert (reached[1:] > 0).all()


def test_cliques_stay_in_one_piece():
    names = rng(1).permutation(24).reshape(4, 6)
    r = rng(2)
    g = graph(24, [(int(a), int(b), float(r.random()) + 0.1) for c in names for a in c for b in c if a < b])
    path, reached = greedy_path(g)
    of = {int(v): j for j, c in enumerate(names) for v in c}
    assert sum(of[a] != of[b] for a, b in zip(path[:-1].tolist(), path[1:].tolist())) == 3
    assert int((reached[1:] == 0).sum()) == 3


def test_edges_are_merged_and_what_is_not_positive_is_dropped():
    g = graph(4, [(0, 1, 0.5), (1, 0, 0.5), (2, 2, 0.9), (1, 2, -0.3), (2, 3, 0.0), (1, 3, 0.7)])
    assert g.edges == 2
    assert g.neighbours[g.starts[1] : g.starts[2]].tolist() == [3, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(1, 8), st.integers(0, 2**31))
def test_neighbours_are_the_exact_ones_never_the_document_itself(n, k, seed):
    x = clustered(n, clusters=3, dim=6, seed=seed)
    found = nearest_neighbours(x, k)
    left, right, weights = found.left, found.right, found.weights
    products = pair_products(x, np.repeat(np.arange(n), n), np.tile(np.arange(n), n)).reshape(n, n)
    assert (products == products.T).all()
    np.fill_diagonal(products, -2)
    assert found.pairs == 0
    assert (found.groups == -1).all()
    for v in range(n):
        mine = left == v
        assert v not in right[mine]
        assert len(set(right[mine].tolist())) == min(k, n - 1)
        best = np.sort(products[v])[::-1][: min(k, n - 1)]
        np.testing.assert_allclose(np.sort(weights[mine])[::-1], best, atol=1e-6)


def test_a_crowd_of_copies_keeps_its_other_neighbours():
    x = clustered(200, clusters=2, dim=8, spread=0.5)
    copies = np.repeat(x[:1], 40, axis=0)
    every = np.concatenate([copies, x[1:]])
    found = nearest_neighbours(every, 5, near_duplicate=0.9999)
    assert (found.weights <= 0.9999).all()
    assert (found.groups[:40] == found.groups[0]).all()
    assert found.groups[0] >= 0
    assert (found.groups[40:] == -1).all()
    for v in range(40):
        assert (found.right[found.left == v] >= 40).all()
        assert (found.left == v).sum() == 5


def test_near_duplicate_pairs_are_not_linked():
    x = clustered(300, clusters=10, spread=0.3)
    loose, strict = (order_cell(x, ids_of(300), OrderConfig(near_duplicate=t)) for t in (1.01, 0.9))
    assert (loose.similarity > 0.9).any()
    assert not (strict.similarity > 0.9).any()
    assert strict.stats.near_duplicate_pairs > 0
    assert loose.stats.near_duplicate_pairs == 0


@pytest.mark.parametrize("method", ["path", "linking", "cluster_sorted", "random"])
def test_every_document_appears_once_and_input_order_does_not_matter(method):
    x, ids = clustered(500), ids_of(500)
    x[7] = x[300]  # ties
    x[400:420] = 0
    config = OrderConfig(method=method)
    first = order_cell(x, ids, config)
    assert sorted(first.path) == list(range(500))
    shuffled = rng(9).permutation(500)
    second = order_cell(x[shuffled], [ids[i] for i in shuffled], config)
    assert [ids[i] for i in first.path] == [ids[shuffled[i]] for i in second.path]
    assert first.similarity.tobytes() == second.similarity.tobytes()
    assert first.stats == second.stats


@pytest.mark.parametrize("method", ["path", "linking"])
def test_the_order_does_not_depend_on_the_number_of_threads(method):
    import faiss  # noqa: F401
    from threadpoolctl import threadpool_limits

    x, ids = clustered(9000, dim=24), ids_of(9000)
    x[100:160] = x[99]
    config = OrderConfig(method=method)
    orders = []
    for limit, threads in ((2, 1), (1, 1), (2, 3)):
        with threadpool_limits(limit):
            orders.append(order_cell(x, ids, config, threads))
    assert len({o.path.tobytes() + o.similarity.tobytes() + o.near_duplicates.tobytes() for o in orders}) == 1


def test_similarity_is_the_cosine_to_the_document_before_and_zero_after_a_jump():
    x, ids = clustered(800), ids_of(800)
    order = order_cell(x, ids, OrderConfig(neighbours=5))
    cosines = (x[order.path[1:]].astype(np.float64) * x[order.path[:-1]]).sum(axis=1)
    walked = order.similarity[1:] > 0
    np.testing.assert_allclose(order.similarity[1:][walked], cosines[walked], atol=1e-6)
    assert order.similarity[0] == 0
    assert order.jumps == int((~walked).sum()) > 0
    assert order.stats.mean_cosine == pytest.approx(cosines.mean(), abs=1e-6)
    assert order.stats.path_weight == pytest.approx(order.similarity.sum(), rel=1e-5)


def test_on_clustered_documents_the_path_is_far_from_random_and_near_the_bound():
    x, ids = clustered(3000, clusters=60), ids_of(3000)
    path, sorted_only, random = (
        order_cell(x, ids, OrderConfig(method=m)).stats for m in ("path", "cluster_sorted", "random")
    )
    assert path.mean_cosine >= 4 * path.random_cosine
    assert path.bound_share >= 0.75
    assert random.mean_cosine == path.random_cosine < sorted_only.mean_cosine < path.mean_cosine


def test_cells_by_clustering_with_their_own_neighbours_keep_the_quality_of_one_whole_order():
    """And documents cut into cells at random, along with their global neighbours, do not: the wrong design."""
    n, cells = 3000, 12
    x, ids = clustered(n, clusters=60), np.array(ids_of(n))
    whole = order_cell(x, ids, OrderConfig())
    centres = fit_centres(x, cells, iterations=10, restarts=2, rng=rng())
    cell = nearest(x, centres)[0]
    orders = [
        (rows, order_cell(x[rows], ids[rows], OrderConfig()))
        for rows in (np.flatnonzero(cell == j) for j in range(cells))
    ]
    assert sorted(np.concatenate([rows[o.path] for rows, o in orders])) == list(range(n))
    total = sum(o.stats.mean_cosine * (len(rows) - 1) for rows, o in orders)
    assert total >= 0.95 * whole.stats.mean_cosine * (n - 1)

    at_random = rng(5).integers(0, cells, n)
    found = nearest_neighbours(x, 10)
    inside = at_random[found.left] == at_random[found.right]
    g = graph_from_edges(n, found.left[inside], found.right[inside], found.weights[inside])
    cut = greedy_path(g)[0]
    assert mean_cosine(x, cut) < 0.6 * whole.stats.mean_cosine


@pytest.mark.parametrize("method", ["path", "linking", "cluster_sorted", "random"])
def test_tiny_and_degenerate_cells(method):
    config = OrderConfig(method=method)
    for n in (0, 1, 2, 5):
        for x in (np.zeros((n, 4), np.float32), np.tile(np.eye(1, 4, dtype=np.float32), (n, 1))):
            order = order_cell(x, ids_of(n), config)
            assert sorted(order.path) == list(range(n))
            assert len(order.similarity) == n
            if method in ("path", "linking"):
                assert order.jumps == max(n - 1, 0)  # no edge: copies are near-duplicates of each other
    pair = order_cell(np.array([[1, 0], [0.8, 0.6]], np.float32), ["b", "a"], OrderConfig())
    assert pair.path.tolist() == [1, 0]
    assert pair.similarity.tolist() == pytest.approx([0, 0.8])


def test_joining_pieces_by_their_ends_makes_neighbours_more_alike_and_keeps_the_walk():
    x, ids = clustered(3000, clusters=60), ids_of(3000)
    for method in ("path", "linking"):
        joined, loose = (
            order_cell(x, ids, OrderConfig(method=method, join=j, relocate=0)).stats for j in (True, False)
        )
        assert joined.mean_cosine > loose.mean_cosine + 0.01
        assert joined.path_weight >= loose.path_weight
        assert joined.jumps <= loose.jumps


def test_repeated_ids_and_wrong_lengths_are_refused():
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="doc_id a occurs twice"):
        order_cell(x, ["a", "b", "a"], OrderConfig())
    with pytest.raises(ValueError, match="3 vectors for 2 doc_ids"):
        order_cell(x, ["a", "b"], OrderConfig())


def test_the_random_control_depends_on_ids_and_seed_alone():
    x = clustered(400)
    ids = [f"{i}:" + "x" * (i % 5) for i in range(400)]
    first, again, other = (order_cell(x, ids, OrderConfig(method="random", seed=s)).path for s in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    order_of_some = order_cell(x[:200], ids[:200], OrderConfig(method="random", near_duplicate=1.01)).path
    whole = order_cell(x, ids, OrderConfig(method="random", near_duplicate=1.01)).path
    assert [i for i in whole if i < 200] == order_of_some.tolist()
    ranks = np.argsort(whole)
    assert abs(np.corrcoef(ranks, np.arange(400))[0, 1]) < 0.15
    assert order_of_some.tolist() != list(range(200))
