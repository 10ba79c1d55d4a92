"""Centres by balanced k-means.

Balance serves only to estimate centres (c-BTM, arXiv 2303.14177, section 3.1); documents are later sent to the
plain nearest one. Called by `cluster.fit_domains` and `cells.split_domain`, both once per run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from mixloom.pipeline.balanced import balanced_assign, capped_assign
from mixloom.pipeline.distances import nearest, squared_distances
from mixloom.pipeline.tree_start import cut_tree, merge_tree, smoothed

_TREE_POINTS = 6_000  # the tree takes 8 bytes times the square of it
_LEAST_PER_GROUP = 8  # points a group of the tree needs on average; more groups start from random seeds
TRIAL_POINTS = 10_000  # random starts compete on this many points
_PLAIN_ROUNDS = 100
_YIELDS = 0.5  # of the mean squared distance to a centre: what the cap may cost a vector
_NEIGHBOURS, _SMOOTHINGS = 20, 2  # of the vectors a start is made from


def fit_centres(
    vectors: np.ndarray,
    k: int,
    *,
    iterations: int,
    restarts: int,
    rng: np.random.Generator,
    tolerance: float = 1e-3,
) -> np.ndarray:
    """Strictly balanced centres, float32 [min(k, distinct vectors), d], from vectors float32 [n, d]; as published.

    Several starts from k-means++ seeds run on a subsample, every round balanced; the one with the least sum of squared
    distances to the plain nearest centre is finished on all vectors. Raises ValueError when there is no vector.
    """
    _check(vectors, k)
    trial = vectors[draw(len(vectors), TRIAL_POINTS, rng)]
    best, least = np.zeros((0, vectors.shape[1]), np.float32), np.inf
    for _ in range(restarts):
        centres = balanced_rounds(trial, plus_plus(trial, k, rng), iterations, tolerance)
        cost = float(nearest(trial, centres)[1].sum(dtype=np.float64))
        if cost < least:
            best, least = centres, cost
    return best if len(trial) == len(vectors) else balanced_rounds(vectors, best, iterations, tolerance)


@dataclass(frozen=True, eq=False)
class Start:
    """Sampled vectors that centres are estimated from: float32 [n, d], the same drawn towards their neighbours, and
    the tree over those (int64 [n - 1, 2]; None where there are too many groups for one)."""

    points: np.ndarray
    smooth: np.ndarray
    merges: np.ndarray | None

    @classmethod
    def draw(cls, vectors: np.ndarray, k: int, rng: np.random.Generator) -> Start:
        """A start for up to k groups of vectors float32 [n, d]. Raises ValueError when there is no vector."""
        _check(vectors, k)
        tree = k * _LEAST_PER_GROUP <= _TREE_POINTS
        points = vectors[draw(len(vectors), _TREE_POINTS if tree else max(TRIAL_POINTS, 4 * k), rng)]
        smooth = smoothed(points, _NEIGHBOURS, _SMOOTHINGS)
        return cls(points, smooth, merge_tree(smooth) if tree else None)

    def centres(
        self,
        k: int,
        *,
        max_share: float,
        iterations: int,
        restarts: int,
        rng: np.random.Generator,
        tolerance: float = 1e-3,
    ) -> np.ndarray:
        """Centres float32 [at most k, d]: means of groups of which none holds more than `max_share` equal shares.

        Groups are found on the smoothed vectors, from the tree or else from the best of `restarts` random starts, by
        rounds of capped k-means. Equal centres are one.
        """
        most = math.ceil(max_share * len(self.points) / k)
        if self.merges is not None:
            labels = cut_tree(self.merges, k)
            seeds = means(
                self.smooth, labels, np.zeros((int(labels.max()) + 1, self.points.shape[1]), np.float32)
            )
        else:
            trials = (
                plain_rounds(self.smooth, plus_plus(self.smooth, k, rng), _PLAIN_ROUNDS, tolerance)
                for _ in range(restarts)
            )
            seeds = min(trials, key=lambda c: float(nearest(self.smooth, c)[1].sum(dtype=np.float64)))
        labels = capped_rounds(
            self.smooth, seeds, max(most, -(-len(self.points) // len(seeds))), iterations, tolerance
        )
        found = means(self.points, labels, np.zeros_like(seeds))[np.unique(labels)]
        kept = np.sort(np.unique(found, axis=0, return_index=True)[1])
        distinct: np.ndarray = found[kept]
        return distinct


def capped_rounds(
    vectors: np.ndarray, centres: np.ndarray, most: int, iterations: int, tolerance: float
) -> np.ndarray:
    """Labels int32 [n] after rounds of k-means in which no centre takes more than `most` vectors.

    The cap gives way where it would tear apart what clearly belongs together: a vector leaves an over-full centre only
    for one whose squared distance is larger by at most `_YIELDS` times the mean squared distance to the nearest centre.
    """
    for _ in range(iterations):
        cost = squared_distances(vectors, centres)
        labels = cost.argmin(axis=1).astype(np.int32)
        if np.bincount(labels).max() > most:
            limit = _YIELDS * float(cost.min(axis=1).mean(dtype=np.float64))
            labels = capped_assign(cost, most, limit)
        moved = means(vectors, labels, centres)
        shift, centres = _shift(moved, centres), moved
        if shift < tolerance / 100:
            break
    return labels


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


def _check(vectors: np.ndarray, k: int) -> None:
    if len(vectors) == 0 or k < 1:
        raise ValueError(f"centres need a vector and k >= 1, got {len(vectors)} vectors and k = {k}")


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
