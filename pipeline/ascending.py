"""A place among ascending numbers, for compiled kernels (numpy's own search, compiled, takes several times as long)."""

from __future__ import annotations

from numba import njit

from mixloom.pipeline.lean import LEAN


@njit(**LEAN)
def last_at_most(numbers, count, one):  # type: ignore[no-untyped-def]
    """The last place among all but the last of `count` ascending numbers with one that is at most `one`; 0 where there is none."""
    low, high = 0, count - 1
    while high - low > 1:
        middle = (low + high) // 2
        if numbers[middle] <= one:
            low = middle
        else:
            high = middle
    return low
