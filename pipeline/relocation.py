"""A path made better by moving single documents beside one of their neighbours.

Greedy paths leave some documents where nothing better was left. Moving them afterwards (the node insertion of Or, 1976,
restricted to neighbours in the graph) costs little beside the search. A document moves only when the cosines of the
path gain and the weight of the walked edges does not lose, so every bound of the greedy path still holds. Called by
`order.order_cell`, after pieces are joined.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.neighbor_graph import Graph, pair_products
from mixloom.pipeline.path import walked_weights

_LEAST_GAIN = 1e-6


def relocate(
    path: np.ndarray,
    graph: Graph,
    vectors: np.ndarray,
    groups: np.ndarray,
    near_duplicate: float,
    k: int,
    rounds: int,
) -> tuple[np.ndarray, int]:
    """The path (int64 [n]) after at most `rounds` rounds over all documents, and how many moves were made.

    No move puts two near-duplicates (of one group, or above `near_duplicate`) side by side.

    Args:
        graph: of neighbours; a document only moves beside one of its own.
        vectors: float32 [n, d], unit or zero rows. groups: int [n], -1 for none.
        k: neighbours searched for each document; no document without an edge to it is taken to be more like it than
            the k-th of them, so that few products are made.
    """
    if len(path) < 3 or rounds < 1 or graph.edges == 0:
        return path, 0
    x = np.ascontiguousarray(vectors, np.float32)
    links = np.append(pair_products(x, path[:-1], path[1:]), np.float32(0))
    walked = np.append(walked_weights(graph, path), np.float32(0))
    out, moves = _relocate(
        path.astype(np.int64),
        links.astype(np.float32),
        walked.astype(np.float32),
        x,
        groups.astype(np.int64),
        near_duplicate,
        graph.starts,
        graph.neighbours,
        graph.weights,
        _bounds(graph.starts, graph.weights, k),
        rounds,
    )
    return out, int(moves)


@njit("f8(f4[:,::1],i8,i8)", cache=True, nogil=True)
def _cosine(x: np.ndarray, a: int, b: int) -> float:
    n = len(x)
    if a == n or b == n:  # an end of the path
        return 0.0
    s0 = s1 = s2 = s3 = 0.0
    whole = x.shape[1] - x.shape[1] % 4
    for d in range(0, whole, 4):
        s0 += np.float64(x[a, d]) * np.float64(x[b, d])
        s1 += np.float64(x[a, d + 1]) * np.float64(x[b, d + 1])
        s2 += np.float64(x[a, d + 2]) * np.float64(x[b, d + 2])
        s3 += np.float64(x[a, d + 3]) * np.float64(x[b, d + 3])
    for d in range(whole, x.shape[1]):
        s0 += np.float64(x[a, d]) * np.float64(x[b, d])
    return float(np.float32((s0 + s1) + (s2 + s3)))


@njit("f8(i8[::1],i4[::1],f4[::1],i8,i8)", cache=True, nogil=True)
def _weight(starts: np.ndarray, neighbours: np.ndarray, weights: np.ndarray, a: int, b: int) -> float:
    """Of the edge between two documents, 0 where there is none."""
    n = len(starts) - 1
    if a == n or b == n:
        return 0.0
    for e in range(starts[a], starts[a + 1]):
        if neighbours[e] == b:
            return float(weights[e])
    return 0.0


@njit("f4[::1](i8[::1],f4[::1],i8)", cache=True, nogil=True)
def _bounds(starts: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The k-th heaviest edge of each document, 0 where there are fewer than k; one more place for the ends of the path."""
    out = np.zeros(len(starts), np.float32)
    for v in range(len(starts) - 1):
        if starts[v + 1] - starts[v] >= k:
            out[v] = weights[starts[v] + k - 1]
        elif starts[v + 1] > starts[v]:
            out[v] = weights[starts[v + 1] - 1]
    return out


