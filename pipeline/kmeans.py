"""Centres by k-means with balanced starts, and the number of centres by silhouette.

Balance serves only to estimate centres (c-BTM, arXiv 2303.14177, section 3.1); documents are later sent to the
plain nearest one. Called by `cluster.fit_domains` and `cells.split_domain`, both once per run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from mixloom.pipeline.balanced import balanced_assign
from mixloom.pipeline.distances import nearest, squared_distances

_TRIAL_POINTS = 10_000  # restarts compete on this many points; the winner is refined on all
_SILHOUETTE_POINTS = 2_000
_PLAIN_ROUNDS = 100


def fit_centres(
    vectors: np.ndarray,
    k: int,
    *,
    iterations: int,
    restarts: int,
    rng: np.random.Generator,
    strict: bool = False,
    tolerance: float = 1e-3,
) -> np.ndarray:
    """Centres float32 [min(k, distinct vectors), d] from vectors float32 [n, d].

    Several starts from k-means++ seeds run on a subsample; the one with the least sum of squared distances to the
    plain nearest centre is finished on all vectors. `strict`: every round is balanced, as published. Otherwise
    every second start is balanced, and all are finished by plain rounds, so that a centre is the mean of the
    documents it will get. Raises ValueError when there is no vector.
    """
    if len(vectors) == 0 or k < 1:
        raise ValueError(f"centres need a vector and k >= 1, got {len(vectors)} vectors and k = {k}")
    trial = vectors[draw(len(vectors), _TRIAL_POINTS, rng)]
    best, least = np.zeros((0, vectors.shape[1]), np.float32), np.inf
    for start in range(restarts):
        centres = plus_plus(trial, k, rng)
        if strict or start % 2 == 0:
            centres = balanced_rounds(trial, centres, iterations, tolerance)
        if not strict:
            centres = plain_rounds(trial, centres, _PLAIN_ROUNDS, tolerance)
        cost = float(nearest(trial, centres)[1].sum(dtype=np.float64))
        if cost < least:
            best, least = centres, cost
    if len(trial) == len(vectors):
        return best
    if strict:
        return balanced_rounds(vectors, best, iterations, tolerance)
    return plain_rounds(vectors, best, _PLAIN_ROUNDS, tolerance)


def balanced_rounds(
    vectors: np.ndarray, centres: np.ndarray, iterations: int, tolerance: float
) -> np.ndarray:
    """Move centres float32 [k, d] to the means of their balanced groups until they rest (squared shift summed)."""
    prices = None
    for _ in range(iterations):
        labels, prices = balanced_assign(squared_distances(vectors, centres), prices)
        moved = means(vectors, labels, centres)
        shift, centres = _shift(moved, centres), moved
        if shift < tolerance:
            break
    return centres


def plain_rounds(vectors: np.ndarray, centres: np.ndarray, iterations: int, tolerance: float) -> np.ndarray:
    """As `balanced_rounds`, each vector counting for its nearest centre."""
    for _ in range(iterations):
        moved = means(vectors, nearest(vectors, centres)[0], centres)
        shift, centres = _shift(moved, centres), moved
        if shift < tolerance / 100:
            break
    return centres


def _shift(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a - b).astype(np.float64) ** 2).sum())


def means(vectors: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Mean vector of every label, float32 [k, d]; a label nobody has keeps its centre."""
    return _means(np.ascontiguousarray(vectors, np.float32), labels.astype(np.int32), centres)


def plus_plus(vectors: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++ seeds (Arthur and Vassilvitskii, 2007, section 2.2), float32 [at most k, d], all distinct.

    Each seed is the best of 2 + ln k candidates, drawn by squared distance to the seeds so far.
    """
    seeds = [int(rng.integers(len(vectors)))]
    gap = squared_distances(vectors, vectors[seeds])[:, 0].astype(np.float64)
    candidates = 2 + int(np.log(k))
    while len(seeds) < k and gap.max() > 0:
        total = np.cumsum(gap)
        drawn = np.searchsorted(total, rng.random(candidates) * total[-1], side="right")
        drawn = np.minimum(drawn, np.flatnonzero(gap)[-1])  # rounding must not step past the last point
        after = np.minimum(gap[:, None], squared_distances(vectors, vectors[drawn]))
        best = int(np.argmin(after.sum(axis=0)))
        seeds.append(int(drawn[best]))
        gap = after[:, best]
    return vectors[seeds].astype(np.float32)


def choose_k(
    vectors: np.ndarray,
    grid: Sequence[int],
    *,
    iterations: int,
    rng: np.random.Generator,
    strict: bool = False,
) -> int:
    """The k of the grid with the highest mean silhouette on a sample; ties go to the smaller k, no choice gives 1.

    Silhouettes (Rousseeuw, 1987) use squared distances and plain nearest centres, on at most 2,000 points.
    """
    trial = vectors[draw(len(vectors), _TRIAL_POINTS, rng)]
    points = trial[draw(len(trial), _SILHOUETTE_POINTS, rng)]
    between = squared_distances(points, points)
    best, highest = 1, -np.inf
    for k in sorted(set(grid)):
        if not 2 <= k <= len(trial) // 2:
            continue
        centres = fit_centres(trial, k, iterations=iterations, restarts=2, rng=rng, strict=strict)
        score = silhouette(between, nearest(points, centres)[0])
        if score > highest:
            best, highest = k, score
    return best


def silhouette(between: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette, in [-1, 1], from distances float [n, n]; a point alone in its group counts 0."""
    groups, inverse = np.unique(labels, return_inverse=True)
    if len(groups) < 2:
        return -1.0
    sizes = np.bincount(inverse)
    sums = np.stack(
        [between[:, inverse == g].sum(axis=1, dtype=np.float64) for g in range(len(groups))], axis=1
    )
    rows = np.arange(len(labels))
    own = sums[rows, inverse] / np.maximum(sizes[inverse] - 1, 1)
    other = sums / sizes
    other[rows, inverse] = np.inf
    nearest_other = other.min(axis=1)
    scale = np.maximum(np.maximum(own, nearest_other), 1e-30)
    return float(np.where(sizes[inverse] > 1, (nearest_other - own) / scale, 0.0).mean())


def draw(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of a seeded sample without replacement; everything when n <= size."""
    return np.arange(n) if n <= size else np.sort(rng.choice(n, size, replace=False))


@njit("f4[:,::1](f4[:,::1],i4[::1],f4[:,::1])", cache=True, nogil=True)
def _means(vectors: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    k, dim = centres.shape
    total, count = np.zeros((k, dim), np.float64), np.zeros(k, np.int64)
    for i in range(len(labels)):
        count[labels[i]] += 1
        for d in range(dim):
            total[labels[i], d] += vectors[i, d]
    out = centres.copy()
    for j in range(k):
        if count[j] > 0:
            for d in range(dim):
                out[j, d] = total[j, d] / count[j]
    return out
