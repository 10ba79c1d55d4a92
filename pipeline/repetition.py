"""How much a document repeats itself: duplicate lines, paragraphs and token n-grams, after Gopher.

Rae et al. 2021 (arXiv 2112.11446), section A.1.1 and table A1, name the measures; where the paper leaves the arithmetic
open we follow the definitions of datatrove, the code behind FineWeb:

* duplicate items: items equal to an earlier item of the document, by count and by their characters.
* top n-gram: the characters of all occurrences of the most frequent n-gram, counting one joining space between
  tokens; of two equally frequent ones the one that occurs first. An n-gram that occurs once is no repetition: 0.
* duplicated n-grams: read from the left; an n-gram already read adds the characters of its tokens and is skipped
  whole, any other is remembered and the reading moves one token on.

Only n-grams whose two (n-1)-grams both repeat can repeat, so after the first orders almost nothing is left to count.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mixloom.pipeline.measures import DUPLICATE_ORDERS, TOP_ORDERS
from mixloom.pipeline.words import Cuts

# The columns of `repetition`, in order.
REPEATS = (
    "distinct_terms",
    "duplicate_lines",
    "duplicate_line_chars",
    "duplicate_paragraphs",
    "duplicate_paragraph_chars",
    *(f"top_{n}gram_chars" for n in TOP_ORDERS),
    *(f"duplicated_{n}gram_chars" for n in DUPLICATE_ORDERS),
)

_FIRST, _LAST_TOP, _LAST = TOP_ORDERS[0], TOP_ORDERS[-1], DUPLICATE_ORDERS[-1]
_GRAM = np.uint64(0xD6E8FEB86659FD93)
_S32 = np.uint64(32)


@njit(cache=True, nogil=True)
def _table_size(items):  # type: ignore[no-untyped-def]
    size = 16
    while size < 2 * items:
        size *= 2
    return size


@njit(cache=True, nogil=True, inline="always")
def _slot(keys, counts, mask, key):  # type: ignore[no-untyped-def]
    """The place of `key` in an open-addressing table: where it is, or the empty place where it belongs."""
    at = np.int64(key & mask)
    while counts[at] != 0 and keys[at] != key:
        at = np.int64(np.uint64(at + 1) & mask)
    return at


@njit(cache=True, nogil=True)
def _duplicates(hashes, chars, first, last, keys, counts):  # type: ignore[no-untyped-def]
    """Items of hashes[first:last] equal to an earlier one, and their characters."""
    size = _table_size(last - first)
    mask = np.uint64(size - 1)
    counts[:size] = 0
    repeats, repeated_chars = 0, 0
    for i in range(first, last):
        at = _slot(keys, counts, mask, hashes[i])
        if counts[at] != 0:
            repeats += 1
            repeated_chars += chars[i]
        else:
            keys[at] = hashes[i]
            counts[at] = 1
    return repeats, repeated_chars


@njit(cache=True, nogil=True)
def _repeated(grams, at, m, slots, keys, counts):  # type: ignore[no-untyped-def]
    """Keep of the m positions in `at` those whose gram occurs at least twice among them; how many, in place.

    slots[k] is the table place of the k-th kept position, where counts says how often its gram occurs.
    """
    size = _table_size(m)
    mask = np.uint64(size - 1)
    counts[:size] = 0
    for k in range(m):
        place = _slot(keys, counts, mask, grams[at[k]])
        keys[place] = grams[at[k]]
        counts[place] += 1
        slots[k] = place
    kept = 0
    for k in range(m):
        if counts[slots[k]] > 1:
            at[kept], slots[kept] = at[k], slots[k]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _ngram_measures(hashes, starts, count, row, grams, at, slots, keys, counts):  # type: ignore[no-untyped-def]
    """Fill row with the top and the duplicated n-gram characters of one document of `count` tokens.

    hashes: uint64, its token hashes. starts: int64 [count+1], the characters of tokens before each token.
    """
    for i in range(count):
        grams[i] = hashes[i]
        at[i] = i
    m = _repeated(grams, at, count, slots, keys, counts)
    for n in range(2, _LAST + 1):
        candidates = 0
        for k in range(m - 1):
            if at[k + 1] == at[k] + 1:
                at[candidates] = at[k]
                candidates += 1
        if candidates == 0:
            return
        for k in range(candidates):
            i = at[k]
            g = (grams[i] ^ (grams[i] >> _S32)) * _GRAM + hashes[i + n - 1]
            g = (g ^ (g >> _S32)) * _GRAM
            grams[i] = g ^ (g >> _S32)
        m = _repeated(grams, at, candidates, slots, keys, counts)
        if n <= _LAST_TOP:
            best, chars = 1, 0
            for k in range(m):
                if counts[slots[k]] > best:
                    best = counts[slots[k]]
                    chars = (starts[at[k] + n] - starts[at[k]] + n - 1) * best
            row[n - _FIRST] = chars
        else:
            total, free = 0, 0
            for k in range(m):
                if at[k] >= free:
                    if counts[slots[k]] < 0:
                        total += starts[at[k] + n] - starts[at[k]]
                        free = at[k] + n
                    else:
                        counts[slots[k]] = -1  # read once
            row[n - _FIRST] = total


@njit(cache=True, nogil=True)
def _widest(a, b, c, d):  # type: ignore[no-untyped-def]
    most = 0
    for i in range(a.size - 1):
        most = max(most, a[i + 1] - a[i], b[i + 1] - b[i], c[i + 1] - c[i], d[i + 1] - d[i])
    return most


@njit(cache=True, nogil=True)
def _repetition(  # type: ignore[no-untyped-def]
    token_offsets, token_hashes, token_chars, term_offsets, term_hashes,
    line_offsets, line_hashes, line_chars, para_offsets, para_hashes, para_chars, width,
):  # fmt: skip
    n = token_offsets.size - 1
    out = np.zeros((n, width), np.int64)
    most = _widest(token_offsets, term_offsets, line_offsets, para_offsets)
    keys, counts = np.empty(_table_size(most), np.uint64), np.zeros(_table_size(most), np.int32)
    grams, at = np.empty(most, np.uint64), np.empty(most, np.int64)
    slots, starts = np.empty(most, np.int64), np.zeros(most + 1, np.int64)
    for d in range(n):
        row = out[d]
        first, last = term_offsets[d], term_offsets[d + 1]
        row[0] = last - first - _duplicates(term_hashes, token_chars, first, last, keys, counts)[0]
        row[1], row[2] = _duplicates(
            line_hashes, line_chars, line_offsets[d], line_offsets[d + 1], keys, counts
        )
        row[3], row[4] = _duplicates(
            para_hashes, para_chars, para_offsets[d], para_offsets[d + 1], keys, counts
        )
        first, last = token_offsets[d], token_offsets[d + 1]
        for k in range(last - first):
            starts[k + 1] = starts[k] + token_chars[first + k]
        _ngram_measures(
            token_hashes[first:last], starts, last - first, row[5:], grams, at, slots, keys, counts
        )
    return out


def repetition(cuts: Cuts) -> NDArray[np.int64]:
    """Count what repeats in each of n documents: int64 [n, len(REPEATS)], columns as `REPEATS` names them."""
    c = cuts
    return _repetition(
        c.token_offsets, c.token_hashes, c.token_chars, c.term_offsets, c.term_hashes,
        c.line_offsets, c.line_hashes, c.line_chars, c.paragraph_offsets, c.paragraph_hashes, c.paragraph_chars,
        len(REPEATS),
    )  # fmt: skip
