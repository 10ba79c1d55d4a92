"""The compiled kernels that find phrases, and what may be taken out of a line: citations, boilerplate of shops and blogs.

`mixloom.pipeline.lines` calls them. Every function they call is in this file, but for the bit counts: numba's cache looks
at one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import characters as ch
from mixloom.pipeline import line_measures as lm
from mixloom.pipeline.bit_counts import low_zeros
from mixloom.pipeline.code_points import REPLACEMENT, decode
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.line_kernel import HAS_CART, MAY_CITE, MAY_SNIP
from mixloom.pipeline.line_masks import R_TRIGGER

_DIGIT, _SPACE, _LETTER = ch.DIGIT, ch.SPACE, ch.ALPHA | ch.NUMBER
_CART, _READ, _SIGN = 0, 1, 2  # indices into `line_measures.SNIPPETS`
_LOREM, _JAVASCRIPT, _BRACKET = lm.PHRASES["lorem ipsum"], lm.PHRASES["javascript"], lm.PHRASES["{"]
_TERMS, _PRIVACY = lm.PHRASES["terms of use"], lm.PHRASES["privacy policy"]
_COOKIE, _USES = lm.PHRASES["cookie policy"], lm.PHRASES["uses cookies"]
_USE_OF, _USE = lm.PHRASES["use of cookies"], lm.PHRASES["use cookies"]
_ONE = np.uint64(1)
# Pairs of bytes that a phrase, or a citation, may be at: where both have a bit in common. Their first is a trigger of
# `line_masks`.
_FIRST, _SECOND = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
for _k, _one in enumerate(("vV", "kK", "mM", "mM", "mM", "[", "{")):
    _FIRST[[ord(c) for c in _one]] |= 1 << _k
for _k, _two in enumerate(("aA", "iI", " ", "sS", "oO", "0123456789]ec")):
    _SECOND[[ord(c) for c in _two]] |= 1 << _k
_SECOND[128:] |= 1 << 5
_SECOND |= 1 << 6


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


_T_CART, _T_READ, _T_SIGN = _bytes("items in cart"), _bytes("read more"), _bytes("sign-in")
_T_EDIT, _T_NEEDED = _bytes("[edit]"), _bytes("[citation needed]")
_T_LOREM, _T_JAVASCRIPT, _T_TERMS = _bytes("lorem ipsum"), _bytes("javascript"), _bytes("terms of use")
_T_PRIVACY, _T_COOKIE, _T_USES = _bytes("privacy policy"), _bytes("cookie policy"), _bytes("uses cookies")
_T_USE_OF, _T_USE = _bytes("use of cookies"), _bytes("use cookies")
_T_COUNTED = _bytes("".join(f"{word}\n" for word in lm.COUNTED))


@njit(**LEAN)
def _at(data, i, stop):  # type: ignore[no-untyped-def]
    """The code point that starts at byte i < stop and its width."""
    code = np.int64(data[i])
    if code < 128:
        return code, np.int64(1)
    return decode(data, i, stop)


@njit(**LEAN)
def _before(data, low, i):  # type: ignore[no-untyped-def]
    """The code point that ends at byte i > low and its width."""
    code = np.int64(data[i - 1])
    if code < 128:
        return code, np.int64(1)
    for width in range(2, 5):
        if i - width < low:
            break
        if np.int64(data[i - width]) & 0xC0 != 0x80:
            found, wide = decode(data, i - width, i)
            if wide == width:
                return found, wide
            break
    return np.int64(REPLACEMENT), np.int64(1)


@njit(**LEAN)
def _is(data, low, stop, i, text):  # type: ignore[no-untyped-def]
    """Whether `text` (lower case) stands at byte i of data[low:stop], whatever the case of ASCII letters there."""
    if i < low or i + text.size > stop:
        return False
    for k in range(text.size):
        c = data[i + k]
        if 65 <= c <= 90:
            c |= 32
        if c != text[k]:
            return False
    return True


@njit(**LEAN)
def _phrase_at(text, i):  # type: ignore[no-untyped-def]
    """The phrase whose rarest character is at byte i, or what is to be looked at again there: bits of `again` << 16."""
    n = text.size
    after = text[i + 1] if i + 1 < n else np.uint8(0)
    pair = np.int64(_FIRST[text[i]] & _SECOND[after])
    if pair == 0:
        return 0
    if pair & 64 != 0:  # "{"
        return _BRACKET
    if pair & 32 != 0:
        return MAY_CITE << 16
    if pair & 16 != 0:  # "mo"
        return MAY_SNIP << 16 if _is(text, 0, n, i - 5, _T_READ) else 0
    if pair & 8 != 0:  # "ms"
        found = HAS_CART << 16 if _is(text, 0, n, i - 3, _T_CART) else 0
        return found | (_TERMS if _is(text, 0, n, i - 3, _T_TERMS) else 0)
    if pair & 4 != 0:  # "m "
        return _LOREM if _is(text, 0, n, i - 4, _T_LOREM) else 0
    if pair & 1 != 0:  # "va"
        found = _JAVASCRIPT if _is(text, 0, n, i - 2, _T_JAVASCRIPT) else 0
        return found | (_PRIVACY if _is(text, 0, n, i - 3, _T_PRIVACY) else 0)
    found = _COOKIE if _is(text, 0, n, i - 3, _T_COOKIE) else 0  # "ki"
    found |= _USES if _is(text, 0, n, i - 8, _T_USES) else 0
    found |= _USE_OF if _is(text, 0, n, i - 10, _T_USE_OF) else 0
    return found | (_USE if _is(text, 0, n, i - 7, _T_USE) else 0)


@njit(cache=True, nogil=True)
def find_phrases(data, offsets, masks, places, first, ends, again):  # type: ignore[no-untyped-def]
    """The phrases of m lines, bits of `PHRASES`, uint16 [m]; what is to be looked at again is added to again uint8 [m].

    data uint8, offsets int64 [n+1]; masks, places: of `line_masks`; first int64 [n+1], the first line of each text; ends
    int32 [m], where the line break begins, from the beginning of the text. No phrase goes over a line break.
    """
    phrases = np.zeros(ends.size, np.uint16)
    for d in range(offsets.size - 1):
        text, line = data[offsets[d] : offsets[d + 1]], first[d]
        for k in range(places[d], places[d + 1]):
            x = masks[R_TRIGGER, k]
            while x != 0:
                at = 64 * (k - places[d]) + low_zeros(x)
                x &= x - _ONE
                found = _phrase_at(text, at)
                if found != 0:
                    while at >= ends[line]:
                        line += 1
                    phrases[line] |= np.uint16(found & 0xFFFF)
                    again[line] |= np.uint8(found >> 16)
    return phrases


@njit(**LEAN)
def _is_counter(data, i, stop, flags):  # type: ignore[no-untyped-def]
    r"""Whether data[i:stop] is a number (with "," "." and K, M or B), white space, a counted word; else only \W."""
    code = np.int64(0)
    while True:  # characters that are no word character
        if i >= stop:
            return False
        code, width = _at(data, i, stop)
        if np.int64(flags[code]) & _LETTER != 0 or code == 95:
            break
        i += width
    if np.int64(flags[code]) & _DIGIT == 0:
        return False
    while i < stop:
        code, width = _at(data, i, stop)
        if np.int64(flags[code]) & _DIGIT == 0 and code != 44 and code != 46:
            break
        i += width
    if i < stop and (data[i] | 32) in (107, 109, 98):
        i += 1
    spaces = 0
    while i < stop:
        code, width = _at(data, i, stop)
        if np.int64(flags[code]) & _SPACE == 0:
            break
        spaces += 1
        i += width
    if spaces == 0:
        return False
    first = 0
    matched = False
    for k in range(_T_COUNTED.size):
        if _T_COUNTED[k] == 10:
            if _is(data, i, stop, i, _T_COUNTED[first:k]):
                i += k - first
                matched = True
                break
            first = k + 1
    if not matched:
        return False
    while i < stop:
        code, width = _at(data, i, stop)
        if np.int64(flags[code]) & _LETTER != 0 or code == 95:
            return False
        i += width
    return True


@njit(**LEAN)
def _stands(data, i, stop, text):  # type: ignore[no-untyped-def]
    """Whether exactly `text` stands at byte i of data[:stop]."""
    if i + text.size > stop:
        return False
    k = 0
    while k < text.size and data[i + k] == text[k]:
        k += 1
    return k == text.size


@njit(**LEAN)
def _citation(data, i, stop, flags):  # type: ignore[no-untyped-def]
    """Behind the citation that begins with the "[" at byte i, or 0."""
    j = i + 1
    while j < stop:
        code, width = _at(data, j, stop)
        if np.int64(flags[code]) & _DIGIT == 0:
            break
        j += width
    if j < stop and data[j] == 93:
        return j + 1
    if _stands(data, i, stop, _T_EDIT):
        return i + _T_EDIT.size
    return i + _T_NEEDED.size if _stands(data, i, stop, _T_NEEDED) else 0


@njit(cache=True, nogil=True)
def _reserve(a, used, more):  # type: ignore[no-untyped-def]
    """`a` with room for `more` items after the first `used`."""
    if used + more <= a.size:
        return a
    bigger = np.empty(max(2 * a.size, used + more), a.dtype)
    bigger[:used] = a[:used]
    return bigger


@njit(cache=True, nogil=True)
def _snippets(data, begin, end, flags, has_cart, found):  # type: ignore[no-untyped-def]
    """Append (kind, start, stop) of the snippets of the line data[begin:end], disjoint, to `found`: (found, used)."""
    used = 0
    done = begin
    if _is(data, begin, end, begin, _T_SIGN):
        done = begin + _T_SIGN.size
        if done < end:
            code, width = _at(data, done, end)
            done += width if np.int64(flags[code]) & _SPACE != 0 else 0
        found[0], found[1], found[2], used = _SIGN, begin, done, 3
    if has_cart:
        i = done
        while i + _T_CART.size <= end:
            if (data[i] | 32) == 105 and _is(data, begin, end, i, _T_CART):
                a = i
                if a > done:
                    code, width = _before(data, done, a)
                    a -= width if np.int64(flags[code]) & _SPACE != 0 else 0
                found = _reserve(found, used, 3)
                found[used], found[used + 1], found[used + 2] = _CART, a, i + _T_CART.size
                used += 3
                i += _T_CART.size
                done = i
            else:
                i += 1
    tail = end
    for _ in range(3):
        if tail > begin:
            _, width = _before(data, begin, tail)
            tail -= width
        else:
            tail = begin - 1
            break
    a = tail - _T_READ.size
    if a >= done and _is(data, begin, end, a, _T_READ):
        if a > done:
            code, width = _before(data, done, a)
            a -= width if np.int64(flags[code]) & _SPACE != 0 else 0
        found = _reserve(found, used, 3)
        found[used], found[used + 1], found[used + 2] = _READ, a, end
        used += 3
    return found, used


@njit(cache=True, nogil=True)
def _append_rest(data, begin, end, spans, step, used, out, size):  # type: ignore[no-untyped-def]
    """Append data[begin:end] without the spans (start and stop end each group of `step`) to out[:size]: (out, size)."""
    out = _reserve(out, size, end - begin)
    i = begin
    for k in range(step - 2, used, step):
        for j in range(i, spans[k]):
            out[size] = data[j]
            size += 1
        i = spans[k + 1]
    for j in range(i, end):
        out[size] = data[j]
        size += 1
    return out, size


@njit(cache=True, nogil=True)
def find_citations(data, low, high, flags):  # type: ignore[no-untyped-def]
    """The citations of m lines, and the lines without them.

    data uint8; low, high int64 [m], the bytes of each line; flags uint16 [0x110000]. Returns (start, stop) of the
    citations, int64 [2k], and offsets into these, int64 [m+1]; the bytes of the lines without them, uint8, and offsets
    into these, int64 [m+1] (a line without a citation is empty there).
    """
    m = low.size
    spans, used = np.empty(64, np.int64), 0
    ends, sizes = np.zeros(m + 1, np.int64), np.zeros(m + 1, np.int64)
    out, size = np.empty(256, np.uint8), 0
    for k in range(m):
        first = used
        i = low[k]
        while i < high[k]:
            behind = _citation(data, i, high[k], flags) if data[i] == 91 else 0
            if behind > 0:
                spans = _reserve(spans, used, 2)
                spans[used], spans[used + 1] = i, behind
                used += 2
                i = behind
            else:
                i += 1
        if used > first:
            out, size = _append_rest(data, low[k], high[k], spans[first:used], 2, used - first, out, size)
        ends[k + 1], sizes[k + 1] = used, size
    return spans[:used].copy(), ends, out[:size].copy(), sizes


@njit(cache=True, nogil=True)
def find_snippets(data, low, high, has_cart, flags):  # type: ignore[no-untyped-def]
    """The snippets of m lines, and the lines without them.

    As `find_citations`, with (kind, start, stop) of each snippet, int64 [3k]; has_cart bool [m]: only there is "items in
    cart" looked for.
    """
    m = low.size
    spans, used = np.empty(64, np.int64), 0
    ends, sizes = np.zeros(m + 1, np.int64), np.zeros(m + 1, np.int64)
    out, size = np.empty(256, np.uint8), 0
    found = np.empty(48, np.int64)
    for k in range(m):
        found, more = _snippets(data, low[k], high[k], flags, has_cart[k], found)
        if more > 0:
            spans = _reserve(spans, used, more)
            spans[used : used + more] = found[:more]
            used += more
            out, size = _append_rest(data, low[k], high[k], found, 3, more, out, size)
        ends[k + 1], sizes[k + 1] = used, size
    return spans[:used].copy(), ends, out[:size].copy(), sizes


@njit(cache=True, nogil=True)
def find_counters(data, low, high, flags):  # type: ignore[no-untyped-def]
    """Which of m lines are counters, bool [m]; data uint8; low, high int64 [m], the bytes of each line."""
    counter = np.zeros(low.size, np.bool_)
    for k in range(low.size):
        counter[k] = _is_counter(data, low[k], high[k], flags)
    return counter


@njit(cache=True, nogil=True)
def whence(spans, step, ends, low, line, offset):  # type: ignore[no-untyped-def]
    """Where bytes of lines without their spans stand in the data, int64 [k].

    spans, step, ends, low as the functions above take and give them; line, offset int64 [k]: byte `offset` of what is
    left of line `line`.
    """
    out = np.empty(line.size, np.int64)
    for k in range(line.size):
        i = low[line[k]] + offset[k]
        for j in range(ends[line[k]] + step - 2, ends[line[k] + 1], step):
            if i >= spans[j]:
                i += spans[j + 1] - spans[j]
        out[k] = i
    return out
