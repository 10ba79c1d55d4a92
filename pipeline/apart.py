"""Near-duplicates that stand next to each other on a path are moved apart.

Walk, linking and joining avoid such neighbours while there is a choice. What is left over is repaired here: the second of
two goes to the nearest place where it is next to none of its near-duplicates, if there is one. Called by
`order.order_cell`, last.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_STEPS = 50  # places looked at, per document of the path, before the rest is left as it is


def keep_apart(
    path: np.ndarray, vectors: np.ndarray, groups: np.ndarray, near_duplicate: float
) -> tuple[np.ndarray, int, int]:
    """The path (int64 [n]) with near-duplicates moved apart, how many moved, and how many still follow one of theirs.

    Two documents are near-duplicates when they share a group (int [n], small numbers, -1 for none) or their product is above
    `near_duplicate`. Linear in time: members of a group look on where the one before them stopped, and there is a
    bound on the places looked at. When more than half of a path are copies of one document, some must stay neighbours.

    Args:
        vectors: float32 [n, d], unit or zero rows.
    """
    x = np.ascontiguousarray(vectors, np.float32)
    out, moved, left = _repair(
        path.astype(np.int64), x, groups.astype(np.int64), near_duplicate, _STEPS * len(path)
    )
    return out, int(moved), int(left)


@njit("b1(f4[:,::1],i8[::1],f8,i8,i8)", cache=True, nogil=True)
def _close(x: np.ndarray, groups: np.ndarray, limit: float, a: int, b: int) -> bool:
    n = len(groups)
    if a == n or b == n:  # an end of the path
        return False
    if groups[a] >= 0 and groups[a] == groups[b]:
        return True
    total = 0.0
    for d in range(x.shape[1]):
        total += np.float64(x[a, d]) * np.float64(x[b, d])
    return bool(np.float32(total) > limit)


@njit("void(i8[::1],i8[::1],i8,i8,i8)", cache=True, nogil=True)
def _insert(before: np.ndarray, after: np.ndarray, a: int, v: int, b: int) -> None:
    after[a], before[v], after[v], before[b] = v, a, b, v


@njit("Tuple((i8[::1],i8,i8))(i8[::1],f4[:,::1],i8[::1],f8,i8)", cache=True, nogil=True)
def _repair(
    path: np.ndarray, x: np.ndarray, groups: np.ndarray, limit: float, budget: int
) -> tuple[np.ndarray, int, int]:
    n = len(path)
    after, before, place = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    last = n
    for i in range(n):  # n stands before the first and after the last
        _insert(before, after, last, path[i], n)
        last = path[i]
        place[path[i]] = i
    place[n] = n
    # How far to the left and to the right a group has looked: everything between is next to a member of it.
    numbers = groups.max() + 1 if n else 0
    lefts, rights = np.full(numbers, -1, np.int64), np.full(numbers, -1, np.int64)
    moved = left_over = 0
    here = after[n] if n else n
    while here != n and after[here] != n:
        v = after[here]
        if not _close(x, groups, limit, here, v):
            here = v
            continue
        following, g = after[v], groups[v]
        after[here], before[following] = following, here
        left, right = here, following
        if g >= 0 and rights[g] >= 0 and place[here] <= place[rights[g]]:
            left = before[v] if lefts[g] == v else lefts[g]
            right = following if rights[g] == v else rights[g]
        found = False
        while not found and (left != n or right != n) and budget > 0:
            budget -= 1
            if left != n:
                a = before[left]
                if not _close(x, groups, limit, v, left) and not _close(x, groups, limit, a, v):
                    _insert(before, after, a, v, left)
                    place[v] = place[left]
                    found = True
                left = a
            if not found and right != n:
                b = after[right]
                if not _close(x, groups, limit, right, v) and not _close(x, groups, limit, v, b):
                    _insert(before, after, right, v, b)
                    place[v] = place[right]
                    found = True
                right = b
        if g >= 0:
            lefts[g], rights[g] = left, right
        if found:
            moved += 1
        else:
            _insert(before, after, here, v, following)
            left_over += 1
            here = v
    out, here = np.empty(n, np.int64), after[n] if n else n
    for i in range(n):
        out[i] = here
        here = after[here]
    return out, moved, left_over
