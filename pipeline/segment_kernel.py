"""The compiled kernel that cuts chunks into segments: words by the default rules of Unicode Annex 29.

`mixloom.pipeline.chunks` says what a segment is and calls it. Every function it calls is in this file: numba's cache
looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import characters as ch
from mixloom.pipeline import token_kernel as tk
from mixloom.pipeline import word_breaks as wb
from mixloom.pipeline.code_points import decode
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.raw_bytes import load, turn

_ALNUM = ch.ALPHA | ch.NUMBER
_EXTEND, _REGIONAL, _KATAKANA, _HEBREW, _ALETTER = wb.EXTEND, wb.REGIONAL, wb.KATAKANA, wb.HEBREW, wb.ALETTER
_MID_LETTER, _MID_NUM, _MID_NUM_LET, _QUOTE = wb.MID_LETTER, wb.MID_NUM, wb.MID_NUM_LET, wb.SINGLE_QUOTE
_DOUBLE_QUOTE, _NUMERIC, _JOINER = wb.DOUBLE_QUOTE, wb.NUMERIC, wb.EXTEND_NUM_LET
# The rows of `work`, one column per character of the chunk: its class of word breaks, whether it is a letter or a
# number, and the byte where it begins; then where the segments stop.
_BREAK, _STARTS, _BYTE, _ENDS = 0, 1, 2, 3
_ROWS = 4
_FIRST, _SEGMENTS, _SEGMENT_CHARS, _WIDE = tk.SEGMENT_FIRST, tk.SEGMENTS, tk.SEGMENT_CHARS, tk.WIDE

_START, _STEP = np.uint64(0x243F6A8885A308D3), np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S8, _S27, _S29, _S30, _S31 = np.uint64(8), np.uint64(27), np.uint64(29), np.uint64(30), np.uint64(31)
_ZERO = np.uint64(0)


@njit(**LEAN, inline="always")
def _fold(h, eight):  # type: ignore[no-untyped-def]
    h = (h ^ eight) * _STEP
    return h ^ (h >> _S29)


@njit(**LEAN, inline="always")
def _finish(h, length):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) over the state and the length."""
    h = h ^ np.uint64(length)
    h = (h ^ (h >> _S30)) * _MIX1
    h = (h ^ (h >> _S27)) * _MIX2
    return h ^ (h >> _S31)


@njit(**LEAN, forceinline=True)
def _hash(data, i, j):  # type: ignore[no-untyped-def]
    """64 bits of data[i:j], eight bytes at a time, the first of them highest."""
    h, length, last = _START, j - i, _ZERO
    while i + 8 <= j:
        h = _fold(h, turn(load(data, i)))
        i += 8
    if i < j:
        if i + 8 <= data.size:
            last = turn(load(data, i)) >> np.uint64(64 - 8 * (j - i))
        else:
            for p in range(i, j):
                last = (last << _S8) | np.uint64(data[p])
    return _finish(_fold(h, last), length)


@njit(**LEAN, forceinline=True)
def _next_class(work, i, m):  # type: ignore[no-untyped-def]
    """The class of the first character from i on that is not Extend; 0 where there is none."""
    while i < m:
        if work[_BREAK, i] != _EXTEND:
            return work[_BREAK, i]
        i += 1
    return np.int64(0)


@njit(**LEAN, forceinline=True)
def _no_break(before, last, c, work, i, m, regional):  # type: ignore[no-untyped-def]
    """Whether the characters of classes `last` and `c` stand in one word (Unicode Annex 29, WB5 to WB16).

    before: the class before `last`. i: where the character after `c` is. regional: how many regional indicators stand in a row before `c`.
    """
    letter, last_letter = c in (_ALETTER, _HEBREW), last in (_ALETTER, _HEBREW)
    if (last_letter or last == _NUMERIC) and (letter or c == _NUMERIC):
        return True
    if c == _JOINER:
        return last_letter or last in (_NUMERIC, _KATAKANA, _JOINER)
    if last == _JOINER:
        return letter or c in (_NUMERIC, _KATAKANA)
    if c == _KATAKANA:
        return last == _KATAKANA
    if c == _REGIONAL:
        return last == _REGIONAL and regional % 2 == 1
    if last == _HEBREW and c == _QUOTE:
        return True
    either, before_letter = c in (_MID_NUM_LET, _QUOTE), before in (_ALETTER, _HEBREW)
    if last_letter and (either or c == _MID_LETTER):
        following = _next_class(work, i, m)
        return following in (_ALETTER, _HEBREW)
    if last == _HEBREW and c == _DOUBLE_QUOTE:
        return _next_class(work, i, m) == _HEBREW
    if last == _NUMERIC and (either or c == _MID_NUM):
        return _next_class(work, i, m) == _NUMERIC
    either = last in (_MID_NUM_LET, _QUOTE)
    if letter and before_letter and (either or last == _MID_LETTER):
        return True
    if c == _HEBREW and before == _HEBREW and last == _DOUBLE_QUOTE:
        return True
    return c == _NUMERIC and before == _NUMERIC and (either or last == _MID_NUM)


