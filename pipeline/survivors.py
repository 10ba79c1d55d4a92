"""Which documents of a component of near duplicates are kept.

Similarity is not transitive: in a chain a~b~c the ends may differ. Greedy (the default) goes through a
component from the best document to the worst and drops a document only when it is a duplicate of one already
kept, so every dropped document has a kept near duplicate. `components` keeps the best of each component.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.doc_ids import I64, U64, distinct_rows, ranks, run_bounds, run_starts
from mixloom.pipeline.verify import F64, Sets, set_similarity

Bools = npt.NDArray[np.bool_]

MEMBERS = pa.schema(
    [
        pa.field(n, pa.uint64(), nullable=False)
        for n in ("root_hi", "root_lo", "preference", "hi", "lo", "place")
    ]
)
"""A document of a component: the component (its smallest id), survivor order, id and place."""


def component_bounds(members: U64) -> tuple[I64, I64]:
    """Start and stop of each component in members (schema `MEMBERS`) sorted by `sorted_members`."""
    return run_bounds(run_starts(members[:, :2]))


def sorted_members(members: U64) -> U64:
    """Members without repeats, uint64 [n, 6], by component, then from the best document to the worst."""
    rows = distinct_rows(members)
    return rows[run_starts(rows[:, :5])]  # one document at two places: the first place stands for it


def members_of(roots: U64, edges: U64) -> U64:
    """The documents of edges with their components, as `sorted_members` gives them.

    Args:
        roots: uint64 [m, 2], the component of each edge. edges: uint64 [m, 8], columns `verify.EDGE_COLUMNS`.
    """
    ends = [np.concatenate([roots, edges[:, [p, i, i + 1, q]]], axis=1) for p, i, q in ((6, 0, 4), (7, 2, 5))]
    return sorted_members(np.concatenate(ends))


def _edge_codes(members: U64, edges: U64, similarity: F64) -> tuple[I64, I64, F64]:
    """Edges as indices of sorted members, the better first, sorted by the worse; distinct."""
    ids, codes = ranks(np.concatenate([members[:, 3:5], edges[:, :2], edges[:, 2:4]]))
    n, m = len(members), len(edges)
    at = np.full(len(ids), -1, dtype=np.int64)
    at[codes[:n]] = np.arange(n)
    left, right = at[codes[n : n + m]], at[codes[n + m :]]
    inside = (left >= 0) & (right >= 0)
    better, worse = np.minimum(left, right)[inside], np.maximum(left, right)[inside]
    order = np.lexsort((better, worse))
    better, worse, similarity = better[order], worse[order], similarity[inside][order]
    first = run_starts(np.stack([worse, better], axis=1))
    return better[first], worse[first], similarity[first]


def incomplete(members: U64, edges: U64, similarity: F64, compare_cap: int) -> Bools:
    """bool [n]: members of components of at most `compare_cap` documents that lack an edge between some two.

    Args:
        members: uint64 [n, 6] from `sorted_members`.
        edges: uint64 [m, 4 or more] of schema `EDGES` without the similarity, float64 [m].
    """
    starts, stops = component_bounds(members)
    _, worse, _ = _edge_codes(members, edges, similarity)
    component = np.repeat(np.arange(len(starts)), stops - starts)
    have = np.bincount(component[worse], minlength=len(starts))
    size = stops - starts
    lacking = (size <= compare_cap) & (have < size * (size - 1) // 2)
    return lacking[component]


@numba.njit(cache=True, nogil=True)
def _greedy(
    starts: I64,
    stops: I64,
    full: Bools,
    edge_starts: I64,
    edge_better: I64,
    edge_similarity: F64,
    values: U64,
    set_starts: I64,
    set_stops: I64,
    sizes: I64,
    set_of: I64,
    threshold: float,
) -> tuple[I64, F64]:
    n = len(set_of)
    keeper = np.arange(n)
    best = np.zeros(n, dtype=np.float64)
    for c in range(len(starts)):
        for j in range(starts[c], stops[c]):
            for e in range(edge_starts[j], edge_starts[j + 1]):
                i = edge_better[e]
                if keeper[i] == i and edge_similarity[e] > best[j]:
                    best[j], keeper[j] = edge_similarity[e], i
            if not full[c] or set_of[j] < 0:
                continue
            q = set_of[j]
            for i in range(starts[c], j):
                p = set_of[i]
                if keeper[i] != i or p < 0:
                    continue
                a = values[set_starts[p] : set_stops[p]]
                b = values[set_starts[q] : set_stops[q]]
                s = set_similarity(a, sizes[p], b, sizes[q])
                if s >= threshold and (s > best[j] or (s == best[j] and i < keeper[j])):
                    best[j], keeper[j] = s, i
    return keeper, best


def greedy_keepers(
    members: U64, edges: U64, similarity: F64, sets: Sets, compare_cap: int, threshold: float
) -> tuple[I64, F64]:
    """For each member the index of the member kept in its place (its own when kept), and their similarity.

    A member is compared with the kept members before it through the verified edges and, in components of at
    most `compare_cap` documents, through the shingle sets at hand. Of several kept duplicates the most
    similar one is named, of equally similar ones the most preferred.

    Args:
        members: uint64 [n, 6] from `sorted_members`.
        edges: uint64 [m, 4 or more], similarity: float64 [m]; edges to documents not among the members are left out.
        sets: shingle sets of members of incomplete components.

    Returns:
        int64 [n] and float64 [n] (0.0 for a kept member).
    """
    better, worse, near = _edge_codes(members, edges, similarity)
    starts, stops = component_bounds(members)
    bounds = np.searchsorted(worse, np.arange(len(members) + 1))
    full = stops - starts <= compare_cap
    set_of = sets.find(np.ascontiguousarray(members[:, 3:5]))
    tables = (sets.values, sets.starts, sets.stops, sets.sizes, set_of)
    return _greedy(starts, stops, full, bounds, better, near, *tables, threshold)


def component_keepers(members: U64, edges: U64, similarity: F64) -> tuple[I64, F64]:
    """Keep the best of each component; see `greedy_keepers` for arguments and result.

    The similarity is the largest of the member's verified edges, whichever duplicate it leads to.
    """
    starts, stops = component_bounds(members)
    keeper = np.repeat(starts, stops - starts)
    better, worse, near = _edge_codes(members, edges, similarity)
    largest = np.zeros(len(members), dtype=np.float64)
    np.maximum.at(largest, worse, near)
    np.maximum.at(largest, better, near)
    largest[keeper == np.arange(len(members))] = 0.0
    return keeper, largest
