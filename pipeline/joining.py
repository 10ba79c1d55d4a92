"""Pieces of paths joined end to end where their ends are alike.

A walk jumps when it has nowhere left to go, and a linking leaves fragments. Where the pieces are put next to one
another is then open: here the ends look for their nearest ends, the linking of pipeline/linking.py joins them, and
what is longer now looks again, until one path is left.

Called by `order.order_cell` after the walk or the linking, and by `cell_path.cell_path` for centres.
"""

from __future__ import annotations

import numpy as np

from mixloom.pipeline.linking import Fragments, link, walk_fragments
from mixloom.pipeline.neighbor_graph import pair_products
from mixloom.pipeline.neighbors import nearest_rows

_NEAREST = 10  # ends looked at from each end, at first
_WIDEST = 160  # where ends find none of another group
_ALL = 300  # so many ends are all compared with each other
_LEVELS = 20


def join(
    vectors: np.ndarray,
    fragments: Fragments,
    group: np.ndarray | None = None,
    near_duplicate: float = np.inf,
    threads: int = 1,
) -> np.ndarray:
    """One path through all fragments, int64 [n]: the fragments in whole, joined greedily by the likeness of their ends.

    Two ends of one group, or above `near_duplicate`, are put together only when nothing else is left. Nodes with a zero
    vector are like nothing, and fragments that have only such ends come last.

    Args:
        vectors: float32 [n, d], unit or zero rows.
        group: int [n], -1 for none.
        threads: of the search; they change no bit.
    """
    width = _NEAREST
    for _ in range(_LEVELS):
        ends = fragments.ends()
        ends = ends[vectors[ends].any(axis=1)]
        left, right = _pairs(vectors, ends, width, threads)
        keep = fragments.fragment[left] != fragments.fragment[right]
        if group is not None:
            keep &= (group[left] != group[right]) | (group[left] < 0)
        left, right = left[keep], right[keep]
        cosines = pair_products(vectors, left, right)
        apart = cosines <= near_duplicate
        before = len(fragments.ends())
        fragments, _ = link(fragments, left[apart], right[apart], cosines[apart])
        after = fragments.ends()
        if len(ends) <= _ALL or (len(after) == before and width == _WIDEST):
            break
        width = _NEAREST if len(after) < 0.8 * before else min(4 * width, _WIDEST)
    return _last(vectors, fragments)


def _pairs(vectors: np.ndarray, ends: np.ndarray, width: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of ends worth a look: all when there are few, else the nearest `width` of each."""
    if len(ends) <= _ALL:
        a, b = np.triu_indices(len(ends), 1)
        return ends[a], ends[b]
    found = nearest_rows(vectors[ends], vectors[ends], width, threads)
    left, right = np.repeat(ends, found.shape[1]), ends[found.reshape(-1)]
    return left, right


def _last(vectors: np.ndarray, fragments: Fragments) -> np.ndarray:
    """What is still apart, one after another; fragments without a vector at either end last."""
    path, first = walk_fragments(fragments)
    if not len(path):
        return path
    heads = np.flatnonzero(first)
    tails = np.r_[heads[1:], len(path)] - 1
    blank = ~(vectors[path[heads]].any(axis=1) | vectors[path[tails]].any(axis=1))
    order = np.argsort(np.repeat(blank, tails - heads + 1), kind="stable")
    return path[order]
