from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from mixloom.trainers.config import ModelConfig, TrainConfig


def test_reading_the_settings_imports_no_torch():
    code = "import sys, mixloom.trainers.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("dim", "hidden"), [(64, 192), (128, 384), (192, 512), (256, 768), (1024, 2816), (4096, 11008)]
)
def test_the_default_hidden_width_follows_the_rule_of_the_paper(dim, hidden):
    assert ModelConfig(dim=dim).hidden == hidden


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dim": 100, "heads": 8}, "heads=8 must divide dim=100"),
        ({"dim": 24, "heads": 8}, "dim / heads is 3"),
        ({"untie": ["ffn", "ffn"]}, "untie names a part twice"),
        ({"untie": ["heads"]}, "'attention', 'ffn' or 'norm'"),
        ({"width": 3}, "Extra inputs are not permitted"),
    ],
)
def test_a_model_that_cannot_be_is_refused(options, text):
    with pytest.raises(ValidationError, match=text):
        ModelConfig(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_contexts": 8, "grad_accumulation": 3}, "grad_accumulation=3 must divide batch_contexts=8"),
        ({"lr": 1e-3, "min_lr": 1e-2}, "min_lr=0.01 is above lr=0.001"),
        ({"betas": (0.9, 1.0)}, r"must lie in \[0, 1\)"),
    ],
)
def test_a_training_that_cannot_be_is_refused(options, text):
    with pytest.raises(ValidationError, match=text):
        TrainConfig(**options)


def test_a_dense_model_has_one_stream_and_a_mixture_one_per_modality():
    assert ModelConfig(untie=()).streams == 1
    assert ModelConfig(untie=("ffn",)).streams == 3


def test_only_changes_that_matter_to_the_updates_are_named():
    was = TrainConfig(lr=1e-3, log_every=1).model_dump(mode="json")
    assert TrainConfig(lr=1e-3, log_every=5, keep_last=9).differences(was) == []
    assert TrainConfig(lr=3e-3, log_every=5).differences(was) == ["lr: was 0.001, is 0.003"]
