"""Exact nearest neighbours inside one cell, near-duplicates set apart.

Called by `order.order_cell`, once per cell. Similarities come from a kernel of our own after the search, so that
a pair has one weight whichever side found it and whatever blocks the search worked in.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import BoundedSemaphore

import numpy as np
from numba import njit

from mixloom.pipeline.near_copies import copy_groups
from mixloom.pipeline.neighbor_graph import pair_products
from mixloom.pipeline.one_thread import one_thread

_BLOCK = 4096  # queries of one search; faiss works in such blocks itself
_WIDER = 4  # times more neighbours are asked for in the second search


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Edges left -> right (int64 [e], weights float32 [e]; an edge may come from both sides), and the near-duplicates.

    groups int32 [n]: documents of one number are not to stand next to each other, -1 is none (see `copy_groups`).
    pairs: different pairs of near-duplicates met in the search.
    searched: (queries, indexed vectors, width) of every search made.
    """

    left: np.ndarray
    right: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    pairs: int
    searched: tuple[tuple[int, int, int], ...]


def nearest_neighbours(
    vectors: np.ndarray, k: int, near_duplicate: float = np.inf, threads: int = 1
) -> Neighbours:
    """Edges to the k nearest neighbours of every vector that is not zero, by inner product.

    Self matches are removed by index, not by rank. Pairs above `near_duplicate` are not linked, nor members of one
    group. A document that loses more than half of its neighbours so is searched again, among the documents without
    near-duplicates and the leaders of groups, and is linked to a member of each group it comes upon, each of its
    copies to another one: a crowd of copies, however large, does not leave its members without neighbours.

    Args:
        vectors: float32 [n, d], unit or zero rows.
        threads: of the search; they change no bit.
    """
    n = len(vectors)
    groups = np.full(n, -1, np.int32)
    rows = np.flatnonzero(vectors.any(axis=1))
    none = np.zeros(0, np.int64)
    if len(rows) < 2 or k < 1:
        return Neighbours(none, none, np.zeros(0, np.float32), groups, 0, ())
    x = np.ascontiguousarray(vectors[rows], np.float32)
    every = np.arange(len(x))
    found = nearest_rows(x, x, k, threads)
    weights = pair_products(x, np.repeat(every, found.shape[1]), found.reshape(-1)).reshape(found.shape)
    group, pairs = copy_groups(x, found, weights, near_duplicate)
    left, right, kept = _select(every, found, weights, group, near_duplicate, k)
    searched = [(len(x), len(x), k)]
    counts = np.bincount(left, minlength=len(x))
    again = np.flatnonzero(counts < min((k + 1) // 2, len(x) - 1))
    if len(again):
        shown = every[(group < 0) | (group == every)]  # leaders stand for their groups
        width = min(_WIDER * k, len(shown))
        more = _spread(again, shown[nearest_rows(x[shown], x[again], width, threads)], group)
        weights = pair_products(x, np.repeat(again, more.shape[1]), more.reshape(-1)).reshape(more.shape)
        second = _select(again, more, weights, group, near_duplicate, k)
        stays = ~np.isin(left, again)
        left, right, kept = (
            np.concatenate([a[stays], b]) for a, b in zip((left, right, kept), second, strict=True)
        )
        searched.append((len(again), len(shown), width))
    groups[rows] = np.where(group >= 0, rows[group], -1)
    return Neighbours(rows[left], rows[right], kept, groups, pairs, tuple(searched))


def nearest_rows(x: np.ndarray, queries: np.ndarray, width: int, threads: int = 1) -> np.ndarray:
    """Indices int64 [q, min(width + 1, n)] of the rows of x (float32 [n, d]) with the largest inner products.

    One more than `width`, because a row that asks for itself (queries float32 [q, d]) finds itself. Blocks of queries are
    searched with one thread each, so that neither threads nor cores change a bit.
    """
    import faiss

    asked = np.ascontiguousarray(queries)
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(np.ascontiguousarray(x))

    def search(begin: int) -> np.ndarray:
        with _slots(threads), one_thread():
            block = asked[begin : begin + _BLOCK]
            return np.asarray(index.search(block, min(width + 1, len(x)))[1], np.int64)

    begins = range(0, len(asked), _BLOCK)
    if min(threads, len(begins)) > 1:
        with ThreadPoolExecutor(min(threads, len(begins))) as pool:
            return np.concatenate(list(pool.map(search, begins)))
    return (
        np.concatenate([search(b) for b in begins])
        if len(begins)
        else np.zeros((0, min(width + 1, len(x))), np.int64)
    )


@lru_cache
def _slots(threads: int) -> BoundedSemaphore:
    """Cells that are searched at the same time share the threads: so many blocks are searched at once in all."""
    return BoundedSemaphore(threads)


def _spread(rows: np.ndarray, found: np.ndarray, group: np.ndarray) -> np.ndarray:
    """`found` (int64 [q, w], for each of `rows`) with members of groups in place of their leaders.

    Row number r of its own group is given member r of the other group, counted around.
    """
    members = np.flatnonzero(group >= 0)
    members = members[np.argsort(group[members], kind="stable")]
    sizes = np.bincount(group[members], minlength=len(group))
    begins = np.cumsum(sizes) - sizes
    rank = np.zeros(len(group), np.int64)
    rank[members] = np.arange(len(members)) - begins[group[members]]
    if not len(members):
        return found
    of = group[found]
    at = begins[of] + rank[rows][:, None] % np.maximum(sizes[of], 1)
    return np.where(of >= 0, members[np.minimum(at, len(members) - 1)], found)


def _select(
    rows: np.ndarray, found: np.ndarray, weights: np.ndarray, group: np.ndarray, near: float, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _first_allowed(rows.astype(np.int64), found, weights, group.astype(np.int32), near, k)


@njit("Tuple((i8[::1],i8[::1],f4[::1]))(i8[::1],i8[:,::1],f4[:,::1],i4[::1],f8,i8)", cache=True, nogil=True)
def _first_allowed(
    rows: np.ndarray, found: np.ndarray, weights: np.ndarray, group: np.ndarray, near: float, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k heaviest neighbours of every row that are neither it nor a near-duplicate, ties by index."""
    width = found.shape[1]
    left, right = np.empty(len(rows) * k, np.int64), np.empty(len(rows) * k, np.int64)
    kept = np.empty(len(rows) * k, np.float32)
    nodes, sums = np.empty(width, np.int64), np.empty(width, np.float32)
    size = 0
    for i in range(len(rows)):
        own = group[rows[i]]
        count = 0
        for c in range(width):
            v, w = found[i, c], weights[i, c]
            if v < 0 or v == rows[i] or w > near or (own >= 0 and group[v] == own):
                continue
            # Insertion: the search gives them nearly sorted, up to the last bits.
            j = count
            while j > 0 and (sums[j - 1] < w or (sums[j - 1] == w and nodes[j - 1] > v)):
                nodes[j], sums[j] = nodes[j - 1], sums[j - 1]
                j -= 1
            nodes[j], sums[j] = v, w
            count += 1
        for j in range(min(count, k)):
            left[size], right[size], kept[size] = rows[i], nodes[j], sums[j]
            size += 1
    return left[:size].copy(), right[:size].copy(), kept[:size].copy()
