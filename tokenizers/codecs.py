"""One table of image codecs and one of speech codecs: made from a config, saved, and loaded again by kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.errors import UserError, nearest
from mixloom.tokenizers.checkpoints import model_directory
from mixloom.tokenizers.image import ImageCodec, codebook_use, fit_image_codec, psnr
from mixloom.tokenizers.image_checkpoints import ChameleonCodec, DalleCodec, Emu3Codec, JanusCodec
from mixloom.tokenizers.melspectrum import RATE, Wave
from mixloom.tokenizers.pixels import Picture, Pixels, square
from mixloom.tokenizers.settings import ImageCodecConfig, SpeechCodecConfig
from mixloom.tokenizers.speech import SpeechCodec, fit_speech_codec
from mixloom.tokenizers.speech_checkpoints import DacCodec, EncodecCodec, MimiCodec
from mixloom.tokenizers.speech_hidden import HiddenUnitCodec, fit_hidden_units

Facts = dict[str, Any]
Advance = Callable[[int, int], None]  # done, total

_SHOWN = (
    64  # pictures of either kind, fitted to and held out, that the facts of a fitted codec are measured on
)
_TENTH = 10  # one picture in this many is held out


class ImageCoder(Protocol):
    """What every image codec offers."""

    kind: str
    size: int  # side in pixels
    tokens: int  # codes of one picture
    codebook_size: int
    fingerprint: str
    can_decode: bool

    def prepare(self, picture: Picture) -> Pixels: ...
    def encode_batch(self, pictures: Sequence[Picture]) -> npt.NDArray[np.int64]: ...
    def encode(self, pictures: Pixels) -> npt.NDArray[np.int64]: ...
    def decode(self, ids: npt.NDArray[np.int64]) -> Pixels: ...
    def vectors(self) -> npt.NDArray[np.float32]: ...
    def save(self, directory: Path | str) -> None: ...


class SpeechCoder(Protocol):
    """What every speech codec offers."""

    kind: str
    rate: int  # samples per second of the waves it takes and gives
    codebook_size: int
    units_per_second: float  # before runs are collapsed
    fingerprint: str
    can_decode: bool

    def encode(self, wave: Wave) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...
    def encode_batch(
        self, waves: Sequence[Wave]
    ) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]]: ...
    def decode(
        self, units: npt.NDArray[np.int64], durations: npt.NDArray[np.int32] | None = None
    ) -> Wave: ...
    def save(self, directory: Path | str) -> None: ...


IMAGE_CODECS: dict[str, Any] = {
    "fsq": ImageCodec,
    "chameleon": ChameleonCodec,
    "emu3": Emu3Codec,
    "janus": JanusCodec,
    "dalle": DalleCodec,
}
SPEECH_CODECS: dict[str, Any] = {
    "logmel": SpeechCodec,
    "hubert": HiddenUnitCodec,
    "wav2vec2": HiddenUnitCodec,
    "wavlm": HiddenUnitCodec,
    "mimi": MimiCodec,
    "encodec": EncodecCodec,
    "dac": DacCodec,
}


def load_image_codec(directory: Path | str) -> ImageCoder:
    """The image codec saved in a directory, whatever its kind.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    codec: ImageCoder = _class_of(directory, IMAGE_CODECS, "image").load(directory)
    return codec


