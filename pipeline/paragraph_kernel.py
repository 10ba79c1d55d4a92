"""The compiled kernel that cuts documents into paragraphs or lines and hashes each in its normal form.

Every function it calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import characters as ch
from mixloom.pipeline.code_points import decode
from mixloom.pipeline.splitmix import mix

_ALPHA, _MARK, _NUMBER, _DIGIT = ch.ALPHA, ch.MARK, ch.NUMBER, ch.DIGIT
_SPACE, _PUNCTUATION, _UNSPACED, _FORMAT = ch.SPACE, ch.PUNCTUATION, ch.UNSPACED, ch.FORMAT
# Two lanes of the same construction with other constants make 128 bits.
_STEP_A, _STEP_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_START_A, _START_B = np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344)
_S29, _S31, _S32 = np.uint64(29), np.uint64(31), np.uint64(32)
_NONE, _LETTERS, _LONE = 0, 1, 2


@njit(cache=True, nogil=True)
def cut_units(data, offsets, flags, lower, by_line, fold_digits, fold_punctuation):  # type: ignore[no-untyped-def]
    """Paragraphs or lines of n documents with something visible in them.

    data uint8, offsets int64 [n+1], flags uint16 [0x110000], lower int32. The normal form: lower case, a run of white
    space as one space, none at the ends, no invisible format characters; digits as 0 and no punctuation where asked.

    Returns (ends int64 [n+1]: units before each document; hashes uint64 [u, 2] of the normal form; places int64
    [u, 4]: in bytes of the document, where its first line begins, its first visible character, after its last one,
    and where the next unit begins (after its newline, for a line; the end of the document); words int64 [u]).
    """
    n = offsets.size - 1
    ends = np.zeros(n + 1, np.int64)
    room = 64
    hashes, places, words = (
        np.empty((room, 2), np.uint64),
        np.empty((room, 4), np.int64),
        np.empty(room, np.int64),
    )
    units = 0
    for d in range(n):
        first, i, stop = offsets[d], offsets[d], offsets[d + 1]
        line_start, line_visible, is_open, pending, started = i, False, False, False, False
        a, b = _START_A, _START_B
        term, count = _NONE, 0
        while True:
            at_end = i >= stop
            here = i
            code = np.int64(10)
            width = np.int64(1)
            if not at_end:
                code = np.int64(data[i])
                if code >= 128:
                    code, width = decode(data, i, stop)
                i += width
            f = np.int64(flags[code])
            if f & _SPACE != 0:
                pending, term = True, _NONE
                if code == 10:
                    done = is_open and (by_line or at_end or not line_visible)
                    if done:
                        hashes[units, 0], hashes[units, 1] = mix(a), mix(b ^ (b >> _S32))
                        words[units] = count
                        places[units, 3] = i - first
                        units += 1
                        is_open = False
                    line_start, line_visible = i, False
                    if at_end:
                        break
                continue
            line_visible = True
            if not is_open:
                if units == room:
                    room *= 2
                    more_hashes, more_places = np.empty((room, 2), np.uint64), np.empty((room, 4), np.int64)
                    more_words = np.empty(room, np.int64)
                    more_hashes[:units], more_places[:units], more_words[:units] = hashes, places, words
                    hashes, places, words = more_hashes, more_places, more_words
                is_open, pending, started, term, count = True, False, False, _NONE, 0
                a, b = _START_A, _START_B
                begin = line_start - first
                if not by_line and units > ends[d]:
                    places[units - 1, 3] = begin
                places[units, 0], places[units, 1] = begin, here - first
            places[units, 2] = i - first
            if f & _FORMAT != 0:
                continue
            letter = f & (_ALPHA | _NUMBER) != 0
            if f & _MARK == 0:
                if letter and not (term == _LETTERS and f & _UNSPACED == 0):
                    count += 1
                term = _NONE if not letter else (_LETTERS if f & _UNSPACED == 0 else _LONE)
            if fold_punctuation and f & _PUNCTUATION != 0:
                continue
            if pending and started:
                a = (a ^ np.uint64(32)) * _STEP_A
                a = a ^ (a >> _S29)
                b = (b ^ np.uint64(32)) * _STEP_B
                b = b ^ (b >> _S31)
            pending, started = False, True
            folded = np.int64(lower[code]) if code < lower.size else code
            if fold_digits and f & _DIGIT != 0:
                folded = np.int64(48)
            a = (a ^ np.uint64(folded)) * _STEP_A
            a = a ^ (a >> _S29)
            b = (b ^ np.uint64(folded)) * _STEP_B
            b = b ^ (b >> _S31)
        if not by_line and units > ends[d]:
            places[units - 1, 3] = stop - first
        ends[d + 1] = units
    return ends, hashes[:units].copy(), places[:units].copy(), words[:units].copy()
