"""UtiliMax: weights whose mixture is useful for every skill, without resting on few domains.

Held et al., arXiv 2501.11747: minimise the distance of the expected utility of a mixture from the ideal (1 for every
skill), plus a risk term in the manner of Markowitz, under caps on epochs:

    minimise  ||1 - U^T w||_2 + lambda * n * ||w||_2^2   over  lower <= w <= upper, sum w = 1

The paper's own equations could not be read when this was written; the factor n and the norm that is not squared
follow the one public implementation. `lambda` is therefore a setting, and every estimate is shown beside UniMax.
With U = 0, or equal rows, this is UniMax, and uniform where no cap binds. Skills that count unequally, by weights v that
sum to their number, scale the columns of U and the ideal by sqrt(v). Further linear totals, such as shares of modalities,
only change the inner problem, which is then the nearest point of a smaller polytope.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixloom.mixers.constraints import Bounds, nearest_weights

Floats = NDArray[np.float64]

_GAP = 1e-9  # of the objective, relative to 1 + objective; proved by the dual, not guessed from the last step
_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Solution:
    """weights float64 [n]; the objective there; `gap`: no weights are better by more; rounds of the solver."""

    weights: Floats
    objective: float
    gap: float
    rounds: int


def objective(utilities: ArrayLike, weights: ArrayLike, risk: float, ideal: ArrayLike = 1.0) -> float:
    """||ideal - U^T w|| + risk * n * ||w||^2 for U [n, skills], w [n] and ideal [skills]."""
    u, w = np.asarray(utilities, np.float64), np.asarray(weights, np.float64)
    return float(np.linalg.norm(np.asarray(ideal, np.float64) - u.T @ w) + risk * len(w) * (w @ w))


def utilimax(
    utilities: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    risk: float = 1.0,
    *,
    ideal: ArrayLike | None = None,
    rows: ArrayLike | None = None,
    totals: ArrayLike | None = None,
) -> Solution:
    """The one best mixture.

    Solved through the dual. With p in the unit ball of the skills, ||r|| = max p.r, so the dual function is
    q(p) = sum(p) + min over w of (risk n ||w||^2 - (U p).w), and the inner minimum is water-filling:
    w(p) = clip((U p - nu) / (2 risk n), lower, upper). q is concave in as many numbers as there are skills, its gradient
    is 1 - U^T w(p), and semi-smooth Newton steps over the ball climb it. f(w(p)) - q(p) bounds the error.

    Args:
        utilities: [n, skills], usually in [0, 1]; skills may be 0.
        lower: [n], floors >= 0.
        upper: [n], caps; not below the floors.
        risk: lambda, above 0. Large values approach UniMax.
        ideal: [skills], what a perfect mixture reaches; left out: 1 for every skill.
        rows, totals: [m, n] and [m], further linear totals: rows @ w = totals.

    Raises:
        ValueError: shapes that do not agree, numbers that are not finite, risk <= 0, or bounds no weights can meet.
    """
    u = np.atleast_2d(np.asarray(utilities, np.float64))
    lo, hi = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    n, skills = u.shape
    if lo.shape != (n,) or hi.shape != (n,):
        raise ValueError(
            f"utilities are {u.shape}, floors {lo.shape} and caps {hi.shape}; the first axes must agree"
        )
    if not (np.isfinite(u).all() and risk > 0 and np.isfinite(risk)):
        raise ValueError(f"utilities must be finite and risk above 0, got risk {risk:g}")
    if lo.sum() > 1 + 1e-9 or hi.sum() < 1 - 1e-9 or (lo > hi).any():
        raise ValueError(
            f"no weights sum to 1: the floors sum to {lo.sum():.6g} and the caps to {hi.sum():.6g}"
        )
    goal = np.ones(skills) if ideal is None else np.asarray(ideal, np.float64)
    totals_, rows_ = np.asarray([] if totals is None else totals, np.float64), np.zeros((0, n))
    if rows is not None:
        rows_ = np.asarray(rows, np.float64)
    if goal.shape != (skills,) or rows_.shape != (len(totals_), n):
        raise ValueError(f"ideal is {goal.shape}, rows {rows_.shape} and totals {totals_.shape}")
    problem = _Problem(u, goal, Bounds(lo, hi, rows_, totals_), risk)
    start = problem.nearest(np.zeros(n))
    best, least = start, objective(u, start, risk, goal)
    p = _unit(goal - u.T @ start) if skills else np.zeros(0)
    highest, rounds = -np.inf, 0
    while rounds < _ROUNDS:
        rounds += 1
        w, q = problem.dual(p)
        highest = max(highest, q)
        value = objective(u, w, risk, goal)
        if value < least:
            best, least = w, value
        if least - highest <= _GAP * (1.0 + abs(least)):
            break
        moved = problem.climb(p, problem.step(p, w), q)
        if moved is None:
            break
        p = moved
    return Solution(best, least, max(least - highest, 0.0), rounds)


def water_fill(target: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> Floats:
    """clip(target - nu, lower, upper) with the one nu for which it sums to 1: float64 [n].

    The nearest point of the simplex with bounds. Exact: the sum is linear in nu between the knots where a bound is met.
    """
    t, lo, hi = (np.asarray(x, np.float64) for x in (target, lower, upper))
    knots = np.sort(
        np.concatenate([t - hi, t - lo])
    )  # ascending nu: the sum falls from all caps to all floors

    def total(nu: float) -> float:
        return float(np.clip(t - nu, lo, hi).sum())

    first, last = 0, len(knots) - 1  # total(knots[first]) >= 1 >= total(knots[last])
    while last - first > 1:
        middle = (first + last) // 2
        if total(knots[middle]) >= 1.0:
            first = middle
        else:
            last = middle
    nu = (knots[first] + knots[last]) / 2
    free = (t - nu > lo) & (t - nu < hi)
    if not free.any():
        return np.clip(t - nu, lo, hi)
    bound = np.where(free, 0.0, np.clip(t - nu, lo, hi)).sum()
    exact = (t[free].sum() + bound - 1.0) / free.sum()
    return np.clip(t - exact, lo, hi)


@dataclass(frozen=True, slots=True)
class _Problem:
    """The dual function of a problem, and how to climb it."""

    u: Floats
    goal: Floats
    bounds: Bounds
    risk: float

    @property
    def scale(self) -> float:
        return 2.0 * self.risk * len(self.u)

    def nearest(self, target: Floats) -> Floats:
        """The nearest weights to a target; exact water-filling where there are no further totals."""
        if len(self.bounds.totals):
            return nearest_weights(target, self.bounds)
        return water_fill(target, self.bounds.lower, self.bounds.upper)

    def dual(self, p: Floats) -> tuple[Floats, float]:
        """w(p) and q(p)."""
        pull = self.u @ p
        w = self.nearest(pull / self.scale)
        return w, float(p @ self.goal - pull @ w + self.scale / 2 * (w @ w))

    def step(self, p: Floats, w: Floats) -> Floats:
        """A Newton step of q at p: on the sphere where the ball binds, free where it does not."""
        r = self.goal - self.u.T @ w
        moving = (w > self.bounds.lower) & (w < self.bounds.upper)
        curvature = np.zeros((len(p), len(p)))
        if moving.sum() > 1:
            # Weights of free domains move only so that every total stays: take out what the totals fix.
            free, kept = self.u[moving], self.bounds.matrix[:, moving]
            centred = free - kept.T @ np.linalg.lstsq(kept.T, free, rcond=None)[0]
            curvature = centred.T @ centred / self.scale
        ridge = max(float(r @ p), 1e-12 * (1.0 + np.trace(curvature)))
        if p @ p < 1.0 - 1e-12 or r @ p <= 0:
            tiny = 1e-12 * (1.0 + np.trace(curvature))
            return np.linalg.lstsq(curvature + tiny * np.eye(len(p)), r, rcond=None)[0]
        a = curvature + ridge * np.eye(len(p))
        both = np.linalg.solve(a, np.stack([r - ridge * p, p], axis=1))
        return both[:, 0] - both[:, 1] * (p @ both[:, 0]) / (p @ both[:, 1])

    def climb(self, p: Floats, step: Floats, q: float) -> Floats | None:
        """The first point along a step, halved as often as needed, where q is higher; None when there is none."""
        size = 1.0
        for _ in range(50):
            there = p + size * step
            norm = float(np.linalg.norm(there))
            if norm > 1.0 or p @ p >= 1.0 - 1e-12:
                there = there / max(norm, 1e-300)
            if self.dual(there)[1] > q:
                return there
            size /= 2
        return None


def _unit(r: Floats) -> Floats:
    norm = float(np.linalg.norm(r))
    return r / norm if norm > 0 else r