def load_speech_codec(directory: Path | str) -> SpeechCoder:
    """The speech codec saved in a directory, whatever its kind.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    codec: SpeechCoder = _class_of(directory, SPEECH_CODECS, "speech").load(directory)
    return codec


def make_image_codec(
    config: ImageCodecConfig,
    images: Iterable[Picture],
    advance: Advance | None = None,
    show: Callable[[Pixels, Pixels], None] | None = None,
) -> tuple[ImageCoder, Facts]:
    """The codec a config asks for: fitted to `images` (kind fsq without a path), else loaded.

    Every tenth of the pictures fitted to, up to 64, is held out, where there are ten.

    Args:
        show: called with pictures and what the fitted codec makes of them, uint8 [n, size, size, 3]; held-out
            pictures where there are any.

    Returns:
        The codec, and facts to report. For a fitted one: loss, pictures held out; PSNR in dB of up to 64 pictures
        fitted to, and of those held out; codes used and perplexity of the codes of all these pictures.
    """
    if config.kind != "fsq":
        return IMAGE_CODECS[config.kind](config), {"kind": config.kind}
    if config.path:
        return load_image_codec(config.path), {"kind": config.kind}
    fitted: list[Pixels] = []
    held: list[Pixels] = []
    losses = [0.0]

    def watched() -> Iterator[Picture]:
        for i, picture in enumerate(images):
            keep = i % _TENTH == _TENTH - 1 and len(held) < _SHOWN
            watch = held if keep else fitted if len(fitted) < _SHOWN else None
            if watch is not None:
                watch.append(square(picture, config.size, config.resize))
            if not keep:
                yield picture

    def progress(step: int, steps: int, loss: float) -> None:
        losses[0] = loss
        if advance is not None:
            advance(step, steps)

    codec = fit_image_codec(watched(), config, progress)
    pictures = np.stack(fitted + held)
    ids = codec.encode(pictures)
    drawn = codec.decode(ids)
    use = codebook_use(ids, codec.codebook_size)
    facts: Facts = {
        "kind": config.kind,
        "loss": round(losses[0], 5),
        "tokens": codec.tokens,
        "held_out": len(held),
        "psnr": round(psnr(pictures[: len(fitted)], drawn[: len(fitted)]), 2),
        "codes_used": use.used,
        "perplexity": round(use.perplexity, 1),
    }
    if held:
        facts["psnr_held_out"] = round(psnr(pictures[len(fitted) :], drawn[len(fitted) :]), 2)
    if show is not None:
        first = len(fitted) if held else 0
        show(pictures[first:], drawn[first:])
    return codec, facts


def make_speech_codec(config: SpeechCodecConfig, waves: Iterable[Wave]) -> tuple[SpeechCoder, Facts]:
    """The codec a config asks for, fitted to `waves` of `speech_rate(config)` where there is something to fit.

    A path to a codec that was fitted or pointed to before loads it. Otherwise kind logmel is fitted, hubert, wav2vec2
    and wavlm are fitted on features of the checkpoint at the path, and the rest is read from there.

    Returns:
        The codec, and facts to report: for a fitted one what `fit_speech_codec` or `fit_hidden_units` reports.
    """
    facts: Facts = {"kind": config.kind}
    if config.path and _saved(config.path) is not None:
        return load_speech_codec(config.path), facts
    if config.kind == "logmel" and config.path:
        return load_speech_codec(config.path), facts
    if config.kind == "logmel":
        return fit_speech_codec(waves, config, facts.update), facts
    if SPEECH_CODECS[config.kind] is HiddenUnitCodec:
        return fit_hidden_units(waves, config, facts.update), facts
    return SPEECH_CODECS[config.kind](config), facts


def speech_rate(config: SpeechCodecConfig) -> int:
    """Samples per second of the waves the codec of a config takes.

    Raises:
        UserError: the checkpoint's config.json cannot be read.
    """
    if config.kind == "logmel" or SPEECH_CODECS[config.kind] is HiddenUnitCodec:
        return RATE
    saved = _saved(config.path or ".")
    path = saved["config"]["path"] if saved else config.path
    return int(_read(model_directory(path or ".", config.download), "speech").get("sampling_rate", 24_000))


def _saved(directory: Path | str) -> dict[str, Any] | None:
    """What config.json of a codec that this project saved says; None where none lies in the directory."""
    if not (Path(directory) / "config.json").is_file():
        return None
    content = _read(directory, "speech")
    return content if content.get("kind") in SPEECH_CODECS and "config" in content else None


def _read(directory: Path | str, family: str) -> dict[str, Any]:
    file = Path(directory) / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{family} codec: cannot read {file}: {error}",
            fix="give the directory that the tokenizer stage wrote",
        ) from error
    return content if isinstance(content, dict) else {}


def _class_of(directory: Path | str, table: dict[str, Any], family: str) -> Any:
    kind = str(_read(directory, family).get("kind"))
    if kind not in table:
        raise UserError(
            f"{family} codec: {directory} is of kind '{kind}'{nearest(kind, table)}; allowed: {', '.join(table)}",
            fix="give the directory that the tokenizer stage wrote",
        )
    return table[kind]
