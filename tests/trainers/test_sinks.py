from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from mixloom.pipeline.errors import UserError
from mixloom.trainers.config import TrainConfig
from mixloom.trainers.sinks import open_sinks, scalars

RECORD = {"step": 3, "steps": 9, "loss": 2.5, "loss_by_modality": {"text": 2.0, "speech": None}, "mfu": None}
RECORD |= {"skipped": [2], "caution": "look out", "tokens": 7}


def test_every_number_of_a_record_has_a_name():
    assert dict(scalars(RECORD)) == {"loss": 2.5, "loss_by_modality/text": 2.0, "tokens": 7.0}


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for record in (RECORD, {**RECORD, "step": 4, "loss": 2.0}):
        (sink,) = open_sinks(TrainConfig(tensorboard=True), tmp_path)
        sink.write(record)  # a run that goes on writes a file of its own
        sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 2.5), (4, 2.0)]
    assert [e.step for e in events.Scalars("loss_by_modality/text")] == [3, 4]


def test_nothing_is_opened_unless_it_is_asked_for(tmp_path):
    assert open_sinks(TrainConfig(), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "module", "extra"),
    [
        ({"tensorboard": True}, "torch.utils.tensorboard", "tensorboard"),
        ({"wandb": {}}, "wandb", "wandb"),
    ],
)
def test_a_missing_library_is_told_with_its_extra(tmp_path, monkeypatch, settings, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"train\.{extra} is set.*\n.*mixloom\[{extra}\]"):
        open_sinks(TrainConfig(**settings), tmp_path)


def test_wandb_is_offline_unless_told_and_gets_numbers_by_step(tmp_path, monkeypatch):
    calls: list[Any] = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finish")
    )
    wandb = types.ModuleType("wandb")
    wandb.init = lambda **options: calls.append(options) or run
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (sink,) = open_sinks(TrainConfig(wandb={"project": "ours"}), tmp_path)
    sink.write(RECORD)
    sink.close()
    assert (calls[0]["mode"], calls[0]["project"], calls[0]["dir"]) == ("offline", "ours", str(tmp_path))
    assert calls[1] == (3, dict(scalars(RECORD)))
    assert calls[2] == "finish"
