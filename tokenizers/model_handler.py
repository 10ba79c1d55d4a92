"""Codecs for `RunInference` of Apache Beam: pictures to codes and recordings to units, in anybody's pipeline.

    codes = pictures | RunInference(ImageCodes("run/tokenizer/image"))
    units = waves | RunInference(SpeechUnits("run/tokenizer/speech", seconds=300))

Beam loads one codec per process (or per machine, `one_per_machine`) and makes micro-batches of so many pixels or seconds.
Which others are in a batch changes no code: see `devices`. Stage `tokenize` does the same inside its own DoFn, over the
media of a part (`media_codes`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.model_handler import BudgetHandler
from mixloom.tokenizers.settings import WHOLE_PART, ImageCodecConfig, SpeechCodecConfig


class ImageCodes(BudgetHandler):
    """Pictures of any size (PIL, or uint8 [h, w, 3]) to codes int64 [tokens] in raster order.

    Args:
        directory: of an image codec, as the stage `tokenizer` saves it; local.
        pixels: of a micro-batch, as the codec sees them.

    Raises:
        UserError: there is no image codec in the directory.
    """

    def __init__(
        self, directory: str, *, pixels: int = WHOLE_PART.pixels, one_per_machine: bool = False
    ) -> None:
        super().__init__(pixels, one_per_machine)
        self.directory = directory
        self._size = ImageCodecConfig(**_saved(directory, "image")).size ** 2

    def load_model(self) -> Any:
        """The codec, on a GPU where it was made on one."""
        from mixloom.tokenizers.codecs import load_image_codec

        return load_image_codec(self.directory)

    def size(self, example: Any) -> int:
        """Pixels as the codec sees them."""
        return self._size

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Bytes of the pictures as the codec sees them."""
        return 3 * self._size * len(batch)

    def encode(self, examples: Sequence[Any], model: Any) -> Iterable[npt.NDArray[np.int64]]:
        """Codes int64 [n, tokens]."""
        return list(model.encode_batch(list(examples)))


class SpeechUnits(BudgetHandler):
    """Waves float32 [t], mono, at the rate of the codec (`rate`), to (units int64 [u], durations int32 [u]).

    Args:
        directory: of a speech codec, as the stage `tokenizer` saves it; local.
        seconds: of a micro-batch.

    Raises:
        UserError: there is no speech codec in the directory.
    """

    def __init__(
        self, directory: str, *, seconds: float = WHOLE_PART.seconds, one_per_machine: bool = False
    ) -> None:
        from mixloom.tokenizers.codecs import speech_rate

        self.directory = directory
        self.rate = speech_rate(SpeechCodecConfig(**_saved(directory, "speech")))
        super().__init__(max(1, round(seconds * self.rate)), one_per_machine)

    def load_model(self) -> Any:
        """The codec, on a GPU where it was made on one."""
        from mixloom.tokenizers.codecs import load_speech_codec

        return load_speech_codec(self.directory)

    def size(self, example: npt.NDArray[np.float32]) -> int:
        """Samples."""
        return max(1, len(example))

    def encode(
        self, examples: Sequence[npt.NDArray[np.float32]], model: Any
    ) -> Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]]:
        """Units and durations of each wave."""
        found: list[Any] = model.encode_batch(list(examples))
        return found


def _saved(directory: str, family: str) -> dict[str, Any]:
    """The configuration that a saved codec stands for."""
    file = Path(directory) / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{family} codec: cannot read {file}: {error}",
            fix="give the directory that the tokenizer stage wrote, such as run/tokenizer/image",
        ) from error
