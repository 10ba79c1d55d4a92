"""Modular merging: averages of branched models stand for mixtures, and say which source is worth most."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mixloom.trainers.ablate import SmallRuns
from mixloom.trainers.merging import Merged, merge_losses, merge_utilities
from mixloom.trainers.model_cache import ModelCache

sys.path.insert(0, str(Path(__file__).parent))
from small_shards import MODEL, TRAIN, skill, write_domains


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("merging")
    text = {"name": "text", "start": 0, "size": 512, "used": 512, "modality": 0, "fingerprint": "t"}
    vocabulary = {
        "version": 1,
        "size": 512,
        "pad": 0,
        "dtype": "uint16",
        "ranges": [text],
        "fingerprint": "v",
    }
    reader = write_domains(root / "shards", {"aa": 1, "bb": 5, "cc": 11}, vocabulary)
    runs = SmallRuns(reader, [skill("one", 1), skill("five", 5)], MODEL, TRAIN, run_contexts=None)
    cache = ModelCache(root / "cache")
    return runs, cache, Merged(runs, cache, branch_steps=6)


def test_a_mixture_is_the_average_of_the_weights_in_its_shares(made):
    merged = made[2]
    found = merged.merged({"aa": 0.25, "cc": 0.75})
    for name, tensor in found.items():
        a, c = merged.states[0][name].double(), merged.states[2][name].double()
        assert torch.allclose(tensor.double(), 0.25 * a + 0.75 * c, atol=1e-6)


def test_one_partition_alone_is_its_own_model_bit_for_bit(made):
    merged = made[2]
    assert all((v == merged.states[1][k]).all() for k, v in merged.merged({"bb": 1.0}).items())


def test_all_branch_from_one_seed_model_and_are_trained_once(made):
    runs, cache, _ = made
    assert cache.trained == 4  # the seed model and one per partition
    again = ModelCache(cache.folder)
    Merged(runs, again, branch_steps=6)
    assert again.trained == 0


def test_candidates_are_scored_without_training_and_as_one_by_one(made):
    _, cache, merged = made
    before = cache.trained
    candidates = [{"aa": 1.0}, {"aa": 0.5, "bb": 0.5}, {"aa": 0.2, "bb": 0.3, "cc": 0.5}]
    scores = merged.scores(candidates)
    assert scores.shape == (3, 2)
    assert (scores[1] == merged.losses(candidates[1])).all()
    assert cache.trained == before


def test_the_source_a_skill_comes_from_is_worth_most_for_it(made):
    runs, cache, _ = made
    losses = merge_losses(runs, cache, branch_steps=6)
    found = merge_utilities(losses, runs, 6)
    assert found.method == "merge"
    assert found.loss_only
    assert found.values[:, 0].argmax() == 0
    assert found.values[:, 1].argmax() == 1
    assert 0 <= found.values.min() <= found.values.max() <= 1
    assert np.isfinite(losses).all()


def test_a_partition_that_is_not_there_is_refused(made):
    with pytest.raises(ValueError, match="no partition is called 'dd'"):
        made[2].merged({"dd": 1.0})
