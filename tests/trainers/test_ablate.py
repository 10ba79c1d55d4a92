"""Utilities by ablation: what is trained, what is not trained again, and that the source a skill comes from wins."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.trainers.ablate import SmallRuns, ablation_losses, utilities_of
from mixloom.trainers.model_cache import ModelCache, weights_hash
from mixloom.trainers.subset import Subset, chosen_contexts, simulated_contexts

sys.path.insert(0, str(Path(__file__).parent))
from small_shards import MODEL, TRAIN, skill, write_domains

STRIDES = {"aa": 1, "bb": 5, "cc": 11}


@pytest.fixture
def runs(tmp_path, vocabulary):
    reader = write_domains(tmp_path / "shards", STRIDES, vocabulary)
    return SmallRuns(reader, [skill("one", 1), skill("five", 5)], MODEL, TRAIN, run_contexts=None)


def counted(runs, folder):
    """Losses, and how many models were trained and evaluated for them."""
    cache = ModelCache(folder)
    return ablation_losses(runs, cache), cache.trained, cache.evaluated


@given(contexts=st.integers(1, 10**7), small=st.integers(1, 10**5), times=st.floats(1, 1e4, allow_nan=False))
def test_a_small_training_repeats_a_domain_as_often_as_the_run_would(contexts, small, times):
    run = max(small, round(small * times))
    kept = simulated_contexts(contexts, small, run)
    assert 1 <= kept <= contexts
    exact = contexts * small / run
    if exact >= 1:
        assert abs(kept - exact) <= 0.5 + 1e-6
    else:
        assert kept == 1
    if exact > 100:  # far from the rounding, repetition is that of the run on this domain alone
        assert small / kept == pytest.approx(run / contexts, rel=0.01)


def test_no_epochs_are_simulated_for_a_run_that_is_no_longer_than_the_small_training():
    assert simulated_contexts(1000, 50, None) == 1000
    assert simulated_contexts(1000, 50, 40) == 1000
    assert simulated_contexts(1000, 50, 500) == 100


def test_fewer_chosen_contexts_are_among_more_and_none_comes_twice():
    many, few = chosen_contexts(100, 60, 3), chosen_contexts(100, 10, 3)
    assert len(set(many.tolist())) == 60
    assert set(few.tolist()) <= set(many.tolist())
    assert many.max() < 100
    assert chosen_contexts(100, 10, 4).tolist() != few.tolist()


def test_the_source_a_skill_comes_from_is_worth_most_for_it(runs, tmp_path):
    made = utilities_of(counted(runs, tmp_path / "cache")[0], runs)
    assert made.sources == ("aa", "bb", "cc")
    assert made.skills == ("one", "five")
    assert made.values.min() == 0
    assert made.values.max() == 1
    assert made.values[:, 0].argmax() == 0
    assert made.values[:, 1].argmax() == 1
    assert made.loss_only
    assert made.method == "ablation"
    losses = np.array([made.details["losses"][d] for d in made.sources])
    assert (losses.argmin(axis=0) == [0, 1]).all()


def test_adding_one_source_trains_exactly_one_model(runs, tmp_path, vocabulary):
    first, trained, evaluated = counted(runs, tmp_path / "cache")
    assert (trained, evaluated) == (3, 6)
    more = write_domains(
        tmp_path / "more", {"a0": 3, **STRIDES}, vocabulary
    )  # every old domain has a new place
    second, trained, evaluated = counted(replace(runs, reader=more), tmp_path / "cache")
    assert (trained, evaluated) == (1, 2)
    assert (second[:, 1:] == first).all()


def test_a_renamed_source_trains_nothing(runs, tmp_path, vocabulary):
    first = counted(runs, tmp_path / "cache")[0]
    renamed = write_domains(tmp_path / "renamed", {"xx": 1, "yy": 5, "zz": 11}, vocabulary)
    again, trained, evaluated = counted(replace(runs, reader=renamed), tmp_path / "cache")
    assert (trained, evaluated) == (0, 0)
    assert (again == first).all()


def test_adding_one_skill_costs_evaluations_only(runs, tmp_path):
    first = counted(runs, tmp_path / "cache")[0]
    more = replace(runs, skills=[skill("eleven", 11), *runs.skills])
    second, trained, evaluated = counted(more, tmp_path / "cache")
    assert (trained, evaluated) == (0, 3)
    assert (second[:, :, 1:] == first).all()


def test_other_settings_are_other_models_and_how_often_is_logged_is_none(runs, tmp_path):
    counted(runs, tmp_path / "cache")
    logged = replace(runs, train=TRAIN.model_copy(update={"log_every": 1}))
    assert counted(logged, tmp_path / "cache")[1] == 0
    longer = replace(runs, train=TRAIN.model_copy(update={"steps": 13}))
    assert counted(longer, tmp_path / "cache")[1] == 3
    assert counted(replace(runs, run_contexts=100), tmp_path / "cache")[1] == 3


def test_changed_content_of_a_source_is_trained_anew(runs, tmp_path, vocabulary):
    counted(runs, tmp_path / "cache")
    changed = write_domains(tmp_path / "changed", {**STRIDES, "bb": 7}, vocabulary)
    assert counted(replace(runs, reader=changed), tmp_path / "cache")[1] == 1


def test_a_training_that_was_killed_goes_on_and_gives_the_same_weights(runs, tmp_path):
    runs = replace(runs, train=TRAIN.model_copy(update={"checkpoint_every": 4}))
    whole = ModelCache(tmp_path / "whole")
    expected = ablation_losses(runs, whole)
    steps = iter(range(1000))
    stopped = ModelCache(tmp_path / "stopped")
    with pytest.raises(UserError, match=r"stopped after 5 of 12 steps; a checkpoint is saved") as caught:
        ablation_losses(runs, stopped, should_stop=lambda: next(steps) == 16)  # in the second model
    assert "run the same command again" in str(caught.value)
    assert stopped.trained == 1
    again = ModelCache(tmp_path / "stopped")
    assert (ablation_losses(runs, again) == expected).all()
    assert again.trained == 2
    small = runs.alone("bb", 0)
    assert weights_hash(again.model(small).state_dict()) == weights_hash(whole.model(small).state_dict())
    assert not list((tmp_path / "stopped").glob("*/training"))


def test_losses_cut_short_by_a_crash_are_evaluated_again(runs, tmp_path):
    first = counted(runs, tmp_path / "cache")[0]
    file = next((tmp_path / "cache").glob("*/losses-*.json"))
    file.write_text(file.read_text()[:40])
    again, trained, evaluated = counted(runs, tmp_path / "cache")
    assert (trained, evaluated) == (0, 1)
    assert (again == first).all()


def test_weights_that_were_changed_are_refused(runs, tmp_path):
    counted(runs, tmp_path / "cache")
    small = runs.alone("aa", 0)
    weights = tmp_path / "cache" / small.key / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"model\.safetensors is missing or not what was trained"):
        ModelCache(tmp_path / "cache").model(small)


def test_several_seeds_are_averaged_and_their_standard_errors_told(runs, tmp_path):
    runs = replace(runs, seeds=2)
    losses, trained, _ = counted(runs, tmp_path / "cache")
    assert losses.shape == (2, 3, 2)
    assert trained == 6
    assert (losses[0] != losses[1]).all()
    details = utilities_of(losses, runs).details
    assert details["seeds"] == 2
    expected = abs(losses[0, 0, 0] - losses[1, 0, 0]) / 2
    assert details["standard_errors"]["aa"][0] == pytest.approx(expected, abs=1e-5)


def test_a_skill_at_which_all_sources_are_equal_has_no_say_and_a_note_says_so(runs):
    losses = np.array([[[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]]])
    made = utilities_of(losses, runs)
    assert made.values.tolist() == [[1.0, 1.0], [0.0, 1.0], [0.5, 1.0]]
    assert made.notes == ("all sources are equal for the skill 'five': it has no say",)


def test_a_subset_serves_the_chosen_contexts_and_no_others(runs):
    chosen = {"aa": np.array([2, 5, 9]), "cc": np.array([0, 1])}
    subset = Subset(runs.reader, chosen)
    stream = subset.stream({"aa": 0.5, "cc": 0.5}, seed=1, batch_contexts=4, steps=10)
    served = {d for step in range(10) for d in stream.documents(step)}
    assert served == {"1-2", "1-5", "1-9", "11-0", "11-1"}
    ids, lengths, domains = stream.batch_arrays(0)
    assert ids.shape == (4, 32)
    assert sorted(domains.tolist()) == [0, 0, 1, 1]
    assert [len(x) for x in lengths] == [1, 1, 1, 1]
