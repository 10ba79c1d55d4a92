"""Cells: each domain cut into pieces small enough to be ordered by one worker.

The walk of in-context pretraining is sequential. Inside cells made by clustering, with neighbours searched anew
in each cell, the order is as good as over the whole corpus, and cells are independent (see docs/domains-and-order.md).
Called by `cluster.fit_domains`, once per domain of a run.
"""

from __future__ import annotations

import math

import numpy as np

from mixloom.pipeline.distances import nearest
from mixloom.pipeline.kmeans import fit_centres

_PARTS = 16  # pieces made of one cell in one pass
_PASSES = 64  # far more than any real corpus needs; a guard against centres that trade vectors forever


def split_domain(
    vectors: np.ndarray,
    *,
    documents: float,
    max_cell: int,
    min_cell: int,
    iterations: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Cell centres float32 [m, d] for one domain, from its sampled vectors float32 [n, d] (n >= 1).

    A domain is cut into equal parts by balanced k-means, and a part that still expects more than `max_cell`
    documents is cut again, until none does or nothing distinct is left to cut. Then cells that expect fewer than
    `min_cell` are given up, smallest first, where the others can take their documents in.

    Args:
        documents: how many documents the whole domain is expected to hold.
    """
    per_sample = documents / len(vectors)
    limit = max_cell / per_sample  # in sampled vectors
    centres = vectors.astype(np.float64).mean(axis=0, keepdims=True).astype(np.float32)
    whole: set[bytes] = set()  # centres of cells whose vectors cannot be told apart
    for _ in range(_PASSES):
        labels = nearest(vectors, centres)[0]
        sizes = np.bincount(labels, minlength=len(centres))
        pieces: list[np.ndarray] = []
        split = False
        for j in np.flatnonzero(sizes):
            piece = centres[j : j + 1]
            if sizes[j] > limit and piece.tobytes() not in whole:
                inside = vectors[labels == j]
                parts = min(math.ceil(sizes[j] / limit), _PARTS)
                found = fit_centres(inside, parts, iterations=iterations, restarts=1, rng=rng)
                if len(np.unique(nearest(inside, found)[0])) < 2:
                    whole.add(piece.tobytes())
                else:
                    piece, split = found, True
            pieces.append(piece)
        centres = np.concatenate(pieces)
        if not split:
            break
    return _merge_small(vectors, centres, limit, min_cell / per_sample)


def _merge_small(vectors: np.ndarray, centres: np.ndarray, limit: float, least: float) -> np.ndarray:
    """Drop the centres of small cells, smallest first, unless that would push another cell over the limit."""
    labels = nearest(vectors, centres)[0]
    sizes = np.bincount(labels, minlength=len(centres))
    alive = np.ones(len(centres), bool)
    for j in np.argsort(sizes, kind="stable"):
        # A cell may have grown by taking in a smaller one; then it stays.
        if sizes[j] >= least or alive.sum() == 1:
            continue
        alive[j] = False
        rest = np.flatnonzero(alive)
        inside = np.flatnonzero(labels == j)
        moved = rest[nearest(vectors[inside], centres[rest])[0]]
        after = sizes + np.bincount(moved, minlength=len(sizes))
        if np.any((after > limit) & (after > sizes)):
            alive[j] = True
        else:
            labels[inside] = moved
            sizes = after
            sizes[j] = 0
    return centres[alive]
