"""Exact nearest neighbours inside one cell, as an undirected graph.

Called by `order.order_cell`, once per cell. Similarities come from a kernel of our own after the search, so that
a pair has one weight whichever side found it and whatever blocks the search worked in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from mixloom.pipeline.one_thread import one_thread


@dataclass(frozen=True, slots=True)
class Graph:
    """Undirected graph in compressed rows, heaviest neighbour first, ties by index.

    starts int64 [n+1]; neighbours int32 [2 edges]; weights float32 [2 edges], all > 0.
    """

    starts: np.ndarray
    neighbours: np.ndarray
    weights: np.ndarray

    @property
    def nodes(self) -> int:
        return len(self.starts) - 1

    @property
    def edges(self) -> int:
        return len(self.neighbours) // 2


def graph_from_edges(n: int, left: np.ndarray, right: np.ndarray, weights: np.ndarray) -> Graph:
    """Graph on n nodes from edges (left, right int [e], weights float32 [e]); repeats, loops and weights <= 0 are dropped."""
    low, high = np.minimum(left, right).astype(np.int64), np.maximum(left, right).astype(np.int64)
    keep = (low != high) & (weights > 0)
    code, first = np.unique(low[keep] * n + high[keep], return_index=True)
    low, high, weight = code // max(n, 1), code % max(n, 1), weights[keep][first].astype(np.float32)
    a, b, w = np.concatenate([low, high]), np.concatenate([high, low]), np.concatenate([weight, weight])
    order = np.lexsort((b, -w, a))
    starts = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(a, minlength=n), out=starts[1:])
    return Graph(starts, b[order].astype(np.int32), w[order])


def nearest_neighbours(
    vectors: np.ndarray, k: int, near_duplicate: float = np.inf
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Edges to the k nearest neighbours of every vector that is not zero, by inner product.

    Self matches are removed by index, not by rank. Pairs above `near_duplicate` are cut; a vector that loses
    neighbours to the cut is searched again more widely (up to 16 k), so that a crowd of copies does not leave its
    members without neighbours.

    Args:
        vectors: float32 [n, d], unit or zero rows.

    Returns:
        left, right int64 [e], weights float32 [e] (directed: an edge may come from both sides), and the number
        of different pairs that were cut.
    """
    rows = np.flatnonzero(vectors.any(axis=1))
    none = np.zeros(0, np.int64)
    if len(rows) < 2 or k < 1:
        return none, none, np.zeros(0, np.float32), 0
    x = np.ascontiguousarray(vectors[rows], np.float32)
    todo, width = np.arange(len(x)), k
    lists: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    cut: list[np.ndarray] = []
    while len(todo):
        found = nearest_rows(x, todo, width)
        left = np.repeat(todo, found.shape[1])
        right = found.reshape(-1)
        keep = (right != left) & (right >= 0)
        left, right = left[keep], right[keep]
        weights = pair_products(x, left, right)
        copies = weights > near_duplicate
        cut.append(np.minimum(left, right)[copies] * len(x) + np.maximum(left, right)[copies])
        left, right, weights = left[~copies], right[~copies], weights[~copies]
        kept = np.bincount(left, minlength=len(x))[todo]
        again = kept < min(k, len(x) - 1)
        if width >= min(16 * k, len(x) - 1):
            again[:] = False
        done = ~np.isin(left, todo[again])
        lists.append(_first_k(left[done], right[done], weights[done], k))
        todo, width = todo[again], min(4 * width, 16 * k)
    left, right, weights = (np.concatenate([part[c] for part in lists]) for c in range(3))
    return rows[left], rows[right], weights.astype(np.float32), len(np.unique(np.concatenate(cut)))


def pair_products(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Inner products float32 [e] of the rows left and right (int [e]) of vectors float32 [n, d]; symmetric in its bits."""
    return _products(np.ascontiguousarray(vectors, np.float32), left.astype(np.int64), right.astype(np.int64))


def nearest_rows(x: np.ndarray, queries: np.ndarray, width: int) -> np.ndarray:
    """Indices int64 [q, min(width + 1, n)] of the largest inner products; one thread, so that bits stay put."""
    import faiss

    with one_thread():
        index = faiss.IndexFlatIP(x.shape[1])
        index.add(x)
        return np.asarray(index.search(np.ascontiguousarray(x[queries]), min(width + 1, len(x)))[1], np.int64)


def _first_k(
    left: np.ndarray, right: np.ndarray, weights: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k heaviest edges of every left node, ties by the right node."""
    order = np.lexsort((right, -weights, left))
    left, right, weights = left[order], right[order], weights[order]
    begins = np.flatnonzero(np.r_[True, left[1:] != left[:-1]]) if len(left) else np.zeros(0, np.int64)
    rank = np.arange(len(left)) - np.repeat(begins, np.diff(np.r_[begins, len(left)]))
    keep = rank < k
    return left[keep], right[keep], weights[keep]


@njit("f4[::1](f4[:,::1],i8[::1],i8[::1])", cache=True, nogil=True)
def _products(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    out = np.empty(len(left), np.float32)
    for e in range(len(left)):
        total = 0.0
        for d in range(vectors.shape[1]):
            total += np.float64(vectors[left[e], d]) * np.float64(vectors[right[e], d])
        out[e] = total
    return out
