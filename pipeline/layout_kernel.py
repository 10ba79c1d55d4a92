"""The compiled kernel that cuts documents into lines and paragraphs; `mixloom.pipeline.layout` says what these are.

Every function it calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import byte_masks as bm
from mixloom.pipeline import characters as ch
from mixloom.pipeline.bit_counts import from_bit, low_zeros
from mixloom.pipeline.code_points import REPLACEMENT, decode
from mixloom.pipeline.lean import LEAN

# The columns of `layout.Layout.counts`, in the order the kernel writes them.
LAYOUT_COUNTS = (
    "lines",
    "line_chars",
    "max_line_chars",
    "terminal_lines",
    "terminal_line_ends",
    "short_lines",
    "shorter_lines",
    "marked_lines",
    "trailing_lines",
    "all_lines",
    "starred_lines",
    "dotted_lines",
    "split_lines",
    "empty_ends",
    "broken_lines",
    "bullet_lines",
    "ellipsis_lines",
    "paragraphs",
    "visible_paragraphs",
    "paragraph_chars",
)
_WIDTH = len(LAYOUT_COUNTS)
_SPACE, _TERMINAL = ch.SPACE, ch.TERMINAL
_START, _STEP = np.uint64(0x243F6A8885A308D3), np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S8, _S27, _S29, _S30, _S31 = np.uint64(8), np.uint64(27), np.uint64(29), np.uint64(30), np.uint64(31)
_S6, _S7, _S56 = np.uint64(6), np.uint64(7), np.uint64(56)
_LOW_BITS = np.uint64(0x0101010101010101)
# Indices into bytes are uint64, which spares a test for negative ones; mixed with int64 they would become floats.
_U0, _U1, _U2, _U3, _U4, _U5 = (np.uint64(k) for k in range(6))
_S16, _S24, _S32, _S40, _S48 = np.uint64(16), np.uint64(24), np.uint64(32), np.uint64(40), np.uint64(48)
_ELLIPSIS = 0x2026


@njit(**LEAN)
def _last(data, i, stop):  # type: ignore[no-untyped-def]
    """The code point that ends at byte `stop` of data[i:stop], which is not empty, and its width."""
    b = np.int64(data[stop - 1])
    if b < 128:
        return b, np.int64(1)
    at = stop - 1
    while at > i and at > stop - 4 and data[at] & 0xC0 == 0x80:
        at -= 1
    code, width = decode(data, at, stop)
    if at + width != stop:
        return np.int64(REPLACEMENT), np.int64(1)
    return code, width


@njit(**LEAN, inline="always")
def _eight(data, p):  # type: ignore[no-untyped-def]
    """data[p:p+8] as an integer, the first byte lowest; the compiler makes one load of it."""
    low = np.uint64(data[p]) | np.uint64(data[p + _U1]) << _S8
    low |= np.uint64(data[p + _U2]) << _S16 | np.uint64(data[p + _U3]) << _S24
    high = np.uint64(data[p + _U4]) << _S32 | np.uint64(data[p + _U5]) << _S40
    return low | high | np.uint64(data[p + _S6]) << _S48 | np.uint64(data[p + _S7]) << _S56


@njit(**LEAN, inline="always")
def _swapped(data, p):  # type: ignore[no-untyped-def]
    """data[p:p+8] as an integer, the last byte lowest."""
    low = np.uint64(data[p + _S7]) | np.uint64(data[p + _S6]) << _S8
    low |= np.uint64(data[p + _U5]) << _S16 | np.uint64(data[p + _U4]) << _S24
    high = np.uint64(data[p + _U3]) << _S32 | np.uint64(data[p + _U2]) << _S40
    return low | high | np.uint64(data[p + _U1]) << _S48 | np.uint64(data[p]) << _S56


@njit(**LEAN, inline="always")
def _inner(eight):  # type: ignore[no-untyped-def]
    """How many of eight bytes go on with a character: 10xxxxxx."""
    return (((eight >> _S7) & ~(eight >> _S6) & _LOW_BITS) * _LOW_BITS) >> _S56


@njit(**LEAN)
def _measure(data, i, stop):  # type: ignore[no-untyped-def]
    """64 bits of data[i:stop] and how many characters it has, eight bytes at a time."""
    h, p, end, inner, last = _START, np.uint64(i), np.uint64(stop), _U0, _U0
    size = end - p
    while p + _S8 <= end:
        eight = _eight(data, p)
        inner += _inner(eight)
        h = (h ^ eight) * _STEP
        h ^= h >> _S29
        p += _S8
    if size >= _S8:
        # The bytes that are left, without a loop of a length that nothing foretells.
        last = _swapped(data, end - _S8) & ((_U1 << ((end - p) << _U3)) - _U1)
    else:
        while p < end:
            last = (last << _S8) | np.uint64(data[p])
            p += _U1
    inner += _inner(last)
    h = (h ^ last) * _STEP
    h = (h ^ (h >> _S29)) ^ size
    h = (h ^ (h >> _S30)) * _MIX1
    h = (h ^ (h >> _S27)) * _MIX2
    return h ^ (h >> _S31), np.int64(size - inner)


@njit(**LEAN)
def _trim(data, i, stop, flags):  # type: ignore[no-untyped-def]
    """data[i:stop] without the white space at its ends, as its bounds; i, i where there is nothing else."""
    while i < stop:
        code, width = np.int64(data[i]), np.int64(1)
        if code >= 128:
            code, width = decode(data, i, stop)
        if flags[code] & _SPACE == 0:
            break
        i += width
    while i < stop:
        code, width = _last(data, i, stop)
        if flags[code] & _SPACE == 0:
            break
        stop -= width
    return i, stop


@njit(**LEAN)
def _first(data, i, stop):  # type: ignore[no-untyped-def]
    if i >= stop:
        return np.int64(-1)
    return np.int64(data[i]) if data[i] < 128 else decode(data, i, stop)[0]


@njit(**LEAN)
def _ends_in_ellipsis(data, i, stop):  # type: ignore[no-untyped-def]
    """Whether data[i:stop] ends with "..." or U+2026."""
    if stop - i < 3:
        return False
    if data[stop - 1] == 46:
        return data[stop - 2] == 46 and data[stop - 3] == 46
    return data[stop - 1] == 0xA6 and data[stop - 2] == 0x80 and data[stop - 3] == 0xE2


@njit(**LEAN)
def _ends_in_spaced_dots(data, i, stop):  # type: ignore[no-untyped-def]
    """Whether data[i:stop] ends with ". . ."."""
    if stop - i < 5 or data[stop - 2] != 32 or data[stop - 4] != 32:
        return False
    return data[stop - 1] == 46 and data[stop - 3] == 46 and data[stop - 5] == 46


@njit(**LEAN)
def _break_lines(data, i, stop, closed, flags, row):  # type: ignore[no-untyped-def]
    """Count the lines of data[i:stop], one piece between newlines, as `str.splitlines` cuts them.

    The piece is no line where it is empty after a break that ends it: "\\r" before a newline is one break with it.
    """
    start = i
    while True:
        end, after = stop, np.int64(-1)
        while i < stop:
            b = data[i]
            if b == 11 or b == 12 or b == 13 or 28 <= b <= 30:
                end, after = i, i + 1
                break
            if b == 0xC2 and i + 1 < stop and data[i + 1] == 0x85:
                end, after = i, i + 2
                break
            if b == 0xE2 and i + 2 < stop and data[i + 1] == 0x80 and 0xA8 <= data[i + 2] <= 0xA9:
                end, after = i, i + 3
                break
            i += 1
        lo, hi = _trim(data, start, end, flags)
        code = _first(data, lo, hi)
        row[14] += 1
        row[15] += code == 0x2022 or code == 45
        row[16] += _ends_in_ellipsis(data, lo, hi)
        if after < 0:
            return
        if after == stop and (not closed or data[end] == 13):
            return
        start = i = after


@njit(cache=True, nogil=True)
def _reserve(a, used, more):  # type: ignore[no-untyped-def]
    """`a` with room for `more` items after the first `used` (memory that is never touched costs nothing)."""
    if used + more <= a.size:
        return a
    bigger = np.empty(max(2 * a.size, used + more), a.dtype)
    bigger[:used] = a[:used]
    return bigger


@njit(**LEAN, forceinline=True)
def _next_newline(newlines, breaks, place, r, size):  # type: ignore[no-untyped-def]
    """The first newline from byte r of a document on, or its `size`; and whether another line break may stand before it."""
    seen = _U0
    while r < size:
        newline, other = from_bit(newlines, place, r), from_bit(breaks, place, r)
        if newline != _U0:
            at = low_zeros(newline)
            return min(r + at, size), (seen | (other & ((_U1 << np.uint64(at)) - _U1))) != _U0
        seen |= other
        r += 64
    return size, seen != _U0


@njit(**LEAN)
def _breaks_within(data, breaks, place, begin, i, stop):  # type: ignore[no-untyped-def]
    """Whether a line break of `str.splitlines` stands in data[i:stop], of a document that starts at `begin`.

    Many quotes and dashes begin with the same byte as two of these, so what the mask names is looked at.
    """
    r, size = i - begin, stop - begin
    while r < size:
        other = from_bit(breaks, place, r)
        while other != _U0:
            at = begin + r + low_zeros(other)
            other &= other - _U1
            if at >= stop:
                return False
            b = data[at]
            if b < 128 or (b == 0xC2 and at + 1 < stop and data[at + 1] == 0x85):
                return True
            if b == 0xE2 and at + 2 < stop and data[at + 1] == 0x80 and 0xA8 <= data[at + 2] <= 0xA9:
                return True
        r += 64
    return False


@njit(**LEAN)
def _cut_document(  # type: ignore[no-untyped-def]
    data, i, stop, newlines, breaks, place, flags, short_line, blocks, row, lines, paras,
    raw_hashes, raw_chars, line_hashes, line_chars, block_hashes, block_chars, para_hashes, para_chars,
):  # fmt: skip
    """Cut data[i:stop]: fill `row` and append behind the first `lines` and `paras`; how many are used now.

    blocks: False leaves out the paragraphs.
    """
    if i >= stop:
        return lines, paras
    row[9] = 1
    row[13] = (data[i] == 10) + (data[stop - 1] == 10)
    first_line, first_para, begin = lines, paras, i
    body, body_stop = _trim(data, i, stop, flags)
    open_from, open_to, pieces = np.int64(-1), np.int64(-1), 0
    while True:
        start = i
        at, special = _next_newline(newlines, breaks, place, i - begin, stop - begin)
        i = begin + at
        special = special and _breaks_within(data, breaks, place, begin, start, i)
        at_end = i >= stop
        row[9] += not at_end
        empty = i == start
        if not empty:
            lo, hi = _trim(data, start, i, flags)
            h, chars = _measure(data, start, i)
            raw_hashes[lines], raw_chars[lines] = h, chars
            low, trimmed = h, chars
            if lo != start or hi != i:
                low, trimmed = _measure(data, lo, hi)
            line_hashes[lines], line_chars[lines] = low, trimmed
            lines += 1
            row[10] += data[start] == 42 or data[start] == 45
            row[11] += i - start >= 3 and data[i - 1] == 0xA6 and _ends_in_ellipsis(data, start, i)
            if hi > lo:
                row[0] += 1
                row[1] += trimmed
                row[2] = max(row[2], trimmed)
                terminal = flags[_last(data, lo, hi)[0]] & _TERMINAL != 0
                row[3] += terminal
                row[4] += terminal and hi == i  # white space ends no sentence
                row[5] += chars <= short_line
                row[6] += chars < short_line
                code = _first(data, lo, hi)
                row[7] += code == 0x25CF or code == 0x2022 or code == 42 or code == 45
                dotted = _ends_in_ellipsis(data, lo, hi)
                row[8] += dotted or _ends_in_spaced_dots(data, lo, hi)
                if not special:
                    row[15] += code == 0x2022 or code == 45
                    row[16] += dotted
            if special:
                _break_lines(data, start, i, not at_end, flags, row)
            else:
                row[14] += 1
            if blocks and i > body and start < body_stop:
                open_from = open_from if open_from >= 0 else max(start, body)
                open_to = min(i, body_stop)
                pieces += 1
        elif not at_end:
            row[14] += 1
        if open_from >= 0 and (empty or at_end):
            if pieces > 1 or open_from != start or open_to != i:
                h, chars = _measure(data, open_from, open_to)
            else:
                h, chars = raw_hashes[lines - 1], np.int64(raw_chars[lines - 1])
            block_hashes[paras], block_chars[paras] = h, chars
            lo, hi = _trim(data, open_from, open_to, flags)
            if lo != open_from or hi != open_to:
                h, chars = _measure(data, lo, hi)
            para_hashes[paras], para_chars[paras] = h, chars
            row[18] += chars > 0
            row[19] += chars
            paras += 1
            open_from, pieces = np.int64(-1), 0
        if at_end:
            break
        i += 1
    row[12] = lines - first_line + row[13]
    row[17] = paras - first_para
    return lines, paras


@njit(cache=True, nogil=True)
def layout_kernel(data, offsets, masks, places, flags, short_line, blocks):  # type: ignore[no-untyped-def]
    """The kernel behind `layout.cut_layout`.

    data uint8, offsets int64 [n+1]; masks, places: of `byte_masks`. flags uint16 [0x110000], short_line in characters;
    blocks: whether to look for paragraphs.
    Returns the fields of `Layout` in order.
    """
    n = offsets.size - 1
    counts = np.zeros((n, _WIDTH), np.int64)
    ends = np.zeros((2, n + 1), np.int64)
    raw_hashes, raw_chars = np.empty(0, np.uint64), np.empty(0, np.int32)
    line_hashes, line_chars = np.empty(0, np.uint64), np.empty(0, np.int32)
    block_hashes, block_chars = np.empty(0, np.uint64), np.empty(0, np.int32)
    para_hashes, para_chars = np.empty(0, np.uint64), np.empty(0, np.int32)
    newlines, breaks = masks[bm.NEWLINE], masks[bm.BREAK]
    lines, paras = 0, 0
    for d in range(n):
        start, stop = offsets[d], offsets[d + 1]
        most = (stop - start) // 2 + 1
        raw_hashes, raw_chars = _reserve(raw_hashes, lines, most), _reserve(raw_chars, lines, most)
        line_hashes, line_chars = _reserve(line_hashes, lines, most), _reserve(line_chars, lines, most)
        block_hashes, block_chars = _reserve(block_hashes, paras, most), _reserve(block_chars, paras, most)
        para_hashes, para_chars = _reserve(para_hashes, paras, most), _reserve(para_chars, paras, most)
        lines, paras = _cut_document(
            data, start, stop, newlines, breaks, places[d], flags, short_line, blocks, counts[d], lines, paras,
            raw_hashes, raw_chars, line_hashes, line_chars, block_hashes, block_chars, para_hashes, para_chars,
        )  # fmt: skip
        ends[0, d + 1], ends[1, d + 1] = lines, paras
    return (
        counts,
        ends[0], raw_hashes[:lines], raw_chars[:lines], line_hashes[:lines], line_chars[:lines],
        ends[1], block_hashes[:paras], block_chars[:paras], para_hashes[:paras], para_chars[:paras],
    )  # fmt: skip
