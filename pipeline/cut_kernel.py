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

# Indices into bytes are uint64, which spares a test for negative ones; mixed with int64 they would become floats.
_U0, _U1, _U2, _U4, _U15 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(15)
_S7, _S8, _S63, _LOW7, _LOW8 = np.uint64(7), np.uint64(8), np.uint64(63), np.uint64(0x7F), np.uint64(0xFF)
# `_byte_kinds`: a byte in lower case in bits 0-7, a consonant in bit 8, letter or digit, not ASCII, capital, digit.
_CONSONANT, _WORD, _BEYOND = np.uint64(1 << 8), np.uint64(1 << 9), np.uint64(1 << 10)
_CAPITAL, _FIGURE, _UNEVEN = np.uint64(1 << 11), np.uint64(1 << 12), np.uint64(3 << 11)
_MOST = np.uint64(64)  # letters whose classes fit into one integer


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
def _byte_tables(flags, lower):  # type: ignore[no-untyped-def]
    """What each byte is to `_cut_document`, and what it adds to the counts of `_count_bytes`: uint64 [256] each."""
    kinds, adds = np.full(256, _BEYOND), np.zeros(256, np.uint64)
    for b in range(128):
        f = np.int64(flags[b])
        kind = np.uint64(lower[b])
        kind |= _WORD if f & (_ALPHA | _NUMBER) != 0 else _U0
        kind |= _CONSONANT if f & _LATIN != 0 and f & _VOWEL == 0 else _U0
        kind |= _CAPITAL if f & _UPPER != 0 else _U0
        kind |= _FIGURE if f & _DIGIT != 0 else _U0
        kinds[b] = kind
        add = np.uint64(f & _SPACE == 0)
        for has in (_UPPER, _DIGIT, _PUNCTUATION, _SYMBOL, _SPACE, _CONTROL, _VOWEL):
            add = (add << _S7) | np.uint64(f & has != 0)
        add = (add << _S7) | np.uint64(b == 10)
        adds[b] = (add << _S7) | np.uint64(b == 35)
    return kinds, adds


@njit(cache=True, nogil=True)
def _stop_table(stop_words):  # type: ignore[no-untyped-def]
    """Where to look for a stop word: (slots uint8, shift), no two in the same slot.

    A hash h can only be stop_words[slots[(h >> shift) % slots.size] - 1], and none where the slot is 0.
    """
    slots = np.zeros(256, np.uint8)
    while True:
        for shift in range(40):
            slots[:] = 0
            clash = False
            for s in range(stop_words.size):
                at = (stop_words[s] >> np.uint64(shift)) & np.uint64(slots.size - 1)
                clash |= slots[at] != 0
                slots[at] = s + 1
            if not clash:
                return slots, np.uint64(shift)
        slots = np.zeros(2 * slots.size, np.uint8)


@njit(cache=True, nogil=True, inline="always")
def _find(h, stop_words, slots, shift):  # type: ignore[no-untyped-def]
    """Whether the hash h is a stop word (1 or 0) and which; without a branch, since nothing foretells it."""
    slot = np.uint64(slots[(h >> shift) & np.uint64(slots.size - 1)])
    which = slot - np.uint64(slot != _U0)
    return np.uint64(slot != _U0) & np.uint64(stop_words[which] == h), which


@njit(cache=True, nogil=True)
def _count_bytes(data, i, stop, adds, row):  # type: ignore[no-untyped-def]
    """Write what the ASCII characters of data[i:stop] add to `row`, but for the columns of terms and dots.

    The counts stand side by side in one integer, seven bits each, which are emptied before they can overflow.
    """
    upper, digit, punct, symbol, space, control, vowels, newlines, hashes = (
        _U0,
        _U0,
        _U0,
        _U0,
        _U0,
        _U0,
        _U0,
        _U0,
        _U0,
    )
    repeated, previous = _U0, np.uint8(10)
    while i < stop:
        packed, end = _U0, min(stop, i + _LOW7)
        while i < end:
            b = data[i]
            add = adds[b]
            packed += add
            repeated += (add >> _S63) & np.uint64(b == previous)
            previous = b
            i += _U1
        hashes += packed & _LOW7
        newlines += (packed >> np.uint64(7)) & _LOW7
        vowels += (packed >> np.uint64(14)) & _LOW7
        control += (packed >> np.uint64(21)) & _LOW7
        space += (packed >> np.uint64(28)) & _LOW7
        symbol += (packed >> np.uint64(35)) & _LOW7
        punct += (packed >> np.uint64(42)) & _LOW7
        digit += (packed >> np.uint64(49)) & _LOW7
        upper += (packed >> np.uint64(56)) & _LOW7
    row[2], row[3], row[4], row[5], row[6], row[7] = newlines, upper, digit, punct, symbol, space
    row[11], row[12], row[13], row[23] = control, repeated, hashes, vowels


