"""Edits: what a stage changes inside documents, as byte spans and replacements. Text itself is written only by ingest.

A stage that changes text writes its edits; whoever reads documents after it sees them applied (`overlay`). So every
change can be shown beside the text as it was, undone, or decided again, and a corpus is stored once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

WHOLE = -1  # start and stop of an edit that removes a whole segment

# Changes in one part, sorted by (row, segment, start), disjoint. `start` and `stop` are bytes of the segment's text as
# it was before the stage; `replacement` stands in its place; value and limit are those of the rule, where there is one.
EDITS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("stop", pa.int32(), nullable=False),
        pa.field("replacement", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("limit", pa.float64()),
    ]
)

# What a finder says of a batch: bytes of the document's text (`annotate.document_text`), sorted, disjoint.
SPANS = pa.schema(
    [
        pa.field("document", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("replacement", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("limit", pa.float64()),
    ]
)

_JOIN = 2  # bytes between two text segments in `document_text`


def flat_segments(documents: pa.RecordBatch) -> tuple[NDArray[np.int64], pa.StructArray]:
    """The bounds of each document's segments (int64 [n+1], from 0) and all segments in order."""
    lists = documents.column("segments")
    bounds = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return bounds - bounds[0], lists.flatten()


def text_places(documents: pa.RecordBatch) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where each text segment stands in the text of its document.

    Returns:
        first: int64 [n+1], the text segments of document i are first[i]:first[i+1] of the other two.
        segment: int64 [t], the index of each among all segments of its document.
        begin: int64 [t], the byte of the document's text at which it begins.
    """
    bounds, segments = flat_segments(documents)
    is_text = pc.equal(segments.field("kind"), "text").to_numpy(zero_copy_only=False)
    sizes = pc.fill_null(pc.binary_length(segments.field("text")), 0).to_numpy(zero_copy_only=False)
    owner = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    at = np.flatnonzero(is_text)
    first = np.concatenate([[0], np.cumsum(is_text)])[bounds]
    steps = sizes[at].astype(np.int64) + _JOIN
    before = np.concatenate([[0], np.cumsum(steps)])[:-1] if len(at) else np.zeros(0, np.int64)
    of_document = owner[at]
    base = before[np.minimum(first[of_document], len(at) - 1)] if len(at) else before
    return first.astype(np.int64), (at - bounds[of_document]).astype(np.int64), before - base


def rows_of(documents: pa.RecordBatch) -> NDArray[np.int32]:
    """The row of each document in its ingest part: the column `row`, or its place in a whole part."""
    if "row" in documents.schema.names:
        return np.asarray(documents.column("row"), dtype=np.int32)
    return np.arange(documents.num_rows, dtype=np.int32)


def locate(
    documents: pa.RecordBatch, document: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Spans of document text as spans of segments; a span that crosses a join is cut there.

    Args:
        document, start, stop: int64 [m], sorted by (document, start).

    Returns:
        (which of the m spans, segment, start, stop), int64 [>= m] each; empty pieces are left out, but an
        empty span (an insertion) stays where it is.
    """
    first, segment, begin = text_places(documents)
    _, segments = flat_segments(documents)
    texts = segments.filter(pc.equal(segments.field("kind"), "text")).field("text")
    size = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    out: list[tuple[int, int, int, int]] = []
    for k, (d, a, b) in enumerate(zip(document.tolist(), start.tolist(), stop.tolist())):
        mine = slice(first[d], first[d + 1])
        t = int(first[d]) + max(int(np.searchsorted(begin[mine], a, side="right")) - 1, 0)
        while t < first[d + 1] and begin[t] <= b:
            low, high = max(a - int(begin[t]), 0), min(b - int(begin[t]), int(size[t]))
            if low < high or a == b:
                out.append((k, int(segment[t]), low, high))
            if a == b:
                break
            t += 1
    columns = np.asarray(out, dtype=np.int64).reshape(-1, 4)
    return columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3]


def spans_to_edits(documents: pa.RecordBatch, spans: pa.RecordBatch | pa.Table) -> pa.Table:
    """`SPANS` over the text of these documents -> `EDITS`; of a span cut at a join the first piece is replaced."""
    document = np.asarray(spans.column("document"), dtype=np.int64)
    start, stop = (np.asarray(spans.column(c), dtype=np.int64) for c in ("start", "stop"))
    which, segment, low, high = locate(documents, document, start, stop)
    owner = document[which]
    again = np.concatenate([[False], which[1:] == which[:-1]]) if len(which) else np.zeros(0, np.bool_)
    taken = {
        c: pc.take(spans.column(c), pa.array(which)) for c in ("replacement", "reason", "value", "limit")
    }
    return pa.table(
        {
            "doc_id": documents.column("doc_id").take(pa.array(owner)),
            "row": pa.array(rows_of(documents)[owner]),
            "segment": pa.array(segment.astype(np.int32)),
            "start": pa.array(low.astype(np.int32)),
            "stop": pa.array(high.astype(np.int32)),
            "replacement": pc.if_else(pa.array(again), "", taken["replacement"]),
            **{c: taken[c] for c in ("reason", "value", "limit")},
        },
        schema=EDITS,
    )


