"""Every number a `lines:` rule can ask about one line, and what `rules:` may ask of a document after its lines were judged.

A line is what `str.splitlines` makes of the text of one segment. Where a measure has a name with `_uncited`, it is of the
line without its citations ("[12]", "[]", "[edit]", "[citation needed]"), as C4 measures it: these are taken out and
nothing else is done, so white space beside them stays. This is the table alone, without compiled code.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

# Bits of the column `ends`: with what the line ends.
ENDS = {
    "ends_in_period": 1 << 0,
    "ends_in_question_mark": 1 << 1,
    "ends_in_exclamation_mark": 1 << 2,
    "ends_in_double_quote": 1 << 3,
    "ends_in_single_quote": 1 << 4,
    "ends_in_three_dots": 1 << 5,
    "ends_in_ellipsis": 1 << 6,
    "ends_in_other_terminal": 1 << 7,
}
_END_WORDS = {
    "ends_in_period": '"."',
    "ends_in_question_mark": '"?"',
    "ends_in_exclamation_mark": '"!"',
    "ends_in_double_quote": "U+0022",
    "ends_in_single_quote": "U+0027",
    "ends_in_three_dots": '"..."',
    "ends_in_ellipsis": "U+2026",
    "ends_in_other_terminal": "another Sentence_Terminal of Unicode",
}

# Bits of the column `phrases`: what the line contains, whatever the case of its ASCII letters.
POLICY_PHRASES = {
    "terms of use": 1 << 3,
    "privacy policy": 1 << 4,
    "cookie policy": 1 << 5,
    "uses cookies": 1 << 6,
    "use of cookies": 1 << 7,
    "use cookies": 1 << 8,
}
PHRASES = {
    "lorem ipsum": 1 << 0,
    "javascript": 1 << 1,
    "{": 1 << 2,
    **POLICY_PHRASES,
}
COUNTER = 1 << 9  # bit of `phrases`: the line is a number and a word such as "likes", and punctuation
COUNTED = (
    *("likes", "shares", "comments", "retweets", "reposts", "quotes", "bookmarks", "upvotes", "downvotes"),
    *("downloads", "views", "followers"),
)

# Kinds of the triples in the column `snippets`: boilerplate that is taken out of a line.
SNIPPETS = ("items_in_cart", "read_more", "sign_in")

# Values of the column `line_break`: what ends the line.
END_OF_TEXT, NEWLINE, CARRIAGE_NEWLINE, OTHER_BREAK = 0, 1, 2, 3

# One row per line, sorted by (row, segment, start). Offsets are bytes of the segment's UTF-8 text. The columns
# `uncited_*` are null in a line without citations, `bare_*` in one without snippets: nothing differs there.
LINES = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),  # row of the document
        pa.field("segment", pa.int32(), nullable=False),  # index in the segments of the document
        pa.field("start", pa.int32(), nullable=False),  # first byte that is not white space
        pa.field("stop", pa.int32(), nullable=False),  # behind the last such byte; a blank line: stop = start
        pa.field("next", pa.int32(), nullable=False),  # where the following line begins, or the text ends
        pa.field("line_break", pa.uint8(), nullable=False),  # 0 end of text, 1 "\n", 2 "\r\n", 3 another
        pa.field("chars", pa.int32(), nullable=False),
        pa.field("words", pa.int32(), nullable=False),
        pa.field("alnum_words", pa.int32(), nullable=False),
        pa.field("max_word_chars", pa.int32(), nullable=False),
        pa.field("upper_share", pa.float32(), nullable=False),
        pa.field("digit_share", pa.float32(), nullable=False),
        pa.field("sentences", pa.int32(), nullable=False),
        pa.field("ends", pa.uint8(), nullable=False),  # bits of `ENDS`
        pa.field("phrases", pa.uint16(), nullable=False),  # bits of `PHRASES` and `COUNTER`
        # Byte offsets (start, stop) of each citation of the line, one after the other.
        pa.field("cites", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("uncited_start", pa.int32()),  # as start and stop, of what stands outside the citations
        pa.field("uncited_stop", pa.int32()),
        pa.field("uncited_words", pa.int32()),
        pa.field("uncited_sentences", pa.int32()),
        pa.field("uncited_ends", pa.uint8()),
        pa.field("uncited_phrases", pa.uint16()),
        # (kind, start, stop) of each snippet of the line, disjoint; kind is an index into `SNIPPETS`.
        pa.field("snippets", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("bare_start", pa.int32()),  # as start and stop, of what stands outside the snippets
        pa.field("bare_stop", pa.int32()),
        pa.field("bare_words", pa.int32()),
        pa.field("bare_alnum_words", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class LineMeasure:
    """One measure: a column of `LINES`, or how many of the bits `bits` are set in it."""

    column: str
    description: str
    bits: int = 0
    uncited: bool = False


_PLAIN = {
    "words": LineMeasure("words", "Maximal runs without white space."),
    "sentences": LineMeasure(
        "sentences",
        "Sentences as spaCy's sentencizer counts them over its English tokens, in their most frequent forms; "
        "0 in a blank line.",
    ),
    **{
        name: LineMeasure("ends", f"1 when the line ends in {_END_WORDS[name]}, else 0.", bit)
        for name, bit in ENDS.items()
    },
    "lorem_ipsum": LineMeasure("phrases", '1 when "lorem ipsum" is in the line, else 0.', 1),
    "javascript": LineMeasure("phrases", '1 when "javascript" is in the line, else 0.', 2),
    "curly_brackets": LineMeasure("phrases", '1 when "{" is in the line, else 0.', 4),
    "policy_phrases": LineMeasure(
        "phrases",
        f"How many of these are in the line: {', '.join(POLICY_PHRASES)}.",
        sum(POLICY_PHRASES.values()),
    ),
    **{
        name.replace(" ", "_"): LineMeasure("phrases", f'1 when "{name}" is in the line, else 0.', bit)
        for name, bit in POLICY_PHRASES.items()
    },
}

LINE_MEASURES: dict[str, LineMeasure] = {
    **_PLAIN,
    **{
        f"{name}_uncited": LineMeasure(
            m.column, f"{m.description} Citations taken out.", m.bits, uncited=True
        )
        for name, m in _PLAIN.items()
    },
    "chars": LineMeasure("chars", "Characters, with the white space at the ends, without the line break."),
    "alnum_words": LineMeasure("alnum_words", "Words that begin with a letter or a number."),
    "max_word_chars": LineMeasure("max_word_chars", "Characters of the longest word."),
    "upper_share": LineMeasure("upper_share", "Share of `chars` that are upper or title case (Lu, Lt)."),
    "digit_share": LineMeasure("digit_share", "Share of `chars` that are decimal digits (Nd)."),
    "counter": LineMeasure(
        "phrases",
        f"1 when the line is a number and one of {', '.join(COUNTED)}, and else only punctuation; else 0.",
        COUNTER,
    ),
    "citations": LineMeasure("cites", "How many citations are in the line."),
    "snippets": LineMeasure("snippets", f"How many of these are in the line: {', '.join(SNIPPETS)}."),
}
LINE_MEASURE_NAMES: tuple[str, ...] = tuple(LINE_MEASURES)

# What a document rule may ask of the text and media that the line and media rules of its set have left.
REST_MEASURES: dict[str, tuple[pa.DataType, str]] = {
    "kept_lines": (pa.int64(), "Lines left that are not blank."),
    "kept_words": (pa.int64(), "Words left."),
    "kept_sentences": (pa.int64(), "Sentences of the lines left, line by line."),
    "removed_lines": (pa.int64(), "Lines removed that were not blank."),
    "removed_line_share": (pa.float64(), "Of the lines that were not blank; 0 without any."),
    "removed_word_share": (pa.float64(), "Of the words, inside kept lines too; 0 without any."),
    "removed_alnum_word_share": (
        pa.float64(),
        "The same of words that begin with a letter or a number.",
    ),
    "kept_text_segments": (pa.int64(), "Text segments that have a line left that is not blank."),
    "kept_media": (pa.int64(), "Images and recordings left."),
    "kept_images": (pa.int64(), "Images left."),
    "kept_speech": (pa.int64(), "Recordings left."),
    "kept_segments": (pa.int64(), "`kept_text_segments` and `kept_media` together."),
    "removed_media": (pa.int64(), "Images and recordings removed."),
    "removed_media_share": (pa.float64(), "Of the images and recordings; 0 without any."),
}
REST_MEASURE_NAMES: tuple[str, ...] = tuple(REST_MEASURES)
