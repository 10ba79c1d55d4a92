"""What one rank does in the test of speech patches on two ranks; started with the environment of torchrun."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixloom.tokenizers.vocab import DOC, END_DOC, END_SPEECH, SPEECH
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import Arrays
from mixloom.trainers.trainer import train

LENGTH, CONTEXTS = 32, 4


def vocabulary() -> dict[str, Any]:
    names = [("special", 0, 256, 104, 0), ("text", 256, 256, 256, 0), ("image", 512, 256, 32, 1)]
    names.append(("speech", 768, 256, 16, 2))
    ranges = [
        {"name": n, "start": a, "size": s, "used": u, "modality": m, "fingerprint": ""}
        for n, a, s, u, m in names
    ]
    return {"version": 1, "size": 1024, "pad": 0, "dtype": "uint16", "ranges": ranges, "fingerprint": "f"}


class Stream:
    """Speech stands in the last context only, so the first of two ranks never has any; every third step has none."""

    def batch_arrays(self, step: int, rank: int = 0, world: int = 1) -> Arrays:
        rng = np.random.default_rng(step)
        ids = rng.integers(256, 320, (CONTEXTS, LENGTH)).astype(np.uint16)
        ids[:, 0], ids[:, -1] = DOC, END_DOC
        if step % 3 != 2:
            ids[-1, 8:24] = [SPEECH, *rng.integers(768, 784, 14), END_SPEECH]
        own = CONTEXTS // world
        rows = slice(rank * own, (rank + 1) * own)
        patches = [np.array([9, 1, 2, 3, 4, 1, 3, 1, 8])] * CONTEXTS
        lengths = [np.array([LENGTH])] * CONTEXTS
        return ids[rows], lengths[rows], np.zeros(CONTEXTS, np.int32)[rows], None, patches[rows]

    def state(self, step: int) -> dict[str, Any]:
        return {"step": step}

    def check(self, state: dict[str, Any]) -> None:
        pass

    def documents(self, step: int) -> list[str]:
        return []


def run(folder: str) -> None:
    """Train for six updates in `folder`."""
    torch.set_num_threads(1)
    model = ModelConfig(dim=32, layers=2, heads=4, speech_patches={})
    config = TrainConfig(
        steps=6,
        batch_contexts=CONTEXTS,
        warmup=2,
        device="cpu",
        threads=1,
        activation_checkpointing="selective",
        checkpoint_every=0,
    )
    train(Stream(), vocabulary(), model, config, Path(folder), on_record=lambda record: None)


if __name__ == "__main__":
    run(sys.argv[1])
