"""Text: byte-level BPE, trained here or read from any tokenizer.json.

Byte-pair encoding after Sennrich et al. 2016 (section 3.2) on bytes as in GPT-2 (Radford et al. 2019, section
2.2), by the `tokenizers` library. Our own tokenizers hold no special tokens: sentinels live in the vocabulary.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.settings import TextTokenizerConfig
from mixloom.tokenizers.text_fast import FastBytePairs, cores

FILE_NAME = "tokenizer.json"
# What a tokenizer of transformers may be kept as instead; transformers makes a tokenizer.json of it.
_OTHER_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_LONGEST = 1000  # characters of a word the trainer is given
_LONG = re.compile(rf"\S{{{_LONGEST + 1}}}|\s{{{_LONGEST + 1}}}")
_MORE = f"{{{_LONGEST + 1},}}"
_RUN = re.compile(
    rf"(?<![^\W\d_])[^\W\d_]{_MORE}|(?<!\d)\d{_MORE}|(?<![^\w\s])(?<!_)(?:[^\w\s]|_){_MORE}|(?<!\s)\s{_MORE}"
)


class TextTokenizer:
    """Text to local ids and back. Ids count from 0; the vocabulary adds the offset of the text block.

    Byte-level BPE is encoded by tiktoken where its ids are proven to be those of `tokenizers` (see text_fast).
    """

    kind = "bpe"
    patched = False

    def __init__(self, raw: bytes, *, fast: bool = True) -> None:
        """`raw` is the content of a tokenizer.json, kept byte for byte; without `fast`, `tokenizers` encodes.

        Raises:
            UserError: not a tokenizer.json this version of `tokenizers` can read.
        """
        try:
            tokenizer = Tokenizer.from_buffer(raw)
        except Exception as error:  # the library raises bare Exception
            raise UserError(
                f"not a readable {FILE_NAME}: {error}",
                fix="save it with Tokenizer.save or AutoTokenizer(...).save_pretrained",
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # the string "</s>" in a text is text, not a special token
        self._raw = raw
        self._tokenizer = tokenizer
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.fingerprint = hashlib.sha256(raw).hexdigest()
        self._fast = FastBytePairs.like(tokenizer) if fast else None

    @property
    def accelerated(self) -> bool:
        """Whether tiktoken does the encoding."""
        return self._fast is not None

    def encode_batch(
        self, texts: Sequence[str], *, threads: int | None = None
    ) -> list[npt.NDArray[np.uint32]]:
        """Local ids, uint32 [n], of each text. Hundreds of texts a call keep all threads busy.

        Args:
            threads: how many to use where tiktoken encodes; default: one per core. `tokenizers` decides itself.

        Raises:
            ValueError: a text with a lone surrogate, which is no Unicode text and has no UTF-8 form.
        """
        try:
            if self._fast is not None:
                return self._fast.encode(texts, cores() if threads is None else threads)
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"a text cannot be encoded as UTF-8: {error}") from error
        return [np.array(e.ids, np.uint32) for e in encodings]

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of local ids [n]; bytes that a cut left incomplete become U+FFFD."""
        return str(self._tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=False))

    def patch_lengths(self, ids: npt.ArrayLike) -> None:
        """None: only bytes are grouped into patches."""

    def save(self, directory: Path | str) -> Path:
        """Write tokenizer.json into a directory (made if need be); returns its path."""
        path = Path(directory) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._raw)
        return path

    @classmethod
    def load(cls, path: Path | str) -> TextTokenizer:
        """Read a tokenizer.json, or the one inside a directory; other tokenizers of transformers are converted.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
        if not file.exists() and any((Path(path) / name).exists() for name in _OTHER_FILES):
            return cls(_converted(Path(path)))
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise UserError(
                f"text tokenizer: cannot read {file}: {error}",
                fix=f"give a {FILE_NAME} or a directory that has one, or leave `path` out to train one",
            ) from error
        return cls(raw)


def train_text_tokenizer(texts: Iterable[str], config: TextTokenizerConfig) -> TextTokenizer:
    """Train a byte-level BPE on the first texts of an iterator, up to the caps of the config.

    The same texts give the same bytes, in any order and on any number of threads, as long as no cap is reached.

    Raises:
        UserError: no text at all.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        max_token_length=config.max_token_length,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    sample = _Sample(texts, config)
    tokenizer.train_from_iterator(iter(sample), trainer=trainer)
    if not sample.characters:
        raise UserError(
            "text tokenizer: there is no text to train on", fix="set `path` to a ready tokenizer.json"
        )
    return TextTokenizer(tokenizer.to_str().encode())


def _converted(directory: Path) -> bytes:
    """The tokenizer.json that transformers makes of a directory in an older format."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        return bytes(loaded.backend_tokenizer.to_str().encode())
    except Exception as error:  # one library per format, each with errors of its own
        found = ", ".join(sorted(n for n in _OTHER_FILES if (directory / n).exists()))
        raise UserError(
            f"text tokenizer: {directory} has {found} but no {FILE_NAME}, and transformers cannot make one: {error}",
            fix=f"where sentencepiece is installed, run AutoTokenizer.from_pretrained(...).save_pretrained(...) "
            f"and give the directory with the {FILE_NAME} it writes",
        ) from error


class _Sample:
    """The first texts of an iterator, up to the caps; counts what it gave."""

    def __init__(self, texts: Iterable[str], config: TextTokenizerConfig) -> None:
        self._texts, self._config = texts, config
        self.documents = self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            room = self._config.sample_characters - self.characters
            if self.documents >= self._config.sample_documents or room <= 0:
                return
            text = text[:room]
            self.documents += 1
            self.characters += len(text)
            yield _shortened(text)


def _shortened(text: str) -> str:
    """The text with runs of more than 1000 letters, digits, signs or blanks (a genome, a ruler) cut to their first 1000.

    The trainer takes each for a word, and its time grows with the square of the longest.
    """
    return _RUN.sub(lambda m: m[0][:_LONGEST], text) if _LONG.search(text) else text
