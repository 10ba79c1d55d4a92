"""Trainings into which bad data, bad weights or too high a learning rate were put."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mixloom.pipeline.errors import UserError
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import Arrays
from mixloom.trainers.diagnostics import Watchman
from mixloom.trainers.distributed import World
from mixloom.trainers.incidents import Incidents, read_incidents
from mixloom.trainers.metrics import read_metrics
from mixloom.trainers.replay import replay, told
from mixloom.trainers.spikes import Level
from mixloom.trainers.totals import Skipped
from mixloom.trainers.trainer import train
from mixloom.trainers.watch_config import SpikeConfig

LENGTH, CONTEXTS = 32, 8
MODEL = ModelConfig(dim=32, layers=1, heads=4)
SPIKE = {"window": 32, "probe_every": 10}
QUICK: dict[str, Any] = {
    "batch_contexts": CONTEXTS,
    "lr": 1e-2,
    "min_lr": 1e-3,
    "warmup": 10,
    "device": "cpu",
}


class CountingStream:
    """Contexts that count upwards, text and images; some are replaced by noise, and can be excluded.

    Args:
        noise: numbers of the contexts that are noise, by step.
        fault: raised in place of excluding.
    """

    def __init__(self, noise: dict[int, list[int]] | None = None, fault: UserError | None = None) -> None:
        self.noise, self.fault = noise or {}, fault
        self.excluded: list[tuple[int, list, bool]] = []

    def batch_arrays(self, step: int) -> Arrays:
        rng = np.random.default_rng(step)
        first = rng.integers(0, 64, (CONTEXTS, 1))
        ids = (256 + (first + np.arange(LENGTH)) % 100).astype(np.uint16)
        ids[::2, 8:16] = 512 + (first[::2] + np.arange(8)) % 32
        for row in self.noise.get(step, []):
            ids[row] = rng.integers(256, 512, LENGTH)
        lengths = [np.array([20, 12], np.int32)] * CONTEXTS
        return ids, lengths, np.zeros(CONTEXTS, np.int32)

    def state(self, step: int) -> dict[str, Any]:
        return {}

    def check(self, state: dict[str, Any]) -> None:
        pass

    def documents(self, step: int) -> list[str]:
        return [d for row in self.context_documents(step) for d in row]

    def context_documents(self, step: int) -> list[list[str]]:
        return [[f"{step}/{row}/a", f"{step}/{row}/b"] for row in range(CONTEXTS)]

    def exclude(self, from_step: int, rows: Any, reason: str, *, write: bool) -> list[str]:
        if self.fault is not None:
            raise self.fault
        self.excluded.append((from_step, list(rows), write))
        return []


def run(stream: CountingStream, vocabulary: dict, folder: Path, **options: Any):
    config = TrainConfig(**{"steps": 60, "spike": SPIKE, **QUICK, **options})
    return train(stream, vocabulary, MODEL, config, folder, on_record=lambda record: None)


def cautions(folder: Path) -> list[str]:
    return [r["caution"] for r in read_metrics(folder / "metrics.jsonl") if "caution" in r]


def test_noise_in_the_data_is_told_by_its_contexts_left_out_and_excluded(tmp_path, vocabulary):
    stream = CountingStream({40: [3], 45: [1, 6]})
    run(stream, vocabulary, tmp_path)
    found = read_incidents(tmp_path / "spikes.jsonl")
    assert [(x["step"], x["kind"], x["cause"]) for x in found] == [
        (41, "spike", "data"),
        (46, "spike", "data"),
    ]
    assert [sorted(c["context"] for c in x["contexts"]) for x in found] == [[3], [1, 6]]
    assert found[0]["contexts"][0]["documents"] == ["40/3/a", "40/3/b"]
    assert found[0]["contexts"][0]["loss"] > 2 * found[0]["loss_expected"]
    assert [(step, sorted(rows)) for step, rows, _ in stream.excluded] == [
        (41, [(40, 3)]),
        (46, [(45, 1), (45, 6)]),
    ]
    assert cautions(tmp_path) == []
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [s for s in range(1, 61) if s not in {r["step"] for r in records}] == [41, 46]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("norm", ["pre", "swin"])
def test_a_learning_rate_thirty_times_too_high_is_told_from_noise(tmp_path, vocabulary, seed, norm):
    stream, model = CountingStream(), MODEL.model_copy(update={"norm": norm})
    config = TrainConfig(**{**QUICK, "spike": SPIKE, "steps": 50, "lr": 0.3, "min_lr": 0.3, "seed": seed})
    train(stream, vocabulary, model, config, tmp_path, on_record=lambda record: None)
    assert "the learning rate may be too high" in cautions(tmp_path)[0]
    assert stream.excluded == []
    assert all(x["cause"] != "data" for x in read_incidents(tmp_path / "spikes.jsonl"))


@pytest.mark.parametrize("norm", ["pre", "swin"])
def test_a_sound_learning_rate_gives_no_caution(tmp_path, vocabulary, norm):
    model = MODEL.model_copy(update={"norm": norm})
    config = TrainConfig(**{**QUICK, "spike": SPIKE, "steps": 50, "lr": 0.03})
    train(CountingStream(), vocabulary, model, config, tmp_path, on_record=lambda record: None)
    assert cautions(tmp_path) == []


@pytest.mark.parametrize(
    ("logits", "moved", "told"), [(2000, 0.05, True), (2000, 0.005, False), (40, 0.05, False)]
)
def test_large_logits_and_large_updates_are_told_of_together_only(logits, moved, told):
    """Though the loss falls; and an older checkpoint's looks, without the size of updates, are read."""
    watchman = Watchman({"looks": [[5.0, 1.0, 1.0]], "loss": 0.0, "tokens": 0})
    said = None
    for n in range(3):
        looked = {
            "attention_logits": [3.0, logits],
            "residual_rms": [1.0],
            "update_to_weight": {"text": moved},
        }
        said = watchman.see({"loss": 4.0 / (n + 1), "tokens": 10, **looked})
    assert (said is not None) == told


