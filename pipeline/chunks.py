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

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch
from mixloom.pipeline import chunk_kernel as ck
from mixloom.pipeline import token_kernel as tk
from mixloom.pipeline.english_tokens import ICON, UNITS, special_cases, token_flags
from mixloom.pipeline.gather_kernel import gather
from mixloom.pipeline.room import room
from mixloom.pipeline.segment_kernel import segment_kernel
from mixloom.pipeline.utf8 import utf8_buffers
from mixloom.pipeline.word_breaks import word_break_classes

Stops = tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.uint64], NDArray[np.int8]]


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

    keys: uint64, hashes, open addressing. meta: int64 [3, as many]. brief, worth: uint8, entries of which kinds there may be
    by length and first character (row 0: of any length), and by length and both ends. listed: uint8 [8192], a bit for
    each by the low bits of its hash.
    """

    keys: NDArray[np.uint64]
    meta: NDArray[np.int64]
    brief: NDArray[np.uint8]
    worth: NDArray[np.uint8]
    listed: NDArray[np.uint8]


@lru_cache(maxsize=1)
def _flags() -> NDArray[np.uint16]:
    """The flags of every code point for `token_kernel`, uint16 [0x110000]."""
    flags = token_flags().copy()
    flags[flags & ICON != 0] |= tk.INFIX
    flags[[ord(c) for c in tk.INFIXES]] |= tk.INFIX
    flags[ord("@")] |= tk.AT
    return flags


def _empty_table(size: int) -> _Table:
    return _Table(
        np.zeros(size, np.uint64),
        np.zeros((3, size), np.int64),
        np.zeros((16, 128), np.uint8),
        np.zeros(tk.FILTER_BITS, np.uint8),
        np.zeros(8192, np.uint8),
    )


def _rule_cuts(strings: list[str]) -> list[list[int]]:
    """Where the rules alone, without special cases, cut each of these strings: the characters of its tokens."""
    data, bounds = utf8_buffers(pa.array(strings, pa.large_string()))
    none, starts, stops = _empty_table(16), bounds[:-1], bounds[1:]
    words = ck.describe_words(
        data, starts, stops, ch.character_flags(), ch.lower_table(), *_stop_table(())[:2]
    )
    no_stops = np.zeros(256, np.uint64), np.zeros(256, np.int8)
    _, chars, _ = tk.token_kernel(
        data, starts, stops, words, _flags(), none.keys, none.meta, none.brief, none.worth, *no_stops
    )
    first = words[:, tk.TOKEN_FIRST]
    return [chars[a : a + n].tolist() for a, n in zip(first, words[:, tk.TOKENS])]


@lru_cache(maxsize=1)
def _special_table() -> _Table:
    """The special cases and units: which pieces each has, and where the rules alone would cut it."""
    cases = special_cases()
    strings = [*cases, *(unit for unit in dict.fromkeys(UNITS) if unit not in cases)]
    data, bounds = utf8_buffers(pa.array(strings, pa.large_string()))
    hashes = ck.hash_spans(data, bounds[:-1], bounds[1:])
    table = _empty_table(1 << 12)
    for k, (string, cut) in enumerate(zip(strings, _rule_cuts(strings))):
        at = int(hashes[k]) & (table.keys.size - 1)
        while table.meta[tk.KIND, at]:
            at = (at + 1) % table.keys.size
        table.keys[at] = hashes[k]
        kind = (string in cases) * tk.SPECIAL + (string in UNITS) * tk.UNIT
        for place, piece in enumerate(cases.get(string, ())):
            table.meta[tk.PIECES, at] |= len(piece) << (4 * place)
        if string in cases and len(cut) > 1:
            kind += tk.REJOINED
            for end in np.cumsum(cut[:-1]).tolist():
                table.meta[tk.CUTS, at] |= 1 << end
        table.meta[tk.KIND, at] = kind
        table.brief[[0, len(string)], ord(string[0]) & 127] |= kind
        table.worth[tk.filter_bit(len(string), ord(string[0]), ord(string[-1]))] |= kind
        low = int(hashes[k]) & 0xFFFF
        table.listed[low >> 3] |= 1 << (low & 7)
    return table


@lru_cache(maxsize=16)
def _stop_hashes(stop_words: tuple[str, ...]) -> tuple[NDArray[np.uint64], NDArray[np.int8]]:
    """The stop words for `token_kernel`: their hashes, open addressing by the low eight bits, and which each is."""
    data, bounds = utf8_buffers(pa.array(stop_words, pa.large_string()))
    keys, numbers = np.zeros(256, np.uint64), np.zeros(256, np.int8)
    for k, h in enumerate(ck.hash_spans(data, bounds[:-1], bounds[1:]).tolist()):
        at = h % 256
        while keys[at]:
            at = (at + 1) % 256
        keys[at], numbers[at] = h, k
    return keys, numbers


@lru_cache(maxsize=16)
def _stop_table(stop_words: tuple[str, ...]) -> Stops:
    """The stop words for the kernel, and where it is worth looking: by length and first byte, in either case.

    Then a table of those of up to eight ASCII letters, open addressing by their bytes as one number, the first lowest.
    """
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
    keys, numbers = np.zeros(256, np.uint64), np.full(256, -1, np.int8)
    for k, word in enumerate(stop_words):
        if not (len(word) <= 8 and word.isascii() and word.isalpha() and word.islower()):
            continue
        key = int.from_bytes(word.encode(), "little")
        at = ck.stop_place(key)
        while keys[at] not in (0, key):
            at = (at + 1) % 256
        if numbers[at] < 0:
            keys[at], numbers[at] = key, k
    return codes, worth, keys, numbers


@lru_cache(maxsize=1)
def _sign_hashes() -> NDArray[np.uint64]:
    places = np.arange(256)
    return ck.hash_spans(np.arange(256).astype(np.uint8), places, places + 1)  # type: ignore[no-any-return]


def cut_chunks(
    texts: pa.Array, stop_words: Sequence[str] = (), tokens: bool = True, segments: bool = True
) -> Chunks:
    """Cut every document of a string or large_string array of n rows; a null is an empty document.

    stop_words: at most 64, each one term in lower case (`annotate_config.check_stop_words`).
    tokens, segments: False leaves them out. Their offsets are then zeros, their hashes and lengths empty, and what
    counts them (also "stop_tokens_distinct") is 0; everything else is the same.
    Raises TypeError where `texts` holds no strings.
    """
    data, offsets = utf8_buffers(texts)
    table, flags, lower = _special_table(), ch.character_flags(), ch.lower_table()
    listed = tuple(dict.fromkeys(stop_words))
    stops = _stop_table(listed)
    size = int(offsets[-1] - offsets[0])
    most = size // 2 + len(texts)
    hashes, bares = room(most, np.uint64), room(most, np.uint64)
    letters, signs = room(most, np.int32), room(most, np.uint8)
    bounds, sums, starts, ends = ck.find_chunks(
        *(data, offsets, _byte_kinds(), flags, lower, table.keys, table.listed, *stops),
        *(hashes, bares, letters, signs),
    )
    count = int(bounds[-1])
    words = ck.describe_words(data, starts, ends, flags, lower, *stops[:2])
    token_parts = [np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.uint64)]
    if tokens:
        special = (table.keys, table.meta, table.brief, table.worth)
        token_parts = tk.token_kernel(data, starts, ends, words, _flags(), *special, *_stop_hashes(listed))
    segment_parts = [np.empty(0, np.uint64), np.empty(0, np.int32)]
    if segments:
        segment_parts = segment_kernel(data, starts, ends, words, flags, word_break_classes())
    out = [room(count, np.int32)]
    for asked in (tokens, segments):
        most = size + 1 if asked else 0  # no token is shorter than a byte
        out += [room(most, np.uint64), room(most, np.int32)]
    counts, token_bounds, segment_bounds = gather(
        *(bounds, sums, bares, letters, signs, _sign_hashes(), words, *token_parts, *segment_parts, *out)
    )
    chars, token_hashes, token_chars, segment_hashes, segment_chars = out
    t, g = int(token_bounds[-1]), int(segment_bounds[-1])
    return Chunks(
        *(counts, bounds, hashes[:count], chars),
        *(token_bounds, token_hashes[:t], token_chars[:t]),
        *(segment_bounds, segment_hashes[:g], segment_chars[:g]),
    )


def no_chunks(n: int) -> Chunks:
    """The chunks of n documents that were not cut: none."""
    counts, bounds = np.zeros((n, len(ck.CHUNK_COUNTS)), np.int64), np.zeros(n + 1, np.int64)
    hashes, chars = np.empty(0, np.uint64), np.empty(0, np.int32)
    return Chunks(counts, bounds, hashes, chars, bounds, hashes, chars, bounds, hashes, chars)
