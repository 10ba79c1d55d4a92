"""What one rank does in the tests of training on several; started once per rank with the environment of torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixloom.tokenizers.vocab import DOC, END_DOC
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import Arrays
from mixloom.trainers.trainer import train

LENGTH, CONTEXTS = 48, 4
MODEL = ModelConfig(dim=32, layers=2, heads=4)
QUICK: dict[str, Any] = {"steps": 6, "batch_contexts": CONTEXTS, "warmup": 2, "device": "cpu", "threads": 1}
QUICK |= {"spike": {"probe_every": 2}}
SPIKED = {"steps": 14, "lr": 3e-2, "min_lr": 1e-2}
SPIKED |= {"spike": {"window": 8, "warmup": 4, "sigmas": 3, "probe_every": 2}}


def vocabulary() -> dict[str, Any]:
    names = [("special", 0, 256, 104, 0), ("text", 256, 256, 256, 0), ("image", 512, 256, 32, 1)]
    names.append(("speech", 768, 256, 16, 2))
    ranges = [
        {"name": n, "start": a, "size": s, "used": u, "modality": m, "fingerprint": ""}
        for n, a, s, u, m in names
    ]
    return {"version": 1, "size": 1024, "pad": 0, "dtype": "uint16", "ranges": ranges, "fingerprint": "f"}


class Stream:
    """Contexts of a step and rank. Images stand in the last context only, and in no context of every third step;
    speech in no context at all. The third context of step `noise` is made of ids that are seen nowhere else."""

    def __init__(self, noise: int | None = None) -> None:
        self.noise = noise
        self.excluded: list[Any] = []

    def batch_arrays(self, step: int, rank: int = 0, world: int = 1) -> Arrays:
        rng = np.random.default_rng(step)
        ids = rng.integers(256, 320, (CONTEXTS, LENGTH)).astype(np.uint16)
        if step % 3 != 2:
            ids[-1, 8:24] = rng.integers(512, 544, 16)
        if step == self.noise:
            ids[2] = rng.integers(400, 500, LENGTH)
        ids[:, 0], ids[:, -1] = DOC, END_DOC
        own = CONTEXTS // world
        rows = slice(rank * own, (rank + 1) * own)
        lengths = [np.array([20, LENGTH - 20 - i], dtype=np.int32) for i in range(CONTEXTS)]
        return ids[rows], lengths[rows], np.arange(CONTEXTS, dtype=np.int32)[rows]

    def state(self, step: int) -> dict[str, Any]:
        return {"step": step}

    def check(self, state: dict[str, Any]) -> None:
        pass

    def exclude(self, from_step: int, rows: Any, reason: str, *, write: bool) -> list[str]:
        self.excluded.append((from_step, list(rows), write))
        return []

    def documents(self, step: int) -> list[str]:
        return [f"doc-{step}-{i}" for i in range(CONTEXTS)]


def held_out() -> Arrays:
    """Three contexts, which two ranks cannot share evenly."""
    ids, lengths, domains = Stream().batch_arrays(999)
    return ids[:3], lengths[:3], domains[:3]


def run(folder: str, options: dict[str, Any], noise: int | None = None) -> list[Any]:
    """Train for six updates in `folder` with these settings; returns what was excluded."""
    stream = Stream(noise)
    model = MODEL.model_copy(update={"qk_norm": True})
    config = TrainConfig(**{**QUICK, **options})
    train(
        *(stream, vocabulary(), model, config, Path(folder)),
        held_out=held_out(),
        on_record=lambda record: None,
    )
    return stream.excluded


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(sys.argv[1]):
        excluded = run(**job)
        assert all(write == (os.environ.get("RANK", "0") == "0") for _, _, write in excluded)