def test_contexts_are_not_blamed_where_the_rate_is_too_high(tmp_path):
    sums, counts = np.full((8, 1), 100.0), np.full((8, 1), 100)
    sums[2] = 900.0
    level = Level(np.array([1.0]), 0.2, 1.0)
    skipped = [Skipped(10, 2.0, 1.0, sums, counts)]
    for caution, cause, excluded in ((None, "data", 1), ("the learning rate may be too high", "weights", 0)):
        stream, folder = CountingStream(), tmp_path / cause
        folder.mkdir()
        incidents = Incidents(SpikeConfig(), stream, folder, World(), last_step=0)
        assert incidents.deal(skipped, level, 11, caution) == bool(excluded)
        (found,) = read_incidents(folder / "spikes.jsonl")
        assert found["cause"] == cause
        assert [c["context"] for c in found["contexts"]] == [2]
        assert len(stream.excluded) == excluded


def test_an_update_left_out_touches_neither_weights_nor_moments(tmp_path, vocabulary):
    for name, steps in (("before", 40), ("after", 41)):
        stream = CountingStream({40: [3]})
        config = {"steps": steps, "schedule": "wsd", "min_lr": 1e-2}
        run(stream, vocabulary, tmp_path / name, **config)
    for file in ("model.safetensors", "optimizer.safetensors"):
        a, b = (
            load_file(tmp_path / name / "checkpoints" / f"step-{n:08d}" / file)
            for name, n in (("before", 40), ("after", 41))
        )
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert len(read_incidents(tmp_path / "after" / "spikes.jsonl")) == 1


