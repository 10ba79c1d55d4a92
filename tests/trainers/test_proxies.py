"""The small trainings behind DoReMi and RegMix."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.trainers.ablate import SmallRuns
from mixloom.trainers.model_cache import ModelCache
from mixloom.trainers.proxies import (
    doremi_proxy,
    doremi_update,
    regmix_mixtures,
    regmix_trials,
    save_trials,
)

sys.path.insert(0, str(Path(__file__).parent))
from small_shards import MODEL, TRAIN, skill, write_domains


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    text = {"name": "text", "start": 0, "size": 512, "used": 512, "modality": 0, "fingerprint": "t"}
    vocabulary = {
        "version": 1,
        "size": 512,
        "pad": 0,
        "dtype": "uint16",
        "ranges": [text],
        "fingerprint": "v",
    }
    reader = write_domains(tmp_path_factory.mktemp("shards"), {"aa": 1, "bb": 5, "cc": 11}, vocabulary)
    return SmallRuns(reader, [skill("one", 1), skill("five", 5)], MODEL, TRAIN, run_contexts=None)


@pytest.fixture(scope="module")
def proxy(runs, tmp_path_factory):
    return doremi_proxy(runs, ModelCache(tmp_path_factory.mktemp("cache")))


def test_excess_is_never_negative_and_there_is_one_row_per_step(proxy):
    assert proxy.domains == ("aa", "bb", "cc")
    assert proxy.excess.shape == (12, 3)
    assert (proxy.excess >= 0).all()
    assert proxy.excess.max() > 0


def test_the_weights_are_the_mean_of_the_updates_replayed_from_the_table(proxy, tmp_path):
    with proxy.save(tmp_path / "excess.csv").open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == ["step", "aa", "bb", "cc"]
    weights, total = np.full(3, 1 / 3), np.zeros(3)
    for row in rows:
        weights = doremi_update(weights, np.array([float(row[d]) for d in proxy.domains]), 1.0, 1e-3)
        total += weights
    assert np.allclose(total / len(rows), proxy.weights, atol=1e-12)
    assert proxy.weights.sum() == pytest.approx(1)


def test_the_same_settings_give_the_same_run(runs, proxy, tmp_path):
    again = doremi_proxy(runs, ModelCache(tmp_path))
    assert (again.excess == proxy.excess).all()


def test_a_domain_whose_weight_is_held_at_nothing_is_not_learned(runs, tmp_path):
    def only_first(weights, excess, step_size, smoothing):
        return np.array([1.0, 0.0, 0.0])

    found = doremi_proxy(runs, ModelCache(tmp_path), update=only_first)
    fair = doremi_proxy(runs, ModelCache(tmp_path), update=lambda w, *_: w)
    assert found.excess[-1, 1] > fair.excess[-1, 1]
    assert found.excess[-1, 0] < found.excess[-1, 1]


@given(excess=st.floats(0, 5), k=st.integers(1, 30))
def test_equal_excess_leaves_uniform_weights_as_they_are(excess, k):
    assert np.allclose(doremi_update(np.full(k, 1 / k), np.full(k, excess), 1.0, 1e-3), 1 / k)


@given(st.integers(1, 60), st.lists(st.floats(0.01, 1), min_size=2, max_size=12), st.integers(0, 9))
def test_drawn_mixtures_are_mixtures_and_no_domain_is_far_beyond_its_size(count, sizes, seed):
    prior = np.array(sizes) / sum(sizes)
    drawn = regmix_mixtures(prior, count, seed)
    assert drawn.shape == (count, len(prior))
    assert np.allclose(drawn.sum(axis=1), 1)
    assert (drawn >= 0).all()
    within = (drawn <= 15 * prior + 1e-9).all(axis=1)
    base = np.sqrt(prior) / np.sqrt(prior).sum()
    assert (within | np.isclose(drawn, base).all(axis=1)).all()


def test_trials_lose_less_on_a_skill_the_more_they_hold_of_its_source(runs, tmp_path):
    mixtures, losses = regmix_trials(runs, ModelCache(tmp_path / "cache"), 12)
    assert np.corrcoef(mixtures[:, 0], losses[:, 0])[0, 1] < -0.5
    assert np.corrcoef(mixtures[:, 1], losses[:, 1])[0, 1] < -0.5
    path = save_trials(tmp_path / "trials.csv", runs.reader.domains, ["one", "five"], mixtures, losses)
    with path.open(encoding="utf-8") as f:
        rows = list(csv.reader(f))
    assert rows[0] == ["aa", "bb", "cc", "loss:one", "loss:five"]
    assert [float(x) for x in rows[3]] == [*mixtures[2], *losses[2]]
