import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.balanced import balanced_assign, capped_assign
from mixloom.pipeline.distances import nearest, nearest_within, squared_distances


def exact_cost(cost: np.ndarray) -> float:
    """Least cost with sizes floor(n/k) or one more: a plain assignment problem with replicated centres."""
    from scipy.optimize import linear_sum_assignment

    n, k = cost.shape
    must = np.repeat(np.arange(k), n // k)
    may = np.arange(k) if n % k else np.zeros(0, np.int64)
    slots = cost[:, np.r_[must, may].astype(np.int64)].astype(np.float64)
    slots[:, : len(must)] -= 1000.0  # every place that must be filled is filled
    rows, columns = linear_sum_assignment(slots)
    return float(slots[rows, columns].sum() + 1000.0 * len(must))


def total(cost: np.ndarray, labels: np.ndarray) -> float:
    return float(cost[np.arange(len(labels)), labels].sum(dtype=np.float64))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**31), st.sampled_from([0, 2, 4]))
def test_sizes_differ_by_at_most_one_and_the_cost_is_the_least_possible(n, k, seed, levels):
    rng = np.random.Generator(np.random.PCG64(seed))
    cost = rng.random((n, k)) ** 3
    if levels:
        cost = np.round(cost * levels) / levels  # many ties
    labels, prices = balanced_assign(cost)
    sizes = np.bincount(labels, minlength=k)
    assert sizes.max() - sizes.min() <= 1
    assert total(cost, labels) == pytest.approx(exact_cost(cost), abs=1e-7)
    again, _ = balanced_assign(cost, rng.random(k))  # any first prices lead to the same cost
    assert total(cost, again) == pytest.approx(exact_cost(cost), abs=1e-7)
    assert len(prices) == k


def test_the_balanced_cost_lies_between_the_nearest_and_a_random_balanced_assignment():
    rng = np.random.Generator(np.random.PCG64(0))
    cost = rng.random((1003, 7))
    labels, _ = balanced_assign(cost)
    assert np.bincount(labels).tolist().count(144) == 1003 - 7 * 143
    random = rng.permutation(np.arange(1003) % 7)
    assert cost.min(axis=1).sum() <= total(cost, labels) <= total(cost, random)


def test_the_prices_prove_the_assignment():
    rng = np.random.Generator(np.random.PCG64(2))
    cost = rng.random((400, 5)) + np.array([0, 0.5, 1, 1.5, 2])
    labels, prices = balanced_assign(cost)
    assert (total(cost + prices, labels) - (cost + prices).min(axis=1).sum()) == pytest.approx(0, abs=1e-7)


def test_identical_points_are_split_evenly():
    labels, _ = balanced_assign(np.zeros((5000, 16), np.float32))
    assert set(np.bincount(labels, minlength=16)) == {312, 313}


def test_nothing_to_assign_and_nothing_to_assign_to():
    assert len(balanced_assign(np.zeros((0, 3)))[0]) == 0
    with pytest.raises(ValueError, match="needs a centre"):
        balanced_assign(np.zeros((3, 0)))
    with pytest.raises(ValueError, match="finite"):
        balanced_assign(np.array([[1.0, np.nan]]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**31))
def test_distances_and_nearest_agree_with_the_plain_definition_and_not_with_the_batch(n, k, d, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    x, c = rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(k, d)).astype(np.float32)
    plain = ((x[:, None, :].astype(np.float64) - c[None]) ** 2).sum(axis=2)
    got = squared_distances(x, c)
    np.testing.assert_allclose(got, plain, rtol=1e-5)
    index, value = nearest(x, c)
    assert (index == got.argmin(axis=1)).all()
    assert value.tobytes() == got.min(axis=1).tobytes()
    alone = [nearest(x[i : i + 1], c) for i in range(n)]
    assert np.concatenate([a[1] for a in alone]).tobytes() == value.tobytes()
    group = rng.integers(0, 2, n)
    starts = np.array([0, k, k + 1])
    within, _ = nearest_within(x, np.concatenate([c, x[:1]]), group, starts)
    assert (within == np.where(group == 0, index, k)).all()


def test_ties_go_to_the_lower_index_and_no_centre_is_an_error():
    c = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    assert nearest(np.array([[1, 0], [0.5, 0.5]], np.float32), c)[0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="at least one centre"):
        nearest(np.zeros((1, 2), np.float32), np.zeros((0, 2), np.float32))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 6),
    st.integers(0, 2**31),
    st.sampled_from([0, 2, 4]),
    st.integers(0, 5),
)
def test_capped_sizes_stay_under_the_cap_at_the_least_possible_cost(n, k, seed, levels, room):
    from scipy.optimize import linear_sum_assignment

    rng = np.random.Generator(np.random.PCG64(seed))
    cost = rng.random((n, k)) if levels == 0 else rng.integers(0, levels, (n, k)).astype(np.float64)
    most = -(-n // k) + room
    labels = capped_assign(cost, most)
    assert np.bincount(labels, minlength=k).max() <= most
    slots = np.repeat(cost, most, axis=1)
    rows, columns = linear_sum_assignment(slots)
    assert total(cost, labels) == pytest.approx(float(slots[rows, columns].sum()), abs=1e-6)


def test_a_cap_that_nobody_meets_changes_nothing_and_one_without_room_is_refused():
    cost = np.random.default_rng(0).random((20, 3))
    np.testing.assert_array_equal(capped_assign(cost, 20), cost.argmin(axis=1))
    with pytest.raises(ValueError, match="3 centres with 6 places each cannot take 20 points"):
        capped_assign(cost, 6)
    assert len(capped_assign(np.zeros((0, 2)), 1)) == 0


def test_a_cap_with_a_limit_gives_way_where_every_other_centre_is_far():
    near, far = np.tile([0.0, 0.1], (10, 1)), np.tile([0.0, 5.0], (10, 1))
    assert np.bincount(capped_assign(near, 6, 1.0)).tolist() == [6, 4]
    assert np.bincount(capped_assign(far, 6, 1.0)).tolist() == [10]
