"""The compiled kernel that counts characters and cuts terms; `mixloom.pipeline.words` says what they are and calls it.

Every function it calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import characters as ch

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
_WIDTH = len(TERM_COUNTS)

_ALPHA, _MARK, _NUMBER, _SPACE = ch.ALPHA, ch.MARK, ch.NUMBER, ch.SPACE
_DIGIT, _UPPER, _PUNCTUATION, _SYMBOL = ch.DIGIT, ch.UPPER, ch.PUNCTUATION, ch.SYMBOL
_UNSPACED, _CONTROL, _FORMAT = ch.UNSPACED, ch.CONTROL, ch.FORMAT
_LATIN, _VOWEL = ch.LATIN, ch.VOWEL
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_START = np.uint64(0x243F6A8885A308D3)
_S27, _S29, _S30, _S31 = np.uint64(27), np.uint64(29), np.uint64(30), np.uint64(31)
# Which term is open: none; one of letters; one character of an unspaced script.
_NONE, _LETTERS, _LONE = 0, 1, 2
_ELLIPSIS, _REPLACEMENT = 0x2026, 0xFFFD


@njit(cache=True, nogil=True, inline="always")
def _mix(h):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    h = (h ^ (h >> _S30)) * _MIX1
    h = (h ^ (h >> _S27)) * _MIX2
    return h ^ (h >> _S31)


@njit(cache=True, nogil=True, inline="always")
def _step(h, code):  # type: ignore[no-untyped-def]
    h = (h ^ np.uint64(code)) * _STEP
    return h ^ (h >> _S29)


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


@njit(cache=True, nogil=True)
def _reserve(a, used, more):  # type: ignore[no-untyped-def]
    """`a` with room for `more` items after the first `used` (memory that is never touched costs nothing)."""
    if used + more <= a.size:
        return a
    bigger = np.empty(max(2 * a.size, used + more), a.dtype)
    bigger[:used] = a[:used]
    return bigger


@njit(cache=True, nogil=True)
def _cut_document(  # type: ignore[no-untyped-def]
    data, i, stop, flags, kinds, times, lower, stop_words, longest_stop, row, term_hashes, terms
):  # fmt: skip
    """Cut data[i:stop]: fill `row` with the counts and append the terms behind the first `terms`; how many are used now.

    It is one long loop because every count reads the same character. times: int64 [2^16], all 0 before and after, counts
    how often each combination of flags (`kinds`) occurs.
    """
    row[0] = stop - i
    chars, newlines, upper, digit, punct, symbol, space = 0, 0, 0, 0, 0, 0, 0
    non_ascii, alpha, replacement, control, repeated, hashes, ellipses, spaced = 0, 0, 0, 0, 0, 0, 0, 0
    term_total, latin_terms, odd_terms, stop_count = 0, 0, 0, 0
    stop_seen = np.uint64(0)
    first_term = terms
    latin_letters, all_vowels = 0, 0
    nothing = np.int64(0)
    previous, dots_left, last_dot, spaced_dots = np.int64(10), 0, -9, 0
    term, term_h, term_len, folded = _NONE, _START, 0, False
    plain, letters, vowels, consonants, worst, changes, case = True, 0, 0, 0, 0, 0, nothing

    while True:
        # A sentinel newline after the last byte closes the open term, and is not counted itself.
        at_end = i >= stop
        if at_end:
            code = np.int64(10)
        else:
            code = np.int64(data[i])
            width = np.int64(1)
            if code >= 128:
                code, width = _decode(data, i, stop)
                non_ascii += 1
            i += width
        f = np.int64(flags[code])
        letter = f & (_ALPHA | _NUMBER) != 0
        marks = f & _MARK != 0

        if not at_end:
            times[f] += 1
            repeated += code == previous and f & _SPACE == 0
            if code == 46:
                dots_left += 1
                if dots_left == 3:
                    ellipses += 1
                    dots_left = 0
                follows = spaced_dots > 0 and last_dot == chars - 2 and previous == 32
                spaced_dots = spaced_dots + 1 if follows else 1
                if spaced_dots == 3:
                    spaced += 1
                    spaced_dots = 0
                last_dot = chars
            else:
                dots_left = 0
                newlines += code == 10
                hashes += code == 35
                if code >= 128:
                    ellipses += code == _ELLIPSIS
                    replacement += code == _REPLACEMENT
            chars += 1
            previous = code

        # Does this character extend the open term? If not, that one is complete.
        if f & _FORMAT == 0 and not (marks and term == _NONE):
            if not (marks or (letter and term == _LETTERS and f & _UNSPACED == 0)):
                if term != _NONE:
                    low = _mix(term_h)
                    term_hashes[terms] = low
                    terms += 1
                    term_total += term_len
                    for s in range(stop_words.size if term_len <= longest_stop else 0):
                        if stop_words[s] == low:
                            stop_count += 1
                            if not folded:
                                stop_seen |= np.uint64(1) << np.uint64(s)
                    latin_letters += letters
                    all_vowels += vowels
                    if plain and letters > 0 and term_len >= 4:
                        latin_terms += 1
                        unspeakable = (vowels == 0 and letters >= 4) or max(worst, consonants) >= 5
                        odd_terms += unspeakable or 2 * changes >= term_len
                term = _NONE
                if letter:
                    term = _LETTERS if f & _UNSPACED == 0 else _LONE
                    term_h, term_len, folded = _START, 0, False
                    plain, letters, vowels, consonants, worst, changes, case = True, 0, 0, 0, 0, 0, nothing
            if term != _NONE:
                folded_code = np.int64(lower[code]) if code < lower.size else code
                term_h = _step(term_h, folded_code)
                term_len += 1
                folded = folded or folded_code != code
                # Latin letters and digits: how pronounceable, and how often it changes between cases and digits.
                if f & (_LATIN | _DIGIT) != 0:
                    now = f & (_DIGIT | _UPPER) | _LATIN
                    changes += term_len > 1 and now != case
                    case = now
                    letters += f & _LATIN != 0
                    if f & _LATIN != 0 and f & _VOWEL == 0:
                        consonants += 1
                    else:
                        vowels += f & _VOWEL != 0
                        worst = max(worst, consonants)
                        consonants = 0
                else:
                    plain = plain and marks
        if at_end:
            break

    for k in range(kinds.size):
        f, many = np.int64(kinds[k]), times[kinds[k]]
        times[kinds[k]] = 0
        upper += many if f & _UPPER != 0 else 0
        digit += many if f & _DIGIT != 0 else 0
        punct += many if f & _PUNCTUATION != 0 else 0
        symbol += many if f & _SYMBOL != 0 else 0
        space += many if f & _SPACE != 0 else 0
        alpha += many if f & (_ALPHA | _MARK) != 0 else 0
        control += many if f & _CONTROL != 0 else 0
    row[1], row[2], row[3], row[4], row[5], row[6] = chars, newlines, upper, digit, punct, symbol
    row[7], row[8], row[9], row[10], row[11] = space, non_ascii, alpha, replacement, control
    row[12], row[13], row[14], row[15] = repeated, hashes, ellipses, hashes + ellipses + spaced
    row[16], row[17], row[18], row[19] = terms - first_term, term_total, latin_terms, odd_terms
    while stop_seen != np.uint64(0):
        row[20] += np.int64(stop_seen & np.uint64(1))
        stop_seen >>= np.uint64(1)
    row[21], row[22], row[23] = stop_count, latin_letters, all_vowels
    return terms


@njit(cache=True, nogil=True)
def cut_kernel(data, offsets, flags, kinds, lower, stop_words, longest_stop):  # type: ignore[no-untyped-def]
    """The kernel behind `words.cut`.

    data uint8, offsets int64 [n+1], flags uint16 [0x110000], kinds uint16, the distinct flags, lower int32, stop_words
    uint64 [k <= 64], their hashes, none of more than longest_stop characters.
    Returns counts int64 [n, len(TERM_COUNTS)], offsets of terms int64 [n+1] and their hashes uint64.
    """
    n = offsets.size - 1
    counts = np.zeros((n, _WIDTH), np.int64)
    ends = np.zeros(n + 1, np.int64)
    term_hashes = np.empty((offsets[n] - offsets[0]) // 4, np.uint64)
    times = np.zeros(1 << 16, np.int64)
    used = np.int64(0)
    for d in range(n):
        start, stop = offsets[d], offsets[d + 1]
        term_hashes = _reserve(term_hashes, used, stop - start + 1)
        used = _cut_document(
            data,
            start,
            stop,
            flags,
            kinds,
            times,
            lower,
            stop_words,
            longest_stop,
            counts[d],
            term_hashes,
            used,
        )
        ends[d + 1] = used
    return counts, ends, term_hashes[:used]
