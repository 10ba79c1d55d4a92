"""Where codecs run: on a GPU where torch finds one, else on the processor; and passes of one shape on a GPU.

On the processor every picture and every piece of a recording goes through a model alone, so its codes depend on nothing
else. A GPU wants many together, and another number of them rounds differently: there a pass always has the same number
of rows, those that are missing filled up with copies of the first, and the number is part of the codec's fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.settings import ImageCodecConfig, SpeechCodecConfig

Item = TypeVar("Item", bound=np.generic)
Config = TypeVar("Config", bound=ImageCodecConfig | SpeechCodecConfig)

_decoding: ContextVar[bool] = ContextVar("decoding", default=False)


def settled(config: Config) -> Config:
    """A configuration whose device is `cpu` or `cuda`: `auto` is cuda where torch finds a GPU."""
    import torch

    if config.device in ("cpu", "cuda"):
        return config
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return cast(Config, config.model_copy(update={"device": device}))


def placed(device: str, what: str) -> str:
    """The device to run on.

    Raises:
        UserError: it is not here. Codes of another device would differ, so nothing else is taken, but for decoding.
    """
    import torch

    if device == "cpu" or torch.cuda.is_available():
        return device
    if _decoding.get():
        return "cpu"
    raise UserError(
        f"{what}: device '{device}' is not there",
        fix="set device: cpu; a codec that was fitted on a GPU encodes on a GPU only",
    )


@contextmanager
def decoding_only() -> Iterator[None]:
    """Codecs that are loaded inside run on the processor where their device is not there: good for decoding."""
    token = _decoding.set(True)
    try:
        yield
    finally:
        _decoding.reset(token)


def rows_of_a_pass(device: str, micro_batch: int) -> int:
    """Rows that go through a model together."""
    return 1 if device == "cpu" else micro_batch


def filled(rows: npt.NDArray[Item], at_once: int) -> npt.NDArray[Item]:
    """[at_once, ...]: rows [1 to at_once, ...] and, for those that are missing, copies of the first."""
    missing = at_once - len(rows)
    return np.concatenate([rows, np.repeat(rows[:1], missing, axis=0)]) if missing > 0 else np.array(rows)
