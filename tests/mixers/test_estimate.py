"""Estimators against their published values and their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.estimate import ESTIMATORS, MixtureConfig, estimate, parse_settings
from mixloom.mixers.heuristics import bounded_shares, proportional, temperature, uniform
from mixloom.mixers.sources import Domain, Sources
from mixloom.mixers.unimax import unimax
from mixloom.pipeline.errors import UserError

SIZES = st.lists(st.integers(1, 10**12), min_size=1, max_size=12)


def sources_of(tokens) -> Sources:
    return Sources(tuple(Domain(f"d{i:02d}", t) for i, t in enumerate(tokens)), "f", "test")


def test_unimax_gives_the_published_vector_for_five_languages():
    counts = [179955884499, 184595788282, 42541080893, 10027573389, 549707867]
    taken = unimax(counts, 250e9, 4)
    np.testing.assert_allclose(taken[3:], [40110293556, 2198831468], rtol=1e-12)
    np.testing.assert_allclose(taken[:3], 69230291658.667, rtol=1e-12)
    np.testing.assert_allclose(
        taken / taken.sum(), [0.27692116663] * 3 + [0.160441174224, 0.008795325872], rtol=1e-10
    )


def test_unimax_spends_the_whole_budget_whatever_the_order_of_the_domains():
    # Visiting the largest domain first would stop at .497/.497/.006 with a third of the budget unspent.
    taken = unimax([1e12, 1e11, 1e9], 1e12, 4)
    assert taken.sum() == pytest.approx(1e12)
    np.testing.assert_allclose(taken / taken.sum(), [0.596, 0.4, 0.004], atol=1e-12)
    for order in ([2, 1, 0], [1, 0, 2]):
        np.testing.assert_allclose(unimax(np.array([1e12, 1e11, 1e9])[order], 1e12, 4), taken[order])


@settings(max_examples=200, deadline=None)
@given(SIZES, st.floats(1, 1e13), st.floats(0.1, 50))
def test_unimax_respects_caps_spends_what_it_can_and_favours_no_smaller_domain(tokens, budget, epochs):
    taken = unimax(tokens, budget, epochs)
    sizes = np.array(tokens, float)
    assert (taken <= epochs * sizes * (1 + 1e-12)).all()
    assert taken.sum() == pytest.approx(min(budget, epochs * sizes.sum()), rel=1e-9)
    assert (np.diff(taken[np.argsort(sizes)]) >= -1e-9 * budget).all()


@settings(max_examples=200, deadline=None)
@given(SIZES, st.floats(0.01, 0.99), st.floats(0.1, 50))
def test_water_filling_of_a_uniform_target_is_unimax(tokens, part, epochs):
    budget = part * epochs * sum(tokens)
    taken = unimax(tokens, budget, epochs)
    shares = bounded_shares(uniform(tokens), np.zeros(len(tokens)), epochs * np.array(tokens) / budget)
    np.testing.assert_allclose(shares, taken / taken.sum(), rtol=1e-9, atol=1e-12)


@st.composite
def bounded_problems(draw):
    n = draw(st.integers(1, 8))
    numbers = st.lists(st.floats(0, 1), min_size=n, max_size=n)
    target, inside = np.array(draw(numbers)) + 1e-3, np.array(draw(numbers)) + 1e-3
    inside = inside / inside.sum()  # a point that meets every bound, so that the problem has a solution
    below, above = np.array(draw(numbers)), np.array(draw(numbers))
    return target, inside * below, inside * (1 + 3 * above)


@settings(max_examples=300, deadline=None)
@given(bounded_problems())
def test_bounded_shares_sum_to_one_inside_the_bounds_and_keep_the_target_where_free(problem):
    target, lower, upper = problem
    shares = bounded_shares(target, lower, upper)
    assert shares.sum() == pytest.approx(1, abs=1e-9)
    assert (shares >= lower - 1e-12).all()
    assert (shares <= upper + 1e-12).all()
    low, high = 0.0, float((upper / target).max())
    for _ in range(200):
        s = (low + high) / 2
        low, high = (s, high) if np.clip(s * target, lower, upper).sum() < 1 else (low, s)
    np.testing.assert_allclose(shares, np.clip(high * target, lower, upper), rtol=1e-6, atol=1e-9)


def test_bounds_no_shares_can_meet_are_refused():
    with pytest.raises(ValueError, match=r"the caps to 0\.8"):
        bounded_shares([1, 1], [0, 0], [0.4, 0.4])
    with pytest.raises(ValueError, match=r"floors sum to 1\.2"):
        bounded_shares([1, 1], [0.6, 0.6], [0.7, 0.7])
    assert bounded_shares([1, 0], [0, 0.25], [1, 1]).tolist() == [0.75, 0.25]


def test_temperature_runs_from_proportional_to_uniform_and_matches_the_worked_example():
    sizes = [10**12, 10**11, 10**9]
    np.testing.assert_allclose(temperature(sizes, 1.0), proportional(sizes))
    np.testing.assert_allclose(temperature(sizes, 1e9), uniform(sizes), atol=1e-6)
    epochs = temperature(sizes, 3.33) * 1e12 / np.array(sizes)
    np.testing.assert_allclose(epochs, [0.61, 3.08, 77], rtol=0.01)


@settings(max_examples=150, deadline=None)
@given(
    SIZES,
    st.floats(0.001, 1),
    st.sampled_from(["unimax", "proportional", "temperature", "uniform"]),
    st.floats(0, 1),
)
def test_every_method_keeps_every_cap_and_every_floor(tokens, part, method, floor):
    config = MixtureConfig(method=method, max_epochs=3.0, min_share=floor * 0.999 / len(tokens))
    budget = max(1, int(part * 3 * sum(tokens)))
    mixture = estimate(sources_of(tokens), config, budget)
    weights = np.array(list(mixture.weights.values()))
    caps = 3.0 * np.array(tokens) / budget
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    assert (weights <= caps * (1 + 1e-9)).all()
    assert (weights >= np.minimum(config.min_share, caps) * (1 - 1e-9) - 1e-15).all()


def test_what_a_cap_takes_goes_to_the_others_in_proportion():
    mixture = estimate(
        sources_of([600, 300, 10]), MixtureConfig(method="temperature", temperature=1e9, max_epochs=2), 900
    )
    assert list(mixture.weights.values()) == pytest.approx([440 / 900, 440 / 900, 20 / 900], rel=1e-6)
    assert mixture.capped == ("d02",)


def test_a_full_budget_is_proportional_and_every_cap_binds():
    for method in ("unimax", "uniform", "proportional", "temperature"):
        mixture = estimate(sources_of([7, 20, 3]), MixtureConfig(method=method, max_epochs=4), 120)
        assert list(mixture.weights.values()) == pytest.approx([7 / 30, 20 / 30, 0.1])
        assert len(mixture.capped) == 3


def test_a_budget_that_cannot_be_filled_names_the_largest_that_can():
    with pytest.raises(
        UserError, match=r"budget_tokens 121 cannot be filled: 4 epochs of all 3 domains are 120 tokens"
    ) as e:
        estimate(sources_of([7, 20, 3]), MixtureConfig(), 121)
    assert "at most 120" in e.value.fix
    assert "4.033" in e.value.fix


def test_the_budget_of_the_config_wins_over_the_callers_and_one_of_them_is_needed():
    assert estimate(sources_of([100]), MixtureConfig(budget_tokens=50), 70).budget_tokens == 50
    assert estimate(sources_of([100]), MixtureConfig(), 70).budget_tokens == 70
    with pytest.raises(UserError, match="no training length is known"):
        estimate(sources_of([100]), MixtureConfig())


def test_fixed_weights_are_taken_as_they_are_or_refused():
    def fixed(weights, epochs=4.0):
        return estimate(
            sources_of([100, 50]), MixtureConfig(method="fixed", weights=weights, max_epochs=epochs), 200
        )

    assert fixed({"d01": 0.25, "d00": 0.75}).weights == {"d00": 0.75, "d01": 0.25}
    with pytest.raises(UserError, match=r"domain 'd01': weight 0.9 of 200 tokens is 3.6 epochs.*allowed: 2"):
        fixed({"d00": 0.1, "d01": 0.9}, 2)
    with pytest.raises(UserError, match=r"'d1' that does not exist \(did you mean 'd01'\?\)"):
        fixed({"d00": 0.5, "d1": 0.5})
    with pytest.raises(UserError, match="leave out domain 'd01'"):
        fixed({"d00": 1.0})
    with pytest.raises(UserError, match=r"sum to 0\.9, not 1"):
        fixed({"d00": 0.5, "d01": 0.4})
    with pytest.raises(UserError, match="needs weights"):
        fixed(None)


def test_the_table_has_every_method_of_the_config():
    assert sorted(ESTIMATORS) == sorted(MixtureConfig.model_fields["method"].annotation.__args__)


def test_settings_that_the_method_does_not_read_do_not_change_the_mixture():
    a = estimate(sources_of([5, 6]), MixtureConfig(temperature=2.0), 4)
    b = estimate(sources_of([5, 6]), MixtureConfig(temperature=3.0), 4)
    assert a.fingerprint == b.fingerprint
    c = estimate(sources_of([5, 6]), MixtureConfig(max_epochs=3.0), 4)
    assert c.fingerprint != a.fingerprint


@pytest.mark.parametrize(
    ("given_settings", "said"),
    [
        ({"max_epoch": 2}, r"no mixture setting 'max_epoch' \(did you mean 'max_epochs'\?\)"),
        ({"max_epochs": -1}, "setting max_epochs is -1"),
        ({"method": "doremy"}, "setting method is 'doremy'"),
        ({"min_share": 1.5}, "setting min_share is 1.5"),
        (
            {"exclude": {"license": ["x"]}},
            r"exclude\.license is \['x'\](.|\n)*use one of: licence, source, domain",
        ),
        (
            {"final_phase": {"share": 2, "shares": {"a": 1}}},
            r"final_phase\.share is 2(.|\n)*below 0\.05 and above",
        ),
        (
            {"final_phase": {"share": 0.1}},
            r"give either shares or utilities(.|\n)*It has: share, shares, utilities",
        ),
        ({"final_phase": {"shares": {"a": 0.7, "b": 0.7}}}, "sum to at most 1"),
        ({"modality_shares": {"a": 0}}, "not all zero"),
        ({"group_by": ["domain", "domain"]}, "names an axis twice"),
    ],
)
def test_settings_that_do_not_exist_or_are_out_of_range_are_named(given_settings, said):
    with pytest.raises(UserError, match=said):
        parse_settings(given_settings)


def test_floors_that_exceed_the_whole_are_refused():
    with pytest.raises(UserError, match=r"min_share 0.4 for each of 3 domains"):
        estimate(sources_of([5, 6, 7]), MixtureConfig(method="proportional", min_share=0.4), 4)
