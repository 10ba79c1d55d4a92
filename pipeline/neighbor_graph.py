"""The undirected graph of neighbours that paths are walked on, in compressed rows.

Called by `order.order_cell` once per cell, and by `near_copies` for pairs of near-duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

_SHORT = 48  # rows up to here are sorted by insertion


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
    """Graph on n nodes from edges (left, right int [e], weights float32 [e]).

    Loops and weights <= 0 are dropped; of repeated edges the heaviest is kept, whichever side it was given from.
    """
    # The bits of a positive float grow with it: weight and node in one integer sort as they should.
    bits = np.ascontiguousarray(weights, np.float32).view(np.int32)
    return Graph(*_build(n, left.astype(np.int32), right.astype(np.int32), bits))


def pair_products(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Inner products float32 [e] of the rows left and right (int [e]) of vectors float32 [n, d]; symmetric in its bits."""
    return _products(
        np.ascontiguousarray(vectors, np.float32),
        np.ascontiguousarray(left, np.int64),
        np.ascontiguousarray(right, np.int64),
    )


@njit("f4[::1](f4[:,::1],i8[::1],i8[::1])", cache=True, nogil=True)
def _products(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    dim = vectors.shape[1]
    whole = dim - dim % 4
    out = np.empty(len(left), np.float32)
    for e in range(len(left)):
        a, b = vectors[left[e]], vectors[right[e]]
        # Four sums side by side, added in one order at the end: fast, and the same bits for (a, b) as for (b, a).
        s0 = s1 = s2 = s3 = 0.0
        for d in range(0, whole, 4):
            s0 += np.float64(a[d]) * np.float64(b[d])
            s1 += np.float64(a[d + 1]) * np.float64(b[d + 1])
            s2 += np.float64(a[d + 2]) * np.float64(b[d + 2])
            s3 += np.float64(a[d + 3]) * np.float64(b[d + 3])
        for d in range(whole, dim):
            s0 += np.float64(a[d]) * np.float64(b[d])
        out[e] = (s0 + s1) + (s2 + s3)
    return out


@njit("Tuple((i8[::1],i4[::1],f4[::1]))(i8,i4[::1],i4[::1],i4[::1])", cache=True, nogil=True)
def _build(
    n: int, left: np.ndarray, right: np.ndarray, bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    most = np.int64(0x7FFFFFFF)
    begins = np.zeros(n + 2, np.int64)
    for e in range(len(left)):
        if left[e] != right[e] and bits[e] > 0:
            begins[left[e] + 2] += 1
            begins[right[e] + 2] += 1
    for v in range(n):
        begins[v + 2] += begins[v + 1]
    keys = np.empty(begins[n + 1], np.int64)
    for e in range(len(left)):
        if left[e] != right[e] and bits[e] > 0:
            high = (most - bits[e]) << 32
            keys[begins[left[e] + 1]] = high | right[e]
            begins[left[e] + 1] += 1
            keys[begins[right[e] + 1]] = high | left[e]
            begins[right[e] + 1] += 1
    starts = np.zeros(n + 1, np.int64)
    seen = np.full(n, -1, np.int32)  # the row a node was last met in: later meetings are lighter repeats
    size = 0
    for v in range(n):
        row = keys[begins[v] : begins[v + 1]]
        if len(row) > _SHORT:
            row.sort()
        else:
            for i in range(1, len(row)):
                key, j = row[i], i
                while j > 0 and row[j - 1] > key:
                    row[j] = row[j - 1]
                    j -= 1
                row[j] = key
        for i in range(len(row)):
            other = row[i] & most
            if seen[other] != v:
                seen[other] = v
                keys[size] = row[i]
                size += 1
        starts[v + 1] = size
    neighbours, weight_bits = np.empty(size, np.int32), np.empty(size, np.int32)
    for i in range(size):
        neighbours[i] = keys[i] & most
        weight_bits[i] = most - (keys[i] >> 32)
    return starts, neighbours, weight_bits.view(np.float32)
