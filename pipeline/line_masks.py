"""What stands at every byte of a batch of texts, as bits: the ground the kernels of lines stand on.

Each byte gets a class of eight bits: a space, a line break, a letter and so on. The classes of 64 bytes, turned round,
are eight words of 64 bits, one for each of these questions, so that lines and words can be found and counted 64 bytes
at a time. Little-endian machines only.

Every function a kernel calls is in its file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import characters as ch
from mixloom.pipeline.code_points import decode
from mixloom.pipeline.lean import LEAN

# The bits of a class. Those of a character of several bytes are at its first byte, but for a space, which has its bit at
# each. A trigger may belong to a phrase or a citation. `MORE`: not the first byte of a character.
SPACE, BREAK, UPPER, DIGIT, LETTER, TERMINAL, TRIGGER, MORE = (1 << k for k in range(8))
# The same as rows of the masks.
R_SPACE, R_BREAK, R_UPPER, R_DIGIT, R_LETTER, R_TERMINAL, R_TRIGGER, R_MORE = range(8)
_MORE_OF_8 = np.uint64(0x8080808080808080)


@njit(**LEAN)
def _class_of(code, f):  # type: ignore[no-untyped-def]
    """The class of the character `code` with the flags f."""
    bits = SPACE if f & ch.SPACE != 0 else 0
    bits |= UPPER if f & ch.UPPER != 0 else 0
    bits |= DIGIT if f & ch.DIGIT != 0 else 0
    bits |= LETTER if f & (ch.ALPHA | ch.NUMBER) != 0 else 0
    bits |= TERMINAL if f & ch.TERMINAL != 0 else 0
    if 10 <= code <= 13 or 28 <= code <= 30 or code == 0x85 or code == 0x2028 or code == 0x2029:
        bits |= BREAK
    if code in (91, 123, 75, 107, 77, 109, 86, 118):  # [ { k m v
        bits |= TRIGGER
    return bits


@njit(**LEAN)
def _classify(text, flags, table, classes):  # type: ignore[no-untyped-def]
    """Fill classes[: n + 1] with the class of every byte of the text; behind it stands a line break.

    text uint8 [n]; table uint8 [256], the class of ASCII characters, `MORE` of other bytes; classes uint8 [8k].
    """
    n = text.size
    for i in range(n):
        classes[i] = table[text[i]]
    classes[n:] = 0
    classes[n] = BREAK
    eights = classes.view(np.uint64)
    done = 0
    for k in range((n + 7) // 8):
        if eights[k] & _MORE_OF_8 == 0:
            continue
        i = max(8 * k, done)
        while i < min(8 * k + 8, n):
            if text[i] < 128:
                i += 1
                continue
            code, width = decode(text, i, n)
            bits = _class_of(code, np.int64(flags[code]))
            if code < 128:  # malformed: too many bytes for its character
                bits &= ~(BREAK | TRIGGER)
            classes[i] = bits
            for j in range(i + 1, i + width):
                classes[j] = MORE | (bits & SPACE)
            i += width
        done = i


@njit(**LEAN)
def _transpose(eights, masks):  # type: ignore[no-untyped-def]
    """Turn 8k classes into a row of bits for each bit of a class.

    eights uint64 [k], the classes; masks uint8 [8, k]: bit j of masks[r, i] is bit r of class 8i + j.
    """
    a, b, c = np.uint64(0x00AA00AA00AA00AA), np.uint64(0x0000CCCC0000CCCC), np.uint64(0x00000000F0F0F0F0)
    s7, s14, s28 = np.uint64(7), np.uint64(14), np.uint64(28)
    for i in range(eights.size):
        x = eights[i]
        t = (x ^ (x >> s7)) & a
        x ^= t ^ (t << s7)
        t = (x ^ (x >> s14)) & b
        x ^= t ^ (t << s14)
        t = (x ^ (x >> s28)) & c
        x ^= t ^ (t << s28)
        for r in range(8):
            masks[r, i] = np.uint8((x >> np.uint64(8 * r)) & np.uint64(255))


@njit(cache=True, nogil=True)
def line_masks(data, offsets, flags):  # type: ignore[no-untyped-def]
    """The classes of the bytes of n texts, and their masks.

    data uint8, offsets int64 [n+1], flags uint16 [0x110000]. Returns classes uint8 [64w], masks uint64 [8, w] (bit j of
    masks[r, k] is bit r of classes[64k + j]) and places int64 [n+1]: text d begins at byte 64 * places[d] of the classes.
    Behind it, and before the next, stands a line break.
    """
    table = np.empty(256, np.uint8)
    table[128:] = MORE
    for code in range(128):
        table[code] = _class_of(code, np.int64(flags[code]))
    n = offsets.size - 1
    places = np.zeros(n + 1, np.int64)
    for d in range(n):
        places[d + 1] = places[d] + (offsets[d + 1] - offsets[d]) // 64 + 1
    classes, masks = np.empty(64 * places[n], np.uint8), np.empty((8, 8 * places[n]), np.uint8)
    for d in range(n):
        _classify(
            data[offsets[d] : offsets[d + 1]], flags, table, classes[64 * places[d] : 64 * places[d + 1]]
        )
    _transpose(classes.view(np.uint64), masks)
    return classes, masks.view(np.uint64), places
