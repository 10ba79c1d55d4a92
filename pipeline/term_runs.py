"""Runs of letters and digits found in masks, 64 bytes at a time, and which of those in ASCII are odd terms.

For `cut_kernel`. Numba's cache looks at the changes of a kernel's own file only: after a change here, delete the cached
kernels.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.bit_counts import from_bit, popcount
from mixloom.pipeline.bit_places import spread
from mixloom.pipeline.lean import LEAN

HELD = 512  # runs found at a time
ROOM = HELD + 64  # numbers in an array of runs: what is written behind the last one counts for nothing
# What `byte_kinds` tells of a byte: a consonant; letter or digit; not ASCII; capital; digit.
CONSONANT, WORD, BEYOND = np.uint64(1 << 8), np.uint64(1 << 9), np.uint64(1 << 10)
CAPITAL, FIGURE, UNEVEN = np.uint64(1 << 11), np.uint64(1 << 12), np.uint64(3 << 11)

_U0, _U1, _U2, _U4, _U5, _U6, _U15 = (np.uint64(k) for k in (0, 1, 2, 4, 5, 6, 15))
_S59, _S60, _S62 = np.uint64(59), np.uint64(60), np.uint64(62)
_TOP, _ALL = np.uint64(63), np.uint64(2**64 - 1)
_FULL = np.uint64(HELD - 32)  # with so many runs there may be no room for those of another word


@njit(**LEAN)
def _latin(data, i, stop, kinds):  # type: ignore[no-untyped-def]
    """(1 if the ASCII term data[i:stop] has a letter, 1 if it is an odd one), else 0; it has four characters or more."""
    size = np.int64(stop - i)
    letters, vowels, consonants, worst, changes, case = 0, 0, 0, 0, -1, WORD
    while i < stop:
        kind = kinds[data[i]]
        changes += kind & UNEVEN != case
        case = kind & UNEVEN
        letter = kind & FIGURE == _U0
        consonant = kind & CONSONANT != _U0
        letters += letter
        vowels += letter and not consonant
        consonants = consonants + 1 if consonant else 0
        worst = max(worst, consonants)
        i += _U1
    if letters == 0:
        return 0, 0
    return 1, np.int64((vowels == 0 and letters >= 4) or worst >= 5 or 2 * changes >= size)


@njit(**LEAN, forceinline=True)
def _owners(marks, active, starts, first, runs, count):  # type: ignore[no-untyped-def]
    """Append to `runs` which runs of a word own one of the bits `marks`, if that is not their last one; how many they are now.

    active, starts: the bits of runs and where they begin; first: how many runs begin before this word.
    """
    last = runs[count - _U1] if count > _U0 else _ALL
    while marks != _U0:
        low = marks & (_U0 - marks)
        run = first + np.uint64(popcount(starts & (low | (low - _U1)))) - _U1
        runs[count] = run
        count += np.uint64(run != last)
        last = run
        marks &= active + low  # adding carries through the rest of the run
    return count


@njit(**LEAN)
def find_runs(  # type: ignore[no-untyped-def]
    words, letters, highs, hards, unevens, k, stop, first, starts, ends, special, mixed, state, tally
):
    """Find runs of letters, digits and characters that are no ASCII in the words k:stop of the masks, while there is room.

    starts, ends: where, from bit 0 of the word `first` on. special: the runs to be judged one by one; mixed: those that hold
    a character that is no ASCII. state: how many of each, and the words before: what was active, consonants.
    tally: how many have four characters or more, and how many are just four consonants.
    Returns the word where it stands then.
    """
    m, n, s, x = state[0], state[1], state[2], state[3]
    a1, h1 = state[4], state[5]
    base = np.uint64(k - first) << _U6
    long_, odd = np.uint64(tally[0]), np.uint64(tally[1])
    while k < stop and m < _FULL:
        high = highs[k]
        a = words[k] | high
        h = hards[k]
        before = (a << _U1) | (a1 >> _TOP)
        start, end = a & ~before, before & ~a
        # How many characters stand in a row up to each one: two, four, five.
        a2, p2 = a & before, a1 & (a1 << _U1)
        a4, p4 = a2 & ((a2 << _U2) | (p2 >> _S62)), p2 & (p2 << _U2)
        h2, q2 = h & ((h << _U1) | (h1 >> _TOP)), h1 & (h1 << _U1)
        h4, q4 = h2 & ((h2 << _U2) | (q2 >> _S62)), q2 & (q2 << _U2)
        five = h4 & ((h << _U4) | (h1 >> _S60))
        long_ += np.uint64(popcount(end & ((a4 << _U1) | (p4 >> _TOP))))
        odd += np.uint64(popcount(end & ((h4 << _U1) | (q4 >> _TOP)) & ~((a << _U5) | (a1 >> _S59))))
        marks = (unevens[k] & ~(start & letters[k])) | five
        spread(start, base, starts, m)
        spread(end, base, ends, n)
        s = _owners(marks, a, start, m, special, s)
        if high != _U0:
            x = _owners(high, a, start, m, mixed, x)
        m += np.uint64(popcount(start))
        n += np.uint64(popcount(end))
        a1, h1 = a, h
        base += np.uint64(64)
        k += 1
    state[0], state[1], state[2], state[3], state[4], state[5] = m, n, s, x, a1, h1
    tally[0], tally[1] = np.int64(long_), np.int64(odd)
    return k


@njit(**LEAN, forceinline=True)
def _is_odd(data, i, length, r, place, hards, unevens, letters, kinds):  # type: ignore[no-untyped-def]
    """(1 if the ASCII term data[i:i+length], bit r of the document, is a Latin one, 1 if it is an odd one), else 0; length >= 4."""
    if length >= 64:
        latin, odd = _latin(data, np.uint64(i), np.uint64(i + length), kinds)
        return np.int64(latin), np.int64(odd)
    mask = (_U1 << np.uint64(length)) - _U1
    uneven = from_bit(unevens, place, r) & mask
    letter = from_bit(letters, place, r) & mask
    hard = from_bit(hards, place, r) & mask
    run = hard & (hard >> _U1)
    run = run & (run >> _U2) & (hard >> _U4)
    # Capitals and digits are uneven, digits no letters: from one character to the next, what changes?
    changes = popcount(((uneven ^ (uneven >> _U1)) | (letter ^ (letter >> _U1))) & (mask >> _U1))
    latin = np.int64(letter != _U0)
    speechless = np.int64(letter == hard) & np.int64(popcount(letter) >= 4)
    return latin, latin & (speechless | np.int64(run != _U0) | np.int64(2 * changes >= length))


@njit(**LEAN)
def judge_runs(  # type: ignore[no-untyped-def]
    data, begin, place, hards, unevens, letters, kinds, starts, ends, runs, special, mixed, s, x, tally
):
    """Set right in `tally` what was counted of the first `s` special and the first `x` mixed runs, of those before `runs`."""
    latin_terms, odd_terms = np.int64(0), np.int64(0)
    q = _U0
    for p in range(s):
        run = special[p]
        if run >= runs:
            break
        length = np.int64(ends[run] - starts[run])
        if length < 4:
            continue
        while q < x and mixed[q] < run:
            q += _U1
        if q < x and mixed[q] == run:
            continue
        r = np.int64(starts[run])
        latin, odd = _is_odd(data, begin + r, length, r, place, hards, unevens, letters, kinds)
        latin_terms += latin - 1
        odd_terms += odd
        if length == 4:
            odd_terms -= np.int64(from_bit(hards, place, r) & _U15 == _U15)
    for p in range(x):
        run = mixed[p]
        if run < runs:
            latin_terms -= np.int64(ends[run] - starts[run] >= _U4)
    tally[0] += latin_terms
    tally[1] += odd_terms


@njit(**LEAN)
def set_apart(starts, ends, runs, mixed, count, sites):  # type: ignore[no-untyped-def]
    """Take the `count` mixed runs out of the `runs` of starts and ends; sites [3, *]: before which others, and where they lie."""
    kept = mixed[0]
    for q in range(count):
        run = mixed[q]
        sites[0, q], sites[1, q], sites[2, q] = kept, starts[run], ends[run]
        after = mixed[q + _U1] if q + _U1 < count else runs
        for t in range(run + _U1, after):
            starts[kept], ends[kept] = starts[t], ends[t]
            kept += _U1
    return kept
