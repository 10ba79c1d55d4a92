"""Semantic deduplication of one cell: documents too close to one that is kept are dropped.

SemDeDup (Abbas et al. 2023, arXiv 2303.09540, section 3) drops a document of a cluster when its cosine to another
is greater than 1 - eps. Here documents are taken in survivor order and compared with *kept* ones only, so every
dropped document has a kept one that close, which the published code does not grant (a document is compared with
dropped ones too there, and a chain vanishes).

Products run in blocks through BLAS in float32, and whatever comes near the limit is computed again in float64 in the
order of the dimensions: the result depends on the vectors alone, not on blocks, threads or machine.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from mixloom.pipeline.doc_ids import I64

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

BLOCK = 1024  # documents judged at a time
KEPT_BLOCK = 8192  # kept documents they are compared with at a time: products of 32 MB


@numba.njit(cache=True, nogil=True)
def _cosine(a: F32, b: F32) -> float:
    dot = aa = bb = 0.0
    for d in range(len(a)):
        x, y = np.float64(a[d]), np.float64(b[d])
        dot += x * y
        aa += x * x
        bb += y * y
    return dot / np.sqrt(aa * bb) if aa > 0.0 and bb > 0.0 else 0.0


@numba.njit(cache=True, nogil=True)
def _against_kept(
    products: F32, about: float, limit: float, vectors: F32, first: int, kept: I64, keeper: I64, best: F64
) -> None:
    for i in range(products.shape[0]):
        row = first + i
        for j in range(products.shape[1]):
            if products[i, j] > about:
                cosine = _cosine(vectors[row], vectors[kept[j]])
                if cosine > limit and cosine > best[row]:
                    best[row], keeper[row] = cosine, kept[j]


@numba.njit(cache=True, nogil=True)
def _among_themselves(
    products: F32, about: float, limit: float, vectors: F32, first: int, keeper: I64, best: F64
) -> None:
    for i in range(products.shape[0]):
        row = first + i
        for j in range(i):
            if keeper[first + j] == first + j and products[i, j] > about:
                cosine = _cosine(vectors[row], vectors[first + j])
                if cosine > limit and cosine > best[row]:
                    best[row], keeper[row] = cosine, first + j


def semantic_keepers(vectors: F32, limit: float, block: int = BLOCK) -> tuple[I64, F64]:
    """For each document the index of the kept one too close to it (its own when it is kept), and their cosine.

    Documents are judged in the given order; each is compared with the kept ones before it. Of several too
    close, the closest is named, of equally close ones the first. A zero vector is close to nothing.

    Args:
        vectors: float32 [n, d], of any length, in survivor order.
        limit: cosine above which two are too close.
        block: documents judged at a time; changes memory and time, never the result.

    Returns:
        int64 [n] and float64 [n] (0.0 for a kept document).
    """
    n, dim = vectors.shape
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    norm = np.linalg.norm(vectors.astype(np.float64), axis=1)
    unit = (vectors / np.where(norm > 0, norm, 1.0)[:, None]).astype(np.float32)
    keeper, best = np.arange(n), np.zeros(n)
    # A product of float32 unit vectors is off by less than this (Higham 2002, section 3.1, with room to spare).
    about = limit - (dim + 8) * 2.0**-23
    kept: list[I64] = []
    for first in range(0, n, block):
        rows = unit[first : first + block]
        before = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
        for start in range(0, len(before), KEPT_BLOCK):
            some = before[start : start + KEPT_BLOCK]
            _against_kept(rows @ unit[some].T, about, limit, vectors, first, some, keeper, best)
        _among_themselves(rows @ rows.T, about, limit, vectors, first, keeper, best)
        here = np.arange(first, first + len(rows))
        kept.append(here[(keeper[here] == here) & (norm[here] > 0)])
    return keeper, best
