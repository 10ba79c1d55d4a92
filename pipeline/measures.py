"""Every number a rule can ask about the text of a document: its name, its type and its exact definition.

A measure is a count of the kernels (`words.COUNTS`, `repetition.REPEATS`) or the ratio of two of them; a ratio whose
denominator is 0 is 0. This is the table alone: rules are checked against it without loading any compiled code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from mixloom.pipeline.errors import UserError

TOP_ORDERS = (2, 3, 4)  # n of the n-grams whose most frequent one is measured
DUPLICATE_ORDERS = (5, 6, 7, 8, 9, 10)  # n of the n-grams whose repetitions are measured


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure: `over` is None for a count, else the count that divides it."""

    count: str
    over: str | None
    description: str

    @property
    def type(self) -> pa.DataType:
        if self.over is not None:
            return pa.float32()
        return pa.int64() if self.count in ("bytes", "chars", "visible") else pa.int32()


# Counts that are the difference of two counts of the kernels.
DIFFERENCES = {"visible": ("chars", "space"), "chars_without_newlines": ("chars", "newlines")}

MEASURES: dict[str, Measure] = {
    "text_bytes": Measure("bytes", None, "Bytes of UTF-8."),
    "text_chars": Measure("chars", None, "Characters (code points)."),
    "visible_chars": Measure("visible", None, "Characters that are not white space."),
    "words": Measure("words", None, "Maximal runs without white space."),
    "terms": Measure(
        "terms", None, "Runs of letters, numbers and marks; one per character in unspaced scripts."
    ),
    "tokens": Measure("tokens", None, "Tokens of spaCy's English tokenizer, white space left out."),
    "word_tokens": Measure(
        "word_tokens", None, "Tokens with a character that datatrove calls no punctuation."
    ),
    "alnum_words": Measure(
        "alnum_words",
        None,
        "Runs between ASCII white space (space, \\t to \\r, NUL) that begin with a letter or number.",
    ),
    "segments": Measure("segments", None, "Words by Unicode Annex 29 that begin with a letter or number."),
    "lines": Measure("lines", None, "Lines that hold more than white space."),
    "paragraphs": Measure(
        "paragraphs", None, "What stands between two or more newlines in a row, if not empty."
    ),
    "mean_word_chars": Measure("word_chars", "words", "Mean characters of a word."),
    "median_word_chars": Measure(
        "middle_word_chars",
        "middle_words",
        "Median characters of a word; of an even number the mean of the middle two.",
    ),
    "mean_term_chars": Measure("term_chars", "terms", "Mean characters of a term."),
    "mean_word_token_chars": Measure(
        "word_token_chars", "word_tokens", "Mean characters of the tokens that `word_tokens` counts."
    ),
    "max_word_chars": Measure("max_word_chars", None, "Characters of the longest word."),
    "max_line_chars": Measure(
        "max_line_chars", None, "Characters of the longest line, without its ends of white space."
    ),
    "hashes_per_word": Measure("hashes", "words", "'#' per word."),
    "ellipses_per_word": Measure("ellipses", "words", "'...' and U+2026 per word."),
    "hashes_per_token": Measure("hashes", "tokens", "'#' per token."),
    "ellipses_per_token": Measure("ellipses", "tokens", "'...' and U+2026 per token."),
    "symbols_per_word": Measure("symbols", "words", "'#', '...', '. . .' and U+2026 together, per word."),
    "symbol_word_share": Measure("symbol_words", "words", "Share of words that hold '#' or U+2026."),
    "alpha_word_share": Measure("alpha_words", "words", "Share of words with a letter."),
    "alpha_token_share": Measure("alpha_tokens", "tokens", "Share of tokens with a letter."),
    "unique_term_share": Measure("distinct_terms", "terms", "Distinct terms (lower case) over terms."),
    "duplicate_term_5gram_share": Measure(
        "duplicate_5grams", "all_5grams", "5-grams of terms equal to an earlier one, of all 5-grams of terms."
    ),
    "odd_term_share": Measure(
        "odd_terms",
        "latin_terms",
        "Share of Latin terms that look random: four letters or more and no vowel, five consonants in a row, or a "
        "change between lower case, upper case and digit at half of the characters or more.",
    ),
    "latin_terms": Measure(
        "latin_terms",
        None,
        "Terms of four or more characters, all Latin letters and digits, not digits alone.",
    ),
    "latin_letters": Measure("latin_letters", None, "Latin letters in terms."),
    "vowel_share": Measure("vowels", "latin_letters", "Share of Latin letters that are vowels (y is one)."),
    "stop_words_distinct": Measure(
        "stop_words_distinct", None, "How many of the stop words occur in lower case as a term."
    ),
    "stop_words": Measure("stop_words", None, "Terms that are stop words, in any case."),
    "stop_tokens_distinct": Measure(
        "stop_tokens_distinct", None, "How many of the stop words occur in lower case as a token."
    ),
    "stop_words_alone": Measure(
        "stop_words_alone", None, "Words that are stop words, in any case and with no sign at them."
    ),
    "stop_words_alone_cased": Measure(
        "stop_words_alone_cased", None, "Words that are stop words, in lower case and with no sign at them."
    ),
    "bullet_line_share": Measure(
        "bullet_lines",
        "broken_lines",
        "Share of the lines of `str.splitlines` that start with U+2022 or '-'.",
    ),
    "ellipsis_line_share": Measure(
        "ellipsis_lines",
        "broken_lines",
        "Share of the lines of `str.splitlines` that end with '...' or U+2026.",
    ),
    "marked_line_share": Measure(
        "marked_lines", "lines", "Share of lines that start with U+25CF, U+2022, '*' or '-'."
    ),
    "trailing_line_share": Measure(
        "trailing_lines", "lines", "Share of lines that end with '...', '. . .' or U+2026."
    ),
    "starred_line_share": Measure(
        "starred_lines",
        "all_lines",
        "Share of lines, empty ones too, whose very first character is '*' or '-'.",
    ),
    "dotted_line_share": Measure(
        "dotted_lines", "all_lines", "Share of lines, empty ones too, whose very last character is U+2026."
    ),
    "terminal_line_share": Measure(
        "terminal_lines", "lines", "Share of lines that end with a Sentence_Terminal."
    ),
    "terminal_line_end_share": Measure(
        "terminal_line_ends", "lines", "The same, with no white space after it."
    ),
    "short_line_share": Measure(
        "short_lines",
        "lines",
        "Share of lines of at most `short_line_chars` characters, white space at their ends included.",
    ),
    "shorter_line_share": Measure(
        "shorter_lines", "lines", "Share of lines of fewer than `short_line_chars` characters, counted alike."
    ),
    "newlines_per_word": Measure("newlines", "words", "Newline characters per word."),
    "newlines_per_token": Measure("newlines", "tokens", "Newline characters per token."),
    "upper_share": Measure("upper", "chars", "Share of characters that are upper or title case (Lu, Lt)."),
    "digit_share": Measure("digit", "chars", "Share of characters that are decimal digits (Nd)."),
    "punctuation_share": Measure("punctuation", "chars", "Share of characters that are punctuation (P*)."),
    "symbol_share": Measure("symbol", "chars", "Share of characters that are symbols (S*)."),
    "space_share": Measure("space", "chars", "Share of characters that are white space."),
    "non_ascii_share": Measure("non_ascii", "chars", "Share of characters above U+007F."),
    "alpha_share": Measure(
        "alpha", "chars", "Share of characters that are letters or combining marks (L*, M*)."
    ),
    "control_share": Measure("control", "chars", "Share of control, private and unassigned characters."),
    "replacement_chars": Measure("replacement", None, "U+FFFD, and bytes that are no UTF-8."),
    "replacement_share": Measure("replacement", "chars", "Share of characters that are U+FFFD."),
    "repeated_char_share": Measure(
        "repeated", "visible", "Visible characters equal to the one before, of all visible."
    ),
    "term_char_share": Measure(
        "term_chars", "visible", "Visible characters that stand in terms, of all visible."
    ),
    "duplicate_line_share": Measure(
        "duplicate_lines", "lines", "Lines equal to an earlier line, of all lines."
    ),
    "duplicate_line_char_share": Measure(
        "duplicate_line_chars", "chars", "Their characters, of all characters."
    ),
    "repeated_line_share": Measure(
        "repeated_lines", "lines", "Lines that occur more than once, every copy counted, of all lines."
    ),
    "repeated_line_char_share": Measure(
        "repeated_line_chars", "line_chars", "Their characters, of those of all lines."
    ),
    "duplicate_split_line_share": Measure(
        "duplicate_pieces",
        "split_lines",
        "What stands between runs of newlines, as it stands, equal to an earlier one; what is before a newline that "
        "begins the text and after one that ends it counts, and is empty.",
    ),
    "duplicate_split_line_char_share": Measure(
        "duplicate_piece_chars", "chars", "Their characters, of all characters."
    ),
    "duplicate_untrimmed_line_char_share": Measure(
        "duplicate_visible_piece_chars",
        "chars_without_newlines",
        "Characters of lines that equal an earlier one with the white space at their ends, of all but newlines.",
    ),
    "repeated_any_line_share": Measure(
        "repeated_pieces",
        "all_lines",
        "Lines as they stand, empty ones too, that occur more than once, every copy counted, of all.",
    ),
    "repeated_any_line_char_share": Measure(
        "repeated_piece_chars", "word_chars", "Their characters, over the characters of all words."
    ),
    "duplicate_paragraph_share": Measure(
        "duplicate_paragraphs", "paragraphs", "Paragraphs, as they stand, equal to an earlier one."
    ),
    "duplicate_paragraph_char_share": Measure(
        "duplicate_paragraph_chars", "chars", "Their characters, of all characters."
    ),
    "repeated_paragraph_share": Measure(
        "repeated_paragraphs",
        "visible_paragraphs",
        "Of the paragraphs that hold more than white space: those that occur more than once without the white space "
        "at their ends, every copy counted.",
    ),
    "repeated_paragraph_char_share": Measure(
        "repeated_paragraph_chars", "paragraph_chars", "Their characters, of those of all paragraphs."
    ),
    **{
        f"top_{n}gram_char_share": Measure(
            f"top_{n}gram_chars",
            "chars",
            f"Characters of all occurrences of the top {n}-gram of tokens with its spaces, even if it occurs once.",
        )
        for n in TOP_ORDERS
    },
    **{
        f"duplicated_{n}gram_char_share": Measure(
            f"duplicated_{n}gram_chars", "chars", f"Characters of {n}-grams of tokens that were met before."
        )
        for n in DUPLICATE_ORDERS
    },
    **{
        f"top_{n}gram_word_char_share": Measure(
            f"top_{n}gram_word_chars",
            "word_chars",
            f"Characters of all occurrences of the top {n}-gram of words, even if it occurs once.",
        )
        for n in TOP_ORDERS
    },
    **{
        f"repeated_{n}gram_word_char_share": Measure(
            f"repeated_{n}gram_word_chars",
            f"all_{n}gram_word_chars",
            f"Characters of {n}-grams of words that occur more than once, over those of all {n}-grams.",
        )
        for n in DUPLICATE_ORDERS
    },
    **{
        f"top_{n}gram_segment_char_share": Measure(
            f"top_{n}gram_segment_chars",
            "segment_chars",
            f"Characters of all occurrences of the top {n}-gram of segments; 0 if it occurs once.",
        )
        for n in TOP_ORDERS
    },
    **{
        f"repeated_{n}gram_segment_char_share": Measure(
            f"repeated_{n}gram_segment_chars",
            "segment_chars",
            f"Characters of segments that stand in a {n}-gram which occurs more than once.",
        )
        for n in DUPLICATE_ORDERS
    },
}

