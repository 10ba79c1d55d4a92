"""The compiled kernel that cuts terms; `mixloom.pipeline.words` says what they are and calls it.

Every function it calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import byte_masks as bm
from mixloom.pipeline import characters as ch
from mixloom.pipeline.bit_counts import low_zeros
from mixloom.pipeline.code_points import REPLACEMENT, decode
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.raw_bytes import load
from mixloom.pipeline.splitmix import mix

_ALPHA, _MARK, _NUMBER, _SPACE = ch.ALPHA, ch.MARK, ch.NUMBER, ch.SPACE
_DIGIT, _UPPER, _PUNCTUATION, _SYMBOL = ch.DIGIT, ch.UPPER, ch.PUNCTUATION, ch.SYMBOL
_UNSPACED, _CONTROL, _FORMAT = ch.UNSPACED, ch.CONTROL, ch.FORMAT
_LATIN, _VOWEL = ch.LATIN, ch.VOWEL
_STEP = np.uint64(0x9E3779B97F4A7C15)
_START = np.uint64(0x243F6A8885A308D3)
_S29 = np.uint64(29)
# Which term is open: none; one of letters; one character of an unspaced script.
_NONE, _LETTERS, _LONE = 0, 1, 2
_ELLIPSIS = 0x2026

_U0, _U1, _U2, _U4, _U6, _U8, _U15 = (np.uint64(k) for k in (0, 1, 2, 4, 6, 8, 15))
_LOW8, _BITS, _TOP, _ALL = np.uint64(0xFF), np.uint64(63), np.uint64(63), np.uint64(2**64 - 1)
_SMALL = np.uint64(0x2020202020202020)  # of eight bytes: what makes letters small and leaves digits alone
# `_byte_kinds`: a byte in lower case in bits 0-7, a consonant in bit 8, letter or digit, not ASCII, capital, digit.
_CONSONANT, _WORD, _BEYOND = np.uint64(1 << 8), np.uint64(1 << 9), np.uint64(1 << 10)
_CAPITAL, _FIGURE, _UNEVEN = np.uint64(1 << 11), np.uint64(1 << 12), np.uint64(3 << 11)
_HELD = 256  # terms hashed at a time
_HIGHS, _LETTERS, _DIGITS = (bm.BYTE_COUNTS.index(name) for name in ("high", "letters", "digit"))


@njit(**LEAN, inline="always")
def _step(h, code):  # type: ignore[no-untyped-def]
    h = (h ^ np.uint64(code)) * _STEP
    return h ^ (h >> _S29)


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
    kinds = np.full(256, _BEYOND)
    for b in range(128):
        f = np.int64(flags[b])
        kind = np.uint64(lower[b])
        kind |= _WORD if f & (_ALPHA | _NUMBER) != 0 else _U0
        kind |= _CONSONANT if f & _LATIN != 0 and f & _VOWEL == 0 else _U0
        kind |= _CAPITAL if f & _UPPER != 0 else _U0
        kind |= _FIGURE if f & _DIGIT != 0 else _U0
        kinds[b] = kind
    return kinds


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


@njit(**LEAN, inline="always")
def _find(h, stop_words, slots, shift):  # type: ignore[no-untyped-def]
    """Whether the hash h is a stop word (1 or 0) and which; without a branch, since nothing foretells it."""
    slot = np.uint64(slots[(h >> shift) & np.uint64(slots.size - 1)])
    which = slot - np.uint64(slot != _U0)
    return np.uint64(slot != _U0) & np.uint64(stop_words[which] == h), which


@njit(**LEAN)
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


@njit(**LEAN)
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


@njit(**LEAN, forceinline=True)
def _from(bits, place, r):  # type: ignore[no-untyped-def]
    """64 bits of a row of masks from bit r of word `place` on."""
    k, s = np.uint64(place) + (np.uint64(r) >> _U6), np.uint64(r) & _BITS
    return (bits[k] >> s) | ((bits[k + _U1] << _U1) << (_TOP - s))


@njit(**LEAN, forceinline=True)
def _holds(bits, place, r, length):  # type: ignore[no-untyped-def]
    """Whether one of `length` bits of a row of masks is set, from bit r of word `place` on."""
    found = _U0
    while length >= 64:
        found |= _from(bits, place, r)
        r += 64
        length -= 64
    return found | (_from(bits, place, r) & ((_U1 << np.uint64(length)) - _U1)) != _U0


@njit(**LEAN)
def _hash_held(words, sizes, states, count):  # type: ignore[no-untyped-def]
    """Hash the bytes of `count` terms: byte after byte, as `_step`, but those of many terms at once."""
    for byte in range(8):
        shift, size = np.uint64(8 * byte), np.uint64(byte)
        for t in range(count):
            h = (states[t] ^ ((words[t] >> shift) & _LOW8)) * _STEP
            states[t] = h ^ (h >> _S29) if sizes[t] > size else states[t]
    for t in range(count):
        states[t] = mix(states[t])


@njit(**LEAN)
def _flush(  # type: ignore[no-untyped-def]
    low_bytes, sizes, states, capitals, count, stop_words, slots, shift, seen, term_hashes, terms
):
    """Append the `count` terms held; adds to `seen`, uint64: how many are stop words, and which of these are in lower case."""
    _hash_held(low_bytes, sizes, states, count)
    stop_count, stop_seen = seen[0], seen[1]
    for t in range(count):
        low = states[t]
        term_hashes[terms + t] = low
        found, which = _find(low, stop_words, slots, shift)
        stop_count += found
        stop_seen |= (found & ~capitals[t]) << which
    seen[0], seen[1] = stop_count, stop_seen
    return terms + count


@njit(**LEAN, forceinline=True)
def _hold(data, i, size, low_bytes, sizes, states, capitals, count):  # type: ignore[no-untyped-def]
    """Put the ASCII term data[i:i+size] in place `count` of those held: its bytes in lower case and whether it has a capital."""
    if size <= 8:
        word = _U0
        if i + 8 <= data.size:
            word = load(data, i)
        else:
            for k in range(size):
                word |= np.uint64(data[i + k]) << np.uint64(8 * k)
        mask = _ALL >> np.uint64(64 - 8 * size)
        low_bytes[count], sizes[count], states[count] = (word | _SMALL) & mask, size, _START
        capitals[count] = np.uint64(~word & _SMALL & mask != _U0)
        return
    h, small = _START, np.uint8(32)
    for k in range(i, i + size):
        h = _step(h, data[k] | 32)
        small &= data[k]
    low_bytes[count], sizes[count], states[count] = _U0, _U0, h
    capitals[count] = np.uint64(small == 0)


@njit(**LEAN)
def _edges(words, highs, k, stop, open_, edges, m):  # type: ignore[no-untyped-def]
    """Append to `edges` where runs of letters, digits and characters that are no ASCII begin and end, in turn.

    Reads the words k:stop of the masks while there is room; open_: whether the byte before belongs to a run. Returns where
    it stands then, `open_` there, and how many edges there are.
    """
    base = np.int64(0)
    while k < stop and m <= edges.size - 64:
        active = words[k] | highs[k]
        edge = active ^ ((active << _U1) | open_)
        open_ = active >> _TOP
        while edge != _U0:
            edges[m] = base + low_zeros(edge)
            m += 1
            edge &= edge - _U1
        k += 1
        base += 64
    return k, open_, m


@njit(**LEAN, forceinline=True)
def _is_odd(data, i, length, r, place, hards, unevens, kinds):  # type: ignore[no-untyped-def]
    """(1 if the ASCII term data[i:i+length], bit r of the document, is a Latin one, 1 if it is an odd one), else 0."""
    if length < 64:
        mask = (_U1 << np.uint64(length)) - _U1
        uneven = _from(unevens, place, r) & mask
        if uneven == _U0 or (uneven == _U1 and data[i] > 57):
            # Five consonants in a row leave a bit; four letters without a vowel are four bits.
            hard = _from(hards, place, r) & mask
            run = hard & (hard >> _U1)
            run = run & (run >> _U2) & (hard >> _U4)
            long = np.int64(length >= 4)
            return long, long & (np.int64(run != _U0) | (np.int64(length == 4) & np.int64(hard == _U15)))
        if length < 4:
            return np.int64(0), np.int64(0)
    latin, odd = _latin(data, np.uint64(i), np.uint64(i + length), kinds)
    return np.int64(latin), np.int64(odd)


@njit(**LEAN)
def _cut_document(  # type: ignore[no-untyped-def]
    data, begin, stop, words, highs, hards, unevens, place, wide, flags, kinds, lower, stop_words, slots, shift, row,
    edges, low_bytes, sizes, states, capitals, seen, term_hashes, terms,
):  # fmt: skip
    """Cut data[begin:stop] into terms, append them behind the first `terms`, add to `row` what they count; how many are used now.

    words, highs, hards, unevens: rows WORD, HIGH, CONSONANT and UNEVEN of the masks, where the document begins at bit 0 of
    word `place`; wide: whether it is more than ASCII. Terms of ASCII letters and digits are cut here; where another character touches one, `_cut_mixed` cuts it.
    """
    latin_terms, odd_terms = np.int64(0), np.int64(0)
    k, last, open_, m = place, place + (stop - begin) // 64 + 1, _U0, np.int64(0)
    while k < last:
        base = 64 * (k - place)
        kept = m
        k, open_, m = _edges(words, highs, k, last, open_, edges, m)
        for t in range(kept, m):
            edges[t] += base
        count = np.int64(0)
        for t in range(0, m - 1, 2):
            r, length = edges[t], edges[t + 1] - edges[t]
            i = begin + r
            if wide and _holds(highs, place, r, length):
                terms = _flush(
                    low_bytes,
                    sizes,
                    states,
                    capitals,
                    count,
                    stop_words,
                    slots,
                    shift,
                    seen,
                    term_hashes,
                    terms,
                )
                count = np.int64(0)
                _, terms, seen[1] = _cut_mixed(
                    data,
                    i,
                    i + length,
                    flags,
                    kinds,
                    lower,
                    stop_words,
                    slots,
                    shift,
                    row,
                    term_hashes,
                    terms,
                    seen[1],
                )
                continue
            _hold(data, i, length, low_bytes, sizes, states, capitals, count)
            count += 1
            latin, odd = _is_odd(data, i, length, r, place, hards, unevens, kinds)
            latin_terms += latin
            odd_terms += odd
        terms = _flush(
            low_bytes, sizes, states, capitals, count, stop_words, slots, shift, seen, term_hashes, terms
        )
        if m % 2 == 1:  # a run goes on behind these words
            edges[0] = edges[m - 1]
        m %= 2
    row[18] += latin_terms
    row[19] += odd_terms
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
    ends = np.zeros(n + 1, np.int64)
    term_hashes = np.empty((offsets[n] - offsets[0]) // 4, np.uint64)
    used = np.int64(0)
    kinds = _byte_kinds(flags, lower)
    slots, shift = _stop_table(stop_words)
    listed = np.zeros(max(1, stop_words.size), np.uint64)  # one to look at where there is none
    listed[: stop_words.size] = stop_words
    edges, low_bytes, sizes = (
        np.empty(2 * _HELD, np.int64),
        np.empty(_HELD, np.uint64),
        np.empty(_HELD, np.uint64),
    )
    states, capitals, seen = np.empty(_HELD, np.uint64), np.empty(_HELD, np.uint64), np.zeros(2, np.uint64)
    words, highs, hards, unevens = masks[bm.WORD], masks[bm.HIGH], masks[bm.CONSONANT], masks[bm.UNEVEN]
    for d in range(n):
        start, stop, row = offsets[d], offsets[d + 1], counts[d]
        term_hashes = _reserve(term_hashes, used, stop - start + 1)
        first = used
        seen[:] = 0
        used = _cut_document(
            data, start, stop, words, highs, hards, unevens, places[d], own[d, _HIGHS] > 0, flags, kinds, lower, listed,
            slots, shift, row, edges, low_bytes, sizes, states, capitals, seen, term_hashes, used,
        )  # fmt: skip
        row[16] = used - first
        row[17] += own[d, _LETTERS] + own[d, _DIGITS]
        for bit in range(64):
            row[20] += np.int64((seen[1] >> np.uint64(bit)) & _U1)
        row[21] += np.int64(seen[0])
        ends[d + 1] = used
    return ends, term_hashes[:used]
