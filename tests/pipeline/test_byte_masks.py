"""Bits and counts of bytes, against what Python says of each byte alone."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline import byte_masks as bm
from mixloom.pipeline.byte_masks import BYTE_COUNTS, byte_masks
from mixloom.pipeline.utf8 import utf8_buffers

documents = st.lists(
    st.one_of(
        st.text(st.characters(max_codepoint=0x17F), max_size=150),
        st.text("ab A9\n\r\x0b\x1c.. #é\u2026", max_size=300),
    ),
    max_size=6,
)


def is_break(byte: int) -> bool:
    return byte in (11, 12, 13, 28, 29, 30, 0xC2, 0xE2)


def is_kind(row: int, byte: int) -> bool:
    char = chr(byte)
    ascii_ = byte < 128
    return {
        bm.SPACE: ascii_ and char.isspace(),
        bm.LETTER: ascii_ and char.isalpha(),
        bm.WORD: ascii_ and char.isalnum(),
        bm.HIGH: not ascii_,
        bm.CONSONANT: ascii_ and char.isalpha() and char.lower() not in "aeiouy",
        bm.UNEVEN: ascii_ and (char.isupper() or char.isdigit()),
        bm.NEWLINE: byte == 10,
        bm.BREAK: is_break(byte),
    }[row]


@settings(deadline=None)
@given(documents)
def test_each_bit_says_what_its_byte_is_and_none_is_set_behind_a_document(texts: list[str]) -> None:
    data, offsets = utf8_buffers(pa.array(texts, pa.large_string()))
    masks, places, _ = byte_masks(data, offsets)
    for d, text in enumerate(texts):
        raw = text.encode()
        width = 64 * int(places[d + 1] - places[d])
        assert width > len(raw)
        for row in range(len(masks)):
            words = np.ascontiguousarray(masks[row, places[d] : places[d + 1]])
            bits = np.unpackbits(words.view(np.uint8), bitorder="little").tolist()
            assert bits == [int(is_kind(row, b)) for b in raw] + [0] * (width - len(raw))


def slow_counts(text: str) -> dict[str, int]:
    raw = text.encode()
    plain = [chr(b) for b in raw if b < 128]
    kinds = [unicodedata.category(c)[0] for c in plain]
    spaces = sum(c.isspace() for c in plain)
    repeated = sum(a == b and a < 128 and not chr(a).isspace() for a, b in zip(raw[1:], raw[:-1]))
    return {
        "newlines": plain.count("\n"),
        "upper": sum(c.isupper() for c in plain),
        "digit": sum(c.isdigit() for c in plain),
        "punctuation": kinds.count("P"),
        "symbol": kinds.count("S"),
        "space": spaces,
        "control": sum(k == "C" and not c.isspace() for k, c in zip(kinds, plain)),
        "repeated": repeated,
        "hashes": plain.count("#"),
        "vowels": sum(c.lower() in "aeiouy" for c in plain),
        "letters": kinds.count("L"),
        "ellipses": raw.count(b"..."),
        "spaced_ellipses": raw.count(b". . ."),
        "high": sum(b >= 128 for b in raw),
    }


@settings(deadline=None)
@given(documents)
def test_counts_of_ascii_are_those_of_its_characters(texts: list[str]) -> None:
    data, offsets = utf8_buffers(pa.array(texts, pa.large_string()))
    _, _, counts = byte_masks(data, offsets)
    for text, row in zip(texts, counts.tolist()):
        assert dict(zip(BYTE_COUNTS, row)) == slow_counts(text)


def test_a_character_at_the_beginning_repeats_none_of_the_document_before() -> None:
    data, offsets = utf8_buffers(pa.array(["aa", "aa", "a"], pa.large_string()))
    _, _, counts = byte_masks(data, offsets)
    assert counts[:, BYTE_COUNTS.index("repeated")].tolist() == [1, 1, 0]
