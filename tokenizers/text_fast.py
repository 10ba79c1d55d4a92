"""The same ids as a byte-level BPE of `tokenizers`, by `tiktoken`, at several times its speed per core.

tiktoken merges the pair whose concatenation has the lowest id; `tokenizers` follows the list of merges. The two
agree when (1) the ids of merged tokens rise along the list of merges and (2) every token, spelled out in bytes,
is merged back to itself. For if a text can be cut so that x and y stand side by side, and xy is a token, then no
merge crossed the ends of xy, so the merges inside it are those that xy alone would undergo; by (2) they end in
xy, so (x, y) is in the list, and by (1) its turn comes in the same order. Both are checked on every token when a
tokenizer is loaded, and the ids of a sample text are compared. A tokenizer that fails is left to `tokenizers`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# How ByteLevel(use_regex=True) cuts a text before merging (GPT-2, Radford et al. 2019).
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_PLAIN = {
    "dropout": (None, 0.0),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
}
_TASK = 1 << 17  # characters one thread is given at a time
_SAMPLE = (
    "It's 1234567 o'clock -- they'll say \"we've\" don't\r\n\r\n\t    return x[0] + y**2  # ok\n",
    "Größe Łódź ñandú Ελλάδα Привет мир עברית العربية हिन्दी ไทย 日本語 한국어 中文字 e\u0301 ﷽ ǅ",
    "½ Ⅷ ٣٤ ०१ 𝟘 \U0001f9f5\U0001f469\u200d\U0001f4bb \u00a0\u2003\u3000\u0085\u2028\u180e\u200b\ufeff\x00\x1c\x1f <|endoftext|></s>",
    "        \n \n\n   x\t\t \u00a0 y  ",
)


def byte_alphabet() -> dict[str, int]:
    """The byte behind each of the 256 characters that byte-level tokenizers write bytes with (GPT-2).

    Printable Latin-1 characters stand for themselves, the others are numbered from U+0100.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in sorted(printable)} | {chr(256 + i): b for i, b in enumerate(others)}


class FastBytePairs:
    """Encodes with tiktoken what a `tokenizers` tokenizer would give. Made by `FastBytePairs.like`."""

    def __init__(self, encoding: Any, reference: Tokenizer) -> None:
        self._encoding, self._reference = encoding, reference

    @classmethod
    def like(cls, tokenizer: Tokenizer) -> FastBytePairs | None:
        """The accelerator of a tokenizer; None where equal ids are not certain, or tiktoken is not installed."""
        try:
            import tiktoken
        except ImportError:
            return None
        ranks = _ranks(json.loads(tokenizer.to_str()))
        if ranks is None or not _each_token_is_its_own_result(tokenizer, ranks):
            return None
        encoding = tiktoken.Encoding("mixloom", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={})
        fast = cls(encoding, tokenizer)
        expected = tokenizer.encode_batch_fast(list(_SAMPLE), add_special_tokens=False)
        same = all(a.ids == b.tolist() for a, b in zip(expected, fast.encode(_SAMPLE, 1), strict=True))
        return fast if same else None

    def encode(self, texts: Sequence[str], threads: int) -> list[npt.NDArray[np.uint32]]:
        """Ids uint32 [n] of each text, on up to `threads` threads.

        Raises:
            UnicodeEncodeError: a text with a lone surrogate.
        """
        tasks = _tasks(texts) if threads > 1 else [(0, len(texts))]
        if len(tasks) == 1:
            return [self._one(t) for t in texts]
        with ThreadPoolExecutor(min(threads, len(tasks))) as pool:
            done = pool.map(lambda task: [self._one(t) for t in texts[task[0] : task[1]]], tasks)
            return [ids for part in done for ids in part]

    def _one(self, text: str) -> npt.NDArray[np.uint32]:
        text.encode()  # tiktoken would put U+FFFD in the place of a lone surrogate
        try:
            ids: npt.NDArray[np.uint32] = self._encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError:  # a run of blanks too long for its regular expressions
            return np.array(self._reference.encode(text, add_special_tokens=False).ids, np.uint32)
        return ids


def cores() -> int:
    """Cores this process may use; 1 where TOKENIZERS_PARALLELISM says false, as `tokenizers` itself does."""
    if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "off", "no", "0"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tasks(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Ranges of texts of about `_TASK` characters each, in order."""
    bounds, size = [0], 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= _TASK:
            bounds.append(i + 1)
            size = 0
    if bounds[-1] != len(texts) or len(bounds) == 1:
        bounds.append(len(texts))
    return list(pairwise(bounds))


def _ranks(content: dict[str, Any]) -> dict[bytes, int] | None:
    """Id of every token by its bytes; None unless this is a plain byte-level BPE with ids in order of merges."""
    model, cut = content["model"], content["pre_tokenizer"]
    plain = (
        model["type"] == "BPE"
        and all(model.get(name) in allowed for name, allowed in _PLAIN.items())
        and content["normalizer"] is None
        and all(t["special"] for t in content["added_tokens"])  # other added tokens are cut out of the text
        and cut is not None
        and cut["type"] == "ByteLevel"
        and cut.get("use_regex", True)
        and not cut["add_prefix_space"]
    )
    if not plain:
        return None
    alphabet, vocab = byte_alphabet(), model["vocab"]
    added = {t["content"] for t in content["added_tokens"]}
    spelled = {token: number for token, number in vocab.items() if token not in added}
    if not all(character in alphabet for token in spelled for character in token):
        return None
    made = [spelled.get("".join(pair)) for pair in _pairs(model["merges"])]
    if None in made or any(a >= b for a, b in pairwise(made)):  # type: ignore[operator]
        return None
    ranks = {bytes(alphabet[c] for c in token): number for token, number in spelled.items()}
    return ranks if all(bytes([b]) in ranks for b in range(256)) else None


def _pairs(merges: list[Any]) -> list[list[str]]:
    """Merges as pairs; older files write them as one string with a blank between."""
    return [m.split(" ") if isinstance(m, str) else list(m) for m in merges]


def _each_token_is_its_own_result(tokenizer: Tokenizer, ranks: dict[bytes, int]) -> bool:
    letters = {byte: character for character, byte in byte_alphabet().items()}
    for token, number in ranks.items():
        cut = tokenizer.model.tokenize("".join(letters[b] for b in token))
        if len(cut) != 1 or cut[0].id != number:
            return False
    return True
