"""What a saved tokenizer is, told from its files; weights are not loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mixloom.pipeline.errors import UserError

_FACTS, _SHEET = "fit.json", "reconstructions.png"
_FIX = "give a directory that `mixloom tokenizer fit` wrote, one with a tokenizer.json, or RUN/tokenizer of a run"


def describe(directory: Path) -> dict[str, Any]:
    """Facts of a codec's directory, or of a folder with text/, image/, speech/ and vocab.json, as plain JSON values.

    Raises:
        UserError: nothing that is known lies there, or it is damaged.
    """
    if (directory / "tokenizer").is_dir() and not (directory / "vocab.json").exists():
        directory = directory / "tokenizer"  # a run
    try:
        if (directory / "vocab.json").exists() and (directory / "text").is_dir():
            return _whole(directory)
        for file, of in (("config.json", _codec), ("bytes.json", _bytes)):
            if (directory / file).exists() and not (directory / "tokenizer.json").exists():
                return of(directory, json.loads((directory / file).read_text(encoding="utf-8")))
        if (directory / "tokenizer.json").exists() or directory.is_file():
            return _text(directory)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory} is damaged: {type(error).__name__} {error}", fix=_FIX) from error
    raise UserError(f"{directory} holds no tokenizer", fix=_FIX)


def _whole(directory: Path) -> dict[str, Any]:
    from mixloom.tokenizers.vocab import Vocabulary

    vocabulary = Vocabulary.load(directory / "vocab.json")
    out: dict[str, Any] = {
        "vocabulary": {
            "size": vocabulary.size,
            "dtype": vocabulary.dtype.name,
            "fingerprint": vocabulary.fingerprint,
            **{b.name: f"{b.start} to {b.stop - 1}, {b.used} used" for b in vocabulary.blocks if b.size},
        }
    }
    for name in ("text", "image", "speech"):
        if (directory / name).is_dir():
            out[name] = describe(directory / name)
    return out


def _codec(directory: Path, content: dict[str, Any]) -> dict[str, Any]:
    """An image or speech codec; the kind says which."""
    config = dict(content["config"])
    out: dict[str, Any] = {"kind": content["kind"], "fingerprint": content["fingerprint"]}
    if content["kind"] == "fsq":
        out["codes"] = math.prod(config["levels"])
        out["tokens_per_image"] = (config["size"] // config["downsample"]) ** 2
    if config.get("path"):
        out["checkpoint"] = config["path"]
    out |= _fitted(directory)
    out["settings"] = {k: v for k, v in config.items() if v is not None and k not in ("kind", "path")}
    return out


def _bytes(directory: Path, content: dict[str, Any]) -> dict[str, Any]:
    patches = json.loads((directory / "patches.json").read_text(encoding="utf-8"))
    out = {"kind": "bytes", "fingerprint": content["fingerprint"], "size": 256}
    return out | _fitted(directory) | {"patches": {"threshold": patches["threshold"], **patches["config"]}}


def _text(directory: Path) -> dict[str, Any]:
    from mixloom.tokenizers.text import TextTokenizer

    tokenizer = TextTokenizer.load(directory)
    out = {"kind": "bpe", "fingerprint": tokenizer.fingerprint, "size": tokenizer.size}
    return out | {"encoded_by": "tiktoken" if tokenizer.accelerated else "tokenizers"} | _fitted(directory)


def _fitted(directory: Path) -> dict[str, Any]:
    """What was measured at the fit, and where the picture of reconstructions lies."""
    out: dict[str, Any] = {}
    if (directory / _FACTS).is_file():
        facts = json.loads((directory / _FACTS).read_text(encoding="utf-8"))
        out["fit"] = {k: v for k, v in facts.items() if k not in ("kind", "fingerprint", "size")}
    if (directory / _SHEET).is_file():
        out["reconstructions"] = str(directory / _SHEET)
    return out
