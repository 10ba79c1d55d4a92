"""Weights under floors, caps and linear totals, against their definitions and a general solver."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixloom.mixers.constraints import Bounds, largest_total, nearest_weights, reachable, tilted_weights
from mixloom.mixers.heuristics import bounded_shares
from mixloom.mixers.utilimax import objective, utilimax, water_fill

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed: int, totals: int | None = None) -> tuple[np.ndarray, Bounds]:
    """A target, and bounds that some weights meet: domains of one modality each, or mixed."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 60)), int(rng.integers(0, 3)) if totals is None else totals
    inside = np.maximum(rng.dirichlet(np.full(n, rng.choice([0.1, 1.0, 5.0]))), 1e-9)
    inside /= inside.sum()
    lower = inside * rng.random(n) * rng.choice([0, 1])
    upper = inside * (1 + 3 * rng.random(n) * rng.choice([0.01, 1, 100]))
    parts = np.eye(3)[rng.integers(0, 3, n)] if rng.random() < 0.5 else rng.dirichlet([0.3] * 3, n)
    rows = parts[:, :m].T
    target = np.exp(rng.normal(0, 2, n))
    return target / target.sum(), Bounds(lower, upper, rows, rows @ inside)


@settings(max_examples=150, deadline=None)
@given(SEEDS)
@example(673627669)
@example(2450556288)
def test_both_ways_meet_every_bound(seed):
    target, bounds = problem(seed)
    assert bounds.violation(nearest_weights(target, bounds)) < 1e-9
    assert bounds.violation(tilted_weights(target, bounds)) < 1e-9


def test_bounds_that_were_rounded_when_written_are_met_as_well_as_they_can_be():
    bounds = Bounds.plain([0.0] * 3, [0.3333333331] * 3)  # caps that sum to 1 less 7e-10
    np.testing.assert_allclose(nearest_weights([1.0, 2.0, 3.0], bounds), bounds.upper, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_without_totals_they_are_water_filling_and_scaling(seed):
    target, bounds = problem(seed, totals=0)
    np.testing.assert_allclose(
        nearest_weights(target, bounds), water_fill(target, bounds.lower, bounds.upper), atol=1e-9
    )
    np.testing.assert_allclose(
        tilted_weights(target, bounds), bounded_shares(target, bounds.lower, bounds.upper), atol=1e-8
    )


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_no_direction_inside_the_bounds_comes_nearer(seed):
    target, bounds = problem(seed)
    rng = np.random.default_rng(seed + 1)
    w, v = nearest_weights(target, bounds), tilted_weights(target, bounds)
    for _ in range(5):  # other weights within the bounds
        other = nearest_weights(rng.normal(0, 0.3, len(target)), bounds)
        assert (w - target) @ (other - w) >= -1e-8
        assert np.log(np.maximum(v, 1e-300) / target) @ (other - v) >= -1e-6


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # Clarabel's own, for small risks
@pytest.mark.parametrize("seed", range(15))
def test_utilimax_under_totals_is_proved_best_and_a_general_solver_agrees(seed):
    cp = pytest.importorskip("cvxpy", reason="cvxpy with Clarabel is the reference solver")
    _, bounds = problem(seed, totals=1 + seed % 2)
    rng = np.random.default_rng(seed)
    n, k = len(bounds.lower), int(rng.integers(1, 20))
    u, root = rng.random((n, k)), np.sqrt(rng.dirichlet(np.ones(k)) * k)
    risk = float(np.exp(rng.uniform(np.log(1e-3), np.log(10))))
    found = utilimax(
        u * root, bounds.lower, bounds.upper, risk, ideal=root, rows=bounds.rows, totals=bounds.totals
    )
    w = cp.Variable(n)
    cost = cp.norm(root - (u * root).T @ w) + risk * n * cp.sum_squares(w)
    limits = [w >= bounds.lower, w <= bounds.upper, cp.sum(w) == 1, bounds.rows @ w == bounds.totals]
    reference = cp.Problem(cp.Minimize(cost), limits)
    reference.solve(solver=cp.CLARABEL)
    assert found.objective == pytest.approx(objective(u * root, found.weights, risk, root), rel=1e-12)
    assert found.gap <= 1e-8 * (1 + found.objective)
    assert bounds.violation(found.weights) < 1e-9
    assert abs(found.objective - reference.value) < 1e-5  # Clarabel's own tolerance on the totals


def test_a_skill_that_counts_twice_is_the_skill_listed_twice():
    rng = np.random.default_rng(5)
    u = rng.random((6, 2))
    caps = np.full(6, 0.5)
    root = np.sqrt(np.array([4 / 3, 2 / 3]))  # weights 2:1, which sum to the number of skills
    weighted = utilimax(u * root, np.zeros(6), caps, 0.2, ideal=root)
    listed = utilimax(u[:, [0, 0, 1]], np.zeros(6), caps, 0.2 * np.sqrt(3 / 2))
    np.testing.assert_allclose(weighted.weights, listed.weights, atol=1e-5)


def test_what_cannot_be_met_is_refused():
    bounds = Bounds(np.zeros(2), np.ones(2), np.array([[1.0, 1.0]]), np.array([0.5]))
    with pytest.raises(ValueError, match="no weights meet"):
        nearest_weights([0, 0], bounds)
    assert reachable([1.0, 0.0], bounds) is None


def test_what_a_total_can_reach_and_the_most_that_can_be_taken_in_proportion():
    rows = np.array([[1.0, 0.0, 0.5]])
    ends = reachable(rows[0], Bounds.plain(np.zeros(3), np.array([0.5, 0.4, 0.6])))
    assert ends == pytest.approx((0.3, 0.75))
    # 30 of the first kind at most, and they must be a quarter: 120 in all, though 1030 are there.
    assert largest_total([30.0, 1000.0], np.array([[1.0, 0.0]]), np.array([0.25])) == pytest.approx(120)
    assert largest_total([30.0, 0.0], np.array([[1.0, 0.0]]), np.array([0.25])) == pytest.approx(0)
