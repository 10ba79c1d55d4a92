"""What an editing stage writes of a part: survivors, edits, new measures of what changed, and the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixloom.pipeline.annotate import Annotator
from mixloom.pipeline.edits import EDITS, WHOLE, apply_edits, changed_rows, flat_segments, rows_of
from mixloom.pipeline.ledger import dropped_documents
from mixloom.pipeline.overlay import ANNOTATIONS_FOLDER, EDITS_FOLDER, MEDIA_FOLDER
from mixloom.pipeline.schema import REJECTS, SURVIVORS
from mixloom.pipeline.stage import OutputTable, UnitOutput

NOTHING_LEFT = "nothing_left"

# Documents to drop: their row, and what the ledger is to say of them.
DROPPED = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("limit", pa.float64()),
        pa.field("detail", pa.string()),
    ]
)


def edited_output(
    documents: pa.RecordBatch,
    edits: pa.Table | None,
    dropped: pa.Table | None,
    *,
    part: str,
    stage: str,
    annotator: Annotator | None = None,
    items: pa.Table | None = None,
    tables: Sequence[OutputTable] = (),
    info: dict[str, Any] | None = None,
    seconds: float = 0.0,
) -> UnitOutput:
    """The output of one part of an editing stage.

    Args:
        documents: the documents that came in, as they were before this stage, with a column `row`.
        edits: `EDITS`; those of dropped documents are kept for the record.
        dropped: `DROPPED`, at most one row per document.
        annotator: measures changed documents again; needed when there are edits.
        items: the media measures of the part before this stage, when there are any.
        tables: further tables to write.

    Returns:
        Tables `<part>` (survivors) and, when something changed, `edits/<part>`, `annotations/<part>` and
        `media/<part>`. A document without a segment left is dropped with the reason `nothing_left`. Its info
        counts edits by reason.
    """
    edits = EDITS.empty_table() if edits is None else edits
    dropped = DROPPED.empty_table() if dropped is None else dropped
    rows = rows_of(documents)
    alive = ~np.isin(rows, np.asarray(dropped["row"]))
    left = documents.filter(pa.array(alive))
    at = changed_rows(left, edits)
    changed = apply_edits(left.take(pa.array(at)), edits)
    size = pc.list_value_length(changed.column("segments")).to_numpy(zero_copy_only=False)
    emptied = rows_of(changed)[size == 0]
    changed = changed.filter(pa.array(size > 0))
    alive &= ~np.isin(rows, emptied)
    out = [OutputTable(part, _survivors(documents, alive)), *tables]
    if edits.num_rows:
        out.append(OutputTable(f"{EDITS_FOLDER}/{part}", edits))
    if changed.num_rows:
        assert annotator is not None
        new = pa.Table.from_batches([annotator.annotate(changed)])
        new = new.replace_schema_metadata(None).append_column("row", changed.column("row"))
        out.append(OutputTable(f"{ANNOTATIONS_FOLDER}/{part}", new))
        if items is not None and items.num_rows:
            media = renumbered_items(items, edits, changed)
            out.append(OutputTable(f"{MEDIA_FOLDER}/{part}", media))
    nothing = pa.table(
        {
            "row": pa.array(emptied, pa.int32()),
            "reason": pa.array([NOTHING_LEFT] * len(emptied), pa.string()),
            **{c: pa.nulls(len(emptied), DROPPED.field(c).type) for c in ("value", "limit", "detail")},
        },
        schema=DROPPED,
    )
    gone = pa.concat_tables([dropped.select(DROPPED.names), nothing])
    rejects = pa.concat_tables(
        [_rejects(documents, gone, stage), _lost_media(documents, edits, rows[alive], stage)]
    )
    counted = dict(info or {})
    if edits.num_rows:
        counted["edits"] = dict(sorted(Counter(edits["reason"].to_pylist()).items()))
        counted["edited_documents"] = changed.num_rows
    return UnitOutput(part, tuple(out), rejects, int(alive.sum()), (), counted, seconds)


def _survivors(documents: pa.RecordBatch, alive: NDArray[np.bool_]) -> pa.Table:
    kept = documents.filter(pa.array(alive))
    return pa.table([kept.column("doc_id"), pa.array(rows_of(kept))], schema=SURVIVORS)


def renumbered_items(items: pa.Table, edits: pa.Table, changed: pa.RecordBatch) -> pa.Table:
    """The media measures of changed documents: without those of removed segments, the rest with their new places.

    Args:
        items: of the part before the edits, sorted by (row, segment). edits: those that made the change.
        changed: the documents after it, with a column `row`, sorted by it.
    """
    whole = edits.filter(pc.equal(edits["start"], WHOLE))
    gone = _keys(whole) if whole.num_rows else np.zeros(0, np.int64)
    mine = np.isin(np.asarray(items["row"]), rows_of(changed)) & ~np.isin(_keys(items), gone)
    kept = items.filter(pa.array(mine))
    bounds, segments = flat_segments(changed)
    owner = np.repeat(np.arange(changed.num_rows), np.diff(bounds))
    media = pc.not_equal(segments.field("kind"), "text").to_numpy(zero_copy_only=False)
    at = np.flatnonzero(media)
    if not np.array_equal(np.asarray(kept["row"]), rows_of(changed)[owner[at]]):
        raise ValueError("the media measures and the documents do not belong together")
    field = kept.schema.field("segment")
    new = pa.array((at - bounds[owner[at]]).astype(np.int32), field.type)
    return kept.set_column(kept.schema.get_field_index("segment"), field, new)


def _keys(table: pa.Table) -> NDArray[np.int64]:
    return np.asarray(table["row"], dtype=np.int64) << 32 | np.asarray(table["segment"], dtype=np.int64)


def _rejects(documents: pa.RecordBatch, dropped: pa.Table, stage: str) -> pa.Table:
    dropped = dropped.sort_by("row")
    rows = rows_of(documents)
    at = pa.array(np.searchsorted(rows, np.asarray(dropped["row"])))
    why = {c: dropped[c] for c in ("reason", "value", "limit", "detail")}
    return dropped_documents(
        documents.column("doc_id").take(at), documents.column("source").take(at), stage, why
    )


def _lost_media(documents: pa.RecordBatch, edits: pa.Table, alive: NDArray[np.int32], stage: str) -> pa.Table:
    """The ledger of images and recordings taken out of documents that stay."""
    whole = pc.equal(edits["start"], WHOLE)
    lost = edits.filter(pc.and_(whole, pc.is_in(edits["row"], pa.array(alive))))
    where = {int(r): i for i, r in enumerate(rows_of(documents))}
    segments, sources = documents.column("segments"), documents.column("source")
    rows = []
    for edit in lost.to_pylist():
        at = where[edit["row"]]
        media = segments[at][edit["segment"]].as_py()["media"] or {}
        rows.append(
            {
                "doc_id": edit["doc_id"],
                "source": sources[at].as_py(),
                "locator": {
                    "uri": media.get("uri") or "",
                    "member": media.get("member") or "",
                    "offset": -1,
                    "length": -1,
                },
                "stage": stage,
                "scope": "media",
                "outcome": "dropped",
                **{k: edit[k] for k in ("reason", "value", "limit")},
                "detail": None,
            }
        )
    return pa.Table.from_pylist(rows, schema=REJECTS)


def total_info(infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of several parts added up: numbers, and mappings of numbers, by key; anything else is left out."""
    out: dict[str, Any] = {}
    for info in infos:
        for key, value in info.items():
            if isinstance(value, dict):
                counter: Counter[str] = Counter(out.get(key, {}))
                counter.update(value)
                out[key] = dict(sorted(counter.items()))
            elif isinstance(value, int | float):
                out[key] = out.get(key, 0) + value
    return out