@njit(cache=True, nogil=True)
def _latin(data, i, stop, kinds):  # type: ignore[no-untyped-def]
    """(1 if the ASCII term data[i:stop] has a letter, 1 if it is an odd one), else 0; it has four characters or more."""
    size = np.int64(stop - i)
    letters, vowels, consonants, worst, changes, case = 0, 0, 0, 0, -1, _WORD
    while i < stop:
        kind = kinds[data[i]]
        changes += kind & _UNEVEN != case
        case = kind & _UNEVEN
        letter = kind & _FIGURE == _U0
        consonant = kind & _CONSONANT != _U0
        letters += letter
        vowels += letter and not consonant
        consonants = consonants + 1 if consonant else 0
        worst = max(worst, consonants)
        i += _U1
    if letters == 0:
        return 0, 0
    return 1, np.int64((vowels == 0 and letters >= 4) or worst >= 5 or 2 * changes >= size)


@njit(cache=True, nogil=True)
def _cut_mixed(  # type: ignore[no-untyped-def]
    data, i, stop, flags, kinds, lower, stop_words, slots, shift, row, term_hashes, terms, stop_seen
):  # fmt: skip
    """Cut the longest run of characters that are no ASCII or letters or digits at i, where no term is open.

    Adds to `row` what `_count_bytes` does not. Returns where it ends, how many terms are used, the stop words seen.
    """
    chars, width_all, upper, digit, punct, symbol, space, alpha = 0, 0, 0, 0, 0, 0, 0, 0
    replacement, control, repeated, ellipses, in_terms, all_letters, all_vowels = 0, 0, 0, 0, 0, 0, 0
    latin_terms, odd_terms, stop_count = 0, 0, 0
    nothing = np.int64(0)
    previous = np.int64(10)
    term, term_h, term_len, folded = _NONE, _START, 0, False
    plain, letters, vowels, consonants, worst, changes, case = True, 0, 0, 0, 0, 0, nothing
    while True:
        at_end = i >= stop
        code, width, beyond = np.int64(10), np.int64(1), False
        if not at_end:
            at_end = kinds[data[i]] & (_WORD | _BEYOND) == _U0
        if not at_end:
            code = np.int64(data[i])
            beyond = bool(code >= 128)
            if beyond:
                code, width = _decode(data, i, stop)
            i += width
        f = np.int64(flags[code])
        letter = f & (_ALPHA | _NUMBER) != 0
        marks = f & _MARK != 0
        if beyond:
            chars += 1
            width_all += int(width)
            upper += (f & _UPPER) != 0
            digit += (f & _DIGIT) != 0
            punct += (f & _PUNCTUATION) != 0
            symbol += (f & _SYMBOL) != 0
            space += (f & _SPACE) != 0
            alpha += (f & (_ALPHA | _MARK)) != 0
            control += (f & _CONTROL) != 0
            all_letters += (f & _LATIN) != 0
            all_vowels += (f & _VOWEL) != 0
            repeated += code == previous and f & _SPACE == 0
            ellipses += code == _ELLIPSIS
            replacement += code == _REPLACEMENT
        previous = code

        # Does this character extend the open term? If not, that one is complete.
        if f & _FORMAT == 0 and not (marks and term == _NONE):
            if not (marks or (letter and term == _LETTERS and f & _UNSPACED == 0)):
                if term != _NONE:
                    low = _mix(term_h)
                    term_hashes[terms] = low
                    terms += 1
                    found, which = _find(low, stop_words, slots, shift)
                    stop_count += int(found)
                    stop_seen |= (found & np.uint64(not folded)) << which
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
                in_terms += beyond
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
    row[1] += chars - width_all  # its bytes are counted as characters by the caller
    row[8] += chars
    row[3] += upper
    row[4] += digit
    row[5] += punct
    row[6] += symbol
    row[7] += space
    row[9] += alpha
    row[10] += replacement
    row[11] += control
    row[12] += repeated
    row[14] += ellipses
    row[17] += in_terms
    row[18] += latin_terms
    row[19] += odd_terms
    row[21] += stop_count
    row[22] += all_letters
    row[23] += all_vowels
    return i, terms, stop_seen


