"""The compiled kernel that counts the characters of documents; `mixloom.pipeline.words` calls it.

What stands between ASCII characters is read character by character; ASCII itself has been counted by `byte_masks`. Every
function it calls is in this file, but for the bit counts: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import byte_masks as bm
from mixloom.pipeline import characters as ch
from mixloom.pipeline.bit_counts import from_bit, low_zeros
from mixloom.pipeline.code_points import REPLACEMENT, decode
from mixloom.pipeline.lean import LEAN

# The columns of `words.TermCuts.counts`, in the order the kernel writes them.
TERM_COUNTS = (
    "bytes",
    "chars",
    "newlines",
    "upper",
    "digit",
    "punctuation",
    "symbol",
    "space",
    "non_ascii",
    "alpha",
    "replacement",
    "control",
    "repeated",
    "hashes",
    "ellipses",
    "symbols",
    "terms",
    "term_chars",
    "latin_terms",
    "odd_terms",
    "stop_words_distinct",
    "stop_words",
    "latin_letters",
    "vowels",
)
_ALPHA, _MARK, _SPACE = ch.ALPHA, ch.MARK, ch.SPACE
_DIGIT, _UPPER, _PUNCTUATION, _SYMBOL = ch.DIGIT, ch.UPPER, ch.PUNCTUATION, ch.SYMBOL
_CONTROL, _LATIN, _VOWEL = ch.CONTROL, ch.LATIN, ch.VOWEL
_ELLIPSIS = 0x2026
_U0 = np.uint64(0)
_HIGHS = bm.BYTE_COUNTS.index("high")


@njit(**LEAN)
def _count_high(data, i, stop, flags, row):  # type: ignore[no-untyped-def]
    """Add to `row` what the characters at i count that are no ASCII, up to the next that is; returns where that is."""
    previous = np.int64(10)
    while i < stop and data[i] >= 128:
        code, width = decode(data, i, stop)
        f = np.int64(flags[code])
        i += width
        row[1] += 1 - width  # its bytes are counted as characters by the caller
        row[3] += f & _UPPER != 0
        row[4] += f & _DIGIT != 0
        row[5] += f & _PUNCTUATION != 0
        row[6] += f & _SYMBOL != 0
        row[7] += f & _SPACE != 0
        row[8] += 1
        row[9] += f & (_ALPHA | _MARK) != 0
        row[10] += code == REPLACEMENT
        row[11] += f & _CONTROL != 0
        row[12] += code == previous and f & _SPACE == 0
        row[14] += code == _ELLIPSIS
        row[22] += f & _LATIN != 0
        row[23] += f & _VOWEL != 0
        previous = code
    return i


@njit(**LEAN)
def _count_highs(data, begin, stop, highs, place, flags, row):  # type: ignore[no-untyped-def]
    """Add to `row` what the characters of data[begin:stop] count that are no ASCII."""
    r, size = np.int64(0), stop - begin
    while r < size:
        high = from_bit(highs, place, r)
        if high == _U0:
            r += 64
            continue
        r += low_zeros(high)
        if r < size:
            r = _count_high(data, begin + r, stop, flags, row) - begin


@njit(**LEAN)
def _count_document(row, own, size):  # type: ignore[no-untyped-def]
    """Fill `row` with what the ASCII characters of a document of `size` bytes count; own: of `byte_masks`."""
    row[0], row[1], row[2] = size, size, own[0]
    row[3], row[4], row[5], row[6], row[7] = own[1], own[2], own[3], own[4], own[5]
    row[9], row[11], row[12], row[13], row[14] = own[10], own[6], own[7], own[8], own[11]
    row[22], row[23] = own[10], own[9]


@njit(cache=True, nogil=True)
def count_kernel(data, offsets, masks, places, own, flags, high):  # type: ignore[no-untyped-def]
    """Count the characters of n documents: int64 [n, len(TERM_COUNTS)], 0 in the columns of terms.

    data uint8, offsets int64 [n+1]; masks, places and own (the counts): of `byte_masks`. flags uint16 [0x110000]. high: False
    counts ASCII alone, for `cut_kernel`, which counts the others while it cuts.
    """
    counts = np.zeros((offsets.size - 1, len(TERM_COUNTS)), np.int64)
    highs = masks[bm.HIGH]
    for d in range(offsets.size - 1):
        _count_document(counts[d], own[d], offsets[d + 1] - offsets[d])
        if high and own[d, _HIGHS] > 0:
            _count_highs(data, offsets[d], offsets[d + 1], highs, places[d], flags, counts[d])
    return counts
