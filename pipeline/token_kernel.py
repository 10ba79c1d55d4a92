"""The compiled kernel that cuts chunks into tokens by the rules of spaCy 3.8 for English.

The rules are those of its tokenizer.pyx, lang/punctuation.py, lang/en/punctuation.py and lang/tokenizer_exceptions.py,
written for tables (`english_tokens`) instead of regular expressions. `mixloom.pipeline.chunks` calls the kernel. Every
function it calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import english_tokens as en
from mixloom.pipeline.lend import lend

INFIX = (
    1 << 14
)  # a flag beside those of `english_tokens`: of the characters that may cut a chunk, as `_infix` knows them
INFIXES = "….+-*^,:<>=/~–—"  # and all that are an ICON
# What an entry of the table is: a special case, a unit, a special case that the rules alone would cut.
SPECIAL, UNIT, REJOINED = 1, 2, 4
LONGEST_SPECIAL = 12  # characters
FILTER_BITS = 1 << 18
# What a token is: it has a letter, and it has more than signs.
ALPHA_TOKEN, WORD_TOKEN = 1, 2

_PREFIX, _SUFFIX, _LETTER, _UPPER, _LOWER = en.PREFIX, en.SUFFIX, en.LETTER, en.UPPER, en.LOWER
_DOT_LEFT, _DOT_RIGHT, _DOT_END = en.DOT_LEFT, en.DOT_RIGHT, en.DOT_END
_ICON, _CURRENCY, _SIGN, _ALPHA, _NUMBER = en.ICON, en.CURRENCY, en.SIGN, en.ALPHA, en.NUMBER
# The rows of `work`, one column per character of the chunk: its code point, its flags and the byte where it begins;
# then three lists of places in the chunk.
_CODE, _FLAG, _BYTE, _ENDS, _FINAL, _SEEN = 0, 1, 2, 3, 4, 5
_ROWS = 6
# The rows of `meta`: the kind of an entry, the lengths of its pieces (four bits each), where the rules alone cut it.
KIND, PIECES, CUTS = 0, 1, 2

_START, _STEP = np.uint64(0x243F6A8885A308D3), np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S8, _S27, _S29, _S30, _S31 = np.uint64(8), np.uint64(27), np.uint64(29), np.uint64(30), np.uint64(31)
_ZERO = np.uint64(0)
_REPLACEMENT = 0xFFFD


@njit(cache=True, nogil=True, inline="always")
def _fold(h, eight):  # type: ignore[no-untyped-def]
    h = (h ^ eight) * _STEP
    return h ^ (h >> _S29)


@njit(cache=True, nogil=True, inline="always")
def _finish(h, length):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) over the state and the length."""
    h = h ^ np.uint64(length)
    h = (h ^ (h >> _S30)) * _MIX1
    h = (h ^ (h >> _S27)) * _MIX2
    return h ^ (h >> _S31)


@njit(cache=True, nogil=True, forceinline=True)
def _hash(data, i, j):  # type: ignore[no-untyped-def]
    """64 bits of data[i:j], eight bytes at a time."""
    h, eight, k = _START, _ZERO, 0
    for p in range(i, j):
        eight = (eight << _S8) | np.uint64(data[p])
        k += 1
        if k == 8:
            h, eight, k = _fold(h, eight), _ZERO, 0
    return _finish(_fold(h, eight), j - i)


@njit(cache=True, nogil=True)
def _decode(data, i, stop):  # type: ignore[no-untyped-def]
    """The code point that starts at byte i (not ASCII) and its width; (U+FFFD, 1) where it is malformed."""
    b = np.int64(data[i])
    if 0xC2 <= b < 0xE0:
        width, code = 2, b & 0x1F
    elif 0xE0 <= b < 0xF0:
        width, code = 3, b & 0x0F
    elif 0xF0 <= b < 0xF5:
        width, code = 4, b & 0x07
    else:
        return np.int64(_REPLACEMENT), np.int64(1)
    if i + width > stop:
        return np.int64(_REPLACEMENT), np.int64(1)
    for k in range(1, width):
        c = np.int64(data[i + k])
        if c & 0xC0 != 0x80:
            return np.int64(_REPLACEMENT), np.int64(1)
        code = (code << 6) | (c & 0x3F)
    if code > 0x10FFFF:
        return np.int64(_REPLACEMENT), np.int64(1)
    return np.int64(code), np.int64(width)


