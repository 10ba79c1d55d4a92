import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mixloom.pipeline.distances import squared_distances
from mixloom.pipeline.routing import mixture_log_probs, routing_weights

distances = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.floats(0, 4, width=32)
)


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def experts(k: int, n: int, v: int, seed: int) -> np.ndarray:
    logits = rng(seed).normal(size=(k, n, v)) * 3
    return logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))


@settings(max_examples=200, deadline=None)
@given(distances, st.floats(1e-4, 1e4), st.none() | st.integers(1, 9))
def test_weights_are_the_plain_formula_over_the_nearest_domains(squared, temperature, top_k):
    weights = routing_weights(squared, temperature, top_k)
    assert weights.dtype == np.float64
    assert weights.shape == squared.shape
    for row, got in zip(squared.astype(np.float64), weights):
        kept = sorted(range(len(row)), key=lambda j: (row[j], j))[: top_k or len(row)]
        plain = {j: np.exp(-(row[j] - row[kept[0]]) / temperature) for j in kept}
        total = sum(plain.values())
        assert got.sum() == pytest.approx(1.0, abs=1e-12)
        for j in range(len(row)):
            assert got[j] == pytest.approx(plain.get(j, 0.0) / total, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(distances, st.integers(1, 9))
def test_a_cold_route_is_the_nearest_domain_and_a_hot_one_knows_no_difference(squared, top_k):
    cold, hot = routing_weights(squared, 0.0, top_k), routing_weights(squared, np.inf, top_k)
    np.testing.assert_array_equal(cold, np.eye(squared.shape[1])[squared.argmin(axis=1)])
    assert {round(w, 12) for w in hot.ravel()} <= {0.0, round(1 / min(top_k, squared.shape[1]), 12)}
    np.testing.assert_allclose(hot.sum(axis=1), 1.0)
    np.testing.assert_array_equal(routing_weights(squared, 5.0, 1), cold)
    distinct = np.sort(squared, axis=1)
    if squared.shape[1] > 1 and np.all(distinct[:, 1] - distinct[:, 0] > 1e-3):
        np.testing.assert_allclose(routing_weights(squared, 1e-6, top_k), cold, atol=1e-12)


def test_the_distance_is_squared_once():
    vectors, centres = np.eye(3, dtype=np.float32)[:1], np.eye(3, dtype=np.float32)
    weights = routing_weights(squared_distances(vectors, centres), temperature=1.0)[0]
    # Orthogonal unit vectors are sqrt(2) apart: the weight falls by exp(-2), not by exp(-4).
    np.testing.assert_allclose(weights[1:] / weights[0], np.exp(-2.0))


def test_the_temperature_of_the_paper_is_the_default():
    np.testing.assert_allclose(routing_weights([[0.0, 0.1]])[0, 1], np.exp(-1) / (1 + np.exp(-1)))


def test_no_rows_give_no_rows():
    assert routing_weights(np.zeros((0, 3))).shape == (0, 3)
    assert mixture_log_probs(np.zeros((3, 0, 5)), np.zeros((0, 3))).shape == (0, 5)


@pytest.mark.parametrize(
    ("squared", "options"),
    [
        (np.zeros((2, 0)), {}),
        (np.zeros(3), {}),
        ([[0.0, np.nan]], {}),
        ([[0.0, -1.0]], {}),
        ([[0.0]], {"temperature": -0.1}),
        ([[0.0]], {"temperature": float("nan")}),
        ([[0.0]], {"top_k": 0}),
    ],
)
def test_what_is_no_distance_or_no_temperature_is_refused(squared, options):
    with pytest.raises(ValueError, match=r"domain|distance|temperature|top_k"):
        routing_weights(squared, **options)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(2, 9), st.integers(0, 2**31))
def test_a_mixture_is_a_distribution_and_no_worse_than_the_experts_on_average(k, n, v, seed):
    logs = experts(k, n, v, seed)
    weights = routing_weights(rng(seed).uniform(0, 4, (n, k)), 0.5)
    mixed = mixture_log_probs(logs, weights)
    np.testing.assert_allclose(np.exp(mixed).sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.exp(mixed), np.einsum("nk,knv->nv", weights, np.exp(logs)), rtol=1e-9)
    # Jensen: the loss of the mixture is at most the weighted mean of the losses.
    assert np.all(-mixed <= np.einsum("nk,knv->nv", weights, -logs) + 1e-12)
    token = rng(seed + 1).integers(0, v, n)
    of_tokens = np.take_along_axis(logs, np.broadcast_to(token[None, :, None], (k, n, 1)), axis=2)[:, :, 0]
    np.testing.assert_allclose(mixture_log_probs(of_tokens, weights), mixed[np.arange(n), token], rtol=1e-12)


def test_identical_experts_say_what_each_of_them_says():
    one = experts(1, 4, 6, 3)
    weights = routing_weights(rng(1).uniform(0, 4, (4, 3)))
    np.testing.assert_allclose(mixture_log_probs(np.repeat(one, 3, axis=0), weights), one[0], rtol=1e-12)


def test_probabilities_are_mixed_and_not_logits():
    logs = np.log(np.array([[[0.9, 0.1]], [[0.1, 0.9]]]))
    mixed = np.exp(mixture_log_probs(logs, [[0.75, 0.25]]))[0]
    np.testing.assert_allclose(mixed, [0.7, 0.3])


def test_an_expert_without_weight_has_no_say_even_when_it_is_broken():
    logs = np.log(np.array([[[0.5, 0.5]], [[0.2, 0.8]]]))
    logs[1] = np.nan
    np.testing.assert_allclose(np.exp(mixture_log_probs(logs, [[1.0, 0.0]])), [[0.5, 0.5]])


def test_impossible_tokens_stay_impossible_unless_an_expert_allows_them():
    with np.errstate(divide="ignore"):
        logs = np.log(np.array([[[0.0, 1.0]], [[0.0, 1.0]]]))
    mixed = mixture_log_probs(logs, [[0.5, 0.5]])
    np.testing.assert_array_equal(mixed, [[-np.inf, 0.0]])
    logs[1] = np.log(0.5)
    np.testing.assert_allclose(mixture_log_probs(logs, [[0.5, 0.5]]), np.log([[0.25, 0.75]]))


def test_very_unlikely_tokens_do_not_underflow():
    logs = np.full((2, 1), -2000.0)
    np.testing.assert_allclose(mixture_log_probs(logs, [[0.5, 0.5]]), [-2000.0])


@pytest.mark.parametrize(
    ("logs", "weights"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3))),
        (np.zeros(2), np.zeros((2, 1))),
        (np.zeros((0, 3)), np.zeros((3, 0))),
    ],
)
def test_weights_that_do_not_fit_the_experts_are_refused(logs, weights):
    with pytest.raises(ValueError, match="need weights"):
        mixture_log_probs(logs, weights)
