"""Small vocabularies, contexts and streams for the tests of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.vocab import DOC, END_DOC, END_IMAGE, END_SPEECH, IMAGE, SPEECH
from mixloom.trainers.data import Arrays

TEXT, IMAGES, UNITS = (256, 512), (512, 544), (768, 784)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def vocabulary() -> dict[str, Any]:
    names = [("special", 0, 256, 104, 0), ("text", 256, 256, 256, 0), ("image", 512, 256, 32, 1)]
    names.append(("speech", 768, 256, 16, 2))
    ranges = [
        {"name": n, "start": a, "size": s, "used": u, "modality": m, "fingerprint": ""}
        for n, a, s, u, m in names
    ]
    return {"version": 1, "size": 1024, "pad": 0, "dtype": "uint16", "ranges": ranges, "fingerprint": "f"}


def document(rng: np.random.Generator, kinds: str, *, learnable: bool = False) -> list[int]:
    """A document of text (t), an image of 4 codes (i) and speech (s); learnable: ids count upwards."""

    def run(block: tuple[int, int], count: int) -> list[int]:
        if learnable:
            return [block[0] + (int(rng.integers(4)) + k) % (block[1] - block[0]) for k in range(count)]
        return rng.integers(*block, count).tolist()

    parts = {
        "t": lambda: run(TEXT, int(rng.integers(3, 9))),
        "i": lambda: [IMAGE, *run(IMAGES, 4), END_IMAGE],
        "s": lambda: [SPEECH, *run(UNITS, int(rng.integers(2, 6))), END_SPEECH],
    }
    return [DOC, *(t for kind in kinds for t in parts[kind]()), END_DOC]


@pytest.fixture
def make_contexts() -> Callable[..., Arrays]:
    """contexts, length, kinds to draw documents from -> packed arrays, some with padding at the end."""

    def make(
        contexts: int = 3,
        length: int = 48,
        kinds: tuple[str, ...] = ("t", "ti", "tst", "its"),
        seed: int = 0,
        learnable: bool = False,
    ) -> Arrays:
        rng = np.random.default_rng(seed)
        ids = np.zeros((contexts, length), dtype=np.uint16)
        lengths = []
        for row in ids:
            at, pieces = 0, []
            while at < length - 6:
                tokens = document(rng, kinds[int(rng.integers(len(kinds)))], learnable=learnable)[
                    : length - at
                ]
                row[at : at + len(tokens)] = tokens
                pieces.append(len(tokens))
                at += len(tokens)
            lengths.append(np.array(pieces, dtype=np.int32))
        return ids, lengths, np.arange(contexts, dtype=np.int32) % 2

    return make


class ArrayStream:
    """Contexts of each step made from the step's number."""

    def __init__(self, make: Callable[..., Arrays], **options: Any) -> None:
        self.make, self.options = make, options
        self.name = "these data"

    def batch_arrays(self, step: int) -> Arrays:
        return self.make(seed=step, **self.options)

    def state(self, step: int) -> dict[str, Any]:
        return {"step": step, "name": self.name}

    def check(self, state: dict[str, Any]) -> None:
        if state["name"] != self.name:
            raise UserError(f"the checkpoint belongs to {state['name']}, not to {self.name}")

    def documents(self, step: int) -> list[str]:
        return [f"doc-{step}-{i}" for i in range(self.options.get("contexts", 3))]


@pytest.fixture
def make_stream(make_contexts: Callable[..., Arrays]) -> Callable[..., ArrayStream]:
    return lambda **options: ArrayStream(make_contexts, **options)