# Measures of the media of a document. Null says that there is nothing to measure, and no rule fires on it.
MEDIA_MEASURES: dict[str, tuple[pa.DataType, str]] = {
    "images": (pa.int32(), "Image segments."),
    "speech_clips": (pa.int32(), "Speech segments."),
    "min_image_side": (
        pa.int32(),
        "Pixels of the shortest side of any image of known size; null without one.",
    ),
    "max_image_aspect": (pa.float32(), "Greatest long over short side; null without an image of known size."),
    "speech_seconds": (pa.float32(), "Seconds of all clips of known length together; null without one."),
    "min_clip_seconds": (pa.float32(), "Seconds of the shortest clip; null without one of known length."),
    "max_clip_seconds": (pa.float32(), "Seconds of the longest clip; null without one of known length."),
}

MEASURE_NAMES: tuple[str, ...] = (*MEASURES, *MEDIA_MEASURES)

# Measures that need a cut or a count of their own; whoever needs none of a family may leave it out (annotate.families).
FAMILIES: dict[str, str] = {
    "tokens": "Tokens of spaCy's English tokenizer and their n-grams (datatrove: gopher@datatrove, fineweb@*).",
    "word_ngrams": "N-grams of words between white space (Dolma: gopher@dolma, dolma).",
    "segments": "Words by Unicode Annex 29 and their n-grams (DCLM: gopher@dclm, dclm).",
}


