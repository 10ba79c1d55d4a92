"""Text as its bytes: 256 ids, no training, and patches for models that spend one step on several bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.patches import Lengths, Patcher, fit_patcher
from mixloom.tokenizers.settings import PatchConfig, TextTokenizerConfig
from mixloom.tokenizers.text import TextTokenizer, train_text_tokenizer

BYTES_FILE = "bytes.json"
_FORMAT = {"kind": "bytes", "format": 1}


class TextCoder(Protocol):
    """What every text tokenizer offers."""

    kind: str
    size: int
    fingerprint: str

    @property
    def patched(self) -> bool:
        """Whether `patch_lengths` gives any."""

    def encode_batch(
        self, texts: Sequence[str], *, threads: int | None = None
    ) -> list[npt.NDArray[np.uint32]]: ...
    def decode(self, ids: npt.ArrayLike) -> str: ...
    def patch_lengths(self, ids: npt.ArrayLike) -> Lengths | None: ...
    def save(self, directory: Path | str) -> Path: ...


class ByteTokenizer:
    """A text's UTF-8 bytes are its ids; `patch_lengths` groups them."""

    kind = "bytes"
    size = 256

    def __init__(self, patcher: Patcher) -> None:
        self.patcher = patcher
        digest = hashlib.sha256(json.dumps(_FORMAT | patcher.config.model_dump(mode="json")).encode())
        digest.update(np.int64(patcher.threshold).tobytes())
        digest.update(patcher.keys.tobytes() + patcher.entropies.tobytes())
        self.fingerprint = digest.hexdigest()

    def encode_batch(
        self, texts: Sequence[str], *, threads: int | None = None
    ) -> list[npt.NDArray[np.uint32]]:
        """Ids uint32 [n] in 0..255 of each text; `threads` is of no effect.

        Raises:
            ValueError: a text with a lone surrogate, which is no Unicode text and has no UTF-8 form.
        """
        try:
            return [np.frombuffer(t.encode(), np.uint8).astype(np.uint32) for t in texts]
        except UnicodeEncodeError as error:
            raise ValueError(f"a text cannot be encoded as UTF-8: {error}") from error

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of local ids [n]; bytes that a cut left incomplete become U+FFFD."""
        return np.asarray(ids).astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    @property
    def patched(self) -> bool:
        """Whether bytes are grouped into patches."""
        return self.patcher.config.kind != "none"

    def patch_lengths(self, ids: npt.ArrayLike) -> Lengths | None:
        """Lengths uint16 [p] of the patches of one text's ids [n], in order; they add up to n. None: no patches."""
        if not self.patched:
            return None
        return self.patcher.lengths(np.ascontiguousarray(ids).astype(np.uint8))

    def save(self, directory: Path | str) -> Path:
        """Write bytes.json and the patch model into a directory (made if need be); returns the path of the former."""
        path = Path(directory) / BYTES_FILE
        self.patcher.save(directory)
        path.write_text(
            json.dumps(_FORMAT | {"fingerprint": self.fingerprint}, indent=1) + "\n", encoding="utf-8"
        )
        return path

    @classmethod
    def load(cls, directory: Path | str) -> ByteTokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: files missing, malformed or not belonging together.
        """
        path = Path(directory) / BYTES_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"text tokenizer: cannot read {path}: {error}", fix="fit the text tokenizer again"
            ) from error
        tokenizer = cls(Patcher.load(directory))
        if not isinstance(content, dict) or content.get("fingerprint") != tokenizer.fingerprint:
            raise UserError(
                f"text tokenizer: the patch model in {directory} is not the one {BYTES_FILE} describes",
                fix="fit the text tokenizer again",
            )
        return tokenizer


def load_text_tokenizer(path: Path | str) -> TextCoder:
    """A text tokenizer of any kind: a directory that `save` wrote, a tokenizer.json, a directory of transformers.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    return ByteTokenizer.load(path) if (Path(path) / BYTES_FILE).exists() else TextTokenizer.load(path)


def make_text_tokenizer(
    config: TextTokenizerConfig, texts: Iterable[str]
) -> tuple[TextCoder, dict[str, Any]]:
    """The tokenizer a config asks for: loaded from `path`, trained on the texts, or the bytes themselves.

    Returns:
        The tokenizer, and facts to report: its kind, and those of `fit_patcher` for bytes.

    Raises:
        UserError: nothing can be read at the path, or there is no text to train on.
    """
    if config.path:
        loaded = load_text_tokenizer(config.path)
        return loaded, {"kind": loaded.kind}
    if config.kind == "bpe":
        return train_text_tokenizer(texts, config), {"kind": config.kind}
    sample = (
        np.frombuffer(t.encode("utf-8", "replace"), np.uint8) for t in islice(texts, config.sample_documents)
    )
    patcher, facts = fit_patcher(_up_to(sample, config.patches), config.patches)
    return ByteTokenizer(patcher), {"kind": config.kind, **facts}


def _up_to(texts: Iterable[npt.NDArray[np.uint8]], config: PatchConfig) -> list[npt.NDArray[np.uint8]]:
    """The first texts that together reach the bytes a patch model may be counted on."""
    out, size = [], 0
    for text in texts:
        if size >= config.sample_bytes:
            break
        out.append(text)
        size += len(text)
    return out
