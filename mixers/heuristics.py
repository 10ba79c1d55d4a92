"""Weights from sizes alone, and the one rule by which floors and caps are put on any weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Shares = NDArray[np.float64]


def uniform(tokens: ArrayLike) -> Shares:
    """The same share for every domain: float64 [n]."""
    n = len(np.asarray(tokens))
    return np.full(n, 1.0 / n)


def proportional(tokens: ArrayLike) -> Shares:
    """Shares in proportion to size: float64 [n]; every domain is seen the same number of epochs."""
    sizes = np.asarray(tokens, dtype=np.float64)
    return sizes / sizes.sum()


def temperature(tokens: ArrayLike, tau: float) -> Shares:
    """Shares in proportion to size ** (1 / tau): float64 [n].

    tau = 1 is proportional, large tau approaches uniform. Published choices: 1.43 (multilingual BERT), 2 (XLM),
    3.33 (XLM-R, mT5).
    """
    logs = np.log(np.asarray(tokens, dtype=np.float64)) / tau
    powers = np.exp(logs - logs.max())
    return powers / powers.sum()


def bounded_shares(target: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> Shares:
    """Shares clip(s * target, lower, upper) with the one s for which they sum to 1: float64 [n].

    What a bound takes from or gives to a domain is spread over the unbound ones in proportion to their target.
    With a uniform target and no floors this is water-filling, the solution of UniMax.

    Args:
        target: [n], non-negative.
        lower: [n], floors; a domain with target 0 gets its floor.
        upper: [n], caps, not below the floors.

    Raises:
        ValueError: the floors sum to more than 1, or the caps to less.
    """
    t, lo, hi = (np.asarray(x, dtype=np.float64) for x in (target, lower, upper))
    some = t > 0
    reach = np.where(some, hi, lo).sum()
    if lo.sum() > 1 + 1e-9 or reach < 1 - 1e-9:
        raise ValueError(f"no shares sum to 1: the floors sum to {lo.sum():.6g} and the caps to {reach:.6g}")
    if reach <= 1:
        return np.where(some, hi, lo)
    knots = np.unique(np.concatenate([lo[some] / t[some], hi[some] / t[some]]))
    totals = np.array([np.clip(s * t, lo, hi).sum() for s in knots])
    # Between two knots the same domains are free, so the sum is linear in s: solve it there exactly.
    above = int(np.searchsorted(totals, 1.0))
    if above == 0:
        middle = knots[0] / 2
    else:
        middle = (knots[above - 1] + knots[min(above, len(knots) - 1)]) / 2
    free = some & (middle * t > lo) & (middle * t < hi)
    if not free.any():
        return np.clip(middle * t, lo, hi)
    bound = np.where(free, 0.0, np.clip(middle * t, lo, hi)).sum()
    return np.clip((1 - bound) / t[free].sum() * t, lo, hi)
