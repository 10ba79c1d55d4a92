"""The compiled kernel that finds the lines of a batch of texts and counts in them; `mixloom.pipeline.lines` calls it.

It reads the bits of `line_masks`, 64 bytes at a time. Every function it calls is in this file, but for the bit counts:
numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import line_measures as lm
from mixloom.pipeline.bit_counts import high_zeros, low_zeros, popcount
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.line_masks import (
    DIGIT,
    LETTER,
    MORE,
    R_BREAK,
    R_DIGIT,
    R_LETTER,
    R_MORE,
    R_SPACE,
    R_UPPER,
    TERMINAL,
)

# What `line_kernel` returns of each line. `end` is where the line break begins; `again` says what is to be looked at.
NUMBERS = (
    *("start", "stop", "next", "end"),
    *("chars", "words", "alnum_words", "max_word_chars", "sentences"),
)
SHARES = ("upper_share", "digit_share")
BITS = ("line_break", "ends", "again")
# Bits of `again`: there may be a citation, "items in cart", "sign-in" or "read more"; the line may be a counter.
MAY_CITE, HAS_CART, MAY_SNIP, MAY_COUNT = 1, 2, 4, 8

_ALL, _ZERO, _ONE, _TOP = np.uint64(2**64 - 1), np.uint64(0), np.uint64(1), np.uint64(63)
_END_OF_TEXT, _NEWLINE, _CARRIAGE = lm.END_OF_TEXT, lm.NEWLINE, lm.CARRIAGE_NEWLINE
_OTHER_BREAK = lm.OTHER_BREAK
_E_PERIOD, _E_DOTS = lm.ENDS["ends_in_period"], lm.ENDS["ends_in_three_dots"]
_E_ELLIPSIS, _E_OTHER = lm.ENDS["ends_in_ellipsis"], lm.ENDS["ends_in_other_terminal"]
_ENDS = np.zeros(128, np.uint8)  # of the other ASCII characters
_ENDS[[ord(c) for c in "?!\"'"]] = [
    lm.ENDS[f"ends_in_{name}"]
    for name in ("question_mark", "exclamation_mark", "double_quote", "single_quote")
]


@njit(**LEAN)
def _within(k, begin, end):  # type: ignore[no-untyped-def]
    """The bits of bytes begin to end (begin < end) in word k of a row of masks."""
    m = _ALL
    if k == begin >> 6:
        m = _ALL << np.uint64(begin & 63)
    if k == (end - 1) >> 6:
        m &= _ALL >> np.uint64(63 - ((end - 1) & 63))
    return m


@njit(**LEAN)
def _first_break(masks, i):  # type: ignore[no-untyped-def]
    """The first line break at byte i or behind it; there is one."""
    k = i >> 6
    x = masks[R_BREAK, k] & (_ALL << np.uint64(i & 63))
    while x == 0:
        k += 1
        x = masks[R_BREAK, k]
    return 64 * k + low_zeros(x)


@njit(**LEAN)
def _longest_run(runs, longest):  # type: ignore[no-untyped-def]
    """The longest run of set bits, or `longest` where that is more."""
    reach, x = 1, runs
    while reach <= longest and x != 0:  # x: where `reach` set bits begin
        step = min(reach, longest + 1 - reach)
        x &= x >> np.uint64(min(step, 63))
        reach += step
    while x != 0:
        longest += 1
        x &= x >> _ONE
    return longest


@njit(**LEAN)
def _longest_word(edges, more, word, longest):  # type: ignore[no-untyped-def]
    """As `_longest_run`, in characters: (longest, characters of the word that goes on behind these 64 bytes).

    edges: where words begin and end, in turn; more: bytes that are not the first of a character; word: characters
    before these 64 bytes of a word that goes on here, -1 without one.
    """
    inside = word >= 0
    begin = -word if inside else 0
    while edges != 0:
        low = edges & (~edges + _ONE)
        at = popcount((low - _ONE) & ~more)
        if inside:
            longest = max(longest, at - begin)
        begin = at
        inside = not inside
        edges &= edges - _ONE
    return longest, (popcount(~more) - begin if inside else -1)


@njit(**LEAN)
def _count(masks, begin, end):  # type: ignore[no-untyped-def]
    """Count in the line of bytes begin to end (begin < end): all but sentences, phrases and ends.

    Returns (chars, upper, digits, words, alnum_words, longest, start, stop); start = stop = begin in a blank line.
    """
    chars, upper, digits, words, alnum_words, longest = 0, 0, 0, 0, 0, 0
    start, stop = begin, begin
    before, word = _ZERO, -1
    for k in range(begin >> 6, ((end - 1) >> 6) + 1):
        m = _within(k, begin, end)
        more = masks[R_MORE, k] & m
        chars += popcount(m & ~more)
        runs = m & ~masks[R_SPACE, k]
        if runs == 0:
            longest = max(longest, word)
            before, word = _ZERO, -1
            continue
        upper += popcount(masks[R_UPPER, k] & m)
        digits += popcount(masks[R_DIGIT, k] & m)
        shifted = (runs << _ONE) | before
        before = runs >> _TOP
        begins = runs & ~shifted
        alnum_words += popcount(begins & masks[R_LETTER, k])
        if words == 0:
            start = 64 * k + low_zeros(runs)
        words += popcount(begins)
        stop = 64 * k + 64 - high_zeros(runs)
        if more != 0:
            longest, word = _longest_word(runs ^ shifted, more, word, longest)
        elif runs == _ALL:
            word = max(word, 0) + 64
        else:
            if word > 0:
                longest = max(longest, word + low_zeros(~runs))
            longest = _longest_run(runs, longest)
            word = high_zeros(~runs) if before != 0 else -1
    return chars, upper, digits, words, alnum_words, max(longest, word), start, stop


@njit(**LEAN)
def _ends(text, begin, stop, classes):  # type: ignore[no-untyped-def]
    """With what text[begin:stop] (begin < stop) ends, as bits of `line_measures.ENDS`."""
    last = stop - 1
    code = text[last]
    if code == 46:
        dots = last - begin >= 2 and text[last - 1] == 46 and text[last - 2] == 46
        return _E_PERIOD | (_E_DOTS if dots else 0)
    if code < 128:
        return np.int64(_ENDS[code])
    while last > begin and classes[last] & MORE != 0:
        last -= 1
    if stop - last == 3 and text[last] == 0xE2 and text[last + 1] == 0x80 and code == 0xA6:
        return _E_ELLIPSIS
    return _E_OTHER if classes[last] & TERMINAL != 0 else 0


@njit(cache=True, nogil=True)
def line_kernel(data, offsets, classes, masks, places, keep_ends):  # type: ignore[no-untyped-def]
    """The lines of n texts and what can be counted in them.

    data uint8, offsets int64 [n+1]; classes, masks, places: of `line_masks`. keep_ends: white space at the end of a line
    counts for `ends`. Returns, of m lines, int32 [len(NUMBERS), m], its offsets from the beginning of each text (as
    `sentences` only 0 for a blank line, else 1); float32 [len(SHARES), m]; uint8 [len(BITS), m]; and the first line of
    each text, int64 [n+1].
    """
    n = offsets.size - 1
    most = 0
    for k in range(masks.shape[1]):
        most += popcount(masks[R_BREAK, k])
    numbers, shares = np.empty((len(NUMBERS), most), np.int32), np.empty((len(SHARES), most), np.float32)
    bits = np.empty((len(BITS), most), np.uint8)
    first, m = np.zeros(n + 1, np.int64), 0
    for d in range(n):
        text, of = data[offsets[d] : offsets[d + 1]], classes[64 * places[d] : 64 * places[d + 1]]
        here = masks[:, places[d] : places[d + 1]]
        size, i = text.size, 0
        while i < size:
            end = _first_break(here, i)
            following, kind = end, _END_OF_TEXT
            if end < size:
                code = text[end]
                following, kind = end + 1, _OTHER_BREAK
                if code == 10:
                    kind = _NEWLINE
                elif code == 13 and following < size and text[following] == 10:
                    following, kind = following + 1, _CARRIAGE
                elif code >= 128:
                    while of[following] & MORE != 0:
                        following += 1
            chars, upper, digits, words, alnum_words, longest = 0, 0, 0, 0, 0, 0
            start, stop, ends, again = i, i, 0, 0
            if end > i:
                chars, upper, digits, words, alnum_words, longest, start, stop = _count(here, i, end)
                if words > 0:
                    ends = _ends(text, i, end, of) if keep_ends else _ends(text, start, stop, of)
                    if digits > 0 and words > 1 and (of[start] & LETTER == 0 or of[start] & DIGIT != 0):
                        again |= MAY_COUNT
                    if text[i] | 32 == 115 and end - i > 6 and text[i + 4] == 45:  # sign-in
                        again |= MAY_SNIP
            numbers[0, m], numbers[1, m], numbers[2, m], numbers[3, m] = start, stop, following, end
            numbers[4, m], numbers[5, m], numbers[6, m] = chars, words, alnum_words
            numbers[7, m], numbers[8, m] = longest, words > 0
            shares[0, m] = upper / chars if upper > 0 else 0.0
            shares[1, m] = digits / chars if digits > 0 else 0.0
            bits[0, m], bits[1, m], bits[2, m] = kind, ends, again
            m += 1
            i = following
        first[d + 1] = m
    return numbers[:, :m], shares[:, :m], bits[:, :m], first
