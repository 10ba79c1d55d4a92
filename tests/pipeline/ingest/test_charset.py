"""The encoding of a page: proven, declared, detected, or assumed, in that order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.ingest.charset import decode_page, header_charset
from mixloom.pipeline.ingest.problems import Problem

GERMAN = "Größe und Maß der Bäume im Frühling, über den Dächern der Städte, für alle schön. "


def read(data: bytes, declared: str | None = None, default: str = "cp1252", errors: str = "replace"):
    return decode_page(data, declared, default, errors, "the page")


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\ufeff")),
    st.sampled_from([None, "cp1252", "cp1251"]),
)
def test_valid_utf8_is_utf8_whatever_was_declared(text, declared):
    assert read(text.encode(), declared)[0] == text


@given(st.binary(max_size=80), st.sampled_from([None, "utf-8", "shift_jis", "utf-16-le", "cp1252"]))
def test_any_bytes_give_text(data, declared):
    text, encoding, replaced = read(data, declared)
    assert replaced == text.count("\ufffd") or replaced == 0
    assert "".encode(encoding) is not None


def test_a_page_cut_inside_a_character_stays_utf8():
    text, encoding, replaced = read(GERMAN.encode() + "ö".encode()[:1])
    assert (text, encoding, replaced) == (GERMAN + "\ufffd", "utf-8", 1)
    text, encoding, _ = read(GERMAN.encode() + b"\xff", "utf-8")
    assert (text, encoding) == (GERMAN + "\ufffd", "utf-8")


def test_a_wrong_declaration_gives_way_to_what_fits():
    assert read(GERMAN.encode("cp1252"), "utf-8")[0] == GERMAN
    russian = "Быстрая бурая лиса прыгает через ленивую собаку и бежит по дороге к лесу " * 3
    assert read(russian.encode("cp1251"), "utf-8")[0] == russian
    assert read(b"<meta charset='cp1251'>" + russian.encode("cp1251"), "utf-8")[1] == "cp1251"


def test_a_mark_wins_over_every_declaration():
    assert read(b"\xef\xbb\xbf" + GERMAN.encode(), "cp1252") == (GERMAN, "utf-8", 0)
    assert read(GERMAN.encode("utf-16"), "utf-8") == (GERMAN, "utf-16-le", 0)


def test_escape_encodings_need_their_declaration():
    data = "漢字".encode("iso2022_jp")
    assert read(data, "iso2022_jp")[0] == "漢字"


def test_the_last_resort_is_the_encoding_of_the_source(monkeypatch):
    monkeypatch.setattr("mixloom.pipeline.ingest.charset._detected", lambda body: "")
    assert read(b"caf\xe9")[:2] == ("café", "cp1252")
    assert read(b"\xd1", default="koi8-r")[0] == "я"


def test_fail_names_the_byte():
    with pytest.raises(
        Problem, match=r"invalid_utf8: the page is not valid utf-8: byte 0xff at byte offset \d+"
    ):
        read(GERMAN.encode() + b"\xff", errors="fail")


def test_labels_mean_what_browsers_take_them_for():
    assert header_charset("text/html; charset=ISO-8859-1") == "cp1252"
    assert header_charset('text/html; charset="UTF-8"') == "utf-8"
    assert header_charset("text/html; charset=klingon") is None
    assert header_charset("text/html") is None