@njit("b1(i8[::1],f8,i8,i8,f8)", cache=True, nogil=True)
def _apart(groups: np.ndarray, limit: float, a: int, b: int, cosine: float) -> bool:
    n = len(groups)
    if a == n or b == n:
        return True
    return bool(cosine <= limit and (groups[a] < 0 or groups[a] != groups[b]))


@njit(
    "Tuple((i8[::1],i8))(i8[::1],f4[::1],f4[::1],f4[:,::1],i8[::1],f8,i8[::1],i4[::1],f4[::1],f4[::1],i8)",
    cache=True,
    nogil=True,
)
def _relocate(
    path: np.ndarray,
    links: np.ndarray,
    walked: np.ndarray,
    x: np.ndarray,
    groups: np.ndarray,
    limit: float,
    starts: np.ndarray,
    neighbours: np.ndarray,
    weights: np.ndarray,
    bounds: np.ndarray,
    rounds: int,
) -> tuple[np.ndarray, int]:
    n = len(path)
    # n stands before the first and after the last; link and edge are those to the document after.
    before, after = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    link, edge = np.zeros(n + 1, np.float64), np.zeros(n + 1, np.float64)
    last = n
    for i in range(n):
        before[path[i]], after[last] = last, path[i]
        link[path[i]], edge[path[i]] = links[i], walked[i]
        last = path[i]
    before[n], after[last] = last, n
    moves = 0
    look = np.ones(n + 1, np.bool_)  # documents whose surroundings have changed since they were looked at
    for _ in range(rounds):
        at_first = moves
        for v in range(n):
            if not look[v]:
                continue
            look[v] = False
            p, s = before[v], after[v]
            closed_edge = _weight(starts, neighbours, weights, p, s)
            closed = closed_edge if closed_edge > 0 else min(bounds[p], bounds[s])
            known = False
            loss, edge_loss = link[p] + link[v] - closed, edge[p] + edge[v] - closed_edge
            gain, place, cosine_a, cosine_b, edge_a, edge_b = _LEAST_GAIN, -1, 0.0, 0.0, 0.0, 0.0
            for e in range(starts[v], starts[v + 1]):
                c, w = int(neighbours[e]), float(weights[e])
                for side in range(2):
                    a = c if side == 0 else int(before[c])
                    b = int(after[c]) if side == 0 else c
                    other = b if side == 0 else a
                    if other == v or w + weights[starts[v]] - link[a] - loss <= gain:
                        continue
                    walk = _weight(starts, neighbours, weights, v, other)
                    cosine = walk if walk > 0 else float(bounds[v])
                    if w + cosine - link[a] - loss <= gain or w + walk - edge[a] < edge_loss:
                        continue
                    if not known:  # only now is it worth the product
                        known, closed = True, _cosine(x, p, s)
                        loss = link[p] + link[v] - closed
                        if not _apart(groups, limit, p, s, closed):
                            loss = np.inf
                    if walk == 0:
                        cosine = _cosine(x, v, other)
                    if w + cosine - link[a] - loss <= gain or not _apart(groups, limit, v, other, cosine):
                        continue
                    gain, place = w + cosine - link[a] - loss, a
                    cosine_a, cosine_b = (w, cosine) if side == 0 else (cosine, w)
                    edge_a, edge_b = (w, walk) if side == 0 else (walk, w)
            if place < 0:
                continue
            after[p], before[s], link[p], edge[p] = s, p, closed, closed_edge
            b = after[place]
            after[place], before[v], after[v], before[b] = v, place, b, v
            link[place], edge[place], link[v], edge[v] = cosine_a, edge_a, cosine_b, edge_b
            moves += 1
            for u in (p, s, place, b):
                look[u] = True
                for e in range(starts[u], starts[min(u + 1, n)]):
                    look[neighbours[e]] = True
        if moves == at_first:
            break
    out, here = np.empty(n, np.int64), after[n]
    for i in range(n):
        out[i] = here
        here = after[here]
    return out, moves
