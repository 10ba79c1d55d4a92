"""Greedy linking: a heavy path made of its heaviest edges, in rounds that could run side by side.

The other half-approximation of the maximum path besides the walk of pipeline/path.py: take edges from the heaviest down,
and keep one when both its nodes have fewer than two kept edges and it closes no circle (Jenkyns, 1979; Fisher, Nemhauser
and Wolsey, 1979, for the bound of 1/2). No step of it needs the one before to be a neighbour, so it runs in rounds: every
fragment proposes the best edge that is still allowed at either of its ends, and an edge proposed from both sides is
kept. Because a fragment proposes for both of its ends at once, the rounds keep exactly the edges of the sequential rule,
in whatever order they are looked at.

Called by `order.order_cell` (method linking), and by `joining.join` for the ends of fragments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

_ROUNDS = 64  # real graphs need about 20; chains of ever heavier edges would need one per edge


@dataclass(frozen=True, slots=True)
class Fragments:
    """Disjoint paths that cover all nodes.

    mates int32 [n, 2]: the kept neighbours of a node, the first free place holding -1 (a lone node has two).
    fragment int32 [n]: a number per fragment, the index of one of its nodes.
    """

    mates: np.ndarray
    fragment: np.ndarray

    @classmethod
    def single(cls, n: int) -> Fragments:
        """Every node a fragment of its own."""
        return cls(np.full((n, 2), -1, np.int32), np.arange(n, dtype=np.int32))

    @classmethod
    def of_path(cls, path: np.ndarray, starts: np.ndarray) -> Fragments:
        """The pieces of a path (int [n]) that begin where `starts` (bool [n]) is true."""
        n = len(path)
        fragments = cls.single(n)
        before, after = path[:-1][~starts[1:]], path[1:][~starts[1:]]
        fragments.mates[before, 1], fragments.mates[after, 0] = after, before
        lone = fragments.mates[:, 0] < 0
        fragments.mates[lone] = fragments.mates[lone, ::-1]
        if n:
            heads = np.flatnonzero(np.r_[True, starts[1:]])
            fragments.fragment[path] = np.repeat(path[heads], np.diff(np.r_[heads, n]))
        return fragments

    def copy(self) -> Fragments:
        return Fragments(self.mates.copy(), self.fragment.copy())

    def ends(self) -> np.ndarray:
        """Nodes that can take another edge, int64 ascending."""
        return np.flatnonzero(self.mates[:, 1] < 0)


def link(
    fragments: Fragments, left: np.ndarray, right: np.ndarray, weights: np.ndarray
) -> tuple[Fragments, int]:
    """Join fragments by the heaviest allowed edges, until none is allowed any more.

    Args:
        left, right: int [e], the ends of each edge; loops and repeats do no harm.
        weights: float32 [e]. Ties go to the edge with the lower smaller node, then with the lower larger node.

    Returns:
        The fragments afterwards (the given ones stay as they are), and the number of rounds it took.
    """
    n = len(fragments.fragment)
    low, high = np.minimum(left, right).astype(np.int32), np.maximum(left, right).astype(np.int32)
    out = fragments.copy()
    alive = np.flatnonzero((low != high) & (out.mates[low, 1] < 0) & (out.mates[high, 1] < 0))
    low, high, weight = low[alive], high[alive], np.ascontiguousarray(weights, np.float32)[alive]
    rounds, rest = _rounds(low, high, weight, out.mates, out.fragment, _ROUNDS)
    if len(rest):
        order = rest[np.lexsort((high[rest], low[rest], -weight[rest]))]
        _in_order(low[order], high[order], out.mates, out.fragment)
    _flatten(out.fragment)
    return out, int(rounds) + (len(rest) > 0) if n else 0


def walk_fragments(fragments: Fragments) -> tuple[np.ndarray, np.ndarray]:
    """The fragments one after another: nodes int64 [n], and bool [n], true at the first node of each fragment.

    A fragment begins at the lower of its ends; fragments come in the order of their beginnings.
    """
    return _walk(fragments.mates)


@njit("i8(i4[::1],i8)", cache=True, nogil=True)
def _find(parent: np.ndarray, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit("void(i4[::1])", cache=True, nogil=True)
def _flatten(parent: np.ndarray) -> None:
    for v in range(len(parent)):
        parent[v] = _find(parent, v)


@njit("b1(i4[::1],i4[::1],f4[::1],i8,i8)", cache=True, nogil=True)
def _beats(low: np.ndarray, high: np.ndarray, weight: np.ndarray, e: int, f: int) -> bool:
    if weight[e] != weight[f]:
        return weight[e] > weight[f]
    if low[e] != low[f]:
        return low[e] < low[f]
    return high[e] < high[f]


@njit("void(i4[:,::1],i4[::1],i4,i4)", cache=True, nogil=True)
def _keep(mates: np.ndarray, parent: np.ndarray, a: int, b: int) -> None:
    mates[a, 0 if mates[a, 0] < 0 else 1] = b
    mates[b, 0 if mates[b, 0] < 0 else 1] = a
    x, y = _find(parent, a), _find(parent, b)
    parent[max(x, y)] = min(x, y)


@njit("Tuple((i8,i8[::1]))(i4[::1],i4[::1],f4[::1],i4[:,::1],i4[::1],i8)", cache=True, nogil=True)
def _rounds(
    low: np.ndarray, high: np.ndarray, weight: np.ndarray, mates: np.ndarray, parent: np.ndarray, most: int
) -> tuple[int, np.ndarray]:
    """Rounds of mutual proposals, and the edges left over when there were `most` of them."""
    alive = np.arange(len(low))
    count = len(low)
    best = np.full(len(parent), -1, np.int64)
    rounds = 0
    while count > 0 and rounds < most:
        kept = 0
        for i in range(count):
            e = alive[i]
            a, b = low[e], high[e]
            if mates[a, 1] >= 0 or mates[b, 1] >= 0:
                continue
            x, y = _find(parent, a), _find(parent, b)
            if x == y:
                continue
            alive[kept] = e
            kept += 1
            if best[x] < 0 or _beats(low, high, weight, e, best[x]):
                best[x] = e
            if best[y] < 0 or _beats(low, high, weight, e, best[y]):
                best[y] = e
        for i in range(kept):
            e = alive[i]
            a, b = low[e], high[e]
            x, y = _find(parent, a), _find(parent, b)
            # After a kept edge its fragments have one name: nobody proposes under it until the next round.
            if x != y and best[x] == e and best[y] == e:
                best[x] = best[y] = -2
                _keep(mates, parent, a, b)
        for i in range(kept):
            e = alive[i]
            best[_find(parent, low[e])] = -1
            best[_find(parent, high[e])] = -1
        count = kept
        rounds += 1
    return rounds, alive[:count].copy()


@njit("void(i4[::1],i4[::1],i4[:,::1],i4[::1])", cache=True, nogil=True)
def _in_order(low: np.ndarray, high: np.ndarray, mates: np.ndarray, parent: np.ndarray) -> None:
    for e in range(len(low)):
        free = mates[low[e], 1] < 0 and mates[high[e], 1] < 0
        if free and _find(parent, low[e]) != _find(parent, high[e]):
            _keep(mates, parent, low[e], high[e])


@njit("Tuple((i8[::1],b1[::1]))(i4[:,::1])", cache=True, nogil=True)
def _walk(mates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = len(mates)
    path, first = np.empty(n, np.int64), np.zeros(n, np.bool_)
    seen = np.zeros(n, np.bool_)
    at = 0
    for v in range(n):
        if seen[v] or mates[v, 1] >= 0:
            continue
        first[at] = True
        before, here = -1, v
        while here >= 0:
            path[at] = here
            seen[here] = True
            at += 1
            following = mates[here, 0] if mates[here, 0] != before else mates[here, 1]
            before, here = here, following
    return path, first
