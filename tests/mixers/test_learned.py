"""DoReMi, online mixing and RegMix against their definitions and what they must find on problems with a known answer."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.doremi import doremi, doremi_step
from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.heuristics import bounded_shares
from mixloom.mixers.mixture_log import MixtureEntry, MixtureLog
from mixloom.mixers.online import OnlineState, exploration, mixture_from_here, replay
from mixloom.mixers.regmix import bounded_many, regmix, spearman
from mixloom.mixers.sources import Domain, Sources
from mixloom.mixers.stage import weigh
from mixloom.mixers.stream import Stream
from mixloom.pipeline.errors import UserError

# DoReMi


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=2, max_size=8), st.floats(0.1, 3), st.floats(0, 0.5))
def test_an_update_of_doremi_is_its_definition_and_keeps_the_floor(excess, eta, smoothing):
    n = len(excess)
    w = np.arange(1, n + 1) / (n * (n + 1) / 2)
    new = doremi_step(w, excess, eta, smoothing)
    grown = [w[i] * math.exp(eta * excess[i]) for i in range(n)]
    expected = [(1 - smoothing) * g / sum(grown) + smoothing / n for g in grown]
    np.testing.assert_allclose(new, expected, rtol=1e-12)
    assert new.sum() == pytest.approx(1)
    assert new.min() >= smoothing / n * (1 - 1e-12)


def test_equal_excess_stays_uniform_and_constant_unequal_excess_goes_to_the_largest():
    mean, path = doremi(np.full((50, 4), 0.7))
    np.testing.assert_allclose(mean, 0.25)
    assert path.shape == (50, 4)
    _, path = doremi(np.tile([0.0, 1.0, 0.2], (200, 1)), eta=30.0, smoothing=0.03)
    np.testing.assert_allclose(path[-1], [0.01, 0.98, 0.01], atol=1e-6)
    _, path = doremi(np.tile([0.0, 1.0, 0.2], (200, 1)), smoothing=0.03)
    assert path[-1].argmax() == 1
    assert path[-1].min() > 0.01


def test_a_domain_that_was_not_seen_keeps_its_last_excess_and_negative_excess_counts_as_none():
    gaps = np.array([[0.5, 0.1], [np.nan, -3.0]])
    filled = np.array([[0.5, 0.1], [0.5, 0.0]])
    np.testing.assert_array_equal(doremi(gaps)[1], doremi(filled)[1])
    np.testing.assert_array_equal(doremi([[np.nan, 0.4]])[1], doremi([[0.0, 0.4]])[1])
    with pytest.raises(ValueError, match="table of steps"):
        doremi(np.zeros((0, 3)))


def test_the_result_of_doremi_is_the_mean_over_the_steps():
    mean, path = doremi(np.random.default_rng(0).random((20, 3)))
    np.testing.assert_allclose(mean, path.mean(axis=0))


# Online mixing


def test_an_update_of_online_mixing_is_its_definition():
    state = OnlineState.start(["a", "b", "c"])
    losses = [{"a": 2.0, "b": 4.0, "c": 3.0}, {"a": 1.0, "c": 2.5}, {"b": 3.0}]
    rewards, policy = [0.0] * 3, [1 / 3] * 3
    for t, seen in enumerate(losses, 1):
        state = state.update(seen)
        for i, name in enumerate("abc"):
            if name in seen:
                rewards[i] = 0.9 * rewards[i] + 0.1 * seen[name] / policy[i]
        before = 1 / 3 if t == 1 else min(1 / 3, math.sqrt(math.log(3) / (3 * (t - 1))))
        now = min(1 / 3, math.sqrt(math.log(3) / (3 * t)))
        grown = [math.exp(before * r) for r in rewards]
        policy = [(1 - 3 * now) * g / sum(grown) + now for g in grown]
        np.testing.assert_allclose(state.probabilities, policy, rtol=1e-12)
        np.testing.assert_allclose(state.rewards, rewards, rtol=1e-12)
    assert state.updates == 3


def test_exploration_starts_at_one_nth_and_falls_with_the_square_root():
    assert exploration(4, 0) == exploration(4, 1) == 0.25
    assert exploration(4, 10_000) == pytest.approx(math.sqrt(math.log(4) / 40_000))
    assert exploration(1, 7) == 1.0


def test_the_domain_that_loses_most_gets_most_and_none_falls_below_the_exploration():
    state = OnlineState.start(["hard", "easy", "middle"])
    for _ in range(300):
        state = state.update({"hard": 5.0, "easy": 1.0, "middle": 3.0})
    p = dict(zip(state.domains, state.probabilities))
    assert p["hard"] > p["middle"] > p["easy"] >= exploration(3, 300) * (1 - 1e-9)
    assert state.probabilities.sum() == pytest.approx(1)


def test_a_state_goes_through_json_unchanged_and_goes_on_the_same():
    state, _ = replay(OnlineState.start(["a", "b"], [3, 1]), [[1.0, 2.0], [np.nan, 3.0]])
    back = OnlineState.from_json(json.loads(json.dumps(state.to_json())))
    one, two = state.update({"a": 0.5}), back.update({"a": 0.5})
    np.testing.assert_array_equal(one.probabilities, two.probabilities)
    np.testing.assert_array_equal(one.rewards, two.rewards)
    assert (two.updates, two.smoothing) == (3, 0.9)


def test_losses_that_are_not_finite_are_passed_over_and_unknown_domains_refused():
    state = OnlineState.start(["a", "b"])
    np.testing.assert_array_equal(state.update({"a": math.inf, "b": math.nan}).rewards, [0, 0])
    with pytest.raises(ValueError, match="'c' that is not mixed"):
        state.update({"c": 1.0})


def test_the_weights_that_are_served_keep_what_the_caps_leave():
    state = OnlineState.start(["a", "b", "c"])
    for _ in range(50):
        state = state.update({"a": 9.0, "b": 1.0, "c": 1.0})
    weights = state.weights(room=[100.0, 5000.0, 5000.0], left=1000.0, floor=0.01)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] == pytest.approx(0.1)  # its room, though the policy asks for more
    assert state.probabilities[0] > 0.3
    with pytest.raises(ValueError, match="no weights meet"):
        state.weights([1.0, 1.0, 1.0], left=10.0)


def test_a_training_is_served_by_the_policy_through_the_log_and_no_cap_is_passed(reader):
    steps, batch = 30, 4
    mixture = weigh(reader.manifest, MixtureConfig(method="odm", max_epochs=4), steps * batch)
    state = OnlineState.start(mixture.names, list(mixture.weights.values()))
    log = MixtureLog()
    hard = {"aa": 2.0, "bb": 1.0, "cc": 9.0}
    for step in range(5, steps, 5):
        stream = Stream(reader, mixture, seed=0, batch_contexts=batch, steps=steps, log=log)
        served = {e.domain: e.tokens for e in stream.exposure(step)}
        for _ in range(20):
            state = state.update(hard)
        later = mixture_from_here(mixture, state, served, step / steps)
        log = log.extended(MixtureEntry(from_step=step, mixture=later), served=step)
    stream = Stream(reader, mixture, seed=0, batch_contexts=batch, steps=steps, log=log)
    whole = {e.domain: e.epochs for e in stream.exposure(steps)}
    assert max(whole.values()) <= 4
    assert whole["cc"] > 3.5  # what loses most is served up to its cap
    assert state.probabilities.argmax() == 2


def test_an_entry_needs_something_served_and_room_for_the_rest():
    sizes = Sources((Domain("a", 100), Domain("b", 100)), "f", "x")
    mixture = estimate(sizes, MixtureConfig(max_epochs=2, budget_tokens=380))
    state = OnlineState.start(["a", "b"])
    with pytest.raises(ValueError, match="after the first step"):
        mixture_from_here(mixture, state, {}, 0.5)
    with pytest.raises(UserError, match="the caps leave 100 tokens for the 190"):
        mixture_from_here(mixture, OnlineState.start(["b"]), {"a": 90, "b": 100}, 0.5)
    found = mixture_from_here(mixture, state, {"a": 150, "b": 40}, 0.5)
    assert found.phases[0].weights["a"] == pytest.approx(150 / 190)
    assert found.epochs["a"] <= 2 * (1 + 1e-6)
    assert found.phases[1].weights["a"] == pytest.approx(50 / 190)


# RegMix


def trials(n=4, rows=60, seed=0):
    rng = np.random.default_rng(seed)
    w = rng.dirichlet(np.full(n, 0.6), rows)
    return w, 5 - 2 * w[:, 2] + 0.5 * w[:, 0] + 0.01 * rng.normal(size=rows)


@pytest.mark.parametrize("regressor", ["linear", "trees", "auto"])
def test_regmix_goes_for_the_domain_that_lowers_the_loss(regressor):
    w, loss = trials()
    caps = np.array([1.0, 1.0, 0.6, 1.0])
    found = regmix(w, loss, np.full(4, 0.25), np.zeros(4), caps, regressor=regressor, candidates=4000)
    assert found.weights.argmax() == 2
    assert found.weights[2] > 0.5
    assert (found.weights <= caps + 1e-12).all()
    assert found.weights.sum() == pytest.approx(1)
    assert found.best_trial == loss.min()
    np.testing.assert_array_equal(found.best_weights, w[loss.argmin()])


def test_auto_takes_the_regressor_that_ranks_held_out_trials_better():
    w, loss = trials(rows=80)  # linear in truth
    found = regmix(w, loss, np.full(4, 0.25), np.zeros(4), np.ones(4), candidates=500)
    assert found.rank_correlation["linear"] > found.rank_correlation["trees"] > 0.7
    assert found.regressor == "linear"
    rng = np.random.default_rng(1)
    w = rng.dirichlet(np.full(4, 0.6), 300)
    steps = np.floor(4 * w[:, 1]) % 2 + (w[:, 3] > 0.3)  # nothing a plane could fit
    assert regmix(w, steps, np.full(4, 0.25), np.zeros(4), np.ones(4), candidates=500).regressor == "trees"


def test_few_trials_have_no_rank_correlation_and_one_is_refused():
    w, loss = trials(rows=6)
    found = regmix(w, loss, np.full(4, 0.25), np.zeros(4), np.ones(4), candidates=200)
    assert math.isnan(found.rank_correlation["linear"])
    assert found.regressor == "linear"
    with pytest.raises(ValueError, match="m >= 2"):
        regmix(w[:1], loss[:1], np.full(4, 0.25), np.zeros(4), np.ones(4))


def test_regmix_is_a_function_of_its_seed():
    w, loss = trials(rows=30)
    a, b, c = (
        regmix(
            w, loss, np.full(4, 0.25), np.zeros(4), np.ones(4), candidates=300, seed=s, regressor="trees"
        ).weights
        for s in (0, 0, 1)
    )
    assert a.tobytes() == b.tobytes()
    assert a.tobytes() != c.tobytes()


def test_many_rows_are_bounded_as_one_by_one():
    rng = np.random.default_rng(3)
    target, upper = rng.dirichlet(np.full(5, 0.3), 40), np.array([0.3, 0.3, 0.3, 0.3, 0.3])
    lower = np.full(5, 0.02)
    many = bounded_many(target, lower, upper)
    one = [bounded_shares(np.maximum(t, 1e-12), lower, upper) for t in target]
    np.testing.assert_allclose(many, one, atol=1e-9)


def test_the_rank_correlation_is_spearmans():
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40), rng.random(40)
    assert spearman(a, b) == pytest.approx(scipy.spearmanr(a, b).statistic)
    assert spearman(b, -b) == pytest.approx(-1)
