"""The compiled cuts and counts against slow, plain definitions over Python strings."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixloom.pipeline import characters as ch
from mixloom.pipeline.annotate import text_measures
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.measures import MEASURES
from mixloom.pipeline.repetition import REPEATS, repetition
from mixloom.pipeline.words import COUNTS, Cuts, cut, utf8_buffers

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
TERMINAL = ch.terminal_punctuation()


# ---- the plain definitions ------------------------------------------------------------------------------


def kind(c: str) -> str:
    return unicodedata.category(c)[0]


def is_lone(c: str) -> bool:
    return kind(c) in "LN" and ch.is_unspaced(c)


def is_word_char(c: str) -> bool:
    return kind(c) in "LN" and not ch.is_unspaced(c)


def slow_terms(text: str) -> list[str]:
    """Lower-cased terms: split the visible text by hand, marks go with the letter before them."""
    out: list[str] = []
    open_kind = ""
    for c in text:
        if unicodedata.category(c) == "Cf":
            continue
        if (kind(c) == "M" and open_kind) or (is_word_char(c) and open_kind == "letters"):
            out[-1] += ch.lower_char(c)
        elif is_word_char(c) or is_lone(c):
            out.append(ch.lower_char(c))
            open_kind = "lone" if is_lone(c) else "letters"
        elif kind(c) != "M":
            open_kind = ""
    return out


def slow_joint(text: str, at: int, token: str) -> str:
    """What the sign at text[at], just after a letter, number or mark, does to the token of letters before it."""
    c, before, rest = text[at], text[at - 1], text[at + 1 :]
    if c == "." and before.isalpha() and (token == before or token[-2:-1] == "."):
        return "join"
    if c == ":" and rest.startswith("//"):
        return "address"
    if not rest or not is_word_char(rest[0]):
        return ""
    after = rest[0]
    if c in "_@&":
        return "join"
    if c == ".":
        upper = unicodedata.category(after) in ("Lu", "Lt")
        lower = before.isalpha() and unicodedata.category(before) not in ("Lu", "Lt")
        return "" if lower and upper else "join"
    if c in ",:/-":
        return "join" if kind(after) == "N" and not (c == "-" and kind(before) == "N") else ""
    if c in "'\u2019" and after.isalpha():
        return "new"
    return ""


def slow_tokens(text: str) -> list[tuple[str, str]]:
    """(token, "word" or "other") in order."""
    out: list[list[str]] = []
    state, prefix = "", False
    for at, c in enumerate(text):
        touching = at > 0 and kind(text[at - 1]) in "LNM"
        if unicodedata.category(c) == "Cf" or (kind(c) == "M" and state in ("", "other")):
            continue
        if state == "address" and not c.isspace() and c not in '<>"()[]{}':
            out[-1][0] += c
            continue
        if state != "address" and kind(c) == "M":
            out[-1][0] += c
            continue
        if c.isspace():
            state = ""
            continue
        if is_word_char(c):
            if state == "letters":
                out[-1][0] += c
                continue
            if state == "other" and prefix and len(out[-1][0]) == 1:
                out[-1] = [out[-1][0] + c, "word"]
                state = "letters"
                continue
            becomes = "letters"
        elif is_lone(c):
            becomes = "lone"
        else:
            becomes = "other"
            if state == "letters" and touching:
                joint = slow_joint(text, at, out[-1][0])
                if joint in ("join", "address"):
                    out[-1][0] += c
                    state = "address" if joint == "address" else "letters"
                    continue
                if joint == "new":
                    becomes = "letters"
            elif state == "other" and c == text[at - 1] and c in ".-":
                out[-1][0] += c
                continue
        out.append([c, "other" if becomes == "other" else "word"])
        prefix = c in "-./@\\^|~" and not touching
        state = becomes
    return [(token, sort) for token, sort in out]


def slow_lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def slow_paragraphs(text: str) -> list[str]:
    out: list[str] = []
    group: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            group.append(line)
        elif group:
            out.append("\n".join(group).strip())
            group = []
    return out


def is_odd(term: str, cased: str) -> tuple[bool, bool]:
    """Whether a term counts as Latin, and whether it looks random."""
    chars = [c for c in cased if kind(c) != "M"]
    latin = [c for c in chars if ord(c) < 0x250 or 0x1E00 <= ord(c) < 0x1F00]
    letters = [c for c in latin if c.isalpha()]
    plain = all(c in letters or unicodedata.category(c) == "Nd" for c in chars)
    if not (plain and letters and len(cased) >= 4):
        return False, False
    sounds = "".join("v" if vowel(c) else ("c" if c in letters else "-") for c in chars)
    cases = [
        "d" if unicodedata.category(c) == "Nd" else ("u" if unicodedata.category(c) in ("Lu", "Lt") else "l")
        for c in chars
    ]
    changes = sum(a != b for a, b in pairwise(cases))
    unspeakable = ("v" not in sounds and len(letters) >= 4) or "ccccc" in sounds
    return True, unspeakable or 2 * changes >= len(cased)


def vowel(c: str) -> bool:
    return unicodedata.normalize("NFD", c.lower())[0] in "aeiouyæøœıǝǎɐɨʉʋȣ" or c in "ƏǝƆƎƐƖƱƲȢȣ"


def slow_cased_terms(text: str) -> list[str]:
    """The terms as they stand: cut like `slow_terms`, by their lengths."""
    seen = [c for c in text if unicodedata.category(c) != "Cf"]
    out, at = [], 0
    for term in slow_terms(text):
        while [ch.lower_char(c) for c in seen[at : at + len(term)]] != list(term) or kind(seen[at]) == "M":
            at += 1
        out.append("".join(seen[at : at + len(term)]))
        at += len(term)
    return out


def slow_counts(text: str, short_line: int = 30) -> dict[str, int]:
    words, lines, terms, tokens = text.split(), slow_lines(text), slow_terms(text), slow_tokens(text)
    cased = slow_cased_terms(text)
    category = [unicodedata.category(c) for c in text]
    odd = [is_odd(t, c) for t, c in zip(terms, cased)]
    latin = [c for t in cased for c in t if c.isalpha() and (ord(c) < 0x250 or 0x1E00 <= ord(c) < 0x1F00)]
    raw_lines = [line for line in text.split("\n") if line.strip()]
    return {
        "bytes": len(text.encode()),
        "chars": len(text),
        "newlines": text.count("\n"),
        "upper": sum(c in ("Lu", "Lt") for c in category),
        "digit": category.count("Nd"),
        "punctuation": sum(c[0] == "P" for c in category),
        "symbol": sum(c[0] == "S" for c in category),
        "space": sum(c.isspace() for c in text),
        "non_ascii": sum(not c.isascii() for c in text),
        "alpha": sum(c[0] in "LM" for c in category),
        "replacement": text.count("\ufffd"),
        "control": sum(k in ("Cc", "Cn", "Co", "Cs") and not c.isspace() for k, c in zip(category, text)),
        "repeated": sum(a == b and not b.isspace() for a, b in pairwise(text)),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "words": len(words),
        "word_chars": sum(map(len, words)),
        "alpha_words": sum(any(c.isalpha() for c in w) for w in words),
        "max_word_chars": max(map(len, words), default=0),
        "terms": len(terms),
        "term_chars": sum(map(len, terms)),
        "tokens": len(tokens),
        "alpha_tokens": sum(any(c.isalpha() for c in t) for t, _ in tokens),
        "latin_terms": sum(is_latin for is_latin, _ in odd),
        "odd_terms": sum(looks_random for _, looks_random in odd),
        "stop_words_distinct": len(set(cased) & set(STOP_WORDS)),
        "stop_words": sum(t in STOP_WORDS for t in terms),
        "lines": len(lines),
        "bullet_lines": sum(line[0] in "•-" for line in lines),
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines),
        "terminal_lines": sum(line[-1] in TERMINAL for line in lines),
        "short_lines": sum(len(line) <= short_line for line in lines),
        "max_line_chars": max(map(len, lines), default=0),
        "paragraphs": len(slow_paragraphs(text)),
        "latin_letters": len(latin),
        "vowels": sum(map(vowel, latin)),
        "word_tokens": sum(sort == "word" for _, sort in tokens),
        "word_token_chars": sum(len(t) for t, sort in tokens if sort == "word"),
        "terminal_line_ends": sum(line[-1] in TERMINAL for line in raw_lines),
    }


def slow_duplicates(items: list[str]) -> tuple[int, int]:
    seen: set[str] = set()
    again = [x for x in items if x in seen or seen.add(x)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))


def slow_top(tokens: list[str], n: int) -> int:
    grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    if not grams:
        return 0
    gram, count = grams.most_common(1)[0]
    return len(" ".join(gram)) * count if count > 1 else 0


def slow_duplicated(tokens: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    at, chars = 0, 0
    while at + n <= len(tokens):
        gram = tuple(tokens[at : at + n])
        if gram in seen:
            chars += sum(map(len, gram))
            at += n
        else:
            seen.add(gram)
            at += 1
    return chars


def slow_repetition(text: str) -> dict[str, int]:
    tokens = [t for t, _ in slow_tokens(text)]
    lines, paragraphs = slow_duplicates(slow_lines(text)), slow_duplicates(slow_paragraphs(text))
    return {
        "distinct_terms": len(set(slow_terms(text))),
        "duplicate_lines": lines[0],
        "duplicate_line_chars": lines[1],
        "duplicate_paragraphs": paragraphs[0],
        "duplicate_paragraph_chars": paragraphs[1],
        **{f"top_{n}gram_chars": slow_top(tokens, n) for n in (2, 3, 4)},
        **{f"duplicated_{n}gram_chars": slow_duplicated(tokens, n) for n in range(5, 11)},
    }


# ---- what to try ----------------------------------------------------------------------------------------

PIECES = [
    *("the", "The", "of", "and", "have", "word", "Word", "WORD", "x", "rhythm", "strngth", "sch", "a1B2c3D4"),
    *(
        "1990",
        "3",
        "é",
        "e\u0301",
        "naïve",
        "ß",
        "İ",
        "Σ",
        "ǅ",
        "日本",
        "語",
        "が",
        "か\u3099",
        "ภาษา",
        "ไทย",
        "한국어",
    ),
    *(
        "שלום",
        "مرحبا",
        "می\u200cخواهم",
        "co\u00adop",
        "हिन्दी",
        "👍",
        "👩\u200d👩\u200d👧",
        "❤\ufe0f",
        "①",
        "½",
        "٣",
        "\ufeff",
    ),
    *(
        ".",
        "..",
        "...",
        "…",
        "-",
        "--",
        "•",
        "#",
        "##",
        "'",
        "\u2019",
        ",",
        ":",
        "/",
        "://",
        "@",
        "&",
        "_",
        "!",
        "?",
    ),
    *("。", "؟", "(", ")", "[", '"', "<", "\\", "^", "~", "|", "$", "%", "\ufffd", "\x00", "\x85", "\ue000"),
    *(
        " ",
        "  ",
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        "\u2028",
        "\u3000",
        "\xa0",
        "\x1c",
        "e.g.",
        "U.S.",
        "J. R. R.",
        "it's",
    ),
    *(
        "https://a.org/b?c=1",
        "a@b.org",
        "3.14",
        "1,000",
        "10:30",
        "well-known",
        "COVID-19",
        "1990-95",
        "end.Next",
    ),
]
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join),
    st.text(max_size=80),
    st.lists(st.sampled_from(["a b", "a b c d e", "b c", ""]), max_size=40).map("\n".join),
    st.lists(st.sampled_from("ab "), max_size=200).map("".join),
)


def one(text: str) -> Cuts:
    return cut(pa.array([text], pa.large_string()), stop_words=STOP_WORDS)


@settings(max_examples=700, deadline=None)
@given(texts)
@example("")
@example("x")
@example(" \n\t \n")
@example("\u0301")
@example("a" * 10_000)
@example("the quick brown fox. " * 500)
@example("日" * 3000)
@example("It's U.S. policy, e.g. 3.14 or 10:30; see https://a.org/x_(y). well-known COVID-19 'quoted'")
@example("end of\u2019s ...  -- --- a.b.C.d A&B x@y /etc ~/x -foo .b a/b and/or 1/2 1-2 a-1 $5 5%")
def test_every_count_equals_its_plain_definition(text: str) -> None:
    cuts = one(text)
    assert dict(zip(COUNTS, cuts.counts[0].tolist())) == slow_counts(text)
    assert dict(zip(REPEATS, repetition(cuts)[0].tolist())) == slow_repetition(text)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_items_have_the_lengths_and_the_equalities_of_the_plain_cuts(text: str) -> None:
    cuts = one(text)
    for items, hashes, chars in (
        ([t for t, _ in slow_tokens(text)], cuts.token_hashes, cuts.token_chars),
        (slow_terms(text), cuts.term_hashes, None),
        (slow_lines(text), cuts.line_hashes, cuts.line_chars),
        (slow_paragraphs(text), cuts.paragraph_hashes, cuts.paragraph_chars),
    ):
        assert len(items) == len(hashes)
        if chars is not None:
            assert chars.tolist() == [len(x) for x in items]
        for a, x in zip(hashes, items):
            assert [a == b for b in hashes] == [x == y for y in items]


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=6))
@example(["\n", ""])
def test_every_measure_is_its_count_over_its_denominator(documents: list[str]) -> None:
    measured = text_measures(cut(pa.array(documents, pa.large_string()), stop_words=STOP_WORDS))
    assert list(measured) == list(MEASURES)
    for i, text in enumerate(documents):
        counts = slow_counts(text) | slow_repetition(text)
        counts["visible"] = counts["chars"] - counts["space"]
        counts["chars_without_newlines"] = counts["chars"] - counts["newlines"]
        for name, m in MEASURES.items():
            value = counts[m.count]
            if m.over is not None:
                value = np.float32(value / counts[m.over]) if counts[m.over] else 0
            assert measured[name][i].as_py() == value, name


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=8), st.data())
def test_a_document_is_cut_alike_in_any_batch_slice_and_string_type(
    documents: list[str], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(documents) - 1))
    whole = cut(pa.array(documents, pa.large_string()))
    for kind_of_string in (pa.string(), pa.large_string()):
        part = cut(pa.array(documents, kind_of_string).slice(start))
        assert part.counts.tolist() == whole.counts[start:].tolist()
        assert part.token_hashes.tolist() == whole.token_hashes[whole.token_offsets[start] :].tolist()
        assert part.term_hashes.tolist() == whole.term_hashes[whole.term_offsets[start] :].tolist()


def test_a_null_is_an_empty_document() -> None:
    cuts = cut(pa.array(["one two", None, "three"]))
    assert cuts.count("words").tolist() == [2, 0, 1]
    assert cut(pa.array([], pa.string())).counts.shape == (0, len(COUNTS))
    assert cut(pa.array([None], pa.string())).count("bytes").tolist() == [0]


@pytest.mark.parametrize(
    "raw", [b"\xff", b"ab\xc3", b"\xe2\x82", b"\xf5\x80\x80\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\x80x"]
)
def test_malformed_bytes_count_as_replacement_characters_and_never_read_beyond_the_document(
    raw: bytes,
) -> None:
    data = pa.array([raw, b"good"], pa.large_binary())
    broken = pa.Array.from_buffers(pa.large_string(), 2, data.buffers())
    cuts = cut(broken)
    bad = sum(b >= 0x80 for b in raw)
    assert cuts.count("replacement").tolist() == [bad, 0]
    assert cuts.count("chars").tolist() == [len(raw), 4]


def test_characters_of_every_script_fall_into_the_classes_of_the_unicode_database() -> None:
    flags = ch.character_flags()
    for code in [*range(0x3100), *range(0xA900, 0xAB00), *range(0xFE00, 0x10000), 0x1F600, 0x20000, 0x10FFFF]:
        c, f = chr(code), int(flags[code])
        assert bool(f & ch.ALPHA) == c.isalpha()
        assert bool(f & ch.SPACE) == c.isspace()
        assert bool(f & ch.MARK) == (kind(c) == "M")
        assert bool(f & ch.UNSPACED) == is_lone(c)
        assert not (f & ch.TERMINAL) or c in TERMINAL


def test_only_strings_can_be_cut() -> None:
    with pytest.raises(TypeError, match="expected an Arrow string or large_string array, got int64"):
        utf8_buffers(pa.array([1, 2]))


@pytest.mark.parametrize("word", ["", "two words", "don't", "The", "日本", "\u0301"])
def test_a_stop_word_that_is_not_one_lower_case_word_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"stop_words: {word!r} is not a single word")):
        cut(pa.array(["x"]), stop_words=["the", word])
    with pytest.raises(UserError, match="65 entries; at most 64"):
        cut(pa.array(["x"]), stop_words=[f"w{i}" for i in range(65)])


def test_stop_words_of_any_language_are_counted_once_per_kind_and_once_per_occurrence() -> None:
    cuts = cut(pa.array(["Der der und und UND の x"]), stop_words=["der", "und", "の", "nie"])
    assert cuts.count("stop_words_distinct").tolist() == [3]
    assert cuts.count("stop_words").tolist() == [6]
