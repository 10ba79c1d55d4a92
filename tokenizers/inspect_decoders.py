"""The tokenizers that turn the ids of shards back into text, pictures and sound, as far as they are at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.devices import decoding_only
from mixloom.tokenizers.vocab import Block, Vocabulary

if TYPE_CHECKING:
    from mixloom.tokenizers.codecs import ImageCoder, SpeechCoder
    from mixloom.tokenizers.text_bytes import TextCoder


@dataclass(frozen=True, slots=True, eq=False)
class Decoders:
    """What decodes each modality; None where it is not at hand, with the reason in `missing` by the name of the modality."""

    vocabulary: Vocabulary
    text: TextCoder | None = None
    image: ImageCoder | None = None
    speech: SpeechCoder | None = None
    missing: dict[str, str] = field(default_factory=dict)


def find_decoders(vocabulary: Vocabulary, shards: str, given: str = "") -> Decoders:
    """The tokenizers of some shards.

    Args:
        vocabulary: that of the shards' manifest.
        shards: the folder they lie in; `tokenizer` beside it is where a run keeps its tokenizers.
        given: a tokenizer folder or a run to use instead.

    Raises:
        UserError: nothing at the place given, or tokenizers that these shards were not made with.
    """
    folder = Path(given) if given else Path(shards).absolute().parent / "tokenizer"
    if given and (folder / "tokenizer" / "vocab.json").is_file():
        folder = folder / "tokenizer"
    if (folder / "vocab.json").is_file():
        vocabulary.require_same(Vocabulary.load(folder / "vocab.json"), what=f"the tokenizers in {folder}")
    elif given:
        raise UserError(
            f"{given} holds no tokenizers (it has no vocab.json)", fix="name RUN/tokenizer of the run, or RUN"
        )
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name in ("text", "image", "speech"):
        block = vocabulary.block(name)
        if not block.size:
            continue
        if not (folder / name).is_dir():
            missing[name] = f"{name} is not decoded: there is no tokenizer in {folder / name}"
            continue
        try:
            with decoding_only():
                found[name] = _load(name, folder / name, block)
        except UserError as error:
            missing[name] = f"{name} is not decoded: {error.what}"
    return Decoders(vocabulary, missing=missing, **found)


def _load(name: str, folder: Path, block: Block) -> Any:
    loaders: dict[str, Callable[[Path], Any]] = {"text": _text, "image": _image, "speech": _speech}
    loaded = loaders[name](folder)
    if loaded.fingerprint != block.fingerprint:
        raise UserError(
            f"{folder} has fingerprint {loaded.fingerprint[:16]}, these shards were made with {block.fingerprint[:16]}"
        )
    return loaded


def _text(folder: Path) -> Any:
    from mixloom.tokenizers.text_bytes import load_text_tokenizer

    return load_text_tokenizer(folder)


def _image(folder: Path) -> Any:
    from mixloom.tokenizers.codecs import load_image_codec

    return load_image_codec(folder)


def _speech(folder: Path) -> Any:
    from mixloom.tokenizers.codecs import load_speech_codec

    return load_speech_codec(folder)
