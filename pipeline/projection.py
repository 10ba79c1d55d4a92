"""Compiled kernels behind `TfidfSvd`: tf-idf rows from term ids, and their projection to unit vectors.

Each text is summed on its own, in the order of its terms: no other text of the batch can change a bit.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit("Tuple((i4[::1],i4[::1],i8[::1]))(i4[::1],i8[::1])", cache=True, nogil=True)
def term_counts(flat: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compressed rows (columns, counts, row starts) of term ids that are sorted inside each text."""
    columns, counts = np.empty(len(flat), np.int32), np.empty(len(flat), np.int32)
    rows = np.zeros(len(starts), np.int64)
    used = 0
    for r in range(len(starts) - 1):
        for i in range(starts[r], starts[r + 1]):
            if i > starts[r] and flat[i] == flat[i - 1]:
                counts[used - 1] += 1
            else:
                columns[used], counts[used] = flat[i], 1
                used += 1
        rows[r + 1] = used
    return columns[:used].copy(), counts[:used].copy(), rows


@njit("f8[::1](i4[::1],i4[::1],i8[::1],f8[::1],b1)", cache=True, nogil=True)
def tfidf_weights(
    columns: np.ndarray, counts: np.ndarray, rows: np.ndarray, idf: np.ndarray, sublinear: bool
) -> np.ndarray:
    """The tf-idf weights of compressed rows of counts, each row of unit length."""
    weights = np.empty(len(columns), np.float64)
    for r in range(len(rows) - 1):
        square = 0.0
        for x in range(rows[r], rows[r + 1]):
            tf = 1.0 + math.log(float(counts[x])) if sublinear else float(counts[x])
            weights[x] = tf * idf[columns[x]]
            square += weights[x] * weights[x]
        for x in range(rows[r], rows[r + 1]):
            weights[x] /= math.sqrt(square)
    return weights


@njit("f4[:,::1](i4[::1],i8[::1],f8[::1],f4[:,::1],b1)", cache=True, nogil=True)
def project(
    flat: np.ndarray, starts: np.ndarray, idf: np.ndarray, components: np.ndarray, sublinear: bool
) -> np.ndarray:
    """Each tf-idf row times the components, to unit length; float32 [n, dim]."""
    columns, counts, rows = term_counts(flat, starts)
    weights = tfidf_weights(columns, counts, rows, idf, sublinear)
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