@njit(cache=True, nogil=True, inline="always")
def _digit(code):  # type: ignore[no-untyped-def]
    return 48 <= code <= 57


@njit(cache=True, nogil=True, inline="always")
def filter_bit(chars, first, last):  # type: ignore[no-untyped-def]
    """Where the filter of special cases and units looks for a string of so many characters and these ends."""
    return (chars & 15) << 14 | (first & 127) << 7 | (last & 127)


@njit(cache=True, nogil=True, forceinline=True)
def _special(data, work, lo, hi, keys, meta, worth, kind):  # type: ignore[no-untyped-def]
    """The place of the characters lo:hi of the chunk in the table if they are an entry of this kind, else -1."""
    n = hi - lo
    if n <= 0 or n > LONGEST_SPECIAL or not worth[filter_bit(n, work[_CODE, lo], work[_CODE, hi - 1])]:
        return np.int64(-1)
    h = _hash(data, work[_BYTE, lo], work[_BYTE, hi])
    at = np.int64(h & np.uint64(keys.size - 1))
    while meta[KIND, at] != 0 and keys[at] != h:
        at = np.int64(np.uint64(at + 1) & np.uint64(keys.size - 1))
    return at if meta[KIND, at] & kind != 0 else np.int64(-1)


@njit(cache=True, nogil=True, forceinline=True)
def _run(work, i, hi, most):  # type: ignore[no-untyped-def]
    """How often, up to `most`, the character at i stands in a row."""
    run = 1
    while run < most and i + run < hi and work[_CODE, i + run] == work[_CODE, i]:
        run += 1
    return run


@njit(cache=True, nogil=True, forceinline=True)
def _prefix(work, lo, hi):  # type: ignore[no-untyped-def]
    """How many characters are split off the front of lo:hi."""
    if lo >= hi:
        return 0
    if work[_FLAG, lo] & _PREFIX != 0:
        return 1
    c = work[_CODE, lo]
    if c == 46:
        run = _run(work, lo, hi, hi - lo)
        return run if run > 1 else 0
    if c == 43:
        return 0 if lo + 1 < hi and _digit(work[_CODE, lo + 1]) else 1
    if c == 85 and lo + 2 < hi and work[_CODE, lo + 1] == 83 and work[_CODE, lo + 2] == 36:  # US$
        return 3
    if (c == 67 or c == 65) and lo + 1 < hi and work[_CODE, lo + 1] == 36:  # C$ A$
        return 2
    return 0


@njit(cache=True, nogil=True, forceinline=True)
def _suffix(data, work, lo, hi, keys, meta, worth):  # type: ignore[no-untyped-def]
    """How many characters are split off the end of lo:hi."""
    if lo >= hi:
        return 0
    c, before = work[_CODE, hi - 1], work[_CODE, hi - 2] if hi - 2 >= lo else np.int64(-1)
    if work[_FLAG, hi - 1] & _SUFFIX != 0:
        return 2 if c == 0x2026 and before == 0x2026 else 1
    if c == 115 or c == 83:  # 's
        if before == 39 or before == 0x2019:
            return 2
    elif c == 46:
        run = 1
        while hi - run > lo and work[_CODE, hi - run - 1] == 46:
            run += 1
        if run > 1:
            return run
        if before < 0:
            return 0
        left = work[_FLAG, hi - 2]
        two = hi - 3 >= lo
        degrees = two and work[_CODE, hi - 3] == 0xB0 and before in (70, 102, 67, 99, 75, 107)
        both_upper = two and left & _UPPER != 0 and work[_FLAG, hi - 3] & _UPPER != 0
        return 1 if left & _DOT_END != 0 or both_upper or degrees else 0
    elif c == 43:
        return 1 if before >= 0 and _digit(before) else 0
    elif work[_FLAG, hi - 1] & _CURRENCY != 0:
        if before >= 0 and _digit(before):
            return 1
        us = c == 36 and before == 83 and hi - 4 >= lo and work[_CODE, hi - 3] == 85
        if us and _digit(work[_CODE, hi - 4]):
            return 3
        if c == 36 and (before == 67 or before == 65) and hi - 3 >= lo and _digit(work[_CODE, hi - 3]):
            return 2
        return 0
    for k in range(1, 6):  # a unit after a digit
        if hi - k - 1 < lo or _digit(work[_CODE, hi - k]):
            break
        if _digit(work[_CODE, hi - k - 1]):
            return k if _special(data, work, hi - k, hi, keys, meta, worth, UNIT) >= 0 else 0
    return 0


