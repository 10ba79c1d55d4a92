"""Paragraph and line deduplication: equal text in several places of the corpus is kept in one of them.

A unit is a paragraph or a line, its key a 128-bit hash of its normal form (`paragraph_kernel.cut_units`). Which
occurrence is kept is a function of the corpus alone: documents that lose nothing first, then source priority,
document id, place in the document. (C4, CCNet and Dolma keep whichever comes first in a hash table or Bloom filter.)
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch
from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.doc_ids import I64, U64, id_batch, pack_ids, run_starts
from mixloom.pipeline.edits import SPANS, flat_segments, rows_of, text_places
from mixloom.pipeline.engine import one_batch
from mixloom.pipeline.paragraph_config import ParagraphConfig
from mixloom.pipeline.paragraph_kernel import cut_units
from mixloom.pipeline.preference import source_priority
from mixloom.pipeline.words import utf8_buffers

Bools = NDArray[np.bool_]
SLICES = 16  # ranges of the hash, each in row groups of its own
PROTECTED = -1  # rank of a document that loses nothing

UNITS = pa.schema(
    [
        pa.field("slice", pa.int32(), nullable=False),  # the upper 4 bits of the hash
        pa.field("hi", pa.uint64(), nullable=False),  # hash of the normal form
        pa.field("lo", pa.uint64(), nullable=False),
        pa.field("doc_hi", pa.uint64(), nullable=False),
        pa.field("doc_lo", pa.uint64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # of its document as an owner, smaller is preferred
        pa.field("row", pa.int32(), nullable=False),  # of its document in the ingest part
        pa.field("unit", pa.int32(), nullable=False),  # its number in the document
        pa.field(
            "start", pa.int64(), nullable=False
        ),  # bytes of the document's text, to where the next one begins
        pa.field("stop", pa.int64(), nullable=False),
        pa.field(
            "before", pa.int64(), nullable=False
        ),  # where the visible text before it in its segment ends
        pa.field("last", pa.bool_(), nullable=False),  # of its segment
        pa.field("size", pa.int64(), nullable=False),  # visible bytes
        pa.field("doc_size", pa.int64(), nullable=False),  # visible bytes of all units of the document
    ]
)
"""The units of a part that are long enough to be removed, by (slice, row, unit)."""

KEYED = ("hi", "lo", "doc_hi", "doc_lo", "rank", "row", "unit")

REPEATS = pa.schema(
    [
        *(UNITS.field(n) for n in KEYED),
        pa.field("part", pa.int32(), nullable=False),  # number of the part
        pa.field("copies", pa.int32(), nullable=False),  # occurrences in the corpus
        pa.field("removed", pa.bool_(), nullable=False),
        pa.field("owner_hi", pa.uint64(), nullable=False),  # document in which it is kept
        pa.field("owner_lo", pa.uint64(), nullable=False),
    ]
)
"""Every occurrence of a text of which some occurrence is removed."""


SHUFFLED = pa.schema([*(UNITS.field(n) for n in KEYED), REPEATS.field("part")])
"""What of a unit goes through a shuffle."""


def find_units(documents: pa.RecordBatch, config: ParagraphConfig) -> tuple[pa.Table, list[int]]:
    """The units of some documents.

    Args:
        documents: doc_id, source, segments, and row where these are not whole parts.

    Returns:
        `UNITS`, and the sizes of its slices (without empty ones), for row groups.
    """
    data, offsets = utf8_buffers(document_text(documents))
    flags, lower = ch.character_flags(), ch.lower_table()
    by_line = config.unit == "line"
    ends, hashes, places, words = cut_units(
        data, offsets, flags, lower, by_line, config.fold_digits, config.fold_punctuation
    )
    owner = np.repeat(np.arange(len(documents), dtype=np.int64), np.diff(ends))
    size = places[:, 2] - places[:, 1]
    doc_size = np.bincount(owner, size, len(documents)).astype(np.int64)
    start, stop, before, last = _surroundings(documents, offsets, owner, places)
    rank = source_priority(documents.column("source"), config.priority).copy()
    if config.media == "leave":
        rank[_with_media(documents)] = PROTECTED
    order = np.flatnonzero(words >= config.min_words)
    slices = (hashes[:, 0] >> np.uint64(60)).astype(np.int32)
    order = order[np.argsort(slices[order], kind="stable")]
    of = owner[order]
    numbers = np.arange(len(owner)) - ends[owner]
    columns = (
        slices,
        hashes,
        pack_ids(documents.column("doc_id"))[owner],
        rank[owner],
        rows_of(documents)[owner],
    )
    rest = (numbers.astype(np.int32), start, stop, before, last, size)
    batch = id_batch(UNITS, *(c[order] for c in (*columns, *rest)), doc_size[of])
    sizes = np.bincount(slices[order], minlength=SLICES)
    return pa.Table.from_batches([batch]), [int(s) for s in sizes if s]


def _with_media(documents: pa.RecordBatch) -> Bools:
    bounds, segments = flat_segments(documents)
    media = pc.not_equal(segments.field("kind"), "text").to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(media)])
    return np.asarray(before[bounds[1:]] > before[bounds[:-1]])


def _surroundings(
    documents: pa.RecordBatch, offsets: I64, owner: I64, places: I64
) -> tuple[I64, I64, I64, Bools]:
    """What goes when a unit is removed, kept inside its segment: (start, stop, before, last) of `UNITS`."""
    first, _, begin = text_places(documents)
    begins = np.repeat(offsets[:-1] - offsets[0], np.diff(first)) + begin  # of all segments, in all texts
    here = offsets[owner] - offsets[0]
    segment = np.searchsorted(begins, here + places[:, 0], side="right") - 1
    n = len(owner)
    same = np.zeros(n + 1, np.bool_)  # a unit is in the same segment as the one before it
    same[1:n] = segment[1:] == segment[:-1]
    last = ~same[1:]
    ending = np.minimum(places[:, 3], offsets[owner + 1] - offsets[owner])
    following = segment + 1
    inner = last & (following < first[owner + 1])  # another segment of the document follows
    ending[inner] = begins[following[inner]] - here[inner] - 2
    segment_start = begins[segment] - here
    before = segment_start.copy()
    before[1:][same[1:n]] = places[:-1, 2][same[1:n]]
    return np.maximum(places[:, 0], segment_start), ending, before, last


def shuffled_units(units: pa.Table, part: int) -> pa.RecordBatch:
    """The rows of `UNITS` (at least the columns `KEYED`) of one part as `SHUFFLED`."""
    numbers = pa.array(np.full(units.num_rows, part, np.int32))
    return one_batch(units.select(KEYED).append_column(SHUFFLED.field("part"), numbers))


def mark_repeats(batch: pa.RecordBatch, max_copies: int, within: bool) -> pa.RecordBatch:
    """All occurrences of some texts (`SHUFFLED`, in any order) -> `REPEATS`, those of which one is removed.

    Of each text the first `max_copies` occurrences are kept (with `within` false: all occurrences in the first
    `max_copies` documents), and all in protected documents.
    """
    names = ("hi", "lo", "rank", "doc_hi", "doc_lo", "part", "row", "unit")
    columns = {n: batch.column(n).to_numpy(zero_copy_only=False) for n in names}
    order = np.lexsort([columns[n] for n in reversed(names)])
    ordered = {n: c[order] for n, c in columns.items()}
    key = np.stack([ordered["hi"], ordered["lo"]], axis=1)
    first = run_starts(key)
    group = np.cumsum(first) - 1
    starts = np.flatnonzero(first)
    if within:
        number = np.arange(len(order)) - starts[group]
    else:
        documents = np.stack([ordered[n].astype(np.int64) for n in ("part", "row")], axis=1)
        distinct = np.cumsum(first | run_starts(documents))
        number = distinct - distinct[starts][group]
    removed = (number >= max_copies) & (ordered["rank"] != PROTECTED)
    copies = np.bincount(group, minlength=len(starts))
    lossy = np.bincount(group, removed, len(starts)) > 0
    chosen = np.flatnonzero(lossy[group])
    taken = batch.take(pa.array(order[chosen]))
    owner = order[starts[group[chosen]]]
    arrays = [
        *(taken.column(c) for c in (*KEYED, "part")),
        pa.array(copies[group[chosen]].astype(np.int32)),
        pa.array(removed[chosen]),
        pa.array(columns["doc_hi"][owner]),
        pa.array(columns["doc_lo"][owner]),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=REPEATS)


def places_of(units: pa.Table, repeats: pa.Table | pa.RecordBatch) -> I64:
    """For each repeat the index of its unit in `UNITS` of the same part, int64 [r]."""

    def key(table: pa.Table | pa.RecordBatch) -> I64:
        row, unit = (np.asarray(table.column(c), dtype=np.int64) for c in ("row", "unit"))
        return (row << 32) | unit

    known = key(units)
    order = np.argsort(known)
    return order[np.searchsorted(known, key(repeats), sorter=order)]


def doomed_rows(units: pa.Table, repeats: pa.Table, limit: float) -> dict[int, tuple[int, int]]:
    """Rows of a part that would lose more than this share of their bytes: row -> (bytes lost, bytes)."""
    gone = repeats.filter(repeats["removed"])
    at = places_of(units, gone)
    rows = np.asarray(gone["row"], dtype=np.int64)
    distinct, which = np.unique(rows, return_inverse=True)
    lost = np.bincount(which, np.asarray(units["size"])[at], len(distinct)).astype(np.int64)
    total = np.zeros(len(distinct), np.int64)
    total[which] = np.asarray(units["doc_size"])[at]
    much = lost > limit * total
    return {int(r): (int(a), int(b)) for r, a, b in zip(distinct[much], lost[much], total[much])}


def removal_spans(units: pa.Table, removed: pa.Table) -> pa.Table:
    """What goes with each removed unit, so that the rest stays as it was laid out.

    Args:
        units: `UNITS` of a part. removed: `REPEATS` of the same part, those to remove.

    Returns:
        row (int32), unit (int32), start and stop (int64, bytes of the document's text), copies (int32), owner_hi,
        owner_lo (uint64); sorted by (row, start), disjoint. A unit goes with the white space after it. Where
        nothing is kept after it in its segment, the white space before goes too.
    """
    at = places_of(units, removed)
    order = np.lexsort((np.asarray(removed["unit"]), np.asarray(removed["row"])))
    at, removed = at[order], removed.take(pa.array(order))
    row, unit = (np.asarray(removed[c], dtype=np.int64) for c in ("row", "unit"))
    start, stop, before = (
        np.asarray(units[c].combine_chunks())[at].copy() for c in ("start", "stop", "before")
    )
    last = np.asarray(units["last"].combine_chunks())[at]
    n = len(at)
    # A chain: units removed one after the other in one segment.
    linked = np.zeros(n, np.bool_)
    linked[1:] = (row[1:] == row[:-1]) & (unit[1:] == unit[:-1] + 1) & ~last[:-1]
    chain = np.cumsum(~linked) - 1
    to_the_end = np.zeros(chain[-1] + 1 if n else 0, np.bool_)
    to_the_end[chain[last]] = True
    opens = ~linked & to_the_end[chain] if n else linked
    start[opens] = before[opens]
    names = ("row", "unit", "copies", "owner_hi", "owner_lo")
    return removed.select(names).append_column("start", pa.array(start)).append_column("stop", pa.array(stop))


def repeat_spans(documents: pa.RecordBatch, removal: pa.Table, config: ParagraphConfig) -> pa.Table:
    """Removals (`removal_spans`) as `SPANS` over these documents, reason `duplicate_<unit>`."""
    rows = rows_of(documents)
    at = np.full(int(rows.max(initial=-1)) + 1, -1, np.int64)
    at[rows] = np.arange(len(rows))
    row = np.asarray(removal["row"], dtype=np.int64)
    mine = (row < len(at)) & (at[np.minimum(row, max(len(at) - 1, 0))] >= 0) if len(at) else row < 0
    removal = removal.filter(pa.array(mine))
    n = removal.num_rows
    columns = {
        "document": pa.array(at[row[mine]].astype(np.int32)),
        "start": removal["start"],
        "stop": removal["stop"],
        "replacement": pa.array([""] * n, pa.string()),
        "reason": pa.array([f"duplicate_{config.unit}"] * n, pa.string()),
        "value": removal["copies"].cast(pa.float64()),
        "limit": pa.array(np.full(n, float(config.max_copies))),
    }
    return pa.table(columns, schema=SPANS)


def owner_ids(removal: pa.Table) -> U64:
    """The owners named by removals, uint64 [n, 2]."""
    return np.stack([np.asarray(removal[c], dtype=np.uint64) for c in ("owner_hi", "owner_lo")], axis=1)
