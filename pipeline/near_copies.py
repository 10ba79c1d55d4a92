"""Groups of near-duplicates inside a cell: documents that are not to be read next to each other.

Connected components of near-duplicate pairs would do for planted copies. On real text they do not: among vectors of
100 numbers, news posts and question pages hang together in chains of hundreds whose ends have nothing in common (see
docs/domains-and-order.md). So a group is a star: a leader and the documents above the threshold to it, each with the nearest
leader it has. Two members of a group are alike at least as 2 t^2 - 1 (.81 for t = .95); exact copies always share one.

Called by `neighbors.nearest_neighbours`, once per cell, with what its search found.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.neighbor_graph import graph_from_edges, pair_products
from mixloom.pipeline.one_thread import one_thread

_FIRST_BLOCK, _LAST_BLOCK = 8, 64  # leaders of crowds looked up at once
_SLACK = 1e-4  # faiss's sums differ from ours in the last bits


def copy_groups(
    x: np.ndarray, found: np.ndarray, weights: np.ndarray, near_duplicate: float
) -> tuple[np.ndarray, int]:
    """The group of every document, int32 [n] (the index of its leader, -1 for none), and the pairs that were met.

    Leaders are chosen in order of how many near-duplicates they were found as, then by index.

    Args:
        x: float32 [n, d], unit rows.
        found: int64 [n, w], nearest rows of each, itself among them; weights: float32 [n, w], their products.
            A row all of whose neighbours are near-duplicates is asked for the rest of them here.
    """
    n, width = found.shape
    near = (weights > near_duplicate) & (found != np.arange(n)[:, None])
    if not near.any():
        return np.full(n, -1, np.int32), 0
    left, right = np.nonzero(near)[0], found[near]
    pairs = graph_from_edges(n, left, right, weights[near])
    degree = np.diff(pairs.starts)
    # Of the w found one is the row itself, unless there are w exact copies before it.
    crowded = (near.sum(axis=1) >= width - 1) & (width < n)
    group, best = np.full(n, -1, np.int32), np.full(n, -1, np.float32)
    order = np.lexsort((np.arange(n), -degree))
    order = order[degree[order] > 0]
    _lead_crowds(x, order[crowded[order]], near_duplicate, group, best)
    _lead(order, pairs.starts, pairs.neighbours, pairs.weights, group, best)
    # A leader may have lost its only member to a nearer one.
    size = np.bincount(group[group >= 0], minlength=n)
    group[(group >= 0) & (size[group] < 2)] = -1
    return group, pairs.edges


def _lead_crowds(
    x: np.ndarray, order: np.ndarray, near_duplicate: float, group: np.ndarray, best: np.ndarray
) -> None:
    """Make leaders of crowded documents that have none yet, in order, with everything near them in their groups."""
    import faiss

    index = None
    block, at = _FIRST_BLOCK, 0
    while True:
        rest = order[at:]
        rest = rest[group[rest] < 0]
        if not len(rest):
            return
        asked = rest[:block]
        if index is None:
            index = faiss.IndexFlatIP(x.shape[1])
            index.add(x)
        with one_thread():
            limits, _, members = index.range_search(np.ascontiguousarray(x[asked]), near_duplicate - _SLACK)
        limits, members = limits.astype(np.int64), members.astype(np.int64)
        sums = pair_products(x, np.repeat(asked, np.diff(limits)), members)
        _lead_found(asked, limits, members, sums, near_duplicate, group, best)
        at = int(np.flatnonzero(order == asked[-1])[0]) + 1
        block = min(2 * block, _LAST_BLOCK)


@njit("void(i8[::1],i8[::1],i8[::1],f4[::1],f8,i4[::1],f4[::1])", cache=True, nogil=True)
def _lead_found(
    asked: np.ndarray,
    limits: np.ndarray,
    members: np.ndarray,
    sums: np.ndarray,
    near: float,
    group: np.ndarray,
    best: np.ndarray,
) -> None:
    for i in range(len(asked)):
        leader = asked[i]
        if group[leader] >= 0:
            continue
        group[leader], best[leader] = leader, np.float32(2)
        for e in range(limits[i], limits[i + 1]):
            v = members[e]
            if sums[e] > near and sums[e] > best[v]:
                group[v], best[v] = leader, sums[e]


@njit("void(i8[::1],i8[::1],i4[::1],f4[::1],i4[::1],f4[::1])", cache=True, nogil=True)
def _lead(
    order: np.ndarray,
    starts: np.ndarray,
    neighbours: np.ndarray,
    weights: np.ndarray,
    group: np.ndarray,
    best: np.ndarray,
) -> None:
    for leader in order:
        if group[leader] >= 0:
            continue
        group[leader], best[leader] = leader, np.float32(2)
        for e in range(starts[leader], starts[leader + 1]):
            v = neighbours[e]
            if weights[e] > best[v]:
                group[v], best[v] = leader, weights[e]