@njit(cache=True, nogil=True, forceinline=True)
def _infix(work, i, lo, hi):  # type: ignore[no-untyped-def]
    """How many characters from i on cut the string lo:hi in two, 0 where there is no cut."""
    c = work[_CODE, i]
    if work[_FLAG, i] & _ICON != 0 or c == 0x2026:
        return 1
    if c == 46:
        run = _run(work, i, hi, hi - i)
        if run > 1:
            return run
        between = i > lo and i + 1 < hi
        cuts = between and work[_FLAG, i - 1] & _DOT_LEFT != 0 and work[_FLAG, i + 1] & _DOT_RIGHT != 0
        return 1 if cuts else 0
    if i == lo or i + 1 >= hi:
        return 0
    letter, digit = work[_FLAG, i - 1] & _LETTER != 0, _digit(work[_CODE, i - 1])
    following = work[_CODE, i + 1]
    if digit and (c == 43 or c == 45 or c == 42 or c == 94) and (_digit(following) or following == 45):
        return 1
    if c == 44:
        return 1 if letter and work[_FLAG, i + 1] & _LETTER != 0 else 0
    if not (letter or digit):
        return 0
    if c in (58, 60, 62, 61, 47, 126, 0x2013):
        return 1 if work[_FLAG, i + 1] & _LETTER != 0 else 0
    if c == 45 or c == 0x2014:
        run = _run(work, i, hi, 3 if c == 45 else 2)
        return run if i + run < hi and work[_FLAG, i + run] & _LETTER != 0 else 0
    return 0


@njit(cache=True, nogil=True, inline="always")
def _in_host(code):  # type: ignore[no-untyped-def]
    return 97 <= code <= 122 or 65 <= code <= 90 or _digit(code) or 0xA1 <= code <= 0xFFFF


@njit(cache=True, nogil=True, forceinline=True)
def _ends_host(work, i, hi):  # type: ignore[no-untyped-def]
    """Whether nothing but a port and a path follows from i on."""
    if i < hi and work[_CODE, i] == 58:
        i += 1
        first = i
        while i < hi and _digit(work[_CODE, i]):
            i += 1
        if not 2 <= i - first <= 5:
            return False
    return i == hi or work[_CODE, i] == 47 or work[_CODE, i] == 63 or work[_CODE, i] == 35


@njit(cache=True, nogil=True)
def _is_name(work, lo, hi):  # type: ignore[no-untyped-def]
    """Whether a host name with a top-level domain begins at lo and nothing but a port and a path follows."""
    i, label, labels = lo, lo, 0
    while i < hi and (_in_host(work[_CODE, i]) or work[_CODE, i] in (45, 46, 95)):
        if work[_CODE, i] == 46:
            if not (1 <= i - label <= 64 and _in_host(work[_CODE, label]) and _in_host(work[_CODE, i - 1])):
                return False
            label, labels = i + 1, labels + 1
        i += 1
    if labels == 0 or not 2 <= i - label <= 63:
        return False
    for k in range(label, i):
        if work[_FLAG, k] & _LOWER == 0:
            return False
    return _ends_host(work, i, hi)


@njit(cache=True, nogil=True)
def _is_ip(work, lo, hi):  # type: ignore[no-untyped-def]
    """Whether a public IPv4 address begins at lo and nothing but a port and a path follows."""
    i, first, second = lo, 0, 0
    for part in range(4):
        start, value = i, 0
        while i < hi and _digit(work[_CODE, i]) and i - start < 4:
            value = value * 10 + work[_CODE, i] - 48
            i += 1
        zero = start < hi and work[_CODE, start] == 48
        outer = part == 0 or part == 3
        most = 223 if part == 0 else (254 if part == 3 else 255)
        if i == start or i - start > 3 or value > most or (zero and (outer or i - start == 3)):
            return False
        if part == 0:
            first = value
        if part == 1:
            second = value
        if part < 3:
            if i >= hi or work[_CODE, i] != 46:
                return False
            i += 1
    if first in (10, 127) or (first == 169 and second == 254) or (first == 192 and second == 168):
        return False
    return not (first == 172 and 16 <= second <= 31) and _ends_host(work, i, hi)