@njit(cache=True, nogil=True)
def _cut_document(  # type: ignore[no-untyped-def]
    data, i, stop, flags, kinds, adds, lower, stop_words, slots, shift, row, term_hashes, terms
):  # fmt: skip
    """Cut data[i:stop]: fill `row` with the counts and append the terms behind the first `terms`; how many are used now.

    Terms of ASCII letters and digits are cut here; where another character touches one, `_cut_mixed` cuts it.
    """
    _count_bytes(data, i, stop, adds, row)
    size, first_term = np.int64(stop - i), terms
    # All of ASCII is one of these or a letter.
    others = row[4] + row[5] + row[6] + row[7] + row[11]
    digits = row[4]
    latin_terms, odd_terms, stop_count, stop_seen = _U0, _U0, _U0, _U0
    ellipses, spaced, dots, spaced_dots, last_dot = 0, 0, 0, 0, np.int64(-9)
    while i < stop:
        b = data[i]
        kind = kinds[b]
        if kind & (_WORD | _BEYOND) == _U0:
            if b == 46:
                here = np.int64(i)
                dots = dots + 1 if last_dot == here - 1 else 1
                if dots == 3:
                    ellipses += 1
                    dots = 0
                follows = spaced_dots > 0 and last_dot == here - 2 and data[i - _U1] == 32
                spaced_dots = spaced_dots + 1 if follows else 1
                if spaced_dots == 3:
                    spaced += 1
                    spaced_dots = 0
                last_dot = here
            i += _U1
            continue
        begin, first, later, consonants, h = i, kind, _U0, _U0, _START
        while kind & _WORD != _U0:
            h = (h ^ (kind & _LOW8)) * _STEP
            h = h ^ (h >> _S29)
            consonants = consonants + consonants + ((kind >> _S8) & _U1)
            i += _U1
            if i >= stop:
                kind = _U0
                break
            kind = kinds[data[i]]
            later |= kind
        if kind & _BEYOND != _U0:
            at, used, stop_seen = _cut_mixed(
                data, np.int64(begin), np.int64(stop), flags, kinds, lower, stop_words, slots, shift, row,
                term_hashes, np.int64(terms), stop_seen,
            )  # fmt: skip
            i, terms = np.uint64(at), np.uint64(used)
            continue
        low = _mix(h)
        term_hashes[terms] = low
        terms += _U1
        found, which = _find(low, stop_words, slots, shift)
        stop_count += found
        stop_seen |= (found & np.uint64((first | later) & _CAPITAL == _U0)) << which
        length = i - begin
        if later & _UNEVEN == _U0 and first & _FIGURE == _U0 and length <= _MOST:
            # Five consonants in a row leave a bit; four letters without a vowel are four bits.
            run = consonants & (consonants >> _U1)
            run = run & (run >> _U2) & (consonants >> _U4)
            long = np.uint64(length >= _U4)
            latin_terms += long
            odd_terms += long & (
                np.uint64(run != _U0) | (np.uint64(length == _U4) & np.uint64(consonants == _U15))
            )
        elif length >= _U4:
            latin, odd = _latin(data, begin, i, kinds)
            latin_terms += np.uint64(latin)
            odd_terms += np.uint64(odd)

    row[0] = size
    row[1] += size
    ascii_letters = row[1] - row[8] - others
    row[9] += ascii_letters
    row[14] += ellipses
    row[15] = row[13] + row[14] + spaced
    row[16] = np.int64(terms - first_term)
    row[17] += ascii_letters + digits
    row[18] += np.int64(latin_terms)
    row[19] += np.int64(odd_terms)
    while stop_seen != _U0:
        row[20] += np.int64(stop_seen & _U1)
        stop_seen >>= _U1
    row[21] += np.int64(stop_count)
    row[22] += ascii_letters
    return terms


@njit(cache=True, nogil=True)
def cut_kernel(data, offsets, flags, lower, stop_words):  # type: ignore[no-untyped-def]
    """The kernel behind `words.cut`.

    data uint8, offsets int64 [n+1], flags uint16 [0x110000], lower int32, stop_words uint64 [k <= 64], their hashes.
    Returns counts int64 [n, len(TERM_COUNTS)], offsets of terms int64 [n+1] and their hashes uint64.
    """
    n = offsets.size - 1
    counts = np.zeros((n, _WIDTH), np.int64)
    ends = np.zeros(n + 1, np.int64)
    term_hashes = np.empty((offsets[n] - offsets[0]) // 4, np.uint64)
    used = np.int64(0)
    kinds, adds = _byte_tables(flags, lower)
    slots, shift = _stop_table(stop_words)
    listed = np.zeros(max(1, stop_words.size), np.uint64)  # one to look at where there is none
    listed[: stop_words.size] = stop_words
    for d in range(n):
        start, stop = offsets[d], offsets[d + 1]
        term_hashes = _reserve(term_hashes, used, stop - start + 1)
        used = np.int64(
            _cut_document(
                data, np.uint64(start), np.uint64(stop), flags, kinds, adds, lower, listed, slots, shift, counts[d],
                term_hashes, np.uint64(used),
            )
        )  # fmt: skip
        ends[d + 1] = used
    return counts, ends, term_hashes[:used]
