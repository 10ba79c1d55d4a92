"""The tokens of documents for the tf-idf embedder, cut and hashed in compiled code over raw UTF-8.

The definition is the regular expression `TOKEN` on the text in lower case (`slow_tokens`); the compiled cut gives
the same tokens, which a property test holds. All that depends on Unicode is taken from Python itself, once a process.

Where it is called: `cut_tokens` per part, when an embedder is fitted (`tfidf_counts`) and when it is used (`tfidf`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.characters import lower_table
from mixloom.pipeline.term_token_kernel import (
    CASED,
    DIGIT,
    IGNORABLE,
    UNSPACED,
    WORD,
    cut_token_kernel,
)
from mixloom.pipeline.utf8 import utf8_buffers

# Scripts written without spaces (kana, Han, Thai, Lao, Myanmar, Khmer) are cut into single characters:
# a whole sentence would otherwise be one word that never occurs twice.
_UNSPACED_RANGES = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x2FFFF)),
)
_UNSPACED = "".join(f"{chr(a)}-{chr(b)}" for a, b in _UNSPACED_RANGES)
TOKEN = re.compile(rf"[{_UNSPACED}]|(?<![^\W{_UNSPACED}])[^\W\d{_UNSPACED}][^\W{_UNSPACED}]+")

_SIGMA, _FINAL_SIGMA, _DOTTED_I = "\u03a3", "\u03c2", "\u0130"
_ASSIGNED = ((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xE1000))  # the other planes hold no characters


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of n documents; document i owns the tokens offsets[i]:offsets[i+1].

    offsets int64 [n+1]; hashes uint64 [t], of the UTF-8 bytes of each token; lowered uint8: these bytes, token after
    token; ends int64 [t]: where each token ends in `lowered`.
    """

    offsets: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    lowered: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]

    def words(self) -> pa.Array:
        """Every token as large_string [t]."""
        bounds = np.zeros(len(self.ends) + 1, np.int64)
        bounds[1:] = self.ends
        data = np.ascontiguousarray(self.lowered[: bounds[-1]])
        return pa.LargeStringArray.from_buffers(len(self.ends), pa.py_buffer(bounds), pa.py_buffer(data))


def slow_tokens(text: str) -> list[str]:
    """Lower-case words of two characters or more that do not begin with a digit.

    Numbers are one symbol to c-BTM, and that symbol is a stop word: they are left out. In scripts written without
    spaces every character is a token. This is the definition; `cut_tokens` is what runs.
    """
    return TOKEN.findall(text.lower())


def cut_tokens(texts: pa.Array, max_characters: int) -> Tokens:
    """The tokens of the first `max_characters` characters of each text (string or large_string [n]; null reads as "").

    Raises:
        TypeError: `texts` holds no strings.
    """
    data, bounds = utf8_buffers(texts)
    return Tokens(*cut_token_kernel(data, bounds, max_characters, _classes(), lower_table()))


@lru_cache(maxsize=1)
def _classes() -> npt.NDArray[np.uint8]:
    """What each code point is to the kernel, uint8 [0x110000]."""
    classes = np.zeros(0x110000, np.uint8)
    for first, last in _ASSIGNED:
        chars = [chr(c) for c in range(first, last)]
        some = classes[first:last]
        some[[c.isalnum() or c == "_" for c in chars]] |= WORD
        some[[c.isdecimal() for c in chars]] |= DIGIT
        # Whether a capital sigma ends a word depends on what stands around it: Python is asked what it makes of each.
        cased = _ends_in_final_sigma(chars, "")
        some[cased] |= CASED
        some[_ends_in_final_sigma(chars, "a") & ~cased] |= IGNORABLE
    for first, last in _UNSPACED_RANGES:
        classes[first : last + 1] = (classes[first : last + 1] & ~np.uint8(WORD | DIGIT)) | UNSPACED
    classes.setflags(write=False)
    return classes


def _ends_in_final_sigma(chars: list[str], before: str) -> npt.NDArray[np.bool_]:
    """Whether a capital sigma after `before` and each of the characters is a final one, bool [n]."""
    step = len(before) + 3
    # U+0130 alone is longer in lower case; what counts here is the same for it as for I.
    text = "".join(f"{before}{'I' if c == _DOTTED_I else c}{_SIGMA}\n" for c in chars).lower()
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return codes[step - 2 :: step] == ord(_FINAL_SIGMA)
