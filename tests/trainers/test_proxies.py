"""The small trainings behind DoReMi and RegMix."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.mixers.doremi import doremi, doremi_step
from mixloom.mixers.tables import Trace, Trials
from mixloom.trainers.ablate import SmallRuns
from mixloom.trainers.model_cache import ModelCache
from mixloom.trainers.proxies import doremi_proxy, regmix_mixtures, regmix_trials, save_table

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
    assert proxy.values.shape == (12, 3)
    assert (proxy.values >= 0).all()
    assert proxy.values.max() > 0


def test_the_estimator_finds_the_weights_of_the_proxy_again_from_its_table(runs, tmp_path):
    used = []

    def step(weights, excess, eta, smoothing):
        used.append(doremi_step(weights, excess, eta, smoothing))
        return used[-1]

    found = doremi_proxy(runs, ModelCache(tmp_path), eta=2.0, smoothing=0.01, step=step)
    read = Trace.load(save_table(tmp_path / "excess.csv", found))
    mean, path = doremi(read.values, eta=2.0, smoothing=0.01)
    assert np.allclose(path, used, atol=1e-12)
    assert np.allclose(mean, np.mean(used, axis=0), atol=1e-12)


def test_the_same_settings_give_the_same_run(runs, proxy, tmp_path):
    again = doremi_proxy(runs, ModelCache(tmp_path))
    assert (again.values == proxy.values).all()


def test_a_domain_whose_weight_is_held_at_nothing_is_not_learned(runs, tmp_path):
    def only_first(weights, excess, eta, smoothing):
        return np.array([1.0, 0.0, 0.0])

    found = doremi_proxy(runs, ModelCache(tmp_path), step=only_first)
    fair = doremi_proxy(runs, ModelCache(tmp_path), step=lambda w, *_: w)
    assert found.values[-1, 1] > fair.values[-1, 1]
    assert found.values[-1, 0] < found.values[-1, 1]


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
    trials = regmix_trials(runs, ModelCache(tmp_path / "cache"), 12)
    assert np.corrcoef(trials.weights[:, 0], trials.losses[:, 0])[0, 1] < -0.5
    assert np.corrcoef(trials.weights[:, 1], trials.losses[:, 1])[0, 1] < -0.5
    read = Trials.load(save_table(tmp_path / "trials.csv", trials))
    assert (read.domains, read.skills) == (("aa", "bb", "cc"), ("one", "five"))
    assert np.allclose(read.weights, trials.weights, atol=1e-12)
    assert (read.losses == trials.losses).all()
