"""The compiled cuts and counts against slow, plain definitions over Python strings."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from itertools import pairwise
from statistics import median

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixloom.pipeline import characters as ch
from mixloom.pipeline import english_tokens as en
from mixloom.pipeline import word_breaks as wb
from mixloom.pipeline.annotate import text_measures
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.measures import DIFFERENCES, MEASURES
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


def has(c: str, flag: int) -> bool:
    """Whether this one character is of a class of `english_tokens`; "" is of none."""
    return bool(c) and bool(int(en.token_flags()[ord(c)]) & flag)


def slow_prefix(s: str) -> int:
    found = re.match(r"\.\.+|US\$|[CA]\$|\+(?![0-9])", s)
    return 1 if has(s[:1], en.PREFIX) else (found.end() if found else 0)


def slow_suffix(s: str) -> int:
    """The suffix that begins first."""
    for at in range(len(s)):
        before, end = s[:at], s[at:]
        last = before[-1:]
        if (
            end in ("'s", "'S", "’s", "’S", "……")
            or (len(end) == 1 and has(end, en.SUFFIX))
            or re.fullmatch(r"\.\.+", end)
            or (
                re.search(r"[0-9]$", before)
                and (end in ("+", "US$", "C$", "A$", *en.UNITS) or (len(end) == 1 and has(end, en.CURRENCY)))
            )
            or (end == "." and (has(last, en.DOT_END) or re.search("°[FfCcKk]$", before)))
            or (end == "." and has(last, en.UPPER) and has(before[-2:-1], en.UPPER))
        ):
            return len(end)
    return 0


def slow_infix(s: str, at: int) -> int:
    """How many characters of s cut it in two at this place."""
    before, rest = s[:at], s[at:]
    last, c, after = before[-1:], rest[0], rest[1:2]
    if found := re.match(r"\.\.+", rest):
        return found.end()
    if c == "…" or has(c, en.ICON):
        return 1
    if re.search("[0-9]$", before) and re.match(r"[+\-*^][0-9-]", rest):
        return 1
    if c == "." and has(last, en.DOT_LEFT) and has(after, en.DOT_RIGHT):
        return 1
    if c == "," and has(last, en.LETTER) and has(after, en.LETTER):
        return 1
    if has(last, en.LETTER) or re.search("[0-9]$", before):
        for sign in ("-", "–", "—", "--", "---", "——", "~", ":", "<", ">", "=", "/"):
            if rest.startswith(sign) and has(rest[len(sign) : len(sign) + 1], en.LETTER):
                return len(sign)
    return 0


def slow_is_address(s: str) -> bool:
    alnum = "[A-Za-z0-9\u00a1-\uffff]"
    label = f"{alnum}(?:[A-Za-z0-9\u00a1-\uffff_-]{{0,62}}{alnum})?"
    end = r"(?::[0-9]{2,5})?(?:[/?#].*)?"
    starts = {0, *(k + 1 for k, c in enumerate(s) if c == "@" and k)}
    if scheme := re.match(r"(?:[^\W]|[+\-.]){2,}://", s):
        starts.add(scheme.end())
    for rest in (s[k:] for k in starts):
        name = re.fullmatch(rf"(?:{label}\.)+([^\x00-\x60]{{2,63}}?){end}", rest, re.DOTALL)
        if name and all(has(c, en.LOWER) for c in name[1]):
            return True
        number = re.fullmatch(
            rf"([0-9]{{1,3}})\.([0-9]{{1,3}})\.([0-9]{{1,3}})\.([0-9]{{1,3}}){end}", rest, re.DOTALL
        )
        if number:
            a, b, c, d = map(int, number.groups())
            plain = all(
                g == str(int(g)) or (k in (1, 2) and len(g) == 2) for k, g in enumerate(number.groups())
            )
            private = a in (10, 127) or (a, b) in ((169, 254), (192, 168)) or (a == 172 and 16 <= b <= 31)
            if plain and 1 <= a <= 223 and b <= 255 and c <= 255 and 1 <= d <= 254 and not private:
                return True
    return False


def slow_cut_chunk(s: str, cases: dict[str, tuple[str, ...]]) -> list[str]:
    """The tokens of what stands between white space, before special cases are put together again."""
    front: list[str] = []
    back: list[str] = []
    size = -1
    while s and len(s) != size and s not in cases:
        size = len(s)
        p = slow_prefix(s)
        if p and s[p:] in cases:
            front.append(s[:p])
            s = s[p:]
            break
        q = slow_suffix(s[p:])
        if q and s[:-q] in cases:
            back.append(s[-q:])
            s = s[:-q]
            break
        front += [s[:p]] if p else []
        back += [s[-q:]] if q else []
        s = s[p : len(s) - q]
    middle: list[str] = []
    if s in cases:
        middle = list(cases[s])
    elif s and slow_is_address(s):
        middle = [s]
    elif s:
        start = at = 0
        while at < len(s):
            width = slow_infix(s, at)
            if width and at:
                middle += [s[start:at]] if at > start else []
                middle.append(s[at : at + width])
                start = at + width
            at += width or 1
        middle += [s[start:]] if start < len(s) else []
    return front + middle + back[::-1]


PLAIN_CASES = {word: slow_cut_chunk(word, {}) for word in en.special_cases()}


def slow_chunk_tokens(chunk: str) -> list[str]:
    tokens = slow_cut_chunk(chunk, en.special_cases())
    found = [
        (-count, at)
        for count in range(2, len(tokens) + 1)
        for at in range(len(tokens) - count + 1)
        if PLAIN_CASES.get("".join(tokens[at : at + count])) == tokens[at : at + count]
    ]
    taken: dict[int, int] = {}
    seen: set[int] = set()
    for count, at in sorted(found):
        if at not in seen and at - count - 1 not in seen:
            taken[at] = -count
        seen.update(range(at, at - count))
    out: list[str] = []
    at = 0
    while at < len(tokens):
        step = taken.get(at, 0)
        out += en.special_cases()["".join(tokens[at : at + step])] if step else [tokens[at]]
        at += step or 1
    return out


def slow_tokens(text: str) -> list[str]:
    return [token for chunk in text.split() for token in slow_chunk_tokens(chunk)]


def slow_segments(text: str) -> list[str]:
    """Words by the rules WB4 to WB16 of Unicode Annex 29 that begin with a letter or number."""
    letters = "oERKHAmnbqdNJ"  # one for each class of `word_breaks`
    keep = re.compile(
        "(?<=[AHN])(?=[AHN])|(?<=[AH])(?=[mbq][AH])|(?<=[AH][mbq])(?=[AH])|(?<=H)(?=q)|(?<=H)(?=dH)|(?<=Hd)(?=H)"
        "|(?<=N[nbq])(?=N)|(?<=N)(?=[nbq]N)|(?<=K)(?=K)|(?<=[AHNKJ])(?=J)|(?<=J)(?=[AHNKJ])"
    )
    out = []
    for chunk in text.split():
        parts: list[str] = []  # every character with what extends it
        for c in chunk:
            if wb.word_break_classes()[ord(c)] == wb.EXTEND and parts:
                parts[-1] += c
            else:
                parts.append(c)
        kinds = "".join(letters[wb.word_break_classes()[ord(p[0])]] for p in parts)
        joined = {m.start() for m in keep.finditer(kinds)}
        for flags in re.finditer("R+", kinds):
            joined |= set(range(flags.start() + 1, flags.end(), 2))
        words = [parts[0]]
        for at, part in enumerate(parts[1:], 1):
            if at in joined:
                words[-1] += part
            else:
                words.append(part)
        out += [w for w in words if w[0].isalnum()]
    return out


def slow_lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def slow_paragraphs(text: str) -> list[str]:
    return re.split("\n{2,}", text.strip()) if text.strip() else []


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


SIGNS = {chr(c) for c in range(0x110000) if int(en.token_flags()[c]) & en.SIGN}


def slow_counts(text: str, short_line: int = 30) -> dict[str, int]:
    words, lines, terms, tokens = text.split(), slow_lines(text), slow_terms(text), slow_tokens(text)
    cased = slow_cased_terms(text)
    category = [unicodedata.category(c) for c in text]
    odd = [is_odd(t, c) for t, c in zip(terms, cased)]
    latin = [c for t in cased for c in t if c.isalpha() and (ord(c) < 0x250 or 0x1E00 <= ord(c) < 0x1F00)]
    pieces = text.split("\n") if text else []
    split = re.split("\n+", text) if text else []
    raw_lines = [piece for piece in pieces if piece.strip()]
    broken, segments = text.splitlines(), slow_segments(text)
    real_tokens = [t for t in tokens if not set(t) <= SIGNS]
    symbols = [text.count(sign) for sign in ("#", "...", ". . .", "…")]
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
        "hashes": symbols[0],
        "ellipses": symbols[1] + symbols[3],
        "symbols": sum(symbols),
        "terms": len(terms),
        "term_chars": sum(map(len, terms)),
        "latin_terms": sum(is_latin for is_latin, _ in odd),
        "odd_terms": sum(looks_random for _, looks_random in odd),
        "stop_words_distinct": len(set(cased) & set(STOP_WORDS)),
        "stop_words": sum(t in STOP_WORDS for t in terms),
        "latin_letters": len(latin),
        "vowels": sum(map(vowel, latin)),
        "words": len(words),
        "word_chars": sum(map(len, words)),
        "max_word_chars": max(map(len, words), default=0),
        "alpha_words": sum(any(c.isalpha() for c in w) for w in words),
        "symbol_words": sum("#" in w or "…" in w for w in words),
        "stop_words_alone": sum(w.lower() in STOP_WORDS for w in words),
        "stop_words_alone_cased": sum(w in STOP_WORDS for w in words),
        "alnum_words": sum(w[0].isalnum() for w in re.split("[\0\t-\r ]+", text) if w),
        "tokens": len(tokens),
        "alpha_tokens": sum(any(c.isalpha() for c in t) for t in tokens),
        "word_tokens": len(real_tokens),
        "word_token_chars": sum(map(len, real_tokens)),
        "stop_tokens_distinct": len(set(tokens) & set(STOP_WORDS)),
        "segments": len(segments),
        "segment_chars": sum(map(len, segments)),
        "lines": len(lines),
        "line_chars": sum(map(len, lines)),
        "max_line_chars": max(map(len, lines), default=0),
        "terminal_lines": sum(line[-1] in TERMINAL for line in lines),
        "terminal_line_ends": sum(line[-1] in TERMINAL for line in raw_lines),
        "short_lines": sum(len(line) <= short_line for line in raw_lines),
        "shorter_lines": sum(len(line) < short_line for line in raw_lines),
        "marked_lines": sum(line[0] in "●•*-" for line in lines),
        "trailing_lines": sum(line.endswith(("...", ". . .", "…")) for line in lines),
        "all_lines": len(pieces),
        "starred_lines": sum(piece.startswith(("*", "-")) for piece in pieces),
        "dotted_lines": sum(piece.endswith("…") for piece in pieces),
        "split_lines": len(split),
        "empty_ends": split.count(""),
        "broken_lines": len(broken),
        "bullet_lines": sum(line.lstrip().startswith(("•", "-")) for line in broken),
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "…")) for line in broken),
        "paragraphs": len(slow_paragraphs(text)),
        "visible_paragraphs": sum(bool(p.strip()) for p in slow_paragraphs(text)),
        "paragraph_chars": sum(len(p.strip()) for p in slow_paragraphs(text)),
    }


def slow_duplicates(items: list[str]) -> tuple[int, int]:
    """Items equal to an earlier one, and their characters."""
    seen: set[str] = set()
    again = [x for x in items if x in seen or seen.add(x)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))


def slow_repeated(items: list[str]) -> tuple[int, int]:
    """Items that occur more than once, every copy, and their characters."""
    count = Counter(items)
    return sum(count[x] > 1 for x in items), sum(len(x) for x in items if count[x] > 1)


def ngrams(items: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def slow_top(items: list[str], n: int, joint: str) -> int:
    grams = Counter(ngrams(items, n))
    if not grams:
        return 0
    gram, count = grams.most_common(1)[0]
    return len(joint.join(gram)) * count


def slow_top_segments(items: list[str], n: int) -> int:
    grams = Counter(ngrams(items, n))
    most = max(grams.values(), default=0)
    return most * max(len("".join(g)) for g in grams if grams[g] == most) if most > 1 else 0


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


def slow_repeated_words(items: list[str], n: int) -> int:
    grams = Counter(ngrams(items, n))
    return sum(count * len("".join(gram)) for gram, count in grams.items() if count > 1)


def slow_repeated_segments(items: list[str], n: int) -> int:
    count = Counter(ngrams(items, n))
    places = {i + k for i, gram in enumerate(ngrams(items, n)) if count[gram] > 1 for k in range(n)}
    return sum(len(items[i]) for i in places)


def slow_repetition(text: str) -> dict[str, int]:
    tokens, words, segments = slow_tokens(text), text.split(), slow_segments(text)
    lines, paragraphs = slow_lines(text), slow_paragraphs(text)
    split = slow_duplicates(re.split("\n+", text))
    every = slow_repeated(text.split("\n"))
    visible = [piece for piece in text.split("\n") if piece.strip()]
    stripped = [p.strip() for p in paragraphs if p.strip()]
    return {
        "distinct_terms": len(set(slow_terms(text))),
        "duplicate_lines": slow_duplicates(lines)[0],
        "duplicate_line_chars": slow_duplicates(lines)[1],
        "repeated_lines": slow_repeated(lines)[0],
        "repeated_line_chars": slow_repeated(lines)[1],
        "duplicate_pieces": split[0],
        "duplicate_piece_chars": split[1],
        "duplicate_visible_piece_chars": slow_duplicates(visible)[1],
        "repeated_pieces": every[0],
        "repeated_piece_chars": every[1],
        "duplicate_paragraphs": slow_duplicates(paragraphs)[0],
        "duplicate_paragraph_chars": slow_duplicates(paragraphs)[1],
        "repeated_paragraphs": slow_repeated(stripped)[0],
        "repeated_paragraph_chars": slow_repeated(stripped)[1],
        "middle_word_chars": int(2 * median(map(len, words))) if words else 0,
        "middle_words": 2 if words else 0,
        "duplicate_5grams": slow_duplicates(list(map(str, ngrams(slow_terms(text), 5))))[0],
        "all_5grams": len(list(ngrams(slow_terms(text), 5))),
        **{f"top_{n}gram_chars": slow_top(tokens, n, " ") for n in (2, 3, 4)},
        **{f"duplicated_{n}gram_chars": slow_duplicated(tokens, n) for n in range(5, 11)},
        **{f"top_{n}gram_word_chars": slow_top(words, n, "") for n in (2, 3, 4)},
        **{f"repeated_{n}gram_word_chars": slow_repeated_words(words, n) for n in range(5, 11)},
        **{f"top_{n}gram_segment_chars": slow_top_segments(segments, n) for n in (2, 3, 4)},
        **{f"repeated_{n}gram_segment_chars": slow_repeated_segments(segments, n) for n in range(5, 11)},
        **{f"all_{n}gram_word_chars": sum(len("".join(g)) for g in ngrams(words, n)) for n in range(5, 11)},
    }


# ---- what to try ----------------------------------------------------------------------------------------

PIECE_TEXT = (
    "the The of and have word Word WORD x rhythm strngth sch a1B2c3D4 1990 3 é e\u0301 naïve ß İ Σ ǅ 日本 語 が か\u3099 "
    'ภาษา ไทย 한국어 שלום ש"ל مرحبا می\u200cخواهم co\u00adop हिन्दी 👍 👩\u200d👩\u200d👧 ❤\ufe0f 🇩🇪🇫 ① ½ ² ٣ カタ ー \ufeff \u200b '
    ". .. ... … …… - -- --- — – ~ • ● * # ## ' '' ’ \" , : / :// @ & _ ! ? 。 ؟ ( ) [ ] < > = + \\ ^ | $ % € °C. "
    "\ufffd \x00 \ue000 e.g. U.S. J. Mr. it's don't cannot dont he'd've I’m C++ 9am 10km 5% US$5 5US$ 8) :) :-( o_o 'em "
    "w/o https://a.org/b?c=1 a@b.org www.x.co.uk 8.8.8.8/x 192.168.0.1/x 3.14 1,000 10:30 well-known COVID-19 1990-95 "
    "1-2 end.Next a,b x=y"
)
SPACES = (" ", "  ", "\t", "\n", "\n\n", "\r\n", "\r", "\x0b", "\u2028", "\u3000", "\xa0", "\x1c", "\x85")
PIECES = [*PIECE_TEXT.split(" "), *SPACES, ". . .", "\n- ", "\n* "]
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join),
    st.text(max_size=80),
    st.lists(st.sampled_from(["a b", "a b c d e", " b c", "b c ", "  ", "", "…", "- x"]), max_size=40).map(
        "\n".join
    ),
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
    c, p = cuts.chunks, cuts.layout
    pieces = [piece for piece in text.split("\n") if piece]
    for items, hashes, chars in (
        (text.split(), c.word_hashes, c.word_chars),
        (slow_tokens(text), c.token_hashes, c.token_chars),
        (slow_segments(text), c.segment_hashes, c.segment_chars),
        (slow_terms(text), cuts.term_hashes, None),
        (pieces, p.piece_hashes, p.piece_chars),
        ([piece.strip() for piece in pieces], p.line_hashes, p.line_chars),
        (slow_paragraphs(text), p.block_hashes, p.block_chars),
        ([block.strip() for block in slow_paragraphs(text)], p.paragraph_hashes, p.paragraph_chars),
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
        counts |= {name: counts[a] - counts[b] for name, (a, b) in DIFFERENCES.items()}
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
        words, tokens = whole.chunks.word_offsets[start], whole.chunks.token_offsets[start]
        assert part.chunks.word_hashes.tolist() == whole.chunks.word_hashes[words:].tolist()
        assert part.chunks.token_hashes.tolist() == whole.chunks.token_hashes[tokens:].tolist()
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
