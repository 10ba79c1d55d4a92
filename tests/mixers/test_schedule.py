"""The schedule and the permutations against their definitions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.permutation import place, stream_key
from mixloom.mixers.schedule import apportion, make_schedule

COUNTS = st.lists(st.integers(0, 400), min_size=1, max_size=12).filter(any)


@settings(max_examples=200, deadline=None)
@given(COUNTS)
def test_every_prefix_is_within_the_chairman_bound_of_the_weights(counts):
    counts = np.array(counts, np.int64)
    schedule = make_schedule(counts, 10**6)
    period, k = int(counts.sum()), int(np.count_nonzero(counts))
    assert len(schedule.sequence) == period
    served = np.cumsum(schedule.sequence[:, None] == np.arange(len(counts)), axis=0)
    due = np.arange(1, period + 1)[:, None] * counts
    # In whole numbers: |t * count / period - served| <= 1 - 1/(2k-2).
    bound = period * (2 * k - 3) if k > 1 else 0
    assert (np.abs(due - served * period) * max(2 * k - 2, 1) <= bound).all()
    assert served[-1].tolist() == counts.tolist()


def test_the_rule_of_the_largest_credit_would_miss_the_bound_that_ours_keeps():
    """Many equal small shares beside large ones: the usual rule falls behind by more than a whole draw."""
    counts = np.array([1] * 8 + [2, 3, 3, 3, 4, 8, 12, 13, 25, 26, 36, 1253, 1425], np.int64)
    period, k = int(counts.sum()), len(counts)
    credit, worst = np.zeros(k, np.int64), 0
    for _ in range(period):
        credit += counts
        credit[int(np.argmax(credit))] -= period
        worst = max(worst, int(credit.max()))
    sequence = make_schedule(counts, period).sequence
    served = np.cumsum(sequence[:, None] == np.arange(k), axis=0)
    ours = int((np.arange(1, period + 1)[:, None] * counts - served * period).max())
    assert ours < period < worst


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.integers(0, 3000), st.integers(0, 200))
def test_any_stretch_of_draws_can_be_looked_up_across_periods(counts, start, length):
    counts = np.array(counts, np.int64)
    schedule = make_schedule(counts, int(counts.sum()))
    whole = [int(schedule.sequence[t % schedule.period]) for t in range(start + length)]
    domain, ordinal = schedule.draws(start, start + length)
    assert domain.tolist() == whole[start:]
    assert ordinal.tolist() == [whole[:t].count(whole[t]) for t in range(start, start + length)]
    assert schedule.served(start).tolist() == [whole[:start].count(i) for i in range(len(counts))]


@settings(max_examples=50, deadline=None)
@given(COUNTS, st.integers(1, 500))
def test_a_shorter_schedule_is_a_prefix_of_the_whole(counts, draws):
    counts = np.array(counts, np.int64)
    part, whole = make_schedule(counts, draws), make_schedule(counts, 10**6)
    assert part.sequence.tolist() == whole.sequence[: len(part.sequence)].tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=10), st.integers(1, 5000), st.data())
def test_apportioned_counts_sum_to_the_total_under_their_caps_and_near_their_share(raw, total, data):
    shares = np.array(raw) / sum(raw)
    free = apportion(shares, total, np.full(len(raw), total))
    assert free.sum() == total
    assert (np.abs(free - shares * total) < 1 + 1e-6).all()
    spare = data.draw(st.lists(st.integers(0, 5), min_size=len(raw), max_size=len(raw)))
    caps = free - np.minimum(free, np.array(spare[::-1])) + np.array(spare)
    if caps.sum() >= total:
        capped = apportion(shares, total, caps)
        assert capped.sum() == total
        assert (capped <= caps).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_every_epoch_serves_every_item_exactly_once(n, key, epoch):
    ordinal = np.arange(epoch * n, (epoch + 1) * n, dtype=np.int64)
    keys = np.array([key], np.uint64)
    item, epochs = place(np.zeros(n, np.int32), ordinal, np.array([n]), keys)
    assert sorted(item.tolist()) == list(range(n))
    assert set(epochs.tolist()) == {epoch}
    alone = [
        int(place(np.zeros(1, np.int32), ordinal[j : j + 1], np.array([n]), keys)[0][0])
        for j in range(min(n, 9))
    ]
    assert alone == item[:9].tolist()


def test_permutations_differ_between_epochs_keys_and_groups_and_spread_evenly():
    n, m = 1000, 300
    sizes, keys = np.array([n, n]), np.array([1, 2], np.uint64)
    zeros = np.zeros(n, np.int32)
    first = place(zeros, np.arange(n), sizes, keys)[0]
    assert np.mean(first == place(zeros, np.arange(n, 2 * n), sizes, keys)[0]) < 0.01
    assert np.mean(first == place(zeros + 1, np.arange(n), sizes, keys)[0]) < 0.01
    # The item at place 0 over many epochs: chi-square of ten bins, 9 degrees of freedom.
    starts = place(np.zeros(20 * m, np.int32), np.arange(20 * m) * n, sizes, keys)[0]
    bins = np.bincount(starts * 10 // n, minlength=10)
    assert ((bins - 2 * m) ** 2 / (2 * m)).sum() < 30
    # Neighbours in the domain are not neighbours in the order: mean distance of two random places is n / 3.
    assert abs(np.abs(np.diff(first)).mean() - n / 3) < n / 20


def test_tiny_domains_come_in_every_order_equally_often():
    keys = np.array([5], np.uint64)
    orders = place(np.zeros(18_000, np.int32), np.arange(18_000), np.array([3]), keys)[0].reshape(-1, 3)
    seen, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(seen) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 25  # chi-square, 5 degrees of freedom


def test_keys_and_order_are_pinned_for_a_change_would_change_every_run_in_progress():
    assert stream_key("a", 1) == stream_key("a", "1")
    assert stream_key("ab", "c") != stream_key("a", "bc")
    assert stream_key("manifest", 0, "wiki") == 17384661190112664638
    items = place(np.zeros(6, np.int32), np.arange(6), np.array([6]), np.array([7], np.uint64))[0]
    assert items.tolist() == [0, 5, 1, 4, 2, 3]
    assert make_schedule(np.array([5, 3, 1]), 9).sequence.tolist() == [0, 1, 0, 1, 0, 0, 2, 1, 0]
