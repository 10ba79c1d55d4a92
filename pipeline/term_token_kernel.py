"""The compiled kernels behind `term_tokens`: tokens in lower case from raw UTF-8, and the numbers of known terms.

Every function a kernel calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.code_points import decode
from mixloom.pipeline.lend import lend

# What a code point is.
WORD = 1  # a letter, number or underscore of a script that puts spaces between words
DIGIT = 2  # a decimal digit: no token begins with one
UNSPACED = 4  # a token of its own
CASED, IGNORABLE = 8, 16  # decide whether a capital sigma is a final one

_FNV_START, _FNV_STEP = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_CAPITAL_SIGMA, _SMALL_SIGMA, _FINAL_SIGMA = 0x3A3, 0x3C3, 0x3C2
_DOTTED_I = 0x130
_LOWER_SIZE = 0x20000  # no character beyond has a lower case of its own


@njit(cache=True, nogil=True, inline="always")
def _finish(h):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): FNV-1a alone mixes its low bits badly."""
    h = (h ^ (h >> _S30)) * _MIX1
    h = (h ^ (h >> _S27)) * _MIX2
    return h ^ (h >> _S31)


@njit(cache=True, nogil=True)
def _final(data, start, i, width, stop, classes):  # type: ignore[no-untyped-def]
    """Whether the capital sigma at byte i of data[start:stop] ends a word, as the Unicode Standard (3.13) has it.

    That is: the last character before it that case does not ignore is cased, and the first after it is not.
    """
    before = False
    j = i
    while j > start:
        j -= 1
        while j > start and data[j] & 0xC0 == 0x80:
            j -= 1
        code = np.int64(data[j]) if data[j] < 128 else decode(data, j, stop)[0]
        if classes[code] & IGNORABLE == 0:
            before = classes[code] & CASED != 0
            break
    if not before:
        return False
    j = i + width
    while j < stop:
        code, w = np.int64(data[j]), np.int64(1)
        if code >= 128:
            code, w = decode(data, j, stop)
        if classes[code] & IGNORABLE == 0:
            return classes[code] & CASED == 0
        j += w
    return True


@njit(cache=True, nogil=True, inline="always")
def _put(low, p, code, h):  # type: ignore[no-untyped-def]
    """Write a code point as UTF-8 at byte p; returns where it ends and the hash with its bytes."""
    if code < 0x80:
        low[p] = code
        h = (h ^ np.uint64(code)) * _FNV_STEP
        return p + 1, h
    if code < 0x800:
        low[p] = 0xC0 | code >> 6
        n = 2
    elif code < 0x10000:
        low[p] = 0xE0 | code >> 12
        low[p + 1] = 0x80 | code >> 6 & 0x3F
        n = 3
    else:
        low[p] = 0xF0 | code >> 18
        low[p + 1] = 0x80 | code >> 12 & 0x3F
        low[p + 2] = 0x80 | code >> 6 & 0x3F
        n = 4
    low[p + n - 1] = 0x80 | code & 0x3F
    for k in range(n):
        h = (h ^ np.uint64(low[p + k])) * _FNV_STEP
    return p + n, h


@njit(cache=True, nogil=True, inline="always")
def _stop_of(data, start, stop, most):  # type: ignore[no-untyped-def]
    """Where the first `most` characters of data[start:stop] end."""
    if stop - start <= most:
        return stop
    seen = 0
    for i in range(start, stop):
        if data[i] & 0xC0 != 0x80:
            if seen == most:
                return i
            seen += 1
    return stop


