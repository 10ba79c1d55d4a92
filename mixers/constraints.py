"""What the weights of a mixture must respect, and the two ways to bring any weights there.

Weights are shares: they sum to 1, keep floors and caps, and may have to meet a few linear totals (shares of modalities).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_ROUNDS = 300
_CLOSE = 1e-11  # of a total; weights are shares of 1
_EXACT = 1e-10  # totals that are missed by no more are met
_PATIENCE = 12  # rounds without progress; at the very edge of what can be met, steps go to and fro


@dataclass(frozen=True, slots=True)
class Bounds:
    """sum w = 1, lower <= w <= upper, and rows @ w = totals: float64 [n], [n], [m, n], [m]; m is often 0."""

    lower: Floats
    upper: Floats
    rows: Floats
    totals: Floats

    @classmethod
    def plain(cls, lower: ArrayLike, upper: ArrayLike) -> Bounds:
        """Floors and caps alone."""
        lo, hi = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        return cls(lo, hi, np.zeros((0, len(lo))), np.zeros(0))

    @property
    def matrix(self) -> Floats:
        """The row of ones and the other rows: [1 + m, n]."""
        return np.vstack([np.ones(len(self.lower)), self.rows])

    @property
    def wanted(self) -> Floats:
        return np.concatenate([[1.0], self.totals])

    def violation(self, weights: Floats) -> float:
        """By how much the weights leave the bounds, at most over all of them."""
        off = [np.abs(self.matrix @ weights - self.wanted).max(), (self.lower - weights).max()]
        return float(max(*off, (weights - self.upper).max(), 0.0))


def nearest_weights(target: ArrayLike, bounds: Bounds) -> Floats:
    """The weights within the bounds at the least distance ||w - target||: float64 [n].

    clip(target + rows^T v, lower, upper) for the one v that meets all totals. With target 0 and caps alone this is
    water-filling, and so UniMax.

    Raises:
        ValueError: nothing meets the bounds.
    """
    t = np.asarray(target, np.float64)
    return _solve(lambda v: t + bounds.matrix.T @ v, lambda w: np.ones(len(w)), bounds)


def tilted_weights(target: ArrayLike, bounds: Bounds) -> Floats:
    """The weights within the bounds that keep the proportions of the target where they can: float64 [n].

    clip(target * exp(rows^T v), lower, upper), which is the least relative entropy to the target. Without totals, what a
    cap takes goes to the other domains in proportion; with totals of modalities, to those of the same modality.

    Args:
        target: [n], above 0.

    Raises:
        ValueError: nothing meets the bounds.
    """
    t = np.asarray(target, np.float64)
    logs = np.log(t / t.sum())

    def free(v: Floats) -> Floats:
        return np.exp(np.clip(logs + bounds.matrix.T @ v, -700.0, 700.0))

    return _solve(free, lambda w: w, bounds)


def _solve(free: Callable[[Floats], Floats], slope: Callable[[Floats], Floats], bounds: Bounds) -> Floats:
    """Damped Newton on the totals. They are the gradient of a convex function of v, so a line search by its derivative
    along the step always ends; where no domain is free to move, the step falls back to the gradient."""
    a, b, lo, hi = bounds.matrix, bounds.wanted, bounds.lower, bounds.upper
    v = np.zeros(len(b))
    if lo.sum() > 1 + 1e-9 or hi.sum() < 1 - 1e-9:
        raise ValueError(
            f"no weights meet floors that sum to {lo.sum():.6g} and caps that sum to {hi.sum():.6g}"
        )

    def weights(at: Floats) -> Floats:
        return np.clip(free(at), lo, hi)

    w = best = weights(v)
    least, since = np.inf, 0
    for _ in range(_ROUNDS):
        short = b - a @ w
        miss = float(np.abs(short).max())
        best, least, since = (w, miss, 0) if miss < least else (best, least, since + 1)
        if miss <= _CLOSE or since >= _PATIENCE:
            break
        raw = free(v)
        moving = np.where((raw > lo) & (raw < hi), slope(raw), 0.0)
        curvature = (a * moving) @ a.T
        ridge = max(1e-9 * float(np.trace(curvature)), 1e-9 * miss, 1e-15)
        step = np.asarray(np.linalg.solve(curvature + ridge * np.eye(len(b)), short), np.float64)

        def left(size: float, v: Floats = v, step: Floats = step) -> float:
            return float(step @ (b - a @ weights(v + size * step)))

        size = _line(left)
        if size is None:  # the totals fall short along the whole ray: nothing meets them
            break
        v = v + size * step
        w = weights(v)
    if least <= _EXACT:
        return best
    repaired = _repaired(best, bounds)
    if repaired is not None:
        return repaired
    if least > 1e-8:
        raise ValueError("no weights meet the floors, the caps and the shares of modalities together")
    return best  # bounds that were rounded when they were written down, and meet no better


def _repaired(weights: Floats, bounds: Bounds) -> Floats | None:
    """The weights within the bounds that differ least from these, in sum; None where none are found. Where a domain may hardly
    move, steps over its two ends go to and fro, and what they come to is near the solution but off the totals.
    """
    from scipy.optimize import linprog

    n = len(weights)
    same = np.eye(n)
    found = linprog(
        np.concatenate([np.zeros(n), np.ones(n)]),  # the weights, and by how much each differs
        A_ub=np.block([[same, -same], [-same, -same]]),
        b_ub=np.concatenate([weights, -weights]),
        A_eq=np.hstack([bounds.matrix, np.zeros_like(bounds.matrix)]),
        b_eq=bounds.wanted,
        bounds=[*zip(bounds.lower, bounds.upper), *[(0.0, None)] * n],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10},
    )
    if found.success:
        made = np.clip(found.x[:n], bounds.lower, bounds.upper)
        if bounds.violation(made) <= 10 * _EXACT:
            return np.asarray(made, np.float64)
    return None


def _line(gain: Callable[[float], float]) -> float | None:
    """Where a falling function of the step size passes 0, from 1 upwards in doublings; None where it never does."""
    low, high = 0.0, 1.0
    now = gain(1.0)
    if abs(now) <= 1e-16:
        return 1.0
    while now > 0:
        if high > 1e12:
            return None
        low, high = high, 8 * high
        now = gain(high)
    for _ in range(60):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if gain(middle) > 0 else (low, middle)
    return low if low > 0 else high


def feasible(bounds: Bounds) -> bool:
    """Whether any weights meet the bounds, as exactly as they are solved for."""
    try:
        nearest_weights(np.zeros(len(bounds.lower)), bounds)
    except ValueError:
        return False
    return True


def reachable(direction: ArrayLike, bounds: Bounds) -> tuple[float, float] | None:
    """The least and the most that direction @ w can be within the bounds; None when nothing meets them."""
    from scipy.optimize import linprog

    c = np.asarray(direction, np.float64)
    box = np.stack([bounds.lower, bounds.upper], axis=1)
    ends = []
    for sign in (1.0, -1.0):
        found = linprog(sign * c, A_eq=bounds.matrix, b_eq=bounds.wanted, bounds=box, method="highs")
        if found.status == 2:
            return None
        if not found.success:
            raise ValueError(f"the bounds of the weights could not be checked: {found.message}")
        ends.append(sign * float(found.fun))
    return ends[0], ends[1]


def largest_total(room: ArrayLike, rows: Floats, totals: Floats) -> float:
    """The most tokens that can be taken, from 0 to `room` [n] of each domain, with rows @ x = totals * sum x."""
    from scipy.optimize import linprog

    most = np.asarray(room, np.float64)
    scale = most.max()
    balance = rows - totals[:, None]
    box = np.stack([np.zeros(len(most)), most / scale], axis=1)
    found = linprog(-np.ones(len(most)), A_eq=balance, b_eq=np.zeros(len(totals)), bounds=box, method="highs")
    return float(-found.fun * scale) if found.success else 0.0
