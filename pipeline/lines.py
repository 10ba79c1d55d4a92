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
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.line_cut_kernel import find_citations, find_snippets, whence
from mixloom.pipeline.line_kernel import COLUMNS, HAS_BRACKET, HAS_CART, line_kernel, word_hash
from mixloom.pipeline.line_measures import COUNTER, LINES
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
Columns = dict[str, NDArray[Any]]


@lru_cache(maxsize=1)
def _whole_words() -> NDArray[np.uint64]:
    hashes = [word_hash(np.frombuffer(w.encode(), np.uint8), 0, len(w.encode())) for w in WHOLE_WORDS]
    return np.unique(np.array(hashes, np.uint64))


def _share(part: NDArray[np.int32], of: NDArray[np.int32]) -> NDArray[np.float32]:
    return np.where(of > 0, part / np.maximum(of, 1), 0.0).astype(np.float32)


def _measured(data: NDArray[np.uint8], offsets: NDArray[np.int64], keep_ends: bool) -> Columns:
    table = line_kernel(data, offsets, character_flags(), _whole_words(), keep_ends)
    return {name: table[:, k] for k, name in enumerate(COLUMNS)}


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
    per_line = np.zeros(m, np.int64)
    per_line[asked] = np.diff(ends)
    have = np.flatnonzero(np.diff(ends))
    measured = _measured(rest, sizes, keep_ends=True)
    left: Columns = {name: np.zeros(len(ends) - 1, np.int64) for name in COLUMNS}
    for name, column in measured.items():
        left[name][measured["text"]] = column
    start, stop = left["start"][have], left["stop"][have]
    left = {name: column[have] for name, column in left.items()}
    left["start"] = whence(spans, step, ends, low, have, start) - base[have]
    last = whence(spans, step, ends, low, have, np.maximum(stop - 1, 0)) + 1 - base[have]
    left["stop"] = np.where(stop > start, last, left["start"])
    values = spans - np.repeat(base, np.diff(ends))
    if step == 3:
        values[::3] = spans[::3]
    counts = np.concatenate([[0], np.cumsum(per_line)])
    return _Cuts(values.astype(np.int32), counts.astype(np.int32), asked[have], left)


def _columns(column: Columns, cites: _Cuts, snippets: _Cuts) -> list[pa.Array]:
    m = len(column["text"])
    arrays: list[pa.Array] = []
    for field in LINES:
        kind, _, rest = field.name.partition("_")
        cuts = {"cites": cites, "uncited": cites, "snippets": snippets, "bare": snippets}.get(kind)
        if cuts is None:
            arrays.append(pa.array(np.ascontiguousarray(column[field.name])).cast(field.type))
        elif not rest:
            arrays.append(
                pa.ListArray.from_arrays(pa.array(cuts.ends), pa.array(cuts.values), type=field.type)
            )
        else:
            number, same = np.zeros(m, np.int64), np.ones(m, np.bool_)
            number[cuts.line], same[cuts.line] = cuts.left[rest], False
            arrays.append(pa.array(number, mask=same).cast(field.type))
    return arrays


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
    column = _measured(data, offsets, keep_ends=False)
    owner, again = column["text"], column["again"]
    m = len(owner)
    base = offsets[owner]
    begin = base + np.concatenate([[0], column["next"][:-1]])[:m]
    begin[1:][np.diff(owner) != 0] = base[1:][np.diff(owner) != 0]
    asked = np.flatnonzero(again & HAS_BRACKET)
    low = base[asked] + column["start"][asked]
    found = find_citations(data, low, base[asked] + column["stop"][asked], character_flags())
    cites = _cuts(m, asked, base[asked], low, found, 2)
    *taken, counter = find_snippets(
        data, begin, base + column["end"], (again & HAS_CART) != 0, character_flags()
    )
    snippets = _cuts(m, np.arange(m), base, begin, (taken[0], taken[1], taken[2], taken[3]), 3)
    column["row"] = owner if rows is None else np.asarray(rows, np.int32)[owner]
    column["segment"] = np.zeros(m, np.int32) if segments is None else np.asarray(segments, np.int32)[owner]
    column["upper_share"] = _share(column["upper"], column["chars"])
    column["digit_share"] = _share(column["digits"], column["chars"])
    column["phrases"] = column["phrases"] | np.where(counter, COUNTER, 0).astype(np.int32)
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
