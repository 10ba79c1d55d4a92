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
    final: set[bytes] = set()  # centres of cells whose vectors cannot be told apart
    while True:
        labels = nearest(vectors, centres)[0]
        sizes = np.bincount(labels, minlength=len(centres))
        too_large = [j for j in np.flatnonzero(sizes > limit) if centres[j].tobytes() not in final]
        if not too_large:
            break
        j = too_large[int(np.argmax(sizes[too_large]))]
        inside = vectors[labels == j]
        parts = min(math.ceil(sizes[j] / limit), len(inside))
        pieces = fit_centres(inside, parts, iterations=iterations, restarts=1, rng=rng)
        if len(np.unique(nearest(inside, pieces)[0])) < 2:
            final.add(centres[j].tobytes())
            continue
        centres = np.concatenate([centres[:j], pieces, centres[j + 1 :]])
    return _merge_small(vectors, centres, limit, min_cell / per_sample)


def _merge_small(vectors: np.ndarray, centres: np.ndarray, limit: float, least: float) -> np.ndarray:
    """Drop the centres of small cells, smallest first, unless that would push another cell over the limit."""
    kept_small: set[bytes] = set()
    while len(centres) > 1:
        labels = nearest(vectors, centres)[0]
        sizes = np.bincount(labels, minlength=len(centres))
        small = [j for j in np.flatnonzero(sizes < least) if centres[j].tobytes() not in kept_small]
        if not small:
            break
        j = small[int(np.argmin(sizes[small]))]
        rest = np.delete(centres, j, axis=0)
        after = np.bincount(nearest(vectors, rest)[0], minlength=len(rest))
        if np.any((after > limit) & (after > np.delete(sizes, j))):
            kept_small.add(centres[j].tobytes())
        else:
            centres = rest
    return centres
