"""Long documents repeated inside their cell (long-context training).

Recipes for long contexts show long documents more often and keep the mixture of domains as it is (Fu et al., arXiv
2402.10171). Copies therefore stay in the cell of their document: on the path, far from each other, where their
neighbours are most alike. Called by `order_rows.order_rows`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_LOOK = 200  # places looked at on each side of where a copy would stand by its distance alone


def place_copies(
    path: np.ndarray,
    vectors: np.ndarray,
    groups: np.ndarray,
    near_duplicate: float,
    repeated: np.ndarray,
    factor: int,
    apart: int,
    closed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The path with copies put in: rows int64 [n + copies], and the number of the copy, int32 (0: the document itself).

    Between two copies of a document stand at least `apart` others. Each copy goes to the place, about one factor-th of
    the path from the next, where it is most alike to its two neighbours and a near-duplicate of neither; it is left out
    where there is none, and all are when the path is too short.

    Args:
        path: int64 [n].
        vectors, groups: of the rows, as for `apart.keep_apart`.
        repeated: bool [n], the rows to be repeated.
        factor: how often each stands in the result, at most.
        closed: bool [n], places of the path after which nothing may be put in.
    """
    n = len(path)
    times = min(factor, n // (apart + 1))
    which = np.flatnonzero(repeated[path])
    if times < 2 or not len(which):
        return path, np.zeros(n, np.int32)
    look = min(_LOOK, (n // times - apart) // 2)
    taken = np.zeros(n, bool) if closed is None else closed.copy()
    gaps = _gaps(
        path,
        np.ascontiguousarray(vectors, np.float32),
        groups.astype(np.int64),
        near_duplicate,
        which,
        times,
        max(look, 0),
        taken,
    )
    placed = gaps.ravel() >= 0
    at = np.concatenate([np.arange(n) * 2, gaps.ravel()[placed] * 2 + 1])
    rows = np.concatenate([path, np.repeat(path[which], times - 1)[placed]])
    number = np.concatenate([np.zeros(n), np.tile(np.arange(1, times), len(which))[placed]]).astype(np.int32)
    order = np.argsort(at, kind="stable")
    return rows[order], number[order]


@njit("f8(f4[:,::1],i8[::1],f8,i8,i8)", cache=True, nogil=True)
def _likeness(x: np.ndarray, groups: np.ndarray, limit: float, a: int, b: int) -> float:
    """The product of two rows, -9 for near-duplicates."""
    if groups[a] >= 0 and groups[a] == groups[b]:
        return -9.0
    total = 0.0
    for d in range(x.shape[1]):
        total += np.float64(x[a, d]) * np.float64(x[b, d])
    return -9.0 if np.float32(total) > limit else total


@njit("i8[:,::1](i8[::1],f4[:,::1],i8[::1],f8,i8[::1],i8,i8,b1[::1])", cache=True, nogil=True)
def _gaps(
    path: np.ndarray,
    x: np.ndarray,
    groups: np.ndarray,
    limit: float,
    which: np.ndarray,
    times: int,
    look: int,
    taken: np.ndarray,
) -> np.ndarray:
    """The place after which each copy is put in, [documents, copies], -1 for none; no place is taken twice."""
    n = len(path)
    out = np.full((len(which), times - 1), -1, np.int64)
    for i in range(len(which)):
        own = path[which[i]]
        for c in range(1, times):
            middle = (which[i] + c * n // times) % n
            best = -8.0
            for gap in range(max(middle - look, 0), min(middle + look, n - 2) + 1):
                if taken[gap] or path[gap] == own or path[gap + 1] == own:
                    continue
                left = _likeness(x, groups, limit, own, path[gap])
                right = _likeness(x, groups, limit, own, path[gap + 1])
                if left > -9 and right > -9 and left + right > best:
                    best = left + right
                    out[i, c - 1] = gap
            if out[i, c - 1] >= 0:
                taken[out[i, c - 1]] = True
    return out
