"""The greedy path of in-context pretraining (Shi et al., arXiv 2310.10638, section 2.2, Algorithm 1).

A maximum-weight path through all documents, on the undirected neighbour graph: start at an unvisited node of least
degree, go on to the heaviest unvisited neighbour, and when there is none start again (a jump of weight 0). Whatever
the start, the weight is at least half of the best possible. Degrees are counted among unvisited nodes as the walk
goes on: the paper does not say which, and this way needs fewer jumps. (Its listing prints arg min where its text
and figure take the heaviest neighbour; the latter is meant.)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.neighbor_graph import Graph


def greedy_path(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Every node once, int64 [n], and the weight of the edge each was reached by, float32 [n].

    The weight is 0 at the first node and after a jump. Ties (degree, weight) go to the lower index.
    """
    return _walk(graph.starts, graph.neighbours, graph.weights)


def walked_weights(graph: Graph, path: np.ndarray) -> np.ndarray:
    """Weight of the edge between neighbours on any path (int64 [n]), float32 [n-1]; 0 where there is none."""
    return _along(graph.starts, graph.neighbours, graph.weights, path)


def upper_bound(graph: Graph) -> float:
    """No path can weigh more: half the sum of the two heaviest edges of every node."""
    if graph.edges == 0:
        return 0.0
    starts, degree = graph.starts[:-1], np.diff(graph.starts)
    weights = graph.weights.astype(np.float64)
    return float(weights[starts[degree >= 1]].sum() + weights[starts[degree >= 2] + 1].sum()) / 2


@njit("f4[::1](i8[::1],i4[::1],f4[::1],i8[::1])", cache=True, nogil=True)
def _along(starts: np.ndarray, neighbours: np.ndarray, weights: np.ndarray, path: np.ndarray) -> np.ndarray:
    out = np.zeros(max(len(path) - 1, 0), np.float32)
    for i in range(len(out)):
        for e in range(starts[path[i]], starts[path[i] + 1]):
            if neighbours[e] == path[i + 1]:
                out[i] = weights[e]
                break
    return out


@njit("void(i8[::1],i8,i8)", cache=True, nogil=True)
def _sift_up(heap: np.ndarray, at: int, key: int) -> None:
    while at > 0 and heap[(at - 1) // 2] > key:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = key


@njit("i8(i8[::1],i8)", cache=True, nogil=True)
def _pop(heap: np.ndarray, size: int) -> int:
    """Take the least key out of a binary heap of `size` keys."""
    top, last = heap[0], heap[size - 1]
    size -= 1
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= last:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = last
    return top


@njit("Tuple((i8[::1],f4[::1]))(i8[::1],i4[::1],f4[::1])", cache=True, nogil=True)
def _walk(starts: np.ndarray, neighbours: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = len(starts) - 1
    path, reached = np.empty(n, np.int64), np.zeros(n, np.float32)
    visited, degree = np.zeros(n, np.bool_), np.diff(starts)
    # Keys are degree * n + node. A node gets a new key whenever its degree falls; old keys are skipped when met.
    heap = np.empty(n + len(neighbours), np.int64)
    size = 0
    for v in range(n):
        _sift_up(heap, size, degree[v] * n + v)
        size += 1
    current = -1
    for step in range(n):
        following = -1
        if current >= 0:
            for e in range(starts[current], starts[current + 1]):
                if not visited[neighbours[e]]:
                    following = int(neighbours[e])
                    reached[step] = weights[e]
                    break
        while following < 0:
            key = _pop(heap, size)
            size -= 1
            if not visited[key % n] and degree[key % n] == key // n:
                following = int(key % n)
        path[step] = following
        visited[following] = True
        for e in range(starts[following], starts[following + 1]):
            v = int(neighbours[e])
            if not visited[v]:
                degree[v] -= 1
                _sift_up(heap, size, degree[v] * n + v)
                size += 1
        current = following
    return path, reached
