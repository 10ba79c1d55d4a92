"""Squared Euclidean distances with bits that depend on the two vectors alone.

A matrix product by BLAS changes its last bits with the shape of the batch, and a document near the border of
two domains would move with it. Here each pair is summed on its own, in the order of the dimensions.
"""

from __future__ import annotations

import numpy as np
from numba import njit


def squared_distances(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """float32 [n, k]: squared distances of vectors float32 [n, d] to centres float32 [k, d]."""
    return _all_distances(_rows(vectors), _columns(centres))


def nearest(vectors: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index int32 [n] of the nearest centre (ties: the lower index), and its squared distance float32 [n].

    Raises ValueError when there is no centre.
    """
    return nearest_within(
        vectors, centres, np.zeros(len(vectors), np.int32), np.array([0, len(centres)], np.int64)
    )


def nearest_within(
    vectors: np.ndarray, centres: np.ndarray, group: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, among the centres starts[g]..starts[g+1] of the group g int32 [n] of each vector."""
    if np.any(np.diff(starts) <= 0):
        raise ValueError("nearest centre of none: every group needs at least one centre")
    return _nearest(_rows(vectors), _columns(centres), group.astype(np.int32), starts.astype(np.int64))


def _rows(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _columns(centres: np.ndarray) -> np.ndarray:
    # Centres run along the inner loop: independent sums that vectorise without reordering any of them.
    return np.ascontiguousarray(np.asarray(centres, dtype=np.float32).T)


@njit("f4[:,::1](f4[:,::1],f4[:,::1])", cache=True, nogil=True)
def _all_distances(vectors: np.ndarray, columns: np.ndarray) -> np.ndarray:
    n, dim, k = vectors.shape[0], columns.shape[0], columns.shape[1]
    out = np.zeros((n, k), np.float32)
    for i in range(n):
        row = out[i]
        for d in range(dim):
            x = vectors[i, d]
            for j in range(k):
                gap = x - columns[d, j]
                row[j] += gap * gap
    return out


@njit("Tuple((i4[::1],f4[::1]))(f4[:,::1],f4[:,::1],i4[::1],i8[::1])", cache=True, nogil=True)
def _nearest(
    vectors: np.ndarray, columns: np.ndarray, group: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    n, dim = vectors.shape[0], columns.shape[0]
    index = np.empty(n, np.int32)
    value = np.empty(n, np.float32)
    sums = np.empty(columns.shape[1], np.float32)
    for i in range(n):
        a, b = starts[group[i]], starts[group[i] + 1]
        row = sums[: b - a]
        row[:] = 0.0
        for d in range(dim):
            x = vectors[i, d]
            part = columns[d, a:b]
            for j in range(b - a):
                gap = x - part[j]
                row[j] += gap * gap
        best = 0
        for j in range(1, b - a):
            if row[j] < row[best]:
                best = j
        index[i] = a + best
        value[i] = row[best]
    return index, value
