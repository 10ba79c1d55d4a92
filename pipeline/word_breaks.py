"""The Word_Break classes of Unicode Annex 29 ("Unicode Text Segmentation"), as a table a compiled kernel can index.

Derived from the general categories of `unicodedata` by the definitions of table 3 there, with the few lists that no
category gives. White space has no class: it ends a chunk before these rules are asked. Format and ZWJ are told as
Extend, which the rules used here treat alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch

EXTEND, REGIONAL, KATAKANA, HEBREW, ALETTER = 1, 2, 3, 4, 5
MID_LETTER, MID_NUM, MID_NUM_LET, SINGLE_QUOTE, DOUBLE_QUOTE = 6, 7, 8, 9, 10
NUMERIC, EXTEND_NUM_LET = 11, 12

_HEBREW_RANGES = "5d0-5f2 fb1d-fb4f"
_KATAKANA_RANGES = (
    "3031-3035 309b-309c 30a0-30fa 30fc-30ff 31f0-31ff 32d0-32fe 3300-3357 ff66-ff9d 1aff0-1affe 1b000 1b120-1b122 "
    "1b155 1b164-1b167"
)
# Letters that break words all the same: ideographs, Hiragana, and scripts that put no spaces between words.
_NO_LETTER_RANGES = (
    "e01-e46 e81-edf 1000-109f 1780-17dc 1950-19c9 1a20-1a54 1aa7 3006-3007 3021-3029 3038-303a 3041-3096 309d-309f "
    "3400-4dbf 4e00-9fff a9e0-a9e4 a9e6-a9ef a9fa-a9fe aa60-aa7a aa7e-aadd f900-faff ff9e-ff9f 11700-11746 17000-18d08 "
    "1b001-1b11f 1b150-1b152 1b170-1b2fb 20000-3ffff"
)
# Letters by this property alone; the signs among them are phonetic, the others are circled and squared letters.
_LETTER_RANGES = (
    "b8 2c2-2c5 2d2-2d7 2de-2df 2e5-2eb 2ed 2ef-2ff 55a-55c 55e 58a 5f3 70f 24b6-24e9 a708-a716 a720-a721 a789-a78a "
    "ab5b 1f130-1f149 1f150-1f169 1f170-1f189"
)
_NUMERIC_RANGES = "600-605 66b 6dd 890-891 8e2 19da 110bd 110cd"
_EXTEND_RANGES = "200c-200d ff9e-ff9f 1f3fb-1f3ff e0020-e007f"
_NO_FORMAT_RANGES = "600-605 6dd 70f 890-891 8e2 200b 110bd 110cd"
_OTHERS = (
    (REGIONAL, "1f1e6-1f1ff"),
    (MID_LETTER, "3a b7 387 55f 5f4 2027 fe13 fe55 ff1a"),
    (MID_NUM, "2c 3b 37e 589 60c-60d 66c 7f8 2044 fe50 fe54 ff0c ff1b"),
    (MID_NUM_LET, "2e 2018-2019 2024 fe52 ff07 ff0e"),
    (SINGLE_QUOTE, "27"),
    (DOUBLE_QUOTE, "22"),
    (EXTEND_NUM_LET, "5f 203f-2040 2054 fe33-fe34 fe4d-fe4f ff3f"),
)


def _codes(ranges: str) -> Iterator[int]:
    for entry in ranges.split():
        first, _, last = entry.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


@lru_cache(maxsize=1)
def word_break_classes() -> NDArray[np.uint8]:
    """The class of every code point, uint8 [0x110000]; 0 where it is none of those above."""
    flags = ch.character_flags()
    classes = np.zeros(flags.size, np.uint8)
    letters = (flags & ch.ALPHA) != 0
    classes[letters] = ALETTER
    for code in np.flatnonzero((flags & ch.NUMBER) != 0).tolist():
        kind = unicodedata.category(chr(code))
        classes[code] = NUMERIC if kind == "Nd" else (ALETTER if kind == "Nl" else 0)
    for code in _codes(_NO_LETTER_RANGES):
        if classes[code] == ALETTER:
            classes[code] = 0
    for ranges, name in ((_HEBREW_RANGES, HEBREW), (_LETTER_RANGES, ALETTER), (_NUMERIC_RANGES, NUMERIC)):
        for code in _codes(ranges):
            if name != HEBREW or letters[code]:
                classes[code] = name
    for code in _codes(_KATAKANA_RANGES):
        classes[code] = KATAKANA
    classes[(flags & ch.MARK) != 0] = EXTEND
    unformatted = set(_codes(_NO_FORMAT_RANGES))
    for code in np.flatnonzero((flags & ch.FORMAT) != 0).tolist():
        if code not in unformatted:
            classes[code] = EXTEND
    for code in _codes(_EXTEND_RANGES):
        classes[code] = EXTEND
    for name, ranges in _OTHERS:
        for code in _codes(ranges):
            classes[code] = name
    classes.setflags(write=False)
    return classes
