"""Units of speech: points to the nearest centroid, runs of equal units, and the k-means that makes the centroids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from mixloom.pipeline.torch_threads import torch_threads

Floats = npt.NDArray[np.float32]
Units = npt.NDArray[np.int64]
Durations = npt.NDArray[np.int32]

_BLOCK = 65_536  # points compared with the centroids at once


def runs(units: Units) -> tuple[Units, Durations]:
    """Each run of equal units [n] written once, int64 [r], and the lengths of the runs, int32 [r]."""
    starts = np.flatnonzero(np.diff(units, prepend=-1))
    return units[starts], np.diff(starts, append=len(units)).astype(np.int32)


def collapsed(units: Units, collapse: bool) -> tuple[Units, Durations]:
    """Units and their durations in steps: runs written once, or each unit for itself."""
    return runs(units) if collapse else (units, np.ones(len(units), np.int32))


def nearest_units(points: Floats, centroids: Floats) -> Units:
    """int64 [n]: the nearest of centroids float32 [k, d] to each point float32 [n, d]; the first of equal ones."""
    found = [np.zeros(0, np.int64)]
    with torch_threads(1):  # other numbers of threads round otherwise
        where = torch.from_numpy(np.ascontiguousarray(centroids))
        bias = where.square().sum(1) / 2
        for i in range(0, len(points), _BLOCK):
            block = torch.from_numpy(np.ascontiguousarray(points[i : i + _BLOCK]))
            found.append(np.argmax((block @ where.T - bias).numpy(), axis=1))
    return np.concatenate(found)


def fit_centroids(points: Floats, count: int, iterations: int, seed: int) -> Floats:
    """float32 [count, d] centroids of float32 [n, d] by faiss, on one thread: the same points give the same bits."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # the sums behind a centroid depend on how points are split between threads
    try:
        kmeans = faiss.Kmeans(
            points.shape[1],
            count,
            niter=iterations,
            seed=seed,
            min_points_per_centroid=1,
            max_points_per_centroid=len(points),
        )
        kmeans.train(np.ascontiguousarray(points))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.array(kmeans.centroids, np.float32)


def explained(points: Floats, centroids: Floats, units: Units) -> float:
    """Share of the variance of points [n, d] that their units explain; 1 where there is no variance."""
    error = float(np.square(points - centroids[units], dtype=np.float64).sum())
    spread = float(np.square(points - points.mean(0), dtype=np.float64).sum())
    return round(1 - error / spread, 4) if spread else 1.0
