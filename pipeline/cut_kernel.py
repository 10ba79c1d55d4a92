"""The compiled kernel that cuts terms; `mixloom.pipeline.words` says what they are and calls it.

It cuts runs of other characters than ASCII itself; see `term_runs` and `term_hashes` for the rest. Numba's cache looks at the
changes of one file only: after a change there, delete the cached kernels.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import byte_masks as bm
from mixloom.pipeline import characters as ch
from mixloom.pipeline.bit_counts import popcount
from mixloom.pipeline.code_points import REPLACEMENT, decode
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.splitmix import mix
from mixloom.pipeline.term_hashes import (
    START,
    count_stops,
    find,
    hash_longs,
    hash_terms,
    read_terms,
    step,
    stop_table,
)
from mixloom.pipeline.term_runs import (
    BEYOND,
    CAPITAL,
    CONSONANT,
    FIGURE,
    ROOM,
    WORD,
    find_runs,
    judge_runs,
    set_apart,
)

_ALPHA, _MARK, _NUMBER, _SPACE = ch.ALPHA, ch.MARK, ch.NUMBER, ch.SPACE
_DIGIT, _UPPER, _PUNCTUATION, _SYMBOL = ch.DIGIT, ch.UPPER, ch.PUNCTUATION, ch.SYMBOL
_UNSPACED, _CONTROL, _FORMAT = ch.UNSPACED, ch.CONTROL, ch.FORMAT
_LATIN, _VOWEL = ch.LATIN, ch.VOWEL
# Which term is open: none; one of letters; one character of an unspaced script.
_NONE, _LETTERS, _LONE = 0, 1, 2
_ELLIPSIS = 0x2026
_U0, _U1 = np.uint64(0), np.uint64(1)
_HIGHS, _LETTER_BYTES, _DIGITS = (bm.BYTE_COUNTS.index(name) for name in ("high", "letters", "digit"))


@njit(cache=True, nogil=True)
def _reserve(a, used, more):  # type: ignore[no-untyped-def]
    """`a` with room for `more` items after the first `used` (memory that is never touched costs nothing)."""
    if used + more <= a.size:
        return a
    bigger = np.empty(max(2 * a.size, used + more), a.dtype)
    bigger[:used] = a[:used]
    return bigger


@njit(cache=True, nogil=True)
def _byte_kinds(flags, lower):  # type: ignore[no-untyped-def]
    """What each byte is to the functions below, uint64 [256]."""
    kinds = np.full(256, BEYOND)
    for b in range(128):
        f = np.int64(flags[b])
        kind = np.uint64(lower[b])
        kind |= WORD if f & (_ALPHA | _NUMBER) != 0 else _U0
        kind |= CONSONANT if f & _LATIN != 0 and f & _VOWEL == 0 else _U0
        kind |= CAPITAL if f & _UPPER != 0 else _U0
        kind |= FIGURE if f & _DIGIT != 0 else _U0
        kinds[b] = kind
    return kinds


@njit(**LEAN, forceinline=True)
def _cut_mixed(  # type: ignore[no-untyped-def]
    data, i, stop, flags, kinds, lower, stop_words, slots, shift, row, term_hashes, terms, stop_seen
):  # fmt: skip
    """Cut the longest run of characters that are no ASCII or letters or digits at i, where no term is open.

    Adds to `row` what no ASCII is counted for. Returns where it ends, how many terms are used, the stop words seen.
    """
    chars, width_all, upper, digit, punct, symbol, space, alpha = 0, 0, 0, 0, 0, 0, 0, 0
    replacement, control, repeated, ellipses, in_terms, all_letters, all_vowels = 0, 0, 0, 0, 0, 0, 0
    latin_terms, odd_terms, stop_count = 0, 0, 0
    nothing = np.int64(0)
    previous = np.int64(10)
    term, term_h, term_len, folded = _NONE, START, 0, False
    plain, letters, vowels, consonants, worst, changes, case = True, 0, 0, 0, 0, 0, nothing
    while True:
        at_end = i >= stop
        code, width, beyond = np.int64(10), np.int64(1), False
        if not at_end:
            at_end = kinds[data[i]] & (WORD | BEYOND) == _U0
        if not at_end:
            code = np.int64(data[i])
            beyond = bool(code >= 128)
            if beyond:
                code, width = decode(data, i, stop)
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
            replacement += code == REPLACEMENT
        previous = code

        # Does this character extend the open term? If not, that one is complete.
        if f & _FORMAT == 0 and not (marks and term == _NONE):
            if not (marks or (letter and term == _LETTERS and f & _UNSPACED == 0)):
                if term != _NONE:
                    low = mix(term_h)
                    term_hashes[terms] = low
                    terms += 1
                    found, which = find(low, stop_words, slots, shift)
                    stop_count += int(found)
                    stop_seen |= (found & np.uint64(not folded)) << which
                    if plain and letters > 0 and term_len >= 4:
                        latin_terms += 1
                        unspeakable = (vowels == 0 and letters >= 4) or max(worst, consonants) >= 5
                        odd_terms += unspeakable or 2 * changes >= term_len
                term = _NONE
                if letter:
                    term = _LETTERS if f & _UNSPACED == 0 else _LONE
                    term_h, term_len, folded = START, 0, False
                    plain, letters, vowels, consonants, worst, changes, case = True, 0, 0, 0, 0, 0, nothing
            if term != _NONE:
                folded_code = np.int64(lower[code]) if code < lower.size else code
                term_h = step(term_h, folded_code)
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


@njit(**LEAN, forceinline=True)
def _cut_document(  # type: ignore[no-untyped-def]
    data, begin, stop, words, letters, highs, hards, unevens, place, flags, kinds, lower, stops, stop_words, slots, shift, row,
    starts, ends, special, mixed, sites, low_bytes, sizes, states, hashes, capitals, longs, parts, rests, outs, state, tally, seen,
    term_hashes, terms,
):  # fmt: skip
    """Cut data[begin:stop] into terms, append them behind the first `terms`, add to `row` what they count; how many are used now.

    words, letters, highs, hards, unevens: rows WORD, LETTER, HIGH, CONSONANT and UNEVEN of the masks, where the document begins
    at bit 0 of word `place`. stops: how many stop words there are. starts to outs: uint64, of runs that are held at a time.
    Runs of ASCII letters and digits are terms, hashed many at once; where another character touches one, `_cut_mixed` cuts it.
    """
    k, last = place, place + (stop - begin) // 64 + 1
    state[:] = 0
    tally[:] = 0
    while k < last:
        k = find_runs(
            words, letters, highs, hards, unevens, k, last, place, starts, ends, special, mixed, state, tally
        )
        found, runs, s, x = state[0], state[1], state[2], state[3]
        open_start = starts[runs]
        judge_runs(
            data,
            begin,
            place,
            hards,
            unevens,
            letters,
            kinds,
            starts,
            ends,
            runs,
            special,
            mixed,
            s,
            x,
            tally,
        )
        apart = x
        if x > _U0 and mixed[x - _U1] >= runs:  # it is not complete
            apart -= _U1
        count = runs
        if apart > _U0:
            count = set_apart(starts, ends, runs, mixed, apart, sites)
        n_long = read_terms(data, begin, starts, ends, count, low_bytes, sizes, longs)
        hash_terms(low_bytes, sizes, states, hashes, capitals, count)
        if n_long > _U0:
            hash_longs(
                data, begin, starts, sizes, states, hashes, capitals, longs, n_long, parts, rests, outs
            )
        count_stops(hashes, capitals, count, stops, stop_words, slots, shift, seen)
        done = _U0
        for q in range(apart):
            upto = sites[0, q]
            for t in range(done, upto):
                term_hashes[terms] = hashes[t]
                terms += 1
            done = upto
            _, terms, seen[1] = _cut_mixed(
                data, begin + np.int64(sites[1, q]), begin + np.int64(sites[2, q]), flags, kinds, lower, stop_words, slots,
                shift, row, term_hashes, terms, seen[1],
            )  # fmt: skip
        at = np.uint64(terms)
        for t in range(count - done):
            term_hashes[at + t] = hashes[done + t]
        terms += np.int64(count - done)
        # A run may go on behind these words.
        starts[0] = open_start
        state[0], state[1] = found - runs, _U0
        state[2] = np.uint64(s > _U0 and special[s - _U1] >= runs)
        state[3] = x - apart
        special[0], mixed[0] = _U0, _U0
    row[18] += tally[0]
    row[19] += tally[1]
    return terms


@njit(cache=True, nogil=True)
def cut_kernel(data, offsets, masks, places, own, flags, lower, stop_words, counts):  # type: ignore[no-untyped-def]
    """The kernel behind `words.cut`.

    data uint8, offsets int64 [n+1]; masks, places and own (the counts): of `byte_masks`. flags uint16 [0x110000], lower
    int32, stop_words uint64 [k <= 64], their hashes. counts: int64 [n, len(TERM_COUNTS)], of the ASCII characters, to which
    the others and the terms are added.
    Returns offsets of terms int64 [n+1] and their hashes uint64.
    """
    n = offsets.size - 1
    bounds = np.zeros(n + 1, np.int64)
    term_hashes = np.empty((offsets[n] - offsets[0]) // 4, np.uint64)
    used = np.int64(0)
    kinds = _byte_kinds(flags, lower)
    slots, shift = stop_table(stop_words)
    listed = np.zeros(max(1, stop_words.size), np.uint64)  # one to look at where there is none
    listed[: stop_words.size] = stop_words
    held = np.zeros((13, ROOM), np.uint64)
    sites = np.zeros((3, ROOM), np.uint64)
    state, tally, seen = np.zeros(6, np.uint64), np.zeros(2, np.int64), np.zeros(2, np.uint64)
    starts, ends, special, mixed, low_bytes, sizes, states = (
        held[0],
        held[1],
        held[2],
        held[3],
        held[4],
        held[5],
        held[6],
    )
    hashes, capitals, longs, parts, rests, outs = held[7], held[8], held[9], held[10], held[11], held[12]
    words, highs, hards, unevens = masks[bm.WORD], masks[bm.HIGH], masks[bm.CONSONANT], masks[bm.UNEVEN]
    letters = masks[bm.LETTER]
    for d in range(n):
        start, stop, row = offsets[d], offsets[d + 1], counts[d]
        term_hashes = _reserve(term_hashes, used, stop - start + 1)
        first = used
        seen[:] = 0
        used = _cut_document(
            data, start, stop, words, letters, highs, hards, unevens, places[d], flags, kinds, lower, stop_words.size, listed,
            slots, shift, row, starts, ends, special, mixed, sites, low_bytes, sizes, states, hashes, capitals, longs, parts, rests, outs,
            state, tally, seen, term_hashes, used,
        )  # fmt: skip
        row[16] = used - first
        row[17] += own[d, _LETTER_BYTES] + own[d, _DIGITS]
        row[20] += popcount(seen[1])
        row[21] += np.int64(seen[0])
        bounds[d + 1] = used
    return bounds, term_hashes[:used]
