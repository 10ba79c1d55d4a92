"""Compiled kernels behind `TfidfSvd`: tf-idf rows from term ids, and their projection to unit vectors.

Each text is summed on its own, in the order of its terms: no other text of the batch can change a bit.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit("Tuple((i4[::1],f8[::1],i8[::1]))(i4[::1],i8[::1],f8[::1],b1)", cache=True, nogil=True)
def tfidf_rows(
    flat: np.ndarray, starts: np.ndarray, idf: np.ndarray, sublinear: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compressed rows (columns, weights, row starts) of the tf-idf matrix, each row of unit length."""
    columns = np.empty(len(flat), np.int32)
    weights = np.empty(len(flat), np.float64)
    rows = np.zeros(len(starts), np.int64)
    used = 0
    for r in range(len(starts) - 1):
        i, first, square = starts[r], used, 0.0
        while i < starts[r + 1]:
            j = i + 1
            while j < starts[r + 1] and flat[j] == flat[i]:
                j += 1
            tf = 1.0 + math.log(float(j - i)) if sublinear else float(j - i)
            columns[used] = flat[i]
            weights[used] = tf * idf[flat[i]]
            square += weights[used] * weights[used]
            used += 1
            i = j
        for x in range(first, used):
            weights[x] /= math.sqrt(square)
        rows[r + 1] = used
    return columns[:used].copy(), weights[:used].copy(), rows


@njit("f4[:,::1](i4[::1],i8[::1],f8[::1],f4[:,::1],b1)", cache=True, nogil=True)
def project(
    flat: np.ndarray, starts: np.ndarray, idf: np.ndarray, components: np.ndarray, sublinear: bool
) -> np.ndarray:
    """Each tf-idf row times the components, to unit length; float32 [n, dim]."""
    columns, weights, rows = tfidf_rows(flat, starts, idf, sublinear)
    dim = components.shape[1]
    out = np.zeros((len(starts) - 1, dim), np.float32)
    total = np.empty(dim, np.float64)
    for r in range(len(rows) - 1):
        total[:] = 0.0
        for x in range(rows[r], rows[r + 1]):
            w, c = weights[x], columns[x]
            for d in range(dim):
                total[d] += w * components[c, d]
        square = 0.0
        for d in range(dim):
            square += total[d] * total[d]
        # The tf-idf row has length 1: a shorter shadow than this is rounding, not meaning.
        if square > 1e-12:
            for d in range(dim):
                out[r, d] = total[d] / math.sqrt(square)
    return out
