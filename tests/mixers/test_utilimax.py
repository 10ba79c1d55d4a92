"""UtiliMax against its definition, an interior-point solver, and the limits it must reduce to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.unimax import unimax
from mixloom.mixers.utilimax import objective, utilimax, water_fill

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed: int, most: int = 40):
    """Utilities of several kinds, caps that can be met, and a risk between 1e-4 and 10."""
    rng = np.random.default_rng(seed)
    n, skills = (int(np.exp(rng.uniform(np.log(a), np.log(b)))) for a, b in ((2, most), (1, 101)))
    utilities = [
        rng.random((n, skills)),
        np.clip(rng.random((n, 1)) * 0.6 + rng.random((n, skills)) * 0.4, 0, 1),
        (rng.random((n, skills)) < 0.1).astype(float),
        rng.random((n, skills)) ** 4,
    ][rng.integers(4)]
    sizes = np.exp(rng.normal(0, 2, n))
    caps = sizes / (sizes.sum() * rng.uniform(0.05, 0.99))
    return utilities, caps, float(np.exp(rng.uniform(np.log(1e-4), np.log(10))))


def solve(utilities, caps, risk):
    return utilimax(utilities, np.zeros(len(caps)), caps, risk)


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_weights_are_on_the_simplex_under_the_caps_and_proved_best(seed):
    utilities, caps, risk = problem(seed)
    found = solve(utilities, caps, risk)
    assert found.weights.sum() == pytest.approx(1, abs=1e-9)
    assert (found.weights >= 0).all()
    assert (found.weights <= caps + 1e-12).all()
    assert found.objective == pytest.approx(objective(utilities, found.weights, risk), rel=1e-12)
    assert found.gap <= 1e-8 * (1 + found.objective)


@pytest.mark.parametrize("seed", range(200))
def test_the_objective_is_within_a_millionth_of_clarabel_up_to_a_thousand_domains(seed):
    cp = pytest.importorskip("cvxpy", reason="cvxpy with Clarabel is the reference solver")
    utilities, caps, risk = problem(seed, 1001 if seed % 4 == 0 else 60)
    found = solve(utilities, caps, risk)
    w = cp.Variable(len(caps))
    cost = cp.norm(1 - utilities.T @ w) + risk * len(caps) * cp.sum_squares(w)
    reference = cp.Problem(cp.Minimize(cost), [w >= 0, w <= caps, cp.sum(w) == 1])
    reference.solve(solver=cp.CLARABEL)
    assert found.objective <= reference.value + 1e-6
    assert found.objective >= reference.value - 1e-5  # Clarabel's own tolerance, on sums and caps as well


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.booleans())
def test_without_utilities_or_with_equal_rows_it_is_unimax(seed, equal):
    _, caps, risk = problem(seed)
    utilities = np.zeros((len(caps), 3))
    if equal:
        utilities += np.random.default_rng(seed).random(3)
    budget = 1e9
    expected = unimax(caps * budget / 4, budget, 4) / budget
    np.testing.assert_allclose(solve(utilities, caps, risk).weights, expected, atol=1e-6)


def test_it_is_uniform_where_no_cap_binds_and_nothing_is_known():
    np.testing.assert_allclose(
        solve(np.zeros((7, 2)), np.ones(7), 1.0).weights, np.full(7, 1 / 7), atol=1e-15
    )


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.floats(0.01, 1))
def test_raising_what_a_domain_is_worth_never_lowers_its_weight(seed, more):
    utilities, caps, risk = problem(seed)
    rng = np.random.default_rng(seed + 1)
    i = int(rng.integers(len(caps)))
    raised = utilities.copy()
    raised[i] += more * rng.random() * (1 - raised[i])
    before, after = solve(utilities, caps, risk).weights, solve(raised, caps, risk).weights
    # Two solutions within 1e-9 of their optima may differ by sqrt(2e-9 / curvature) in a weight.
    slack = np.sqrt(4e-9 * (1 + objective(utilities, before, risk)) / (risk * len(caps)))
    assert after[i] >= before[i] - slack


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_domain_at_least_as_useful_and_as_large_gets_at_least_as_much(seed):
    utilities, caps, risk = problem(seed)
    utilities[0], caps[0] = utilities.max(axis=0), caps.max()
    weights = solve(utilities, caps, risk).weights
    slack = np.sqrt(4e-9 * (1 + objective(utilities, weights, risk)) / (risk * len(caps)))
    assert weights[0] >= weights.max() - slack


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_much_risk_gives_unimax_and_twice_the_skills_ask_for_root_two_of_the_risk(seed):
    utilities, caps, risk = problem(seed)
    n = len(caps)
    np.testing.assert_allclose(
        solve(utilities, caps, 1e6).weights, solve(np.zeros((n, 1)), caps, 1.0).weights, atol=1e-5
    )
    once = solve(utilities, caps, risk)
    twice = solve(np.hstack([utilities, utilities]), caps, risk * np.sqrt(2))
    assert twice.objective == pytest.approx(once.objective * np.sqrt(2), rel=1e-7)
    slack = np.sqrt(1e-8 * (1 + once.objective) / (risk * n))
    np.testing.assert_allclose(twice.weights, once.weights, atol=slack)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.floats(0.1, 10))
def test_utilities_and_ideal_on_another_scale_ask_for_as_much_more_risk(seed, factor):
    utilities, caps, risk = problem(seed)
    n, skills = utilities.shape
    one = solve(utilities, caps, risk)
    other = utilimax(utilities * factor, np.zeros(n), caps, risk * factor, ideal=np.full(skills, factor))
    assert other.objective == pytest.approx(one.objective * factor, rel=1e-7)
    slack = np.sqrt(1e-8 * (1 + one.objective) * max(factor, 1 / factor) / (risk * n))
    np.testing.assert_allclose(other.weights, one.weights, atol=slack)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_more_risk_spreads_the_weights_more_and_serves_the_skills_less(seed):
    utilities, caps, risk = problem(seed)
    bold, shy = solve(utilities, caps, risk), solve(utilities, caps, 10 * risk)
    slack = 1e-8 * (1 + shy.objective) / risk
    assert (shy.weights**2).sum() <= (bold.weights**2).sum() + slack
    missing = [float(np.linalg.norm(1 - utilities.T @ f.weights)) for f in (bold, shy)]
    assert missing[0] <= missing[1] + 1e-7 * (1 + shy.objective)


def test_little_risk_goes_for_the_useful_domains_alone():
    utilities = np.array([[1.0, 0.0], [0.0, 1.0], [0.2, 0.2], [0.0, 0.0]])
    weights = solve(utilities, np.ones(4), 1e-4).weights
    np.testing.assert_allclose(weights, [0.5, 0.5, 0, 0], atol=1e-3)


def test_the_order_of_domains_and_of_skills_does_not_matter():
    utilities, caps, risk = problem(11)
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(len(caps)), rng.permutation(utilities.shape[1])
    moved = solve(utilities[rows][:, columns], caps[rows], risk).weights
    np.testing.assert_allclose(moved, solve(utilities, caps, risk).weights[rows], atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_water_filling_is_the_nearest_point_of_the_bounded_simplex(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    inside = rng.dirichlet(np.ones(n))
    lower, upper = inside * rng.random(n), inside * (1 + 3 * rng.random(n))
    target = rng.normal(0, 1, n)
    point = water_fill(target, lower, upper)
    assert point.sum() == pytest.approx(1, abs=1e-12)
    assert (point >= lower).all()
    assert (point <= upper).all()
    for other in (inside, lower + (upper - lower) * (1 - lower.sum()) / max((upper - lower).sum(), 1e-300)):
        assert (target - point) @ (np.clip(other, lower, upper) - point) <= 1e-9  # the normal cone


@pytest.mark.parametrize(
    ("utilities", "lower", "upper", "risk", "words"),
    [
        (np.zeros((2, 1)), [0.6, 0.6], [0.7, 0.7], 1.0, "floors sum to 1.2"),
        (np.zeros((2, 1)), [0, 0], [0.4, 0.4], 1.0, "caps to 0.8"),
        (np.zeros((2, 1)), [0, 0], [1, 1], 0.0, "risk above 0"),
        (np.array([[np.nan], [0]]), [0, 0], [1, 1], 1.0, "finite"),
        (np.zeros((3, 1)), [0, 0], [1, 1], 1.0, "first axes"),
    ],
)
def test_problems_without_an_answer_are_refused(utilities, lower, upper, risk, words):
    with pytest.raises(ValueError, match=words):
        utilimax(utilities, np.array(lower, float), np.array(upper, float), risk)
