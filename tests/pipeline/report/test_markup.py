"""Markup that is safe by construction."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html

from mixloom.pipeline.report.markup import (
    Html,
    clean,
    duration,
    el,
    escape,
    markup,
    number,
    percent,
    shorten,
    significant,
    size,
)


def test_hostile_text_stays_text_in_content_and_in_attributes(hostile, audit):
    tree = audit(el("p", hostile, title=hostile, cls=hostile))
    (p,) = tree.xpath("//p")
    assert p.text_content() == clean(hostile)
    assert len(p) == 0
    assert re.sub(r"\s", " ", p.get("title")) == re.sub(r"\s", " ", clean(hostile))


@given(st.text())
def test_any_text_comes_back_as_itself(text):
    # A parser may only change what HTML itself folds: carriage returns.
    parsed = html.fragment_fromstring(f"<p>{escape(text)}</p>")
    assert parsed.text_content().replace("\r", "\n") == clean(text).replace("\r", "\n")
    assert len(parsed) == 0


@given(st.text(st.characters(categories=["Cc", "Cs", "Cf", "Cn"])))
def test_cleaned_text_has_no_control_character_but_tab_and_newline(text):
    kept = clean(text)
    kept.encode("utf-8")
    assert not [c for c in kept if (ord(c) < 32 and c not in "\t\n") or 0x7F <= ord(c) < 0xA0]
    assert not set(kept) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def test_only_what_was_built_here_is_markup():
    assert markup(["<b>", el("b", "x"), None, False, 3]) == "&lt;b&gt;<b>x</b>3"
    joined = el("b", "x") + "<i>"
    assert not isinstance(joined, Html)  # joining with a plain string makes a plain string again
    assert markup(joined) == "&lt;b&gt;x&lt;/b&gt;&lt;i&gt;"


@pytest.mark.parametrize("tag", ["script", "style", "iframe", "object", "base", "a b", "p>"])
def test_elements_that_could_run_something_are_refused(tag):
    with pytest.raises(ValueError, match="no element"):
        el(tag)


@pytest.mark.parametrize("attribute", ["onclick", "onload", "style", "x y"])
def test_attributes_that_could_run_something_are_refused(attribute):
    with pytest.raises(ValueError, match="no attribute"):
        el("p", **{attribute: "x"})


@pytest.mark.parametrize(
    "url",
    ["https://example.org/x.png", "javascript:alert(1)", "//x", "data:text/html;base64,AA", " #x", "x.png"],
)
def test_urls_that_leave_the_page_are_refused(url):
    with pytest.raises(ValueError, match="leads out"):
        el("img", src=url)
    with pytest.raises(ValueError, match="leads out"):
        el("a", "x", href=url)


def test_figures_read_well():
    assert number(1234567) == "1,234,567"
    assert number(float("nan")) == number(None) == "\u2013"
    assert [significant(x) for x in (0, 0.012345, 12345.6, 4e-5, -3.7051, 2.9)] == [
        "0",
        "0.0123",
        "12,346",
        "4.00e-05",
        "-3.71",
        "2.9",
    ]
    assert [percent(x) for x in (0.12345, 0, 0.00042, 1)] == ["12.3%", "0.0%", "0.04%", "100.0%"]
    assert [duration(x) for x in (0.44, 59.9, 185, 7800)] == ["0.4 s", "59.9 s", "3 min 05 s", "2 h 10 min"]
    assert [size(x) for x in (999, 1000, 3_400_000)] == ["999 B", "1.0 kB", "3.4 MB"]


@given(st.text(max_size=300), st.integers(1, 100))
def test_a_shortened_text_begins_like_the_text_and_is_no_longer_than_allowed(text, limit):
    short = shorten(text, limit)
    if len(text) <= limit:
        assert short == text
    else:
        assert short.endswith("\u2026")
        assert len(short) <= limit + 1
        assert text.startswith(short[:-1])
