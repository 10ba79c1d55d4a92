"""Whole documents drawn from a trained model, gaps filled in and put back into their places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mixloom.tokenizers.inspect_decoders import Decoders
from mixloom.tokenizers.objective_settings import END_SPAN, FIM_MIDDLE
from mixloom.tokenizers.objectives import restore
from mixloom.tokenizers.vocab import END_DOC, MASK_START
from mixloom.trainers.generate import generate
from mixloom.trainers.samples import Sample
from mixloom.trainers.trained import Trained


class Draws(NamedTuple):
    """How documents are drawn, see `generate.generate`."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    modalities: tuple[str, ...] | None = None


def sample_documents(
    trained: Trained, decoders: Decoders, prompt: Sequence[int], draws: Draws, seeds: Iterable[int]
) -> list[Sample]:
    """One document per seed. Where the prompt asks for a gap, the document comes back whole, the gap filled.

    Args:
        decoders: of these tokenizers the image codec says how many codes an image has; without it none is opened.
        prompt: ids, see `samples.prompt_ids`.

    Raises:
        UserError: see `generate.generate`.
    """
    gap = prompt[-1] in (MASK_START, FIM_MIDDLE)
    image_tokens = decoders.image.tokens if decoders.image is not None else 0
    dtype = torch.bfloat16 if trained.model.embedding.device.type == "cuda" else torch.float32
    out = []
    for seed in seeds:
        ids = generate(
            trained.model,
            trained.vocabulary,
            prompt,
            image_tokens=image_tokens,
            max_tokens=draws.max_tokens,
            temperature=draws.temperature,
            top_k=draws.top_k,
            top_p=draws.top_p,
            modalities=draws.modalities,
            end=END_SPAN if gap else END_DOC,
            seed=seed,
            dtype=dtype,
        )
        out.append(Sample(_whole(ids) if gap else ids, len(prompt), seed))
    return out


def _whole(ids: list[int]) -> list[int]:
    """The document of a filled gap, in the order it is read."""
    return [int(i) for i in restore(np.array([*ids, END_DOC], np.uint32))]
