"""Words, tokens and segments: what others say of the same texts, scale, and what a batch may not change."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.annotate import text_measures
from mixloom.pipeline.chunks import Chunks, cut_chunks
from mixloom.pipeline.english_tokens import special_cases
from mixloom.pipeline.word_breaks import word_break_classes
from mixloom.pipeline.words import cut

# Texts and the tokens that spaCy 3.8 makes of them (spacy.blank("en"), white space left out).
SPACY = {
    "It's U.S. policy, e.g. 3.14 or 10:30.": "It|'s|U.S.|policy|,|e.g.|3.14|or|10:30|.",
    "well-known COVID-19 1990-95 (1-2)": "well|-|known|COVID-19|1990|-|95|(|1|-|2|)",
    "don't cannot won't've I'm im Its its": "do|n't|can|not|wo|n't|'ve|I|'m|i|m|Its|its",
    'he said: "no!" ... ok…': 'he|said|:|"|no|!|"|...|ok|…',
    "see https://a.org/x_(y). or www.b.co.uk, a@b.org": "see|https://a.org/x_(y|)|.|or|www.b.co.uk|,|a@b.org",
    "10km 5% US$5 5US$ 9a.m. £3": "10|km|5|%|US$|5|5|US$|9|a.m.|£|3",
    "foo'' 'em (see:) :) x-c. and/or a/b": "foo|''|'em|(|see|:)|:)|x|-|c.|and/or|a|/|b",
    "@-@ @,@ a,b 1,000 end.Next": "@-@|@,@|a|,|b|1,000|end|.|Next",
    "Mr. Ph.D. J. AB. ab. A.": "Mr.|Ph.D.|J.|AB|.|ab|.|A.",
    "/etc/x ~/y -foo --bar x=y _a_": "/etc|/|x|~/y|-foo|--bar|x|=|y|_|a|_",
    "192.168.0.1/x 8.8.8.8/x": "192.168.0.1|/|x|8.8.8.8/x",
    "50°C. naïve日本 👍👍": "50|°|C|.|naïve日本|👍|👍",
}
# Texts and their words by Unicode Annex 29 that begin with a letter or number.
SEGMENTS = {
    'The quick ("brown") fox can\'t jump 32.3 feet, right?': "The|quick|brown|fox|can't|jump|32.3|feet|right",
    "x_1 _y a:b e.g. U.S. 1,000 well-known": "x_1|a:b|e.g|U.S|1,000|well|known",
    'שלום ש"ל e\u0301te\u0301 日本語 カタカナ ไทย a\u00adb': 'שלום|ש"ל|e\u0301te\u0301|日|本|語|カタカナ|ไ|ท|ย|a\u00adb',
}


def one(text: str) -> Chunks:
    return cut_chunks(pa.array([text], pa.large_string()), ())


def lengths(parts: str) -> list[int]:
    return [len(part) for part in parts.split("|")]


@pytest.mark.parametrize("text", SPACY)
def test_tokens_are_those_of_spacy(text: str) -> None:
    assert one(text).token_chars.tolist() == lengths(SPACY[text])
    assert len(set(one(text).token_hashes.tolist())) == len(set(SPACY[text].split("|")))


@pytest.mark.parametrize("text", SEGMENTS)
def test_segments_are_words_by_the_rules_of_unicode(text: str) -> None:
    assert one(text).segment_chars.tolist() == lengths(SEGMENTS[text])


@pytest.mark.parametrize(
    "case", ["don't", "don’t", "e.g.", "<33", "o'clock", "10am", "y'all", "Ma’am", "C++", "''"]
)
def test_a_special_case_is_cut_as_listed_whatever_stands_around_it(case: str) -> None:
    pieces = [len(piece) for piece in special_cases()[case]]
    for text in (case, f"({case})", f"“{case}”"):
        chars = one(text).token_chars.tolist()
        outside = (len(text) - len(case)) // 2
        assert chars[outside : len(chars) - outside] == pieces


def test_the_list_of_special_cases_holds_no_word_that_is_one_by_itself() -> None:
    cases = special_cases()
    assert {"its", "Well", "were", "Hell", "shed"}.isdisjoint(cases)
    assert all("".join(pieces) == word for word, pieces in cases.items())
    assert len(cases) == 1343


def test_the_classes_of_word_breaks_are_those_of_the_unicode_database() -> None:
    regex = pytest.importorskip("regex")
    names = (
        *("", "Extend", "Regional_Indicator", "Katakana", "Hebrew_Letter", "ALetter", "MidLetter", "MidNum"),
        *("MidNumLet", "Single_Quote", "Double_Quote", "Numeric", "ExtendNumLet"),
    )
    known = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    text = "".join(known)
    expected = dict.fromkeys(known, 0)
    for number, name in enumerate(names):
        for found in regex.findall(rf"\p{{WB={name}}}", text) if name else ():
            expected[found] = number
    for name in ("Format", "ZWJ"):
        expected |= dict.fromkeys(regex.findall(rf"\p{{WB={name}}}", text), 1)
    expected["\u202f"] = 0  # white space, which always ends a word here
    table = word_break_classes()
    wrong = [c for c in known if table[ord(c)] != expected[c]]
    assert len(wrong) <= 20, [
        hex(ord(c)) for c in wrong
    ]  # another version of Unicode may class a few otherwise


texts = st.lists(
    st.one_of(
        st.sampled_from(["don't", "a,b", "(x)", "3.14", "e.g.", "plain", "word."]), st.text(max_size=5)
    ),
    max_size=30,
).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=8))
def test_a_chunk_that_occurs_in_many_documents_is_cut_alike_in_each(documents: list[str]) -> None:
    together = cut_chunks(pa.array(documents, pa.large_string()), ("the",))
    for i, text in enumerate(documents):
        alone = cut_chunks(pa.array([text], pa.large_string()), ("the",))
        for kind in ("word", "token", "segment"):
            first, last = getattr(together, f"{kind}_offsets")[i : i + 2]
            for what in ("hashes", "chars"):
                name = f"{kind}_{what}"
                assert getattr(together, name)[first:last].tolist() == getattr(alone, name).tolist()
        assert together.counts[i].tolist() == alone.counts[0].tolist()


def test_many_distinct_and_very_long_chunks_fit() -> None:
    distinct = [f"{i}-{i * i}" for i in range(20_000)]
    long = "(" * 3000 + "don't." * 2000 + "é" * 5000
    chunks = one(" ".join([*distinct, long, *distinct]))
    assert chunks.word_offsets.tolist() == [0, 40_001]
    assert len(set(chunks.word_hashes.tolist())) == 20_001
    assert chunks.token_chars.sum() == 2 * sum(map(len, distinct)) + len(long)
    assert one("\x00").token_chars.tolist() == [1]


def test_a_document_of_fifty_megabytes_is_measured_like_its_parts_together() -> None:
    end = unicodedata.normalize("NFD", "é") + " 日本 don't!\n"
    lines = [
        f"Chapter{i}continued {i * 37:040d}km, {'x' * 70}{i % 7919} ({i % 104729}) {end}"
        for i in range(320_000)
    ]
    parts = ["".join(lines[k : k + 20_000]) for k in range(0, len(lines), 20_000)]
    split = text_measures(cut(pa.array(parts, pa.large_string())))
    large = text_measures(cut(pa.array(["".join(parts)], pa.large_string())))
    assert large["text_bytes"][0].as_py() > 50_000_000
    counts = (
        "text_bytes",
        "text_chars",
        "words",
        "terms",
        "tokens",
        "segments",
        "lines",
        "word_tokens",
        "latin_terms",
    )
    for name in counts:
        assert large[name][0].as_py() == sum(split[name].to_pylist()), name
    for name in ("digit_share", "upper_share", "repeated_char_share"):
        chars = np.array(split["text_chars"], np.float64)
        assert large[name][0].as_py() == pytest.approx(np.average(split[name], weights=chars), rel=1e-2)
    assert large["duplicate_line_share"][0].as_py() == 0
    assert large["median_word_chars"][0].as_py() in split["median_word_chars"].to_pylist()
