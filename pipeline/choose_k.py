"""How many domains: what each number of a grid gives on sampled vectors, and the one with the best silhouette.

Called by `cluster.fit_domains`, once per run, where `k` is `auto`; the report draws what was tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixloom.pipeline.distances import nearest, squared_distances
from mixloom.pipeline.kmeans import TRIAL_POINTS, Start, draw, fit_centres

_SILHOUETTE_POINTS = 2_000


@dataclass(frozen=True, slots=True)
class KTried:
    """What one number of domains gave on sampled vectors.

    silhouette: mean, in [-1, 1]. inertia: mean squared distance to the nearest centre. balance: entropy of the sizes
    over that of equal sizes, in [0, 1].
    """

    k: int
    silhouette: float
    inertia: float
    balance: float


def choose_k(
    vectors: np.ndarray,
    grid: Sequence[int],
    *,
    iterations: int,
    rng: np.random.Generator,
    max_share: float | None,
) -> tuple[int, list[KTried]]:
    """The k of the grid with the highest mean silhouette on a sample, and all that was tried, in order of k.

    Ties go to the smaller k; k = 1 where no number of the grid is between 2 and half of the vectors. Silhouettes
    (Rousseeuw, 1987) use squared distances and plain nearest centres, on at most 2,000 points.

    Args:
        max_share: cap of the groups, in equal shares; None for strict balance.
    """
    sizes = [k for k in sorted(set(grid)) if 2 <= k <= len(vectors) // 2]
    if not sizes:
        return 1, []
    start = Start.draw(vectors, sizes[-1], rng) if max_share is not None else None
    trial = start.points if start is not None else vectors[draw(len(vectors), TRIAL_POINTS, rng)]
    points = trial[draw(len(trial), _SILHOUETTE_POINTS, rng)]
    between = squared_distances(points, points)
    tried = []
    for k in sizes:
        if start is not None and max_share is not None:
            centres = start.centres(k, max_share=max_share, iterations=iterations, restarts=2, rng=rng)
        else:
            centres = fit_centres(trial, k, iterations=iterations, restarts=2, rng=rng)
        labels, far = nearest(trial, centres)
        score = silhouette(between, nearest(points, centres)[0])
        tried.append(
            KTried(k, score, float(far.mean(dtype=np.float64)), size_entropy(np.bincount(labels), k))
        )
    best = max(tried, key=lambda t: (t.silhouette, -t.k))
    return best.k, tried


def size_entropy(sizes: np.ndarray, k: int) -> float:
    """Entropy of group sizes int [any] over ln k: 1.0 for k equal groups, 0.0 for one that holds all."""
    share = sizes[sizes > 0] / max(int(sizes.sum()), 1)
    return float(-(share * np.log(share)).sum() / np.log(k)) if k > 1 else 1.0


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
