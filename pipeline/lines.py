"""Measure every line of a batch of texts once; which lines to remove is decided later, by rules over these rows.

A line is what `str.splitlines` makes of a text: it ends at "\\n", "\\r", "\\r\\n", "\\v", "\\f", U+001C to U+001E, U+0085,
U+2028 or U+2029, or at the end of the text. Blank lines are lines too. Its `start` and `stop` leave out the white space at
its ends, and `next` is where the following line begins, so the table covers every byte of the text.

A word is a maximal run without white space (as `str.split`); white space is what `str.isspace` says. Phrases are found
whatever the case of their ASCII letters. Sentences follow spaCy's English tokenizer and sentencizer in their most
frequent forms: a token ".", "!", "?" (or another Sentence_Terminal) ends a sentence, and the next token that is not
punctuation begins one. A period belongs to the word, and ends nothing, in numbers, in `WHOLE_WORDS`, after a lone capital
letter ("Vitamin C."), and in "..".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixloom.pipeline.characters import character_flags
from mixloom.pipeline.english_tokens import sentence_flags
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.line_cut_kernel import (
    find_citations,
    find_counters,
    find_phrases,
    find_snippets,
    whence,
)
from mixloom.pipeline.line_kernel import (
    BITS,
    HAS_CART,
    MAY_CITE,
    MAY_COUNT,
    MAY_SNIP,
    NUMBERS,
    SHARES,
    line_kernel,
)
from mixloom.pipeline.line_masks import line_masks
from mixloom.pipeline.line_measures import COUNTER, LINES
from mixloom.pipeline.line_sentence_kernel import count_sentences, key_table, word_key
from mixloom.pipeline.words import utf8_buffers

__all__ = ["LINES", "WHOLE_WORDS", "line_table", "segment_lines"]

# English words with a final period that are one token.
_TITLES = (
    "Adm. Bros. Co. Corp. Dr. Gen. Gov. Inc. Jr. Ltd. Messrs. Mr. Mrs. Ms. Mt. Ph.D. Prof. Rep. Rev. Sen. St."
)
_STATES = (
    "Ak. Ala. Ariz. Ark. Calif. Colo. Conn. D.C. Del. Fla. Ga. Ia. Id. Ill. Ind. Kan. Kans. Ky. La. Mass. Md. Mich. Minn. "
    "Miss. Mo. Mont. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Okla. Ore. Pa. S.C. Tenn. Va. Wash. Wis."
)
_MONTHS = "Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec."
_LATIN = "E.G. E.g. I.E. I.e. a.m. co. e.g. i.e. p.m. v.s. vs."
WHOLE_WORDS: tuple[str, ...] = (
    *" ".join((_TITLES, _STATES, _MONTHS, _LATIN)).split(),
    *(f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyzäöü"),
    *(f"{hour}{half}.m." for hour in range(1, 13) for half in "ap"),
    *(f"°{unit}." for unit in "CFKcfk"),
)
_LONGEST = 2**31 - 1
_NUMPY: dict[pa.DataType, type[np.generic]] = {
    pa.int32(): np.int32,
    pa.uint8(): np.uint8,
    pa.uint16(): np.uint16,
    pa.float32(): np.float32,
}
Columns = dict[str, NDArray[Any]]


@lru_cache(maxsize=1)
def _whole_words() -> NDArray[np.uint64]:
    keys = [word_key(np.frombuffer(w.encode(), np.uint8), 0, len(w.encode())) for w in WHOLE_WORDS]
    return key_table(np.array(keys, np.uint64))


def _measured(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], keep_ends: bool
) -> tuple[Columns, NDArray[np.int64]]:
    """The measures of every line by name, and the first line of each text, int64 [n+1]."""
    flags = character_flags()
    classes, masks, places = line_masks(data, offsets, flags)
    numbers, shares, bits, first = line_kernel(data, offsets, classes, masks, places, keep_ends)
    columns = dict(zip((*NUMBERS, *SHARES, *BITS), (*numbers, *shares, *bits)))
    end, again = columns["end"], columns["again"]
    whole, counts = _whole_words(), columns["sentences"]
    ways = (classes, masks, places)
    count_sentences(data, offsets, ways, first, end, sentence_flags(), whole, keep_ends, counts)
    columns["phrases"] = find_phrases(data, offsets, masks, places, first, end, again)
    return columns, first


@dataclass(slots=True)
class _Cuts:
    """What may be taken out of some of m lines, and what is left of these.

    ends: int64 [m+1], offsets into `values`, the numbers of the list column. line: int64 [k], the lines that have
    something to take out; left: the measures of what is left of them, each [k], with `start` and `stop` in the text.
    """

    values: NDArray[np.int32]
    ends: NDArray[np.int32]
    line: NDArray[np.int64]
    left: Columns


def _cuts(
    m: int,
    asked: NDArray[np.int64],
    base: NDArray[np.int64],
    low: NDArray[np.int64],
    found: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]],
    step: int,
) -> _Cuts:
    """Bring what a kernel of `line_cut_kernel` found in the lines `asked` of m into the columns of the table.

    base, low: int64 [asked], where the text begins, and what the kernel was given of the line. step: numbers of one span.
    """
    spans, ends, rest, sizes = found
    counts = np.zeros(m + 1, np.int32)
    if len(spans) == 0:
        return _Cuts(np.zeros(0, np.int32), counts, asked[:0], {})
    counts[asked + 1] = np.diff(ends)
    have = np.flatnonzero(np.diff(ends))
    asked, base = asked[have], base[have]
    measured, first = _measured(rest, sizes, keep_ends=True)
    is_line = first[have] < first[have + 1]  # nothing may be left of it
    left: Columns = {}
    for name in ("start", "stop", "words", "alnum_words", "sentences", "ends", "phrases"):
        left[name] = np.zeros(len(have), measured[name].dtype)
        left[name][is_line] = measured[name][first[have][is_line]]
    start, stop = left["start"].astype(np.int64), left["stop"].astype(np.int64)
    left["start"] = whence(spans, step, ends, low, have, start) - base
    last = whence(spans, step, ends, low, have, np.maximum(stop - 1, 0)) + 1 - base
    left["stop"] = np.where(stop > start, last, left["start"])
    values = spans - np.repeat(base, np.diff(ends)[have])
    if step == 3:
        values[::3] = spans[::3]
    return _Cuts(values.astype(np.int32), np.cumsum(counts, dtype=np.int32), asked, left)


def _array(values: NDArray[Any], type: pa.DataType, mask: pa.Buffer | None = None) -> pa.Array:
    """An Arrow array of numbers, without a copy where they have its type; mask: bits of the rows that are not null."""
    values = np.ascontiguousarray(values, _NUMPY[type])
    return pa.Array.from_buffers(type, len(values), [mask, pa.py_buffer(values)])


def _mask(m: int, lines: NDArray[np.int64]) -> pa.Buffer | None:
    """The validity of a column of m rows that is null in all but `lines`."""
    if len(lines) == m:
        return None
    has = np.zeros(m, np.bool_)
    has[lines] = True
    return pa.py_buffer(np.packbits(has, bitorder="little"))


def _columns(column: Columns, cites: _Cuts, snippets: _Cuts) -> list[pa.Array]:
    m = len(column["start"])
    none = {type: np.zeros(m, _NUMPY[type]) for type in (pa.int32(), pa.uint8(), pa.uint16())}
    of = {"cites": cites, "uncited": cites, "snippets": snippets, "bare": snippets}
    masks = {kind: _mask(m, cuts.line) for kind, cuts in of.items()}
    arrays: list[pa.Array] = []
    for field in LINES:
        kind, _, rest = field.name.partition("_")
        cuts = of.get(kind)
        if cuts is None:
            arrays.append(_array(column[field.name], field.type))
        elif not rest:
            arrays.append(
                pa.ListArray.from_arrays(pa.array(cuts.ends), pa.array(cuts.values), type=field.type)
            )
        elif len(cuts.line):
            values = np.zeros(m, _NUMPY[field.type])
            values[cuts.line] = cuts.left[rest]
            arrays.append(_array(values, field.type, masks[kind]))
        else:
            arrays.append(_array(none[field.type], field.type, masks[kind]))
    return arrays


def _asked(
    column: Columns, first: NDArray[np.int64], offsets: NDArray[np.int64], bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The lines with one of `bits` in `again`, and where in the data their text and they themselves begin, int64 [k]."""
    lines = np.flatnonzero((column["again"] & np.uint8(bits)) != 0)
    text = np.searchsorted(first, lines, side="right") - 1
    base = offsets[text]
    behind = column["next"][np.maximum(lines - 1, 0)]
    return lines, base, base + np.where(first[text] == lines, 0, behind)