@njit(cache=True, nogil=True)
def _is_address(work, lo, hi):  # type: ignore[no-untyped-def]
    """Whether lo:hi is an address: [scheme://][user@](host.domain|IPv4)[:port][/path]."""
    if _is_name(work, lo, hi) or _is_ip(work, lo, hi):
        return True
    i = lo
    while i < hi and (work[_FLAG, i] & (_ALPHA | _NUMBER) != 0 or work[_CODE, i] in (43, 45, 46, 95)):
        i += 1
    scheme = i - lo >= 2 and i + 2 < hi and work[_CODE, i] == 58
    scheme = scheme and work[_CODE, i + 1] == 47 and work[_CODE, i + 2] == 47
    if scheme and (_is_name(work, i + 3, hi) or _is_ip(work, i + 3, hi)):
        return True
    for k in range(lo + 1, hi):
        if work[_CODE, k] == 64 and (_is_name(work, k + 1, hi) or _is_ip(work, k + 1, hi)):
            return True
    return False


@njit(cache=True, nogil=True, forceinline=True)
def _split_middle(work, lo, hi, n):  # type: ignore[no-untyped-def]
    """Cut lo:hi at its infixes: append the ends of its tokens to `ends`; returns how many there are now."""
    dot, cuts = False, False
    for k in range(lo + 1, hi):  # there is no cut before the first character
        dot |= (work[_CODE, k] == 46) & (k < hi - 1)
        cuts |= work[_FLAG, k] & INFIX != 0
    if cuts and not (dot and _is_address(work, lo, hi)):
        start, i = lo, lo
        while i < hi:
            width = _infix(work, i, lo, hi) if work[_FLAG, i] & INFIX != 0 else 0
            if width > 0 and i > lo:
                if i > start:
                    work[_ENDS, n] = i
                    n += 1
                work[_ENDS, n] = i + width
                n += 1
                start = i + width
            i += max(width, 1)
        if start == hi:
            return n
    work[_ENDS, n] = hi
    return n + 1


@njit(cache=True, nogil=True, forceinline=True)
def _tokenize(data, work, m, keys, meta, worth):  # type: ignore[no-untyped-def]
    """Cut a chunk of m characters into tokens: work[_ENDS, k] is where the k-th stops; returns how many there are."""
    lo, hi, last, n, s = 0, m, -1, 0, 0
    case = np.int64(-1)
    while lo < hi and hi - lo != last:
        case = _special(data, work, lo, hi, keys, meta, worth, SPECIAL)
        if case >= 0:
            break
        last = hi - lo
        p = _prefix(work, lo, hi)
        if p > 0:
            case = _special(data, work, lo + p, hi, keys, meta, worth, SPECIAL)
            if case >= 0:
                lo += p
                work[_ENDS, n] = lo
                n += 1
                break
        q = _suffix(data, work, lo + p, hi, keys, meta, worth)
        if q > 0:
            case = _special(data, work, lo, hi - q, keys, meta, worth, SPECIAL)
            if case >= 0:
                hi -= q
                work[_FINAL, s] = q
                s += 1
                break
        if p > 0:
            lo += p
            work[_ENDS, n] = lo
            n += 1
        if q > 0:
            hi -= q
            work[_FINAL, s] = q
            s += 1
    if lo < hi:
        if case >= 0:
            pieces, at = meta[PIECES, case], lo
            while pieces != 0:
                at += pieces & 15
                pieces >>= 4
                work[_ENDS, n] = at
                n += 1
        else:
            n = _split_middle(work, lo, hi, n)
    at = hi
    for k in range(s):
        at += work[_FINAL, s - 1 - k]
        work[_ENDS, n] = at
        n += 1
    return n