def test_a_run_with_spikes_goes_on_as_if_it_had_not_stopped(tmp_path, vocabulary):
    noise = {40: [3], 44: list(range(CONTEXTS)), 50: [2]}
    run(CountingStream(noise), vocabulary, tmp_path / "whole", checkpoint_every=20)
    seen = []

    def kill(record) -> None:
        seen.append(record)
        if record["step"] == 48:
            raise KeyboardInterrupt

    config = TrainConfig(steps=60, spike=SPIKE, checkpoint_every=20, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        train(CountingStream(noise), vocabulary, MODEL, config, tmp_path / "part", on_record=kill)
    assert [x["step"] for x in read_incidents(tmp_path / "part" / "spikes.jsonl")] == [41, 45]
    run(CountingStream(noise), vocabulary, tmp_path / "part", checkpoint_every=20)
    whole, part = (read_incidents(tmp_path / name / "spikes.jsonl") for name in ("whole", "part"))
    assert [x["step"] for x in whole] == [41, 45, 51]
    assert part == whole
    a, b = (
        load_file(tmp_path / name / "checkpoints" / "step-00000060" / "model.safetensors")
        for name in ("whole", "part")
    )
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_stop_ends_the_run_at_a_spike_and_off_takes_it_in(tmp_path, vocabulary):
    noise = {40: [3]}
    with pytest.raises(UserError, match="is a spike at step 41; it was not applied; documents in it: 40/3/a"):
        run(CountingStream(noise), vocabulary, tmp_path / "stop", spike={**SPIKE, "action": "stop"})
    run(CountingStream(noise), vocabulary, tmp_path / "off", spike={**SPIKE, "action": "off"})
    assert len(read_metrics(tmp_path / "off" / "metrics.jsonl")) == 60


def test_without_quarantine_or_where_too_little_is_left_training_goes_on(tmp_path, vocabulary):
    stream = CountingStream({40: [3]})
    run(stream, vocabulary, tmp_path / "a", steps=44, spike={**SPIKE, "quarantine": False})
    assert stream.excluded == []
    stream = CountingStream({40: [3]}, fault=UserError("domain 'x' would be served 5 epochs"))
    run(stream, vocabulary, tmp_path / "b", steps=44)
    (incident,) = read_incidents(tmp_path / "b" / "spikes.jsonl")
    assert incident["not_excluded"] == "domain 'x' would be served 5 epochs"


def test_records_far_apart_find_the_same_updates(tmp_path, vocabulary):
    stream = CountingStream({40: [3]})
    run(stream, vocabulary, tmp_path, log_every=7)
    (incident,) = read_incidents(tmp_path / "spikes.jsonl")
    assert (incident["step"], incident["contexts"][0]["context"]) == (41, 3)


def test_a_replayed_update_is_the_one_that_was_made_and_names_its_worst_documents(tmp_path, vocabulary):
    stream = CountingStream({40: [3]})
    config = TrainConfig(steps=44, spike=SPIKE, checkpoint_every=25, keep_last=3, **QUICK)
    train(stream, vocabulary, MODEL, config, tmp_path, on_record=lambda record: None)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    report = replay(stream, vocabulary, MODEL, config, tmp_path, 41)
    (incident,) = read_incidents(tmp_path / "spikes.jsonl")
    assert report["checkpoint"] == "step-00000025"
    assert (report["loss"], report["grad_norm"]) == (incident["loss"], incident["grad_norm"])
    assert report["skipped"]
    assert report["contexts_at_fault"] == [3]
    assert {d["doc_id"] for d in report["documents"][:2]} == {"40/3/a", "40/3/b"}
    assert sum(d["targets"] for d in report["documents"]) == CONTEXTS * (LENGTH - 2)
    worst = max(report["contexts"], key=lambda c: c["grad_norm"])
    assert worst["context"] == 3
    assert json.loads((tmp_path / "replay-00000041.json").read_text()) == report
    assert "40/3/a" in told(report)
    assert {p: p.stat().st_mtime_ns for p in files} == files
    again = replay(stream, vocabulary, MODEL, config, tmp_path, 20)
    assert again["checkpoint"] is None
    record = read_metrics(tmp_path / "metrics.jsonl")[19]
    assert (again["loss"], again["grad_norm"]) == (record["loss"], record["grad_norm"])


def test_an_update_outside_the_run_cannot_be_replayed(tmp_path, vocabulary):
    config = TrainConfig(steps=4, **QUICK)
    with pytest.raises(UserError, match="there is no update 9 in a run of 4"):
        replay(CountingStream(), vocabulary, MODEL, config, tmp_path, 9)
