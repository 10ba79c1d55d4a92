"""Differences between models: sums by context, and intervals that hold what they should."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "paired.py"
spec = importlib.util.spec_from_file_location("benchmarks_paired", FILE)
paired = importlib.util.module_from_spec(spec)
sys.modules["benchmarks_paired"] = paired
spec.loader.exec_module(paired)


def drawn(mean, seed, seeds=3, contexts=200, spread=1.0):
    """Tokens per context, and sums of a difference that is `mean` per token, noisy by context."""
    rng = np.random.default_rng(seed)
    counts = np.repeat(rng.integers(50, 500, contexts)[None], seeds, axis=0)
    shared = rng.normal(0, spread, contexts)
    per_token = mean + shared + rng.normal(0, 0.2, (seeds, contexts))
    return per_token * counts, counts


def test_sums_leave_out_what_is_masked_or_has_no_value():
    values = np.array([[1.0, 2.0, np.nan], [4.0, np.nan, 8.0]])
    mask = np.array([[True, False, True], [True, True, True]])
    sums, counts = paired.by_context(values, mask)
    assert sums.tolist() == [1.0, 12.0]
    assert counts.tolist() == [1, 2]


def test_the_mean_is_over_tokens_not_over_contexts():
    found = paired.difference(np.array([[10.0, 0.0]]), np.array([[10, 90]]))
    assert found.mean == pytest.approx(0.1)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(60):
        found = paired.difference(*drawn(0.1, seed))
        assert found.low <= found.mean <= found.high
        hits += found.low <= 0.1 <= found.high
    assert hits >= 50


def test_a_difference_that_is_there_is_told_from_none():
    assert paired.difference(*drawn(0.5, 1)).sign == 1
    assert paired.difference(*drawn(-0.5, 1)).sign == -1
    signs = [paired.difference(*drawn(0.0, s)).sign for s in range(20)]
    assert signs.count(0) >= 16


def test_seeds_above_zero_are_counted_and_the_same_draws_come_again():
    sums = np.array([[1.0, 1.0], [-1.0, -1.0], [2.0, 0.0]])
    found = paired.difference(sums, np.ones((3, 2)))
    assert (found.above, found.seeds) == (2, 3)
    assert found.row()["seeds_above_0"] == "2 of 3"
    assert found == paired.difference(sums, np.ones((3, 2)))


def test_rows_are_grouped_by_what_they_share_in_the_order_they_come():
    rows = [
        {"kind": "a", "w": 2, "means": {"x": 1.0}},
        {"kind": "b", "w": 2, "means": {"x": 5.0}},
        {"kind": "a", "w": 1, "means": {"x": 2.0}},
        {"kind": "a", "w": 2, "means": {"x": 3.0}},
    ]
    [(first, two), (second, one)] = paired.grouped(rows, "a", "w")
    assert (first, second) == ({"w": 2}, {"w": 1})
    assert (paired.mean_of(two, "x"), paired.mean_of(one, "x")) == (2.0, 2.0)
