"""The table of lines: every column against a plain definition, and what a line is."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline import english_tokens as en
from mixloom.pipeline.characters import terminal_punctuation
from mixloom.pipeline.line_measures import COUNTED, COUNTER, ENDS, LINES, PHRASES, SNIPPETS
from mixloom.pipeline.line_sentence_kernel import LONGEST_WHOLE
from mixloom.pipeline.lines import WHOLE_WORDS, line_table, segment_lines
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch

TERMINAL = terminal_punctuation()
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
BREAK = re.compile("\r\n|[\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029]")


# ---- the plain definition ---------------------------------------------------------------------------------


def kind(char: str) -> str:
    return unicodedata.category(char)[0]


def of_class(char: str, flag: int) -> bool:
    return bool(en.token_flags()[ord(char)] & flag)


def splits(char: str, ascii_ones: str, side: int) -> bool:
    return char in ascii_ones if char < "\x80" else of_class(char, side)


BOTH = "!\"#&'()*,:;<>?[]_`{}"


def period_splits(before: str) -> bool:
    """After what spaCy knows as a letter in lower case or without case, a digit, a sign, or two capitals."""
    if not before:
        return False
    two_capitals = len(before) > 1 and all(of_class(c, en.UPPER) for c in before[-2:])
    return of_class(before[-1], en.DOT_END) or two_capitals


def tokens(word: str) -> list[str]:
    """The tokens of one word; those inside the word that neither end nor begin a sentence are left together."""
    head: list[str] = []
    tail: list[str] = []
    while word:
        if word in WHOLE_WORDS:
            return [*head, "whole", *tail]
        dots = len(word) - len(word.lstrip("."))
        if dots > 1:
            head, word = [*head, "--"], word[dots:]
        elif splits(word[0], BOTH + "%=+$", en.PREFIX) and not re.match(r"\+[0-9]", word):
            head, word = [*head, word[0]], word[1:]
        else:
            dots = len(word) - len(word.rstrip("."))
            if dots > 1:
                tail, word = ["--", *tail], word[:-dots]
            elif (dots == 1 and period_splits(word[:-1])) or (not dots and splits(word[-1], BOTH, en.SUFFIX)):
                tail, word = [word[-1], *tail], word[:-1]
            elif re.search("['’][sS]$", word):
                tail, word = ["'", "s", *tail], word[:-2]
            else:
                break
    if not word or all(kind(c) == "P" for c in word):
        return [*head, *([word] if word else []), *tail]
    last_label = re.findall(r"\.(?=([^.]|\.))", word)
    address = re.search(":/.", word) or (
        "@" in word and re.fullmatch("[a-z]", last_label[-1] if last_label else " ")
    )
    inside = 0
    for i in range(1, len(word) - 1):
        a, dot, b = word[i - 1 : i + 2]
        if dot == "." and "." not in (a, b) and not address:
            inside += of_class(a, en.DOT_LEFT) and of_class(b, en.DOT_RIGHT)
    return [*head, "word", *([".", "word"] * inside), *tail]


def sentences(line: str, keep_ends: bool = False) -> int:
    """1 and one more for every token that is no punctuation and follows a token which ends a sentence."""
    if not line.strip():
        return 0
    stream: list[str] = []
    for part in re.findall(r"\s+|\S+", line if keep_ends else line.strip()):
        stream += (["gap"] if part != " " else []) if part.isspace() else tokens(part)
    count, ended = 1, False
    for token in stream:
        if len(token) == 1 and en.sentence_flags()[ord(token)] & en.TERMINAL:
            ended = True
        elif ended and not all(kind(c) == "P" for c in token):
            count, ended = count + 1, False
    return count


def folded(line: str) -> str:
    return "".join(c.lower() if c < "\x80" else c for c in line)


def phrases(line: str) -> int:
    return sum(bit for phrase, bit in PHRASES.items() if phrase in folded(line))


def ends(line: str) -> int:
    if line.endswith("..."):
        return ENDS["ends_in_period"] | ENDS["ends_in_three_dots"]
    named = {
        ".": "period",
        "?": "question_mark",
        "!": "exclamation_mark",
        '"': "double_quote",
        "'": "single_quote",
    }
    named |= {"…": "ellipsis"} | {c: "other_terminal" for c in TERMINAL if c not in ".?!"}
    return ENDS[f"ends_in_{named[line[-1]]}"] if line and line[-1] in named else 0


def is_counter(line: str) -> bool:
    pattern = rf"\W*\d[\d.,]*[kmb]?\s+({'|'.join(COUNTED)})\W*"
    return re.fullmatch(pattern, folded(line)) is not None


def snippets(line: str) -> list[tuple[int, int, int]]:
    low = folded(line)
    found = []
    done = 0
    if sign := re.match(r"sign-in\s?", low):
        done = sign.end()
        found.append((SNIPPETS.index("sign_in"), 0, done))
    for cart in re.finditer(r"\s?items in cart", low):
        if cart.start() < done and low[done : cart.end()] != "items in cart":
            continue
        found.append((SNIPPETS.index("items_in_cart"), max(cart.start(), done), cart.end()))
        done = cart.end()
    more = re.search(r"\s?read more...\Z", low, re.DOTALL)
    if more and len(low) - 12 >= done:
        found.append((SNIPPETS.index("read_more"), max(more.start(), done), len(low)))
    return found


def plain_rows(text: str) -> list[dict[str, object]]:
    out = []
    at = 0  # characters

    def offset(i: int) -> int:
        return len(text[:i].encode())

    for whole in text.splitlines(keepends=True):
        found = BREAK.search(whole)
        line = whole[: found.start()] if found else whole
        mark = whole[len(line) :]
        strip = line.strip()
        start = at + (len(line) - len(line.lstrip()) if strip else 0)
        words = line.split()
        cites = [m.span() for m in CITATION.finditer(strip)]
        uncited = CITATION.sub("", strip)
        snips = snippets(line)
        bare = "".join(c for i, c in enumerate(line) if not any(a <= i < b for _, a, b in snips))
        row: dict[str, object] = {
            "start": offset(start),
            "stop": offset(start + len(strip)),
            "next": offset(at + len(whole)),
            "line_break": {"": 0, "\n": 1, "\r\n": 2}.get(mark, 3),
            "chars": len(line),
            "words": len(words),
            "alnum_words": sum(kind(w[0]) in "LN" for w in words),
            "max_word_chars": max(map(len, words), default=0),
            "upper_share": np.float32(
                sum(unicodedata.category(c) in ("Lu", "Lt") for c in line) / max(len(line), 1)
            ),
            "digit_share": np.float32(sum(unicodedata.category(c) == "Nd" for c in line) / max(len(line), 1)),
            "sentences": sentences(line),
            "ends": ends(strip),
            "phrases": phrases(line) | (COUNTER if is_counter(line) else 0),
            "cites": [offset(start + p) for span in cites for p in span],
            "snippets": [n for k, a, b in snips for n in (k, offset(at + a), offset(at + b))],
        }
        for prefix, rest, taken in (
            ("uncited", uncited, [(start + a, start + b) for a, b in cites]),
            ("bare", bare, [(at + a, at + b) for _, a, b in snips]),
        ):
            seen = [
                i
                for i in range(start, start + len(strip))
                if not text[i].isspace() and not any(a <= i < b for a, b in taken)
            ]
            row[f"{prefix}_words"] = len(rest.split()) if taken else None
            row[f"{prefix}_start"] = offset(seen[0]) if taken and seen else None
            row[f"{prefix}_stop"] = offset(seen[-1] + 1) if taken and seen else None
        row["uncited_sentences"] = sentences(uncited, keep_ends=True) if cites else None
        row["uncited_ends"] = ends(uncited) if cites else None
        row["uncited_phrases"] = phrases(uncited) if cites else None
        row["bare_alnum_words"] = sum(kind(w[0]) in "LN" for w in bare.split()) if snips else None
        out.append(row)
        at += len(whole)
    return out


pieces = st.sampled_from(
    [
        *(
            "Mr.",
            "e.g.",
            "(i.e.",
            "3.14",
            "...",
            "..",
            "!",
            "?",
            '."',
            ".)",
            '"',
            "(",
            "U.S.",
            "USA.",
            "C.",
            "end.The",
        ),
        *(
            "said.”So",
            "x@y.COM",
            "j.Smith@a.org",
            "http://a.B/c",
            "[1]",
            "[]",
            "[edit]",
            "[citation needed]",
            "[",
            "[x]",
        ),
        *(
            "[12",
            "]",
            "[٣]",
            "items in cart",
            "Items In CART",
            "sign-in",
            "Sign-In ",
            "read more...",
            "Read more »  ",
        ),
        *(
            "lorem ipsum",
            "LOREM",
            "ipsum",
            "java",
            "script",
            "JavaScript",
            "{",
            "terms of use",
            "privacy policy",
        ),
        *(
            "cookie policy",
            "uses cookies",
            "use of cookies",
            "use",
            "cookies",
            "12K",
            "1,234",
            "likes",
            "Views",
            "3.4m",
        ),
        *(
            "\u2028",
            "\x85",
            "\r\n",
            "\r",
            "\n",
            "\n",
            "\n\n",
            "\x0b",
            "\x1c",
            " ",
            " ",
            " ",
            "  ",
            "\t",
            "\u3000",
            "\xa0",
        ),
        *(
            "é",
            "中文",
            "。",
            "’s",
            "'s",
            "°C.",
            "$",
            "+",
            "+5",
            "10a.m.",
            "½",
            "²",
            "²x.",
            "ǅ",
            "İ",
            "_",
            "—",
            "€.",
            "word",
        ),
        *(
            "another one",
            "Two.",
            "it is",
            "=",
            "--",
            "-.",
            "A",
            "b",
            "B.",
            "\ufeff",
            "😀",
            "e\u0301",
            "…",
            "Inc.",
            "a.b.C",
        ),
    ]
)
texts = st.lists(pieces | st.text(max_size=3), max_size=25).map("".join) | st.lists(pieces, max_size=30).map(
    " ".join
)
texts = texts.map(lambda t: t.encode("utf-8", "ignore").decode())


@settings(max_examples=600, deadline=None)
@given(st.lists(texts, max_size=3))
def test_the_kernel_measures_every_line_as_the_plain_definition(documents: list[str]) -> None:
    table = line_table(pa.array(documents, pa.string()))
    assert table.schema == LINES
    expected = [
        {"row": i, "segment": 0, **row} for i, text in enumerate(documents) for row in plain_rows(text)
    ]
    rows = table.to_pylist()
    assert len(rows) == len(expected)
    for got, want in zip(rows, expected):
        for name, value in want.items():
            if value is None and name in ("uncited_start", "uncited_stop", "bare_start", "bare_stop"):
                # Nothing visible is left (start = stop), or there is nothing to take out (null).
                assert (
                    got[name] is None
                    or got[f"{name.split('_')[0]}_start"] == got[f"{name.split('_')[0]}_stop"]
                )
                assert (got[name] is None) == (want[f"{name.split('_')[0]}_words"] is None)
            else:
                assert got[name] == value, (name, documents)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_the_lines_of_a_text_cover_it_from_its_first_to_its_last_byte(text: str) -> None:
    table = line_table(pa.array([text]))
    begin = [0, *table.column("next").to_pylist()]
    assert begin[-1] == len(text.encode())
    raw = text.encode()
    assert [raw[a:b].decode() for a, b in pairwise(begin)] == text.splitlines(keepends=True)


# ---- what a line is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "count"),
    [
        # A period ends a sentence only after letters that spaCy knows; Georgian, Thai and Khmer ones it does not.
        ("ქართული ენა მშობლიურია. ეს კარგია. და ეს.", 1),
        ("தமிழ் மொழி ஆகும். அது நல்லது. ஆம்.", 3),
        ("भारत एक देश है. यहाँ लोग रहते हैं.", 2),
        ("भारत एक देश है। यहाँ लोग रहते हैं।", 2),
        ("Это дом. Вот он. Да.", 3),
        ("זה בית. הנה הוא. כן.", 3),
        ("这是房子。 那是树。 对。", 3),
        # A stop that is no suffix stays with its word.
        ("አማርኛ ቋንቋ ነው። አንዱ ነው። ነው።", 1),
        ("မြန်မာဘာသာ ဖြစ်သည်။ ရုံးသုံး ဖြစ်သည်။", 1),
        ("አማርኛ ቋንቋ ነው ። አንዱ ነው ።", 2),
        ("ភាសាខ្មែរ ។ ជាភាសា ។", 1),  # younger than spaCy's list
        ("One ends 😀. Another begins.", 2),
    ],
)
def test_sentences_of_other_scripts_are_those_of_spacy_s_english_pipeline(line: str, count: int) -> None:
    assert line_table(pa.array([line])).column("sentences").to_pylist() == [count]


def test_rows_and_segments_are_those_given_and_slices_and_nulls_are_honoured() -> None:
    array = pa.array(["zero", "a\nb", None, "", "c"], pa.large_string()).slice(1)
    table = line_table(
        array, rows=np.array([3, 3, 4, 7], np.int32), segments=np.array([0, 2, 0, 1], np.int32)
    )
    assert table.column("row").to_pylist() == [3, 3, 7]
    assert table.column("segment").to_pylist() == [0, 0, 1]
    assert table.column("next").to_pylist() == [2, 3, 1]
    assert line_table(pa.array([], pa.string())).num_rows == 0


def test_the_lines_of_documents_are_those_of_their_text_segments() -> None:
    image = Segment(kind="image", media=Media(uri="a.png", sha256="0" * 64, bytes=1))
    one, two, three = (Segment(kind="text", text=t) for t in ("one\ntwo", "three", "four"))
    documents = [
        Document(source="s", locator=Locator(uri=f"f{i}"), segments=segments)
        for i, segments in enumerate([(one, image, two), (image,), (image, three)])
    ]
    table = segment_lines(documents_batch(documents))
    assert table.column("row").to_pylist() == [0, 0, 0, 2]
    assert table.column("segment").to_pylist() == [0, 0, 2, 1]
    assert table.column("start").to_pylist() == [0, 4, 0, 0]


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an Arrow string"):
        line_table(pa.array([1, 2]))


def test_a_measure_of_a_line_with_a_citation_says_what_stands_outside_it() -> None:
    row = line_table(pa.array(["Water is wet. [12]\n"])).to_pylist()[0]
    assert row["cites"] == [14, 18]
    # Nothing but the citation goes: the space before it stays, and the line no longer ends in a period.
    assert (row["ends"], row["uncited_ends"], row["uncited_stop"]) == (0, 0, 13)
    assert (row["words"], row["uncited_words"]) == (4, 3)


def test_a_long_line_of_many_citations_and_snippets_outgrows_the_first_buffers() -> None:
    text = "x [1]" * 5000 + "\n" + "items in cart " * 3000
    table = line_table(pa.array([text]))
    assert [len(c) for c in table.column("cites").to_pylist()] == [10000, 0]
    assert [len(c) for c in table.column("snippets").to_pylist()] == [0, 9000]
    assert table.column("bare_words").to_pylist() == [None, 0]


word = st.tuples(st.sampled_from("aA1é中—"), st.integers(1, 150), st.sampled_from(["", ".", "?", "."])).map(
    lambda w: w[0] * w[1] + w[2]
)
gap = st.sampled_from([" ", " ", "  ", "\n", "\r\n", "\u3000", "\u2028", " " * 70, "\n" * 70])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(word, gap), max_size=12).map(lambda ws: "".join(a + b for a, b in ws)))
def test_long_words_and_gaps_are_measured_across_any_64_bytes(text: str) -> None:
    rows = line_table(pa.array([text])).to_pylist()
    names = [name for name in LINES.names if not name.startswith(("row", "segment", "uncited", "bare"))]
    assert [{name: row[name] for name in names} for row in rows] == [
        {name: row[name] for name in names} for row in plain_rows(text)
    ]


def test_every_word_with_a_final_period_that_is_one_token_fits_the_kernel() -> None:
    assert max(len(w.encode()) for w in WHOLE_WORDS) <= LONGEST_WHOLE
    for whole in WHOLE_WORDS:
        assert line_table(pa.array([f"Say {whole} Then more"])).column("sentences").to_pylist() == [1]