@njit(cache=True, nogil=True)
def _rejoin(data, work, n, keys, meta, worth):  # type: ignore[no-untyped-def]
    """Put special cases together again that the rules cut apart, longest first; fills `out`, returns how many."""
    found = False
    for i in range(n - 1):  # most chunks hold none, and that is seen soonest from the left
        lo = work[_ENDS, i - 1] if i > 0 else 0
        for k in range(i + 1, n):
            hi = work[_ENDS, k]
            if hi - lo > LONGEST_SPECIAL:
                break
            found = found or _special(data, work, lo, hi, keys, meta, worth, REJOINED) >= 0
    if not found:
        for i in range(n):
            work[_FINAL, i] = work[_ENDS, i]
        return n
    for i in range(n):
        work[_SEEN, i] = 0  # 1: part of a match; 2 + place: a match begins here and is taken
    for count in range(min(n, LONGEST_SPECIAL), 1, -1):
        for i in range(n - count + 1):
            lo, hi = work[_ENDS, i - 1] if i > 0 else 0, work[_ENDS, i + count - 1]
            at = _special(data, work, lo, hi, keys, meta, worth, REJOINED)
            if at < 0:
                continue
            cuts = np.int64(0)
            for k in range(count - 1):
                cuts |= np.int64(1) << np.int64(work[_ENDS, i + k] - lo)
            if cuts != meta[CUTS, at]:
                continue
            free = work[_SEEN, i] == 0 and work[_SEEN, i + count - 1] == 0
            for k in range(count):
                work[_SEEN, i + k] = max(work[_SEEN, i + k], 1)
            if free:
                work[_SEEN, i] = 2 + at
    i, size = 0, 0
    while i < n:
        if work[_SEEN, i] < 2:
            work[_FINAL, size] = work[_ENDS, i]
            size, i = size + 1, i + 1
            continue
        lo = work[_ENDS, i - 1] if i > 0 else 0
        cuts, pieces = meta[CUTS, work[_SEEN, i] - 2], meta[PIECES, work[_SEEN, i] - 2]
        i += 1
        while cuts != 0:
            i += cuts & 1
            cuts >>= 1
        while pieces != 0:
            lo += pieces & 15
            pieces >>= 4
            work[_FINAL, size] = lo
            size += 1
    return size


@njit(cache=True, nogil=True)
def _read(data, i, stop, flags, work):  # type: ignore[no-untyped-def]
    """Decode data[i:stop] into `work`; returns how many characters it has."""
    m = 0
    while i < stop:
        code, width = np.int64(data[i]), np.int64(1)
        if code >= 128:
            code, width = _decode(data, i, stop)
        work[_CODE, m], work[_FLAG, m], work[_BYTE, m] = code, flags[code], i
        m += 1
        i += width
    work[_BYTE, m] = i
    return m


@njit(cache=True, nogil=True)
def _cut_all(  # type: ignore[no-untyped-def]
    data, starts, stops, flags, keys, meta, worth, work, offsets, hashes, chars, kinds, ends
):
    """The loop of `token_kernel`; returns how many tokens there are.

    No array is made or exchanged here: numba would count references to it in every round of the loop.
    """
    t = 0
    for c in range(starts.size):
        m = _read(data, starts[c], stops[c], flags, work)
        n = _tokenize(data, work, m, keys, meta, worth)
        if n > 1:
            n = _rejoin(data, work, n, keys, meta, worth)
        else:
            work[_FINAL, 0] = work[_ENDS, 0]
        lo = np.int64(0)
        for k in range(n):
            hi = work[_FINAL, k]
            kind = 0
            for at in range(lo, hi):
                kind |= ALPHA_TOKEN if work[_FLAG, at] & _ALPHA != 0 else 0
                kind |= WORD_TOKEN if work[_FLAG, at] & _SIGN == 0 else 0
            hashes[t], chars[t] = _hash(data, work[_BYTE, lo], work[_BYTE, hi]), hi - lo
            kinds[t], ends[t] = kind, work[_BYTE, hi]
            t += 1
            lo = hi
        offsets[c + 1] = t
    return t


@njit(cache=True, nogil=True)
def token_kernel(data, starts, stops, flags, keys, meta, worth):  # type: ignore[no-untyped-def]
    """Cut the k chunks data[starts[c]:stops[c]], which hold no white space, into tokens.

    data uint8, starts and stops int64 [k], flags uint16 [0x110000]. keys uint64 [a power of two], meta int64 [3, as
    many] and worth bool [FILTER_BITS]: the table of special cases and units. Returns offsets int64 [k+1] and for each
    token its hash uint64, its characters int32, its kind uint8 and the byte where it stops int64.
    """
    longest, most = 255, 0  # no token is shorter than a byte
    for c in range(starts.size):
        longest, most = max(longest, stops[c] - starts[c]), most + stops[c] - starts[c]
    offsets, work = np.zeros(starts.size + 1, np.int64), np.empty((_ROWS, longest + 1), np.int64)
    hashes, chars = np.empty(most, np.uint64), np.empty(most, np.int32)
    kinds, ends = np.empty(most, np.uint8), np.empty(most, np.int64)
    t = _cut_all(
        lend(data), lend(starts), lend(stops), lend(flags), lend(keys), lend(meta), lend(worth), lend(work),
        lend(offsets), lend(hashes), lend(chars), lend(kinds), lend(ends),
    )  # fmt: skip
    return offsets, hashes[:t], chars[:t], kinds[:t], ends[:t]