@njit(cache=True, nogil=True)
def _cut_all(data, bounds, most, classes, lower, offsets, hashes, low, ends):  # type: ignore[no-untyped-def]
    """The loop of `cut_token_kernel`; returns how many tokens and how many bytes of them there are."""
    t, p = 0, 0
    for d in range(bounds.size - 1):
        start = bounds[d]
        stop = _stop_of(data, start, bounds[d + 1], most)
        i, begin, chars, digit, h = start, p, 0, False, _FNV_START
        while i <= stop:  # one round more than there are characters, to close the last word
            kind, code, width = 0, np.int64(0), np.int64(1)
            if i < stop:
                code = np.int64(data[i])
                if code >= 128:
                    code, width = decode(data, i, stop)
                if code == _CAPITAL_SIGMA:
                    final = _final(data, start, i, width, stop, classes)
                    code = np.int64(_FINAL_SIGMA if final else _SMALL_SIGMA)
                elif code < _LOWER_SIZE and code != _DOTTED_I:
                    code = np.int64(lower[code])
                kind = classes[code]
            dotted = code == _DOTTED_I  # in lower case an i, and a dot above that is no part of a word
            if kind & WORD != 0:
                if chars == 0:
                    digit = kind & DIGIT != 0
                chars += 1
                p, h = _put(low, p, np.int64(105) if dotted else code, h)
            if kind & WORD == 0 or dotted:
                if chars >= 2 and not digit:
                    hashes[t], ends[t] = _finish(h), p
                    t += 1
                else:
                    p = begin
                if kind & UNSPACED != 0:
                    p, h = _put(low, p, code, _FNV_START)
                    hashes[t], ends[t] = _finish(h), p
                    t += 1
                begin, chars, h = p, 0, _FNV_START
            i += width
        offsets[d + 1] = t
    return t, p


@njit(cache=True, nogil=True)
def cut_token_kernel(data, bounds, most, classes, lower):  # type: ignore[no-untyped-def]
    """Cut the n texts data[bounds[d]:bounds[d+1]] into tokens, reading at most `most` characters of each.

    data uint8, bounds int64 [n+1], classes uint8 [0x110000], lower int32 [0x20000]. Returns offsets int64 [n+1],
    and for each token its hash uint64; their bytes in lower case, uint8; and where each ends in these, int64.
    """
    size = bounds[-1] - bounds[0]
    offsets = np.zeros(bounds.size, np.int64)
    # A token is two bytes of text or more. Lower case is at most half as long again (U+023A).
    hashes, ends = np.empty(size // 2 + 1, np.uint64), np.empty(size // 2 + 1, np.int64)
    low = np.empty(size + size // 2 + 4, np.uint8)
    t, p = _cut_all(
        lend(data), lend(bounds), most, lend(classes), lend(lower), lend(offsets), lend(hashes), lend(low),
        lend(ends),
    )  # fmt: skip
    return offsets, hashes[:t].copy(), low[:p].copy(), ends[:t].copy()


@njit(cache=True, nogil=True)
def term_table(hashes):  # type: ignore[no-untyped-def]
    """An open-addressing table from hash to position: keys uint64 and places int32 (-1: empty), a power of two long."""
    size = 16
    while size < 2 * hashes.size:
        size *= 2
    keys, places = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
    mask = np.uint64(size - 1)
    for i in range(hashes.size):
        at = hashes[i] & mask
        while places[at] >= 0:
            at = (at + np.uint64(1)) & mask
        keys[at], places[at] = hashes[i], i
    return keys, places


@njit(cache=True, nogil=True)
def known_terms(hashes, offsets, keys, places):  # type: ignore[no-untyped-def]
    """Term ids of the tokens of n texts, sorted inside each: int32, and where each text starts in them: int64 [n+1]."""
    ids, starts = np.empty(hashes.size, np.int32), np.zeros(offsets.size, np.int64)
    mask = np.uint64(keys.size - 1)
    used = 0
    for d in range(offsets.size - 1):
        first = used
        for t in range(offsets[d], offsets[d + 1]):
            at = hashes[t] & mask
            while places[at] >= 0 and keys[at] != hashes[t]:
                at = (at + np.uint64(1)) & mask
            if places[at] >= 0:
                ids[used] = places[at]
                used += 1
        ids[first:used].sort()
        starts[d + 1] = used
    return ids[:used].copy(), starts


@njit(cache=True, nogil=True)
def count_tokens(hashes, offsets):  # type: ignore[no-untyped-def]
    """The distinct tokens of each text by hash, and how often they stand in it.

    hashes uint64 [t], offsets int64 [n+1] -> distinct uint64 [m], counts int32 [m], starts int64 [n+1].
    """
    distinct, counts = hashes.copy(), np.empty(hashes.size, np.int32)
    starts = np.zeros(offsets.size, np.int64)
    used = 0
    for d in range(offsets.size - 1):
        part = hashes[offsets[d] : offsets[d + 1]].copy()
        part.sort()
        for i in range(part.size):
            if i > 0 and part[i] == part[i - 1]:
                counts[used - 1] += 1
            else:
                distinct[used], counts[used] = part[i], 1
                used += 1
        starts[d + 1] = used
    return distinct[:used].copy(), counts[:used].copy(), starts
