from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixloom.trainers.spikes import Level, SpikeWatch, locate, shares
from mixloom.trainers.watch_config import SpikeConfig

CPU = torch.device("cpu")


def judge(watch: SpikeWatch, losses, counts=(100,), norm: float = 1.0) -> bool:
    counts = torch.tensor(counts, dtype=torch.float64)
    sums = torch.tensor(losses, dtype=torch.float64) * counts
    return bool(watch.judge(sums, counts, torch.tensor(norm, dtype=torch.float64)))


def calm(watch: SpikeWatch, updates: int, seed: int = 0, start: float = 3.0, slope: float = 0.0) -> None:
    rng = np.random.default_rng(seed)
    for n in range(updates):
        assert not judge(
            watch, [start - slope * n + 0.05 * rng.standard_normal()], norm=1 + 0.1 * rng.random()
        )


def watch_of(**options) -> SpikeWatch:
    return SpikeWatch(SpikeConfig(window=32, **options), 1, CPU)


def test_noise_and_a_falling_loss_are_no_spikes():
    calm(watch_of(), 300)
    calm(watch_of(), 300, start=10.0, slope=0.03)


def test_a_jump_is_a_spike_and_is_not_remembered():
    watch = watch_of()
    calm(watch, 40)
    before = json.dumps(watch.state())
    assert judge(watch, [4.0])
    assert json.dumps(watch.state()) == before
    assert not judge(watch, [3.02])


def test_a_jump_while_the_loss_falls_fast_is_seen():
    watch = watch_of()
    calm(watch, 100, start=8.0, slope=0.05)
    assert judge(watch, [4.0])  # 3 is due


def test_nothing_is_a_spike_before_enough_has_been_seen_but_what_is_not_finite():
    watch = watch_of()
    calm(watch, 10)
    assert not judge(watch, [9.0])
    assert judge(watch, [math.nan])
    assert judge(watch, [3.0], norm=math.inf)


def test_an_update_with_more_of_a_costly_modality_is_no_spike():
    watch = SpikeWatch(SpikeConfig(window=32), 2, CPU)
    rng = np.random.default_rng(0)
    for _ in range(40):
        assert not judge(
            watch, [2 + 0.02 * rng.standard_normal(), 6 + 0.02 * rng.standard_normal()], (90, 10)
        )
    assert not judge(watch, [2.0, 6.0], (10, 90))
    assert judge(watch, [3.0, 6.0], (10, 90)) is False  # 0.1 of its own noise on a tenth of the targets
    assert judge(watch, [2.0, 7.0], (10, 90))


def test_a_modality_not_seen_before_is_no_spike():
    watch = SpikeWatch(SpikeConfig(window=32), 2, CPU)
    rng = np.random.default_rng(0)
    for _ in range(40):
        assert not judge(watch, [2 + 0.02 * rng.standard_normal(), 0.0], (100, 0))
    assert not judge(watch, [2.0, 9.0], (50, 50))


def test_a_gradient_norm_counts_only_when_gross():
    watch = watch_of()
    calm(watch, 40)
    assert not judge(watch, [3.0], norm=5.0)
    assert judge(watch, [3.0], norm=50.0)


def test_off_leaves_out_only_what_is_not_finite():
    watch = watch_of(action="off")
    calm(watch, 40)
    assert not judge(watch, [30.0])
    assert judge(watch, [math.inf])


def test_what_is_remembered_comes_back_exactly_and_shrinks_with_the_window():
    watch = watch_of()
    calm(watch, 50)
    other = watch_of()
    other.load(json.loads(json.dumps(watch.state())))
    assert json.dumps(other.state()) == json.dumps(watch.state())
    shorter = SpikeWatch(SpikeConfig(window=8), 1, CPU)
    shorter.load(watch.state())
    assert shorter.state()["both"]["values"] == watch.state()["both"]["values"][-8:]
    assert shorter.state()["both"]["seen"] == [8, 8]


@given(st.lists(st.floats(0.1, 9.0), min_size=1, max_size=20))
def test_the_level_is_the_median_of_the_last_losses(losses):
    watch = SpikeWatch(SpikeConfig(window=64, action="off"), 1, CPU)
    for x in losses:
        judge(watch, [x])
    last = sorted(losses[-8:])
    assert watch.level().by_modality[0] == pytest.approx(last[(len(last) - 1) // 2])


def contexts(losses, targets: int = 10) -> tuple[np.ndarray, np.ndarray]:
    return np.array(losses, float)[:, None] * targets, np.full((len(losses), 1), targets)


LEVEL = Level(np.array([3.0]), limit=0.3, norm=1.0)


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([3, 3, 9, 3, 3, 3, 3, 3], [2]),
        ([3, 8, 3, 3, 9, 3, 3, 3], [4, 1]),
        ([9, 9, 9, 3, 3, 3, 3, 3], None),  # three of eight are more than a quarter
        ([6, 6, 6, 6, 6, 6, 6, 6], None),
        ([3, 3.1, 3, 3, 3, 3, 3, 3], []),
        ([3, 4.5, 3, 3, 3, 3, 3, 3], [1]),  # no spike of the loss, but the one that stands out
        ([math.nan, 3, 3, 3], [0]),
        ([math.nan] * 4, None),
        ([9], None),
        ([9, 3], [0]),
    ],
)
def test_the_fewest_contexts_that_explain_a_spike_are_found(losses, found):
    assert locate(*contexts(losses), LEVEL) == found


def test_contexts_are_compared_by_what_their_modalities_cost():
    level = Level(np.array([2.0, 6.0, math.nan]), limit=0.3, norm=1.0)
    counts = np.array([[10, 0, 0], [0, 10, 0], [10, 0, 5], [0, 10, 0]])
    sums = np.array([[20.0, 0, 0], [0, 60.0, 0], [60.0, 0, 90.0], [0, 61.0, 0]])
    assert locate(sums, counts, level) == [2]


def test_shares_are_of_what_lies_above():
    assert shares([3.0, -5.0, 1.0]) == [0.75, 0.0, 0.25]
    assert shares([-1.0]) == [0.0]
