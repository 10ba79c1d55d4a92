"""The compiled kernel that cuts chunks into tokens by the rules of spaCy 3.8 for English.

The rules are those of its tokenizer.pyx, lang/punctuation.py, lang/en/punctuation.py and lang/tokenizer_exceptions.py,
written for tables (`english_tokens`) instead of regular expressions. `mixloom.pipeline.chunks` calls the kernel. Every
function it calls is in this file: numba's cache looks at the changes of one file only.

A chunk is `codes[lo:hi]`: its bytes where they are ASCII, else its code points. `at` says at which byte each of these
begins, and is empty where they are the bytes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import english_tokens as en
from mixloom.pipeline.code_points import decode
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.raw_bytes import load, turn
from mixloom.pipeline.token_addresses import is_address, is_digit

# Flags beside those of `english_tokens`: of the characters that may cut a chunk, as `_infix` knows them, and of "@".
INFIX, AT = 1 << 14, 1 << 15
INFIXES = "….+-*^,:<>=/~–—"  # and all that are an ICON
# What an entry of the table is: a special case, a unit, a special case that the rules alone would cut.
SPECIAL, UNIT, REJOINED = 1, 2, 4
LONGEST_SPECIAL = 12  # characters
FILTER_BITS = 1 << 18
# The columns of `words`, which says what each distinct chunk is: as a word, where its tokens begin, how many there are, how
# many of them have a letter, how many have more than signs and the characters of those; the same of segments; whether
# it is more than ASCII.
CHARS, ALPHA_WORD, SYMBOL_WORD, STOP, STOP_CASED, LED, INNER = 0, 1, 2, 3, 4, 5, 6
TOKEN_FIRST, TOKENS, ALPHA_TOKENS, WORD_TOKENS, WORD_TOKEN_CHARS = 7, 8, 9, 10, 11
SEGMENT_FIRST, SEGMENTS, SEGMENT_CHARS, WIDE = 12, 13, 14, 15
WORD_WIDTH = 16

_PREFIX, _SUFFIX, _LETTER, _UPPER = en.PREFIX, en.SUFFIX, en.LETTER, en.UPPER
_DOT_LEFT, _DOT_RIGHT, _DOT_END = en.DOT_LEFT, en.DOT_RIGHT, en.DOT_END
_ICON, _CURRENCY, _SIGN, _ALPHA = en.ICON, en.CURRENCY, en.SIGN, en.ALPHA
# The rows of `work`, lists of places in the chunk: where tokens end before and after special cases are put together
# again; what is known of each token; what may cut it.
_ENDS, _FINAL, _SEEN, _CUT = 0, 1, 2, 3
_ROWS = 4
# The rows of `meta`: the kind of an entry, the lengths of its pieces (four bits each), where the rules alone cut it.
KIND, PIECES, CUTS = 0, 1, 2

_START, _STEP = np.uint64(0x243F6A8885A308D3), np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S8, _S27, _S29, _S30, _S31 = np.uint64(8), np.uint64(27), np.uint64(29), np.uint64(30), np.uint64(31)
_ZERO, _ONE, _LOW8 = np.uint64(0), np.uint64(1), np.uint64(0xFF)


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
def _byte(at, i):  # type: ignore[no-untyped-def]
    return at[i] if at.size > 0 else i


@njit(**LEAN, inline="always")
def filter_bit(chars, first, last):  # type: ignore[no-untyped-def]
    """Where the filter of special cases and units looks for a string of so many characters and these ends."""
    return (chars & 15) << 14 | (first & 127) << 7 | (last & 127)


@njit(**LEAN, forceinline=True)
def _special(data, codes, at, lo, hi, keys, meta, brief, worth, kind):  # type: ignore[no-untyped-def]
    """The place of the characters lo:hi of the chunk in the table if they are an entry of this kind, else -1."""
    n = hi - lo
    if n <= 0 or n > LONGEST_SPECIAL:
        return np.int64(-1)
    first = np.int64(codes[lo])
    if brief[n, first & 127] & kind == 0 or worth[filter_bit(n, first, np.int64(codes[hi - 1]))] & kind == 0:
        return np.int64(-1)
    h = _hash(data, _byte(at, lo), _byte(at, hi))
    place = np.int64(h & np.uint64(keys.size - 1))
    while meta[KIND, place] != 0 and keys[place] != h:
        place = np.int64(np.uint64(place + 1) & np.uint64(keys.size - 1))
    return place if meta[KIND, place] & kind != 0 else np.int64(-1)


@njit(**LEAN, forceinline=True)
def _run(codes, i, hi, most):  # type: ignore[no-untyped-def]
    """How often, up to `most`, the character at i stands in a row."""
    run = 1
    while run < most and i + run < hi and codes[i + run] == codes[i]:
        run += 1
    return run


@njit(**LEAN, forceinline=True)
def _prefix(codes, flags, lo, hi):  # type: ignore[no-untyped-def]
    """How many characters are split off the front of lo:hi."""
    if lo >= hi:
        return 0
    if flags[codes[lo]] & _PREFIX != 0:
        return 1
    c = np.int64(codes[lo])
    if c == 46:
        run = _run(codes, lo, hi, hi - lo)
        return run if run > 1 else 0
    if c == 43:
        return 0 if lo + 1 < hi and is_digit(codes[lo + 1]) else 1
    if c == 85 and lo + 2 < hi and codes[lo + 1] == 83 and codes[lo + 2] == 36:  # US$
        return 3
    if (c == 67 or c == 65) and lo + 1 < hi and codes[lo + 1] == 36:  # C$ A$
        return 2
    return 0


@njit(**LEAN, forceinline=True)
def _suffix(data, codes, flags, at, lo, hi, keys, meta, brief, worth):  # type: ignore[no-untyped-def]
    """How many characters are split off the end of lo:hi."""
    if lo >= hi:
        return 0
    c, before = np.int64(codes[hi - 1]), np.int64(codes[hi - 2]) if hi - 2 >= lo else np.int64(-1)
    if flags[codes[hi - 1]] & _SUFFIX != 0:
        return 2 if c == 0x2026 and before == 0x2026 else 1
    if c == 115 or c == 83:  # 's
        if before == 39 or before == 0x2019:
            return 2
    elif c == 46:
        run = 1
        while hi - run > lo and codes[hi - run - 1] == 46:
            run += 1
        if run > 1:
            return run
        if before < 0:
            return 0
        left = flags[codes[hi - 2]]
        two = hi - 3 >= lo
        degrees = two and codes[hi - 3] == 0xB0 and before in (70, 102, 67, 99, 75, 107)
        both_upper = two and left & _UPPER != 0 and flags[codes[hi - 3]] & _UPPER != 0
        return 1 if left & _DOT_END != 0 or both_upper or degrees else 0
    elif c == 43:
        return 1 if before >= 0 and is_digit(before) else 0
    elif flags[codes[hi - 1]] & _CURRENCY != 0:
        if before >= 0 and is_digit(before):
            return 1
        us = c == 36 and before == 83 and hi - 4 >= lo and codes[hi - 3] == 85
        if us and is_digit(codes[hi - 4]):
            return 3
        if c == 36 and (before == 67 or before == 65) and hi - 3 >= lo and is_digit(codes[hi - 3]):
            return 2
        return 0
    for k in range(1, 6):  # a unit after a digit
        if hi - k - 1 < lo or is_digit(codes[hi - k]):
            break
        if is_digit(codes[hi - k - 1]):
            return k if _special(data, codes, at, hi - k, hi, keys, meta, brief, worth, UNIT) >= 0 else 0
    return 0


@njit(**LEAN, forceinline=True)
def _infix(codes, flags, i, lo, hi):  # type: ignore[no-untyped-def]
    """How many characters from i on cut the string lo:hi in two, 0 where there is no cut."""
    c = np.int64(codes[i])
    if flags[codes[i]] & _ICON != 0 or c == 0x2026:
        return 1
    if c == 46:
        run = _run(codes, i, hi, hi - i)
        if run > 1:
            return run
        between = i > lo and i + 1 < hi
        cuts = between and flags[codes[i - 1]] & _DOT_LEFT != 0 and flags[codes[i + 1]] & _DOT_RIGHT != 0
        return 1 if cuts else 0
    if i == lo or i + 1 >= hi:
        return 0
    letter, digit = flags[codes[i - 1]] & _LETTER != 0, is_digit(np.int64(codes[i - 1]))
    following = np.int64(codes[i + 1])
    if digit and (c == 43 or c == 45 or c == 42 or c == 94) and (is_digit(following) or following == 45):
        return 1
    if c == 44:
        return 1 if letter and flags[codes[i + 1]] & _LETTER != 0 else 0
    if not (letter or digit):
        return 0
    if c in (58, 60, 62, 61, 47, 126, 0x2013):
        return 1 if flags[codes[i + 1]] & _LETTER != 0 else 0
    if c == 45 or c == 0x2014:
        run = _run(codes, i, hi, 3 if c == 45 else 2)
        return run if i + run < hi and flags[codes[i + run]] & _LETTER != 0 else 0
    return 0


@njit(**LEAN, forceinline=True)
def _split_middle(codes, flags, work, lo, hi, n):  # type: ignore[no-untyped-def]
    """Cut lo:hi at its infixes: append the ends of its tokens to `ends`; returns how many there are now."""
    seen, found = np.int64(flags[codes[lo]]), np.int64(1)
    work[_CUT, 0] = lo
    for k in range(lo + 1, hi):
        flag = np.int64(flags[codes[k]])
        seen |= flag
        work[_CUT, found] = k
        found += (flag & INFIX) // INFIX
    dot = False  # there is no cut before the first character
    for c in range(1, found):
        dot = dot or (codes[work[_CUT, c]] == 46 and work[_CUT, c] < hi - 1)
    if found > 1 and not (dot and is_address(codes, flags, lo, hi, seen & AT != 0)):
        start, i = lo, lo
        for c in range(found):
            k = work[_CUT, c]
            if k < i or flags[codes[k]] & INFIX == 0:
                continue
            width = _infix(codes, flags, k, lo, hi)
            if width > 0 and k > lo:
                if k > start:
                    work[_ENDS, n] = k
                    n += 1
                work[_ENDS, n] = k + width
                n += 1
                start = k + width
            i = k + max(width, 1)
        if start == hi:
            return n
    work[_ENDS, n] = hi
    return n + 1


@njit(**LEAN, forceinline=True)
def _tokenize(data, codes, flags, at, work, lo, hi, keys, meta, brief, worth):  # type: ignore[no-untyped-def]
    """Cut the chunk lo:hi into tokens: work[_ENDS, k] is where the k-th stops; returns how many there are."""
    last, n, s = -1, 0, 0
    bare = False  # whether it is known that nothing is split off the end
    case = _special(data, codes, at, lo, hi, keys, meta, brief, worth, SPECIAL)
    while case < 0 and lo < hi and hi - lo != last:
        last = hi - lo
        p = _prefix(codes, flags, lo, hi)
        if p > 0:
            case = _special(data, codes, at, lo + p, hi, keys, meta, brief, worth, SPECIAL)
            if case >= 0:
                lo += p
                work[_ENDS, n] = lo
                n += 1
                break
        q = 0
        if p > 0 or not bare:
            q = _suffix(data, codes, flags, at, lo + p, hi, keys, meta, brief, worth)
        bare = q == 0
        if q > 0:
            case = _special(data, codes, at, lo, hi - q, keys, meta, brief, worth, SPECIAL)
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
        if p > 0 and q > 0:  # otherwise this was asked above
            case = _special(data, codes, at, lo, hi, keys, meta, brief, worth, SPECIAL)
    if lo < hi:
        if case >= 0:
            pieces, end = meta[PIECES, case], lo
            while pieces != 0:
                end += pieces & 15
                pieces >>= 4
                work[_ENDS, n] = end
                n += 1
        else:
            n = _split_middle(codes, flags, work, lo, hi, n)
    end = hi
    for k in range(s):
        end += work[_FINAL, s - 1 - k]
        work[_ENDS, n] = end
        n += 1
    return n


@njit(**LEAN)
def _rejoin(data, codes, at, work, begin, n, keys, meta, brief, worth):  # type: ignore[no-untyped-def]
    """Put special cases together again that the rules cut apart, longest first; fills `final`, returns how many."""
    found, lo = False, begin
    for i in range(n - 1):  # most chunks hold none, and that is seen soonest from the left
        if brief[0, codes[lo] & 127] & REJOINED != 0:
            for k in range(i + 1, n):
                hi = work[_ENDS, k]
                if hi - lo > LONGEST_SPECIAL:
                    break
                found = found or _special(data, codes, at, lo, hi, keys, meta, brief, worth, REJOINED) >= 0
        lo = work[_ENDS, i]
    if not found:
        for i in range(n):
            work[_FINAL, i] = work[_ENDS, i]
        return n
    for i in range(n):
        work[_SEEN, i] = 0  # 1: part of a match; 2 + place: a match begins here and is taken
    for count in range(min(n, LONGEST_SPECIAL), 1, -1):
        for i in range(n - count + 1):
            lo, hi = work[_ENDS, i - 1] if i > 0 else begin, work[_ENDS, i + count - 1]
            place = _special(data, codes, at, lo, hi, keys, meta, brief, worth, REJOINED)
            if place < 0:
                continue
            cuts = np.int64(0)
            for k in range(count - 1):
                cuts |= np.int64(1) << np.int64(work[_ENDS, i + k] - lo)
            if cuts != meta[CUTS, place]:
                continue
            free = work[_SEEN, i] == 0 and work[_SEEN, i + count - 1] == 0
            for k in range(count):
                work[_SEEN, i + k] = max(work[_SEEN, i + k], 1)
            if free:
                work[_SEEN, i] = 2 + place
    i, size = 0, 0
    while i < n:
        if work[_SEEN, i] < 2:
            work[_FINAL, size] = work[_ENDS, i]
            size, i = size + 1, i + 1
            continue
        lo = work[_ENDS, i - 1] if i > 0 else begin
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


@njit(**LEAN, forceinline=True)
def _cut_one(  # type: ignore[no-untyped-def]
    data, codes, flags, at, work, lo, hi, keys, meta, brief, worth, stop_keys, stop_numbers, word, hashes, chars, t,
):  # fmt: skip
    """Cut the chunk lo:hi and append its tokens behind the first t; fills `word`; returns which stop words are among them."""
    n = _tokenize(data, codes, flags, at, work, lo, hi, keys, meta, brief, worth)
    if n > 1:
        n = _rejoin(data, codes, at, work, lo, n, keys, meta, brief, worth)
    else:
        work[_FINAL, 0] = work[_ENDS, 0]
    alphas, words, word_chars, stops = 0, 0, 0, _ZERO
    for k in range(n):
        end = work[_FINAL, k]
        kind = np.int64(0)
        for i in range(lo, end):
            kind |= np.int64(flags[codes[i]]) ^ _SIGN
        alphas += kind & _ALPHA != 0
        words += kind & _SIGN != 0
        word_chars += end - lo if kind & _SIGN != 0 else 0
        h = _hash(data, _byte(at, lo), _byte(at, end))
        hashes[t + k], chars[t + k] = h, end - lo
        place = h & _LOW8
        while stop_keys[place] != _ZERO:
            if stop_keys[place] == h:
                stops |= _ONE << np.uint64(stop_numbers[place])
            place = (place + _ONE) & _LOW8
        lo = end
    word[TOKEN_FIRST], word[TOKENS], word[ALPHA_TOKENS] = t, n, alphas
    word[WORD_TOKENS], word[WORD_TOKEN_CHARS] = words, word_chars
    return stops


@njit(**LEAN)
def _cut_all(  # type: ignore[no-untyped-def]
    data, starts, stops, flags, keys, meta, brief, worth, stop_keys, stop_numbers, work, codes, at, none, words,
    hashes, chars, found,
):  # fmt: skip
    """The loop of `token_kernel`; returns how many tokens there are.

    No array is made or exchanged here: numba would count references to it in every round of the loop.
    """
    t = 0
    for c in range(starts.size):
        if words[c, WIDE] == 0:
            found[c] = _cut_one(
                data, data, flags, none, work, starts[c], stops[c], keys, meta, brief, worth, stop_keys, stop_numbers,
                words[c], hashes, chars, t,
            )  # fmt: skip
        else:
            i, m = starts[c], np.int64(0)
            while i < stops[c]:
                code, width = np.int64(data[i]), np.int64(1)
                if code >= 128:
                    code, width = decode(data, i, stops[c])
                codes[m], at[m] = code, i
                m += 1
                i += width
            at[m] = i
            found[c] = _cut_one(
                data, codes, flags, at, work, np.int64(0), m, keys, meta, brief, worth, stop_keys, stop_numbers,
                words[c], hashes, chars, t,
            )  # fmt: skip
        t += words[c, TOKENS]
    return t


@njit(cache=True, nogil=True)
def token_kernel(  # type: ignore[no-untyped-def]
    data, starts, stops, words, flags, keys, meta, brief, worth, stop_keys, stop_numbers
):
    """Cut the k chunks data[starts[c]:stops[c]], which hold no white space, into tokens.

    data uint8, starts and stops int64 [k], flags uint16 [0x110000]. words int32 [k, WORD_WIDTH]: WIDE is known, the columns
    of tokens are filled. keys uint64 [a power of two], meta int64 [3, as many], brief uint8 [16, 128] and worth uint8
    [FILTER_BITS]: the table of special cases and units. stop_keys uint64 [256], hashes of stop words, open addressing,
    stop_numbers int8 [256]. Returns hashes uint64 and characters int32 of the tokens, and which stop words are among those
    of each chunk as they stand, bits of uint64 [k].
    """
    longest, most = 255, 0  # no token is shorter than a byte
    for c in range(starts.size):
        longest, most = max(longest, stops[c] - starts[c]), most + stops[c] - starts[c]
    work, none = np.empty((_ROWS, longest + 1), np.int64), np.empty(0, np.int64)
    codes, at = np.empty(longest, np.int32), np.empty(longest + 1, np.int64)
    hashes, chars, found = (
        np.empty(most, np.uint64),
        np.empty(most, np.int32),
        np.empty(starts.size, np.uint64),
    )
    t = _cut_all(
        data, starts, stops, flags, keys, meta, brief, worth,
        stop_keys, stop_numbers, work, codes, at, none, words,
        hashes, chars, found,
    )  # fmt: skip
    return hashes[:t], chars[:t], found
