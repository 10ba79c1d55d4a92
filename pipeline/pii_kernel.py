"""The compiled pre-scan for personal data: where in the bytes a value could be; `mixloom.pipeline.pii` checks each place.

Every function it calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# What a candidate may turn out to be.
EMAIL, PHONE, IPV4, IPV6, IBAN, CARD, SECRET = 0, 1, 2, 3, 4, 5, 6

_MOST_DIGITS = 24  # a number is followed so far; cards have 19 digits at most, phones 15
_MOST_LOCAL = 64  # characters before the "@" of an address (RFC 5321)


@njit(cache=True, nogil=True, inline="always")
def _digit(b):  # type: ignore[no-untyped-def]
    return 48 <= b <= 57


@njit(cache=True, nogil=True, inline="always")
def _upper(b):  # type: ignore[no-untyped-def]
    return 65 <= b <= 90


@njit(cache=True, nogil=True, inline="always")
def _word(b):  # type: ignore[no-untyped-def]
    """Whether this is an ASCII letter, a digit or "_"."""
    return 48 <= b <= 57 or 65 <= b <= 90 or 97 <= b <= 122 or b == 95


@njit(cache=True, nogil=True, inline="always")
def _hex(b):  # type: ignore[no-untyped-def]
    return 48 <= b <= 57 or 65 <= b <= 70 or 97 <= b <= 102


@njit(cache=True, nogil=True)
def _local_start(data, at, low):  # type: ignore[no-untyped-def]
    """Where the local part of the address whose "@" is at `at` begins; `at` where there is none, -1 if it is too long.

    Characters: ASCII letters and digits, . _ % + ' - and the two-byte characters from U+00C0 (Latin, Greek, Cyrillic,
    Hebrew, Arabic letters); two dots in a row end it, it begins with none of . % + ' - and does not end with a dot.
    """
    if at > low and data[at - 1] == 46:
        return at
    i, chars = at, 0
    while i > low:
        b = data[i - 1]
        if 0x80 <= b < 0xC0 and i - 2 >= low and 0xC3 <= data[i - 2] < 0xE0:
            i -= 2
        elif _word(b) or b == 37 or b == 43 or b == 39 or b == 45 or (b == 46 and data[i] != 46):
            i -= 1
        else:
            break
        chars += 1
        if chars > _MOST_LOCAL + 16:
            return -1
    while i < at and (data[i] == 46 or data[i] == 37 or data[i] == 43 or data[i] == 39 or data[i] == 45):
        i += 1
        chars -= 1
    return i if chars <= _MOST_LOCAL else -1


@njit(cache=True, nogil=True)
def _joint(data, i, high):  # type: ignore[no-untyped-def]
    """Bytes of what may stand between two groups of digits at i: one of space . / - ( ) or a mark for it, or ") " etc."""
    n = 0
    while n < 6 and i + n < high:
        b = data[i + n]
        if b == 32 or b == 46 or b == 47 or b == 45 or b == 40 or b == 41:
            n += 1
        elif b == 0xC2 and i + n + 1 < high and data[i + n + 1] == 0xA0:
            n += 2
        elif b == 0xE2 and i + n + 2 < high and data[i + n + 1] == 0x80:
            n += 3
        else:
            break
    return n


@njit(cache=True, nogil=True)
def _after_label(data, i, low, ends):  # type: ignore[no-untyped-def]
    """Whether the two bytes before the signs before i end a word that may announce a telephone number.

    ends: bool [256, 256], by the last two bytes of the words, in lower case.
    """
    for _ in range(12):
        if i - 2 < low:
            return False
        b = data[i - 1]
        sign = b == 32 or b == 58 or b == 46 or b == 35 or b == 40 or b == 41 or b == 61 or b == 45 or b == 9
        if sign:
            i -= 1
        elif b == 0x9A and i - 3 >= low and data[i - 2] == 0xBC and data[i - 3] == 0xEF:  # full-width colon
            i -= 3
        else:
            break
    if i - 2 < low:
        return False
    a, b = data[i - 2], data[i - 1]
    a = a + 32 if _upper(a) else a
    b = b + 32 if _upper(b) else b
    return ends[a, b]


@njit(cache=True, nogil=True)
def _number(data, i, low, high, label_ends):  # type: ignore[no-untyped-def]
    """What the digits that begin at i could be: bits of IPV4, CARD and PHONE."""
    groups, digits, p = 0, 0, i
    first, second, third = 0, 0, 0  # digits of the first groups
    dotted = True  # so far at most three digits between single dots
    ip = False
    while p < high and _digit(data[p]) and digits <= _MOST_DIGITS and groups < 10:
        n = 0
        while p < high and _digit(data[p]) and digits <= _MOST_DIGITS:
            n += 1
            digits += 1
            p += 1
        groups += 1
        if groups == 1:
            first = n
        elif groups == 2:
            second = n
        elif groups == 3:
            third = n
        dotted = dotted and n <= 3
        ip = ip or (groups == 4 and dotted)
        width = _joint(data, p, high)
        if width == 0 or p + width >= high or not _digit(data[p + width]):
            break
        dotted = dotted and width == 1 and data[p] == 46
        p += width
    found = 0
    if ip:
        found |= 1 << IPV4
    lead = data[i] - 48
    if digits >= 13 and 2 <= lead <= 6:
        found |= 1 << CARD
    if digits >= 7:
        opened = i > low and data[i - 1] == 40
        plus = i > low and data[i - 1] == 43
        american = (first == 3 and second == 3) or (first == 1 and lead == 1 and second == 3 and third == 3)
        row = i - 2 >= low and data[i - 1] == 32 and _digit(data[i - 2])  # the middle of a row of numbers
        trunk = lead == 0 and 2 <= first <= 6 and digits >= 9 and groups >= 2 and not row
        exit_code = lead == 0 and data[i + 1] == 48 and groups >= 2  # 7 digits, so there is a second byte
        if (
            plus
            or american
            or trunk
            or exit_code
            or (opened and groups >= 2)
            or _after_label(data, i, low, label_ends)
        ):
            found |= 1 << PHONE
    return found


@njit(cache=True, nogil=True)
def _prefix(data, i, low, high, prefixes, bounds, anchors):  # type: ignore[no-untyped-def]
    """Where a secret begins of whose prefix the anchor byte stands at i, or -1."""
    for k in range(anchors.size):
        start = i - anchors[k]
        width = bounds[k + 1] - bounds[k]
        if start >= low and start + width <= high and prefixes[bounds[k] + anchors[k]] == data[i]:
            same = True
            for j in range(width):
                if data[start + j] != prefixes[bounds[k] + j]:
                    same = False
                    break
            if same and not (start > low and _word(data[start - 1])):
                return start
    return -1


@njit(cache=True, nogil=True)
def _address_run(data, i, low, high):  # type: ignore[no-untyped-def]
    """The run of hexadecimal digits, ":" and "." whose first ":" is at i, as (start, stop); (0, 0) if it is no IPv6."""
    start = i
    while start > low and i - start < 5 and _hex(data[start - 1]):
        start -= 1
    if i - start > 4 or (start > low and (_word(data[start - 1]) or data[start - 1] == 58)):
        return 0, 0
    stop, colons = i, 0
    while stop < high and stop - start < 48 and (_hex(data[stop]) or data[stop] == 58 or data[stop] == 46):
        colons += data[stop] == 58
        stop += 1
    if colons < 2 or stop - start >= 48:
        return 0, 0
    return start, stop


@njit(cache=True, nogil=True)
def _next(data, i, stop, anchor):  # type: ignore[no-untyped-def]
    """The next place with an anchor byte (a loop of its own: thirty times the speed of the same inside the scan)."""
    while i < stop and not anchor[data[i]]:
        i += 1
    return i


@njit(cache=True, nogil=True)
def scan_kernel(data, lows, highs, starts, stops, anchor, label_ends, prefixes, bounds, anchors):  # type: ignore[no-untyped-def]
    """Candidates in m regions of the bytes.

    data uint8; lows, highs, starts, stops int64 [m]: region k is data[lows[k]:highs[k]], of which the places from
    starts[k] to stops[k] are looked at; anchor bool [256]: the bytes worth a look; label_ends bool [256, 256];
    prefixes uint8, bounds int64 [p+1], anchors int64 [p]: the prefixes of secrets, concatenated, and the index of the
    byte of each that is looked for.

    Returns:
        (region int32, kind int8, place int64, start int64), [c] each, in order of region. `place` is the "@" of an
        address, else where the value begins; `start` is where the local part begins, or where a run of IPv6 ends.
    """
    size = 1024
    region, kind = np.empty(size, np.int32), np.empty(size, np.int8)
    place, start = np.empty(size, np.int64), np.empty(size, np.int64)
    used = 0
    for k in range(lows.size):
        low, high = lows[k], highs[k]
        i = starts[k]
        while True:
            i = _next(data, i, stops[k], anchor)
            if i >= stops[k]:
                break
            b = data[i]
            mask, a, at = 0, np.int64(i), np.int64(i)
            if b == 64:
                a = _local_start(data, i, low)
                if 0 <= a < i and i + 1 < high:
                    mask = 1 << EMAIL
            elif _digit(b):
                if i == low or not _word(data[i - 1]):
                    mask = _number(data, i, low, high, label_ends)
            elif b == 58:
                place_of, last = _address_run(data, i, low, high)
                if last > 0:
                    mask, a, at = 1 << IPV6, np.int64(last), np.int64(place_of)
            elif _upper(b) and not (i > low and _word(data[i - 1])):
                long_enough = i + 15 <= high
                if long_enough and _upper(data[i + 1]) and _digit(data[i + 2]) and _digit(data[i + 3]):
                    mask = 1 << IBAN
            if mask == 0 and (b == 95 or b == 45 or b == 71 or 73 <= b <= 75):  # _ - G I J K
                at = _prefix(data, i, low, high, prefixes, bounds, anchors)
                mask = 1 << SECRET if at >= 0 else 0
            if mask != 0:
                for c in range(7):
                    if mask >> c & 1:
                        if used == size:
                            size *= 2
                            region, kind = _grown(region, size), _grown(kind, size)
                            place, start = _grown(place, size), _grown(start, size)
                        region[used], kind[used], place[used], start[used] = k, c, at, a
                        used += 1
            i += 1
    return region[:used], kind[:used], place[:used], start[:used]


@njit(cache=True, nogil=True)
def _grown(a, size):  # type: ignore[no-untyped-def]
    bigger = np.empty(size, a.dtype)
    bigger[: a.size] = a
    return bigger
