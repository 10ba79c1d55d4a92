"""Cut documents at white space into words, and words into the tokens and segments that the rules of others count.

* word: a maximal run of characters that are not white space (as `str.split`). Compared as it stands.
* token: a token of spaCy's blank English pipeline (3.8), white space left out. What datatrove's rules call a word.
  Left out is one thing: a special case such as ":)" that stands across white space, which changes no token but may
  keep an overlapping one from being put together.
* segment: a word by the default rules of Unicode Annex 29 that begins with a letter or a number. What DCLM's
  repetition rules call a word. White space always ends it (the rules would let U+202F join numbers), and a joiner
  binds no pictograph (WB3c).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch
from mixloom.pipeline import chunk_kernel as ck
from mixloom.pipeline import token_kernel as tk
from mixloom.pipeline.english_tokens import UNITS, special_cases, token_flags
from mixloom.pipeline.segment_kernel import segment_kernel
from mixloom.pipeline.utf8 import utf8_buffers
from mixloom.pipeline.word_breaks import word_break_classes

Stops = tuple[NDArray[np.int64], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Chunks:
    """The words, tokens and segments of n documents. Document i owns the items offsets[i]:offsets[i+1] of each kind.

    counts: int64 [n, len(CHUNK_COUNTS)]. *_offsets: int64 [n+1]. *_hashes: uint64 of the UTF-8 bytes. *_chars: int32,
    length in characters (code points).
    """

    counts: NDArray[np.int64]
    word_offsets: NDArray[np.int64]
    word_hashes: NDArray[np.uint64]
    word_chars: NDArray[np.int32]
    token_offsets: NDArray[np.int64]
    token_hashes: NDArray[np.uint64]
    token_chars: NDArray[np.int32]
    segment_offsets: NDArray[np.int64]
    segment_hashes: NDArray[np.uint64]
    segment_chars: NDArray[np.int32]


@lru_cache(maxsize=1)
def _byte_kinds() -> NDArray[np.uint8]:
    kinds = np.zeros(256, np.uint8)
    for byte in range(128):
        if chr(byte).isalpha():
            kinds[byte] = ck.LETTER_BYTE
        elif chr(byte).isspace():
            kinds[byte] = ck.SPACE_BYTE
    kinds[[ord(c) for c in ",;:!?)\"'*]}>"]] = ck.SIGN_BYTE
    kinds[ord(".")] = ck.DOT_BYTE
    kinds[128:] = ck.HIGH_BYTE
    return kinds


@dataclass(frozen=True, slots=True)
class _Table:
    """Special cases and units for the kernels.

    keys: uint64, hashes, open addressing. meta: int64 [3, as many]. worth: bool, where it is worth looking by length and
    ends. listed: uint8 [8192], a bit for each by the low bits of its hash.
    """

    keys: NDArray[np.uint64]
    meta: NDArray[np.int64]
    worth: NDArray[np.bool_]
    listed: NDArray[np.uint8]


def _empty_table(size: int) -> _Table:
    return _Table(
        np.zeros(size, np.uint64),
        np.zeros((3, size), np.int64),
        np.zeros(tk.FILTER_BITS, np.bool_),
        np.zeros(8192, np.uint8),
    )


@lru_cache(maxsize=1)
def _special_table() -> _Table:
    """The special cases and units: which pieces each has, and where the rules alone would cut it."""
    cases = special_cases()
    strings = [*cases, *(unit for unit in dict.fromkeys(UNITS) if unit not in cases)]
    data, bounds = utf8_buffers(pa.array(strings, pa.large_string()))
    none = _empty_table(16)
    offsets, _, chars, _, _ = tk.token_kernel(
        data, bounds[:-1], bounds[1:], token_flags(), none.keys, none.meta, none.worth
    )
    hashes = ck.hash_spans(data, bounds[:-1], bounds[1:])
    table = _empty_table(1 << 12)
    for k, string in enumerate(strings):
        at = int(hashes[k]) & (table.keys.size - 1)
        while table.meta[tk.KIND, at]:
            at = (at + 1) % table.keys.size
        table.keys[at] = hashes[k]
        kind = (string in cases) * tk.SPECIAL + (string in UNITS) * tk.UNIT
        for place, piece in enumerate(cases.get(string, ())):
            table.meta[tk.PIECES, at] |= len(piece) << (4 * place)
        first, last = offsets[k], offsets[k + 1]
        if string in cases and last - first > 1:
            kind += tk.REJOINED
            for end in np.cumsum(chars[first : last - 1]).tolist():
                table.meta[tk.CUTS, at] |= 1 << end
        table.meta[tk.KIND, at] = kind
        table.worth[tk.filter_bit(len(string), ord(string[0]), ord(string[-1]))] = True
        low = int(hashes[k]) & 0xFFFF
        table.listed[low >> 3] |= 1 << (low & 7)
    return table


@lru_cache(maxsize=16)
def _stop_table(stop_words: tuple[str, ...]) -> Stops:
    """The stop words for the kernel, and where it is worth looking: by length and first byte, in either case."""
    longest = max(map(len, stop_words), default=0)
    codes = np.zeros((len(stop_words), longest + 1), np.int64)
    worth = np.zeros((longest + 1, 256), np.bool_)
    for k, word in enumerate(stop_words):
        codes[k, : len(word) + 1] = [len(word), *map(ord, word)]
        if word[0].isascii():
            # The Kelvin sign alone, of all that is not ASCII, has a lower case in it; its first byte is 0xE2.
            worth[len(word), [ord(word[0]), ord(word[0].upper()), 0xE2]] = True
        else:
            worth[len(word), :] = True
    return codes, worth


def cut_chunks(texts: pa.Array, stop_words: Sequence[str] = ()) -> Chunks:
    """Cut every document of a string or large_string array of n rows; a null is an empty document.

    stop_words: at most 64, each one term in lower case (`annotate_config.check_stop_words`).
    Raises TypeError where `texts` holds no strings.
    """
    data, offsets = utf8_buffers(texts)
    table, flags, lower = _special_table(), ch.character_flags(), ch.lower_table()
    stops = _stop_table(tuple(stop_words))
    # Arrays that can be large are made here: numpy asks the system for large pages, which cost less to touch first.
    most = int(offsets[-1] - offsets[0]) // 2 + len(texts)
    hashes, bares = np.empty(most, np.uint64), np.empty(most, np.uint64)
    begins, letters = np.empty(most, np.int64), np.empty(most, np.int32)
    bounds, starts, ends = ck.find_chunks(
        data, offsets, _byte_kinds(), flags, table.keys, table.listed, hashes, bares, begins, letters
    )
    count = int(bounds[-1])
    words = ck.describe_words(data, starts, ends, flags, lower, *stops)
    tokens = tk.token_kernel(data, starts, ends, token_flags(), table.keys, table.meta, table.worth)
    stop_tokens = ck.find_stop_tokens(data, starts, tokens[0], tokens[2], tokens[4], lower, *stops)
    segments = segment_kernel(data, starts, ends, flags, word_break_classes())
    others = -1 - letters[:count][letters[:count] < 0]
    plain = count - len(others)
    out: list[Any] = [np.empty(count, np.int32)]
    for most in (
        2 * plain + int(np.diff(tokens[0])[others].sum()),
        plain + int(np.diff(segments[0])[others].sum()),
    ):
        out += [np.empty(most, np.uint64), np.empty(most, np.int32)]
    known: list[Any] = [data, offsets, bounds, bares, begins, letters, words, lower, *stops]
    known += [*tokens[:4], stop_tokens, *segments]
    counts, token_bounds, segment_bounds = ck.gather(*(known + out))
    t, g = int(token_bounds[-1]), int(segment_bounds[-1])
    chars, token_hashes, token_chars, segment_hashes, segment_chars = out
    return Chunks(
        *(counts, bounds, hashes[:count], chars),
        *(token_bounds, token_hashes[:t], token_chars[:t]),
        *(segment_bounds, segment_hashes[:g], segment_chars[:g]),
    )
