"""What each Unicode code point is, as tables a compiled kernel can index; built on first use, then kept.

The classes come from Python's own `unicodedata`, so they follow the Unicode version of the interpreter.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ALPHA = 1 << 0  # general category L*: what str.isalpha says
MARK = 1 << 1  # M*: combining marks
NUMBER = 1 << 2  # N*
DIGIT = 1 << 3  # Nd
UPPER = 1 << 4  # Lu, Lt
PUNCTUATION = 1 << 5  # P*
SYMBOL = 1 << 6  # S*
SPACE = 1 << 7  # what str.isspace says
UNSPACED = 1 << 8  # letters and numbers of scripts written without spaces between words
TERMINAL = 1 << 9  # the Unicode property Sentence_Terminal
CONTROL = 1 << 10  # Cc that is no white space, Cn, Co, Cs: never part of running text
FORMAT = 1 << 11  # Cf: joiners, soft hyphen, direction marks; invisible to the word cut
LATIN = 1 << 12  # letters below U+0250 and in U+1E00..U+1EFF
VOWEL = (
    1 << 13
)  # Latin letters whose base letter is one of a e i o u y, and the ligatures and variants of them

# Han with its extensions, Kana, Bopomofo, Thai, Lao, Myanmar, Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese and
# Javanese. (Korean puts spaces between words, Tibetan puts marks between syllables.)
_UNSPACED_RANGES = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007)),
    *((0x3021, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)),
    *((0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F)),
    *((0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F), (0xA980, 0xA9DF), (0x20000, 0x3FFFF)),
)

# Sentence_Terminal, from the Unicode Character Database (PropList.txt); `unicodedata` does not carry it.
_TERMINAL_HEX = """
21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736 17d4-17d6
17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049
2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb
fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143
111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642
1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5
16b37-16b38 16b44 16e98 1bc9f 1da88
"""
_VOWELS = frozenset("aeiouy") | frozenset("æøœıƏǝƆƎƐƖƱƲȢȣ")
_BY_CATEGORY = {
    "L": ALPHA,
    "M": MARK,
    "N": NUMBER,
    "P": PUNCTUATION,
    "S": SYMBOL,
    "Z": 0,
    "C": CONTROL,
}


def terminal_punctuation() -> frozenset[str]:
    """The characters that end a sentence: the Unicode property Sentence_Terminal."""
    found: set[str] = set()
    for entry in _TERMINAL_HEX.split():
        first, _, last = entry.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(found)


def is_unspaced(char: str) -> bool:
    """Whether this character is of a script written without spaces between words (as flag `UNSPACED`)."""
    return unicodedata.category(char)[0] in "LN" and any(a <= ord(char) <= b for a, b in _UNSPACED_RANGES)


def _is_vowel(char: str) -> bool:
    return char in _VOWELS or unicodedata.normalize("NFD", char.lower())[0] in _VOWELS


@lru_cache(maxsize=1)
def character_flags() -> NDArray[np.uint16]:
    """The flags above for every code point, uint16 [0x110000]."""
    category = unicodedata.category
    by_name = {two: _BY_CATEGORY[two[0]] for two in map(category, map(chr, range(0x30000)))}
    by_name |= {
        "Nd": NUMBER | DIGIT,
        "Lu": ALPHA | UPPER,
        "Lt": ALPHA | UPPER,
        "Cf": FORMAT,
        "Co": CONTROL,
        "Cs": CONTROL,
    }
    flags = np.full(
        sys.maxunicode + 1, CONTROL, dtype=np.uint16
    )  # the empty planes hold nothing but Cn and Co
    for first, last in ((0, 0x40000), (0xE0000, 0xE1000)):
        flags[first:last] = [by_name[category(chr(c))] for c in range(first, last)]
    for c in range(0x3001):
        if chr(c).isspace():
            flags[c] = (int(flags[c]) & ~CONTROL) | SPACE
    for char in terminal_punctuation():
        flags[ord(char)] |= TERMINAL
    for first, last in _UNSPACED_RANGES:
        part = flags[first : last + 1]
        part[(part & (ALPHA | NUMBER)) != 0] |= UNSPACED
    for c in (*range(0x250), *range(0x1E00, 0x1F00)):
        if flags[c] & ALPHA:
            flags[c] |= LATIN | (VOWEL if _is_vowel(chr(c)) else 0)
    flags.setflags(write=False)
    return flags


def lower_char(char: str) -> str:
    """One character in lower case, or itself where its lower case is not one character (U+0130 alone)."""
    lower = char.lower()
    return lower if len(lower) == 1 else char


@lru_cache(maxsize=1)
def lower_table() -> NDArray[np.int32]:
    """`lower_char` as code points, int32 [0x20000]; no character beyond has a lower case of its own."""
    table = np.array([ord(lower_char(chr(c))) for c in range(0x20000)], dtype=np.int32)
    table.setflags(write=False)
    return table
