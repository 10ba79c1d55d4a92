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

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixloom.pipeline.characters import character_flags
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.line_kernel import COLUMNS, line_kernel, word_hash
from mixloom.pipeline.line_measures import LINES
from mixloom.pipeline.words import utf8_buffers

__all__ = ["LINES", "WHOLE_WORDS", "line_table", "segment_lines"]

# English words with a final period that are one token.
_TITLES = "Adm. Bros. Co. Corp. Dr. Gen. Gov. Inc. Jr. Ltd. Messrs. Mr. Mrs. Ms. Mt. Ph.D. Prof. Rep. Rev. Sen. St."
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


@lru_cache(maxsize=1)
def _whole_words() -> NDArray[np.uint64]:
    hashes = [word_hash(np.frombuffer(w.encode(), np.uint8), 0, len(w.encode())) for w in WHOLE_WORDS]
    return np.unique(np.array(hashes, np.uint64))


def _share(part: NDArray[np.int32], of: NDArray[np.int32]) -> NDArray[np.float32]:
    return np.where(of > 0, part / np.maximum(of, 1), 0.0).astype(np.float32)


def _pairs(values: NDArray[np.int32], ends: NDArray[np.int32], kind: pa.DataType) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values), type=kind)


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
        raise UserError("a text has 2 GiB or more, and its lines cannot be measured", fix="cut it into documents")
    table, cites, cite_ends, snippets, snippet_ends = line_kernel(data, offsets, character_flags(), _whole_words())
    column = {name: table[:, k] for k, name in enumerate(COLUMNS)}
    owner = column["text"]
    column["row"] = owner if rows is None else np.asarray(rows, np.int32)[owner]
    column["segment"] = np.zeros(len(owner), np.int32) if segments is None else np.asarray(segments, np.int32)[owner]
    column["upper_share"] = _share(column["upper"], column["chars"])
    column["digit_share"] = _share(column["digits"], column["chars"])
    arrays: list[pa.Array] = []
    for field in LINES:
        if field.name == "cites":
            arrays.append(_pairs(cites, cite_ends, field.type))
        elif field.name == "snippets":
            arrays.append(_pairs(snippets, snippet_ends, field.type))
        else:
            kind, _, rest = field.name.partition("_")
            same = column[f"{kind}_start"] < 0 if rest and kind in ("uncited", "bare") else None
            arrays.append(pa.array(np.ascontiguousarray(column[field.name]), mask=same).cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=LINES)


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