@njit(**LEAN, forceinline=True)
def _segment(work, m):  # type: ignore[no-untyped-def]
    """Cut a chunk of m characters at the word boundaries of Unicode Annex 29: work[_ENDS, k] is where the k-th stops."""
    n, regional = 0, 0
    before, last = np.int64(0), np.int64(0)
    for i in range(m):
        c = work[_BREAK, i]
        if c == _EXTEND and i > 0:
            continue
        if i > 0 and not _no_break(before, last, c, work, i + 1, m, regional):
            work[_ENDS, n] = i
            n += 1
            before = np.int64(0)
        else:
            before = last
        regional = regional + 1 if c == _REGIONAL else 0
        last = c
    work[_ENDS, n] = m
    return n + 1


@njit(**LEAN, forceinline=True)
def _ascii_segment(data, i, stop, breaks):  # type: ignore[no-untyped-def]
    """Where the segment of data[i:stop], which is ASCII, stops that begins at i: the same rules, of which few are left."""
    last = breaks[data[i]]
    if last not in (_ALETTER, _NUMERIC, _JOINER):
        return i + 1
    i += 1
    while i < stop:
        c = breaks[data[i]]
        if c in (_ALETTER, _NUMERIC, _JOINER):
            last = c
            i += 1
            continue
        between = c in (_MID_NUM_LET, _QUOTE)
        between = between or (c == _MID_LETTER if last == _ALETTER else c == _MID_NUM)
        if last == _JOINER or not between or i + 1 == stop or breaks[data[i + 1]] != last:
            return i
        i += 2
    return i


@njit(**LEAN, forceinline=True)
def _cut_ascii(data, i, stop, flags, breaks, hashes, chars, g):  # type: ignore[no-untyped-def]
    """Append the segments of data[i:stop], which is ASCII, behind the first g; returns how many there are then."""
    while i < stop:
        end = _ascii_segment(data, i, stop, breaks)
        if flags[data[i]] & _ALNUM != 0:
            hashes[g], chars[g] = _hash(data, i, end), end - i
            g += 1
        i = end
    return g


@njit(**LEAN)
def _cut_wide(data, i, stop, flags, breaks, work, hashes, chars, g):  # type: ignore[no-untyped-def]
    """As `_cut_ascii`, of any text."""
    m = 0
    while i < stop:
        code, width = np.int64(data[i]), np.int64(1)
        if code >= 128:
            code, width = decode(data, i, stop)
        work[_BREAK, m], work[_STARTS, m], work[_BYTE, m] = breaks[code], flags[code] & _ALNUM, i
        m += 1
        i += width
    work[_BYTE, m] = i
    lo = np.int64(0)
    for k in range(_segment(work, m)):
        hi = work[_ENDS, k]
        if work[_STARTS, lo] != 0:
            hashes[g], chars[g] = _hash(data, work[_BYTE, lo], work[_BYTE, hi]), hi - lo
            g += 1
        lo = hi
    return g


@njit(**LEAN)
def _cut_all(data, starts, stops, words, flags, breaks, work, hashes, chars):  # type: ignore[no-untyped-def]
    """The loop of `segment_kernel`; returns how many segments there are.

    No array is made or exchanged here: numba would count references to it in every round of the loop.
    """
    g = np.int64(0)
    for c in range(starts.size):
        first = g
        if words[c, _WIDE] == 0:
            g = _cut_ascii(data, starts[c], stops[c], flags, breaks, hashes, chars, g)
        else:
            g = _cut_wide(data, starts[c], stops[c], flags, breaks, work, hashes, chars, g)
        words[c, _FIRST], words[c, _SEGMENTS] = first, g - first
        total = 0
        for k in range(first, g):
            total += chars[k]
        words[c, _SEGMENT_CHARS] = total
    return g


@njit(cache=True, nogil=True)
def segment_kernel(data, starts, stops, words, flags, breaks):  # type: ignore[no-untyped-def]
    """Cut the k chunks data[starts[c]:stops[c]], which hold no white space, into segments.

    data uint8, starts and stops int64 [k], flags uint16 (`characters`) and breaks uint8 (`word_breaks`) [0x110000].
    words int32 [k, WORD_WIDTH], see `token_kernel`: WIDE is known, the columns of segments are filled. Returns the hashes
    uint64 and the characters int32 of the segments.
    """
    longest, most = 255, 0  # no segment is shorter than a byte
    for c in range(starts.size):
        longest, most = max(longest, stops[c] - starts[c]), most + stops[c] - starts[c]
    work = np.empty((_ROWS, longest + 1), np.int64)
    hashes, chars = np.empty(most, np.uint64), np.empty(most, np.int32)
    g = _cut_all(data, starts, stops, words, flags, breaks, work, hashes, chars)
    return hashes[:g], chars[:g]
