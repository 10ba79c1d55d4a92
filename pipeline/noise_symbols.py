"""The alphabet of the noise gate: each code point as one of 106 symbols; built on first use, then kept.

ASCII keeps its characters; the rest of Unicode falls into classes. Letters of other scripts are one class, but the gate
tells whether a letter is of the same script as the one before it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch

# 0 to 94 are the characters U+0020 to U+007E.
NEWLINE, SPACE = 95, 96
ACCENTED = 97  # Latin letters beyond ASCII
LATIN1_SIGN = 98  # U+00A0 to U+00BF, multiplication and division signs
SIGN = 99  # punctuation, symbols, format characters and spaces beyond Latin-1
CJK, RARE_CJK = 100, 101  # Han in daily use with Kana and Bopomofo; all other Han
OTHER, OTHER_SCRIPT = (
    102,
    103,
)  # letters, numbers and marks of other scripts: like the one before; of another script
CONTROL, REPLACEMENT = 104, 105  # control, private and unassigned characters; U+FFFD
SYMBOLS = 106

# Code points whose letters count as one script though their upper byte differs.
_SAME_SCRIPT = (
    *((0x1F00, 0x1FFF, 0x03), (0x0500, 0x052F, 0x04), (0x2DE0, 0x2DFF, 0x04), (0xA640, 0xA69F, 0x04)),
    *((0x0750, 0x077F, 0x06), (0x08A0, 0x08FF, 0x06), (0xFB50, 0xFEFF, 0x06), (0x1C90, 0x1CBF, 0x10)),
    *((0x2D00, 0x2D2F, 0x10), (0xA000, 0xA4CF, 0xA0), (0xAC00, 0xD7FF, 0xAC), (0x1100, 0x11FF, 0xAC)),
    *((0x3130, 0x318F, 0xAC), (0x1380, 0x139F, 0x12), (0x1300, 0x137F, 0x12), (0x0300, 0x036F, 0x00)),
)
# Phonetic letters and late additions to Latin stand among Latin letters.
_PHONETIC = ((0x0250, 0x02FF), (0x1D00, 0x1DBF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF), (0xAB30, 0xAB6F))


@lru_cache(maxsize=1)
def _daily_han() -> NDArray[np.bool_]:
    """Han characters of the first level of GB 2312, Big5 or JIS X 0208 (about 7,500), bool [0x20000]."""
    daily = np.zeros(0x20000, np.bool_)
    for codec, first, last in (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6), ("euc_jp", 0xB0, 0xCF)):
        for lead in range(first, last + 1):
            for trail in range(0x40, 0xFF):
                char = bytes([lead, trail]).decode(codec, errors="ignore")
                if len(char) == 1:
                    daily[ord(char)] = True
    return daily


@lru_cache(maxsize=1)
def symbol_table() -> NDArray[np.uint16]:
    """The symbol of every code point in the lower byte and its script in the upper, uint16 [0x110000].

    OTHER stands for both classes of other letters.
    """
    flags = ch.character_flags()
    table = np.full(flags.size, SIGN, np.uint16)
    table[(flags & (ch.ALPHA | ch.MARK | ch.NUMBER)) != 0] = OTHER
    table[(flags & ch.LATIN) != 0] = ACCENTED
    for first, last in _PHONETIC:
        part = table[first : last + 1]
        part[part == OTHER] = ACCENTED
    table[0xA0:0xC0] = LATIN1_SIGN
    table[[0xD7, 0xF7]] = LATIN1_SIGN
    table[(flags & ch.CONTROL) != 0] = CONTROL
    table[(flags & ch.SPACE) != 0] = SPACE
    table[0x1C:0x20], table[0x85] = CONTROL, CONTROL
    table[0x20:0x7F] = np.arange(95)
    table[0x0A], table[0x0D] = NEWLINE, SPACE
    for first, last in ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)):
        part = table[first : last + 1]
        part[part == OTHER] = RARE_CJK
    daily = np.flatnonzero(_daily_han())
    table[daily[table[daily] == RARE_CJK]] = CJK
    table[0x3005:0x3008] = CJK
    table[0x3040:0x3130] = CJK
    table[0x31A0:0x3200] = CJK
    table[0xFF66:0xFFA0] = CJK
    table[0xFFFD] = REPLACEMENT
    script = (np.arange(flags.size) >> 8).clip(0, 255).astype(np.uint16)
    for first, last, same in _SAME_SCRIPT:
        script[first : last + 1] = same
    table |= script << 8
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1)
def windows_bytes() -> NDArray[np.int16]:
    """The byte of each code point below U+2200 in Windows-1252 or Latin-1, 0x80 to 0xFF; 0 for all others. int16."""
    table = np.zeros(0x2200, np.int16)
    table[0x80:0x100] = np.arange(0x80, 0x100)
    for byte in range(0x80, 0xA0):
        char = bytes([byte]).decode("cp1252", errors="ignore")
        if char:
            table[ord(char)] = byte
    table.setflags(write=False)
    return table
