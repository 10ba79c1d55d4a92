"""Exact deduplication: of the documents with one content hash, one is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.bucket_kernel import repeated
from mixloom.pipeline.doc_ids import (
    I64,
    ROW_BITS,
    U64,
    hash_columns,
    pack_ids,
    packed_rows,
    partition_of,
    places,
    run_starts,
    split,
    unpack_ids,
    unpacked_rows,
)
from mixloom.pipeline.engine import part_of
from mixloom.pipeline.graph import Work
from mixloom.pipeline.preference import source_priority
from mixloom.pipeline.shuffle import GATHERED, Grouped, Keyed, last

F64 = npt.NDArray[np.float64]

ROWS = pa.schema(
    [
        pa.field(n, pa.uint64(), nullable=False)
        for n in ("hash_hi", "hash_lo", "priority", "hi", "lo", "place")
    ]
)
"""A document: its content hash, the rank of its source (smaller is preferred), its id and its place (see `doc_ids`)."""

DROPS = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),  # of the dropped document in its part
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("kept_id", pa.string(), nullable=False),  # of the document kept in its place
        pa.field("similarity", pa.float64(), nullable=False),  # 1.0 for exact duplicates
    ]
)
"""Documents to drop, from exact and near deduplication alike."""


JUDGED = pa.schema(
    [
        *DROPS,
        pa.field("reason", pa.string(), nullable=False),
        pa.field("limit", pa.float64(), nullable=False),
    ]
)
"""Drops that state why, where one stage drops for several reasons."""


def drops_at(parts: Sequence[str], place: U64, ids: U64, kept_ids: U64, similarity: F64) -> pa.RecordBatch:
    """`DROPS` of documents by place (see `doc_ids.places`), uint64 [n], and packed ids, uint64 [n, 2]."""
    part = [parts[int(p)] for p in place >> ROW_BITS]
    row = (place & np.uint64(0xFFFFFFFF)).astype(np.int32)
    arrays = [pa.array(part, pa.string()), pa.array(row), unpack_ids(ids), unpack_ids(kept_ids)]
    return pa.RecordBatch.from_arrays([*arrays, pa.array(similarity)], schema=DROPS)


def exact_survivors(rows: U64) -> I64:
    """For each row of `ROWS`, uint64 [n, 6], the index of the row kept for its content, int64 [n] (its own where it is kept).

    Of the rows with one hash the one with the lowest priority number is kept, then the smallest id; of rows
    with the same id too, the first by place.
    """
    keeper = np.arange(len(rows))
    some = np.flatnonzero(repeated(np.ascontiguousarray(rows[:, 1])[None])[0])  # others have no copy
    order = some[np.lexsort(rows[some].T[::-1])]
    first = run_starts(rows[order, :2])
    keeper[order] = order[first][np.cumsum(first) - 1]
    return keeper


def exact_rows(annotations: pa.RecordBatch, parts: Sequence[str], priority: Sequence[str]) -> U64:
    """doc_id, source, row and content_hash of one of the `parts` (sorted) -> `ROWS`, uint64 [n, 6].

    Sources are preferred in the order of `priority`.
    """
    out = np.empty((annotations.num_rows, len(ROWS)), dtype=np.uint64)
    out[:, :2] = hash_columns(annotations.column("content_hash"))
    out[:, 2] = source_priority(annotations.column("source"), priority)
    out[:, 3:5] = pack_ids(annotations.column("doc_id"))
    out[:, 5] = places(part_of(annotations), np.asarray(annotations.column("row")), parts)
    return out


def exact_drops(rows: U64, parts: Sequence[str]) -> pa.RecordBatch:
    """`ROWS`, uint64 [n, 6], with every copy of their content -> `DROPS`, sorted by place."""
    rows = rows[np.argsort(rows[:, 5], kind="stable")]
    rows = rows[run_starts(rows[:, 5:])]  # what a retried worker wrote twice is no copy of itself
    keeper = exact_survivors(rows)
    gone = np.flatnonzero(keeper != np.arange(len(keeper)))
    dropped, kept = rows[gone], rows[keeper[gone]]
    return drops_at(parts, dropped[:, 5], dropped[:, 3:5], kept[:, 3:5], np.ones(len(gone)))


class _KeyByHashDoFn(Work):
    def __init__(self, parts: tuple[str, ...], priority: tuple[str, ...], partitions: int) -> None:
        self._parts, self._priority, self._partitions = parts, priority, partitions

    def start_bundle(self) -> None:
        self._held: list[U64] = []
        self._bytes = 0

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        self._held.append(exact_rows(batch, self._parts, self._priority))
        self._bytes += self._held[-1].nbytes
        if self._bytes > GATHERED:
            yield from self._rest()

    def finish_bundle(self) -> Iterator[Any]:
        for element in self._rest():
            yield last(element)

    def _rest(self) -> Iterator[Keyed]:
        if self._held:
            rows = np.concatenate(self._held)
            self._held, self._bytes = [], 0
            yield from split(packed_rows(rows), partition_of(rows[:, :2], self._partitions))


class _DropDoFn(Work):
    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts = parts

    def process(self, element: Grouped) -> Iterator[pa.RecordBatch]:
        drops = exact_drops(unpacked_rows(element[1], len(ROWS)), self._parts)
        if drops.num_rows:
            yield drops


class KeyHashes(beam.PTransform):
    """Annotations of whole parts (doc_id, source, row, content_hash) -> (partition, packed `ROWS`): where their copies are.

    Args:
        parts: names of all the parts, sorted.
        priority: source names, preferred first.
        partitions: of the hashes; the drops do not depend on it.
    """

    def __init__(self, parts: Sequence[str], priority: Sequence[str], partitions: int) -> None:
        super().__init__()
        self._key = _KeyByHashDoFn(tuple(parts), tuple(priority), partitions)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(self._key).with_output_types(Keyed)


class DropCopies(beam.PTransform):
    """(partition, what `KeyHashes` gives), each partition once -> `DROPS` batches."""

    def __init__(self, parts: Sequence[str]) -> None:
        super().__init__()
        self._drop = _DropDoFn(tuple(parts))

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(self._drop).with_output_types(pa.RecordBatch)


class ExactDuplicates(beam.PTransform):
    """Annotations of whole parts -> `DROPS` batches: every document whose content another one has.

    Args:
        parts, priority, partitions: see `KeyHashes`.
    """

    def __init__(self, parts: Sequence[str], priority: Sequence[str] = (), partitions: int = 1) -> None:
        super().__init__()
        self._key, self._drop = KeyHashes(parts, priority, partitions), DropCopies(parts)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | "ByHash" >> self._key | "Group" >> beam.GroupByKey() | "Drop" >> self._drop