@cache
def family_of(name: str) -> str | None:
    """The family a text measure belongs to, or None for one that is always there."""
    m = MEASURES.get(name)
    counts = () if m is None else (m.count, m.over or "")
    if any("segment" in c for c in counts):
        return "segments"
    if any("gram_word_chars" in c for c in counts):
        return "word_ngrams"
    return "tokens" if any("token" in c or c.endswith("gram_chars") for c in counts) else None


def check_measured(names: Iterable[str], annotate: Mapping[str, Any], asker: str) -> None:
    """Refuse what asks for a measure of text that annotate was told to leave out.

    Args:
        names: annotations; those that are no measures of text are let pass.
        annotate: the configuration of annotate, as its manifest holds it.
        asker: who asks, as the message shall name it.

    Raises:
        UserError: naming the measure and the setting that leaves it out.
    """
    chosen = annotate.get("measures")
    for name in sorted(set(names) & set(MEASURES)):
        if chosen is not None:
            if name not in chosen:
                raise UserError(
                    f"{asker} asks for '{name}', but annotate.measures leaves it out",
                    fix=f"add '{name}' to annotate.measures, or leave annotate.measures out to have them all",
                )
        elif (family := family_of(name)) is not None and family not in annotate.get("families", ()):
            raise UserError(
                f"{asker} asks for '{name}', but annotate.families leaves '{family}' out",
                fix=f"add '{family}' to annotate.families, or do not ask for it",
            )


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be cut and counted for some measures; the rest may be left out.

    terms, words, lines, tokens, segments, paragraphs: whether documents are cut into these. distinct: distinct terms; term_grams: 5-grams
    of them; middle: median lengths; items: duplicate lines and paragraphs. *_order: the longest n-grams of tokens, words and segments to count, 0 for none; tops:
    whether the most frequent ones matter.
    """

    terms: bool = True
    words: bool = True
    lines: bool = True
    tokens: bool = True
    segments: bool = True
    paragraphs: bool = True
    distinct: bool = True
    term_grams: bool = True
    middle: bool = True
    items: bool = True
    token_order: int = DUPLICATE_ORDERS[-1]
    word_order: int = DUPLICATE_ORDERS[-1]
    segment_order: int = DUPLICATE_ORDERS[-1]
    tops: bool = True


_GRAM = re.compile(r"(\d+)gram(_word|_segment)?_chars$")
# Counts that cost nothing once there are masks: everything but these needs a cut. (`count_kernel.TERM_COUNTS`.)
_OF_CHARACTERS = frozenset(
    (
        *(
            "bytes",
            "chars",
            "newlines",
            "upper",
            "digit",
            "punctuation",
            "symbol",
            "space",
            "non_ascii",
            "alpha",
        ),
        *("replacement", "control", "repeated", "hashes", "ellipses", "symbols", "latin_letters", "vowels"),
        *DIFFERENCES,
    )
)
_OF_TERMS = frozenset(
    (
        *("terms", "term_chars", "latin_terms", "odd_terms", "stop_words_distinct", "stop_words"),
        *("distinct_terms", "duplicate_5grams", "all_5grams"),
    )
)
_OF_LINES = re.compile(r"(^|_)(line|lines|line_ends|ends|piece|pieces|paragraph|paragraphs)(_chars)?$")
_OF_ITEMS = re.compile(r"(duplicate|repeated)_.*(line|piece|paragraph)s?(_chars)?$")


@cache
def needs(names: tuple[str, ...]) -> Needs:
    """What the text measures of these names take. Raises KeyError for a name that is none."""
    counts = {c for name in names for c in (MEASURES[name].count, MEASURES[name].over) if c is not None}
    counts |= {part for c in counts & set(DIFFERENCES) for part in DIFFERENCES[c]}
    orders = {"": 0, "_word": 0, "_segment": 0}
    for found in filter(None, map(_GRAM.search, counts)):
        orders[found[2] or ""] = max(orders[found[2] or ""], int(found[1]))
    lines = {c for c in counts if _OF_LINES.search(c)}
    return Needs(
        words=bool(counts - lines - _OF_CHARACTERS - _OF_TERMS),
        lines=bool(lines),
        term_grams="duplicate_5grams" in counts,
        terms=not counts.isdisjoint(_OF_TERMS),
        tokens=any(family_of(name) == "tokens" for name in names),
        segments=any(family_of(name) == "segments" for name in names),
        paragraphs=any("paragraph" in c for c in counts),
        distinct="distinct_terms" in counts,
        middle="middle_word_chars" in counts,
        items=any(_OF_ITEMS.match(c) for c in counts),
        token_order=orders[""],
        word_order=orders["_word"],
        segment_order=orders["_segment"],
        tops=any(c.startswith("top_") for c in counts),
    )