def changed_rows(documents: pa.RecordBatch, edits: pa.Table) -> NDArray[np.int64]:
    """Which of these documents (indices, ascending) have an edit."""
    return np.flatnonzero(np.isin(rows_of(documents), np.asarray(edits.column("row"))))


def _edited_texts(
    texts: Sequence[str | None],
    starts: Sequence[int],
    stops: Sequence[int],
    put: Sequence[str],
    of: Sequence[int],
) -> list[str]:
    """The text of each segment after its edits; edit k belongs to segment of[k] of `texts`, edits are sorted."""
    pieces: list[list[bytes]] = [[] for _ in texts]
    raw = [(t or "").encode() for t in texts]
    done = [0] * len(raw)
    for k, s in enumerate(of):
        pieces[s] += (raw[s][done[s] : starts[k]], put[k].encode())
        done[s] = stops[k]
    return [b"".join((*p, r[d:])).decode() for p, r, d in zip(pieces, raw, done)]


def apply_edits(documents: pa.RecordBatch, edits: pa.Table) -> pa.RecordBatch:
    """Documents with these edits applied; a text segment without a visible character left is removed.

    Args:
        documents: any columns with `doc_id` and `segments`; a column `row` says which rows of the part these are.
        edits: `EDITS` of the part; those of other rows are passed over.

    Raises:
        ValueError: an edit names a segment the document has not, so the two do not belong together.
    """
    rows = rows_of(documents)
    place = np.full(int(max(rows.max(initial=-1), -1)) + 1, -1, np.int64)
    place[rows] = np.arange(len(rows))
    of_row = np.asarray(edits.column("row"), dtype=np.int64)
    mine = (
        (of_row < len(place)) & (place[np.minimum(of_row, len(place) - 1)] >= 0) if len(place) else of_row < 0
    )
    if not mine.any():
        return documents
    edits = edits.filter(pa.array(mine))
    bounds, segments = flat_segments(documents)
    owner = place[of_row[mine]]
    within = np.asarray(edits["segment"], dtype=np.int64)
    if (within >= np.diff(bounds)[owner]).any():
        raise ValueError("these edits were made for other documents: one names a segment that is not there")
    flat = bounds[owner] + within
    whole = np.asarray(edits["start"]) == WHOLE
    keep = np.ones(len(segments), np.bool_)
    keep[flat[whole]] = False
    touched, of = np.unique(flat[~whole], return_inverse=True)
    texts = segments.field("text")
    if len(touched):
        inside = edits.filter(pa.array(~whole))
        new = _edited_texts(
            texts.take(pa.array(touched)).to_pylist(),
            inside["start"].to_pylist(),
            inside["stop"].to_pylist(),
            inside["replacement"].to_pylist(),
            of.tolist(),
        )
        mask = np.zeros(len(segments), np.bool_)
        mask[touched] = True
        texts = pc.replace_with_mask(texts, pa.array(mask), pa.array(new, texts.type))
        keep[touched] &= np.fromiter((bool(t.strip()) for t in new), np.bool_, len(new))
    return with_segments(documents, bounds, segments, texts, keep)


def with_segments(
    documents: pa.RecordBatch,
    bounds: NDArray[np.int64],
    segments: pa.StructArray,
    texts: pa.Array,
    keep: NDArray[np.bool_],
) -> pa.RecordBatch:
    """The documents with new texts and without the segments that are not kept."""
    kind = segments.type
    fields = [texts if kind.field(i).name == "text" else segments.field(i) for i in range(kind.num_fields)]
    rebuilt = pa.StructArray.from_arrays(fields, fields=[kind.field(i) for i in range(kind.num_fields)])
    kept = rebuilt.filter(pa.array(keep))
    offsets = np.concatenate([[0], np.cumsum(keep)])[bounds].astype(np.int32)
    at = documents.schema.get_field_index("segments")
    field = documents.schema.field(at)
    lists = pa.ListArray.from_arrays(pa.array(offsets), kept, type=field.type)
    return documents.set_column(at, field, lists)