def line_table(
    texts: pa.Array, rows: NDArray[np.int32] | None = None, segments: NDArray[np.int32] | None = None
) -> pa.RecordBatch:
    """One row per line of every text, blank lines too, of schema `LINES`, in the order of the texts and of their lines.

    Args:
        texts: Arrow string or large_string array [n]; a null is an empty text, which has no line.
        rows, segments: int32 [n], what the columns `row` and `segment` say of each text; by default its place in
            `texts` and 0. For a table sorted as the schema says they must be sorted by (row, segment).

    Raises:
        UserError: a text of 2 GiB or more.
        TypeError: `texts` holds no strings.
    """
    data, offsets = utf8_buffers(texts)
    if len(texts) and int(np.diff(offsets).max()) > _LONGEST:
        raise UserError(
            "a text has 2 GiB or more, and its lines cannot be measured", fix="cut it into documents"
        )
    flags = character_flags()
    column, first = _measured(data, offsets, keep_ends=False)
    start, stop, end, again = (column[name] for name in ("start", "stop", "end", "again"))
    m = len(again)
    asked, base, _ = _asked(column, first, offsets, MAY_CITE)
    found = find_citations(data, base + start[asked], base + stop[asked], flags)
    cites = _cuts(m, asked, base, base + start[asked], found, 2)
    asked, base, begin = _asked(column, first, offsets, MAY_SNIP | HAS_CART)
    found = find_snippets(data, begin, base + end[asked], (again[asked] & HAS_CART) != 0, flags)
    snippets = _cuts(m, asked, base, begin, found, 3)
    asked, base, _ = _asked(column, first, offsets, MAY_COUNT)
    column["phrases"][asked[find_counters(data, base + start[asked], base + stop[asked], flags)]] |= COUNTER
    counts = np.diff(first)
    rows = np.arange(len(texts), dtype=np.int32) if rows is None else np.asarray(rows, np.int32)
    column["row"] = np.repeat(rows, counts)
    segments = np.zeros(len(texts), np.int32) if segments is None else np.asarray(segments, np.int32)
    column["segment"] = np.repeat(segments, counts)
    return pa.RecordBatch.from_arrays(_columns(column, cites, snippets), schema=LINES)


def segment_lines(documents: pa.RecordBatch) -> pa.RecordBatch:
    """`line_table` of every text segment of n documents: `row` is the document's place, `segment` that of the segment.

    Offsets are bytes of the segment's own text, so edits made from this table are edits of segments.
    """
    lists = documents.column("segments")
    bounds = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    bounds = bounds - bounds[0]
    flat = lists.flatten()
    at = np.flatnonzero(pc.equal(flat.field("kind"), "text").to_numpy(zero_copy_only=False))
    owner = np.repeat(np.arange(len(documents), dtype=np.int64), np.diff(bounds))[at]
    texts = flat.field("text").take(pa.array(at)).cast(pa.large_string())
    return line_table(texts, owner.astype(np.int32), (at - bounds[owner]).astype(np.int32))
