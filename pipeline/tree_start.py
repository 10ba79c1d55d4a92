"""Where balanced k-means begins: vectors drawn towards their neighbours, and a tree of groups that grow together.

Sums of squared distances alone tell a good start from a lucky one badly: of ten random starts, the one with the least
sum is often not the one that follows the subjects of a corpus. Two things computed without any label help. Each sampled
vector is moved towards the mean of its nearest neighbours, which takes away what is its own and keeps what it shares
(a low-pass filter on the graph of neighbours; Taubin, 1995; Li et al., arXiv 1801.07606, section 3). Groups then grow
by the merger that adds least to the sum of squares (Ward, 1963), which needs no random start at all.

Called by `kmeans.fit_centres` and `kmeans.choose_k`, once per run, on a few thousand sampled vectors.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.distances import squared_distances

_BLOCK = 512  # rows of distances held at once


def nearest_others(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest other vectors of each, int32 [n, count] and squared distances float32 [n, count].

    Nearest first, ties by the lower index. `count` is cut to n - 1.
    """
    n = len(vectors)
    count = max(min(count, n - 1), 0)
    index, far = np.zeros((n, count), np.int32), np.zeros((n, count), np.float32)
    for start in range(0, n if count else 0, _BLOCK):
        block = squared_distances(vectors[start : start + _BLOCK], vectors)
        _least(block, start, index[start : start + _BLOCK], far[start : start + _BLOCK])
    return index, far


def smoothed(vectors: np.ndarray, neighbours: int, rounds: int) -> np.ndarray:
    """Vectors moved towards those they are linked with: float32 [n, d] of length 1, from the same.

    Two vectors are linked when one is among the `neighbours` nearest of the other, with the weight of their cosine
    where that is above 0. A round adds to each the weighted mean of its links and scales it to length 1. A vector that
    cancels out keeps its place.
    """
    out = np.ascontiguousarray(vectors, np.float32)
    index, far = nearest_others(out, neighbours)
    for _ in range(rounds if index.size else 0):
        out = _smooth(out, index, 1 - far / 2)
    return out


def merge_tree(vectors: np.ndarray) -> np.ndarray:
    """Ward's tree over float [n, d]: int64 [n - 1, 2], which two groups join at each step, closest first.

    Groups 0..n-1 are the vectors, group n + i is what step i made. Takes 8 n^2 bytes.
    """
    n = len(vectors)
    if n < 2:
        return np.zeros((0, 2), np.int64)
    from scipy.cluster.hierarchy import linkage

    between = np.empty(n * (n - 1) // 2)
    at = 0
    for start in range(0, n, _BLOCK):
        block = np.sqrt(squared_distances(vectors[start : start + _BLOCK], vectors).astype(np.float64))
        for i, row in enumerate(block, start):
            between[at : at + n - 1 - i] = row[i + 1 :]
            at += n - 1 - i
    merges: np.ndarray = linkage(between, "ward")[:, :2].astype(np.int64)
    return merges


def cut_tree(merges: np.ndarray, k: int) -> np.ndarray:
    """The k groups (n, where n < k) that stand before the last k - 1 mergers: labels int64 [n].

    Groups are numbered by their first vector.
    """
    n = len(merges) + 1
    parent = np.arange(2 * n - 1)
    for step in range(n - min(max(k, 1), n)):
        parent[merges[step]] = n + step
    for node in range(2 * n - 2, -1, -1):  # a group joins a later one, so its end is known already
        parent[node] = parent[parent[node]]
    _, first, group = np.unique(parent[:n], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    labels: np.ndarray = rank[group]
    return labels


@njit("void(f4[:,::1],i8,i4[:,::1],f4[:,::1])", cache=True, nogil=True)
def _least(block: np.ndarray, start: int, index: np.ndarray, far: np.ndarray) -> None:
    """The smallest entries of each row but its own, in order; what comes first stays first among equals."""
    rows, n = block.shape
    count = index.shape[1]
    for i in range(rows):
        held = 0
        for j in range(n):
            if j == start + i or (held == count and block[i, j] >= far[i, count - 1]):
                continue
            at = held if held < count else count - 1
            while at > 0 and far[i, at - 1] > block[i, j]:
                far[i, at] = far[i, at - 1]
                index[i, at] = index[i, at - 1]
                at -= 1
            far[i, at] = block[i, j]
            index[i, at] = j
            if held < count:
                held += 1


@njit("f4[:,::1](f4[:,::1],i4[:,::1],f4[:,::1])", cache=True, nogil=True)
def _smooth(vectors: np.ndarray, index: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    n, dim = vectors.shape
    count = index.shape[1]
    total, weight = np.zeros((n, dim), np.float64), np.zeros(n, np.float64)
    for i in range(n):
        for c in range(count):
            j, w = index[i, c], max(cosine[i, c], np.float32(0.0))
            mutual = False
            for other in range(count):
                mutual = mutual or index[j, other] == i
            weight[i] += w
            for d in range(dim):
                total[i, d] += w * vectors[j, d]
            if not mutual:  # a mutual pair is met from the other side as well
                weight[j] += w
                for d in range(dim):
                    total[j, d] += w * vectors[i, d]
    out = vectors.copy()
    for i in range(n):
        if weight[i] <= 0.0:
            continue
        length = 0.0
        for d in range(dim):
            total[i, d] = vectors[i, d] + total[i, d] / weight[i]
            length += total[i, d] * total[i, d]
        if length > 1e-12:
            for d in range(dim):
                out[i, d] = total[i, d] / np.sqrt(length)
    return out
