"""Exact deduplication: of the documents with one content hash, one is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.doc_ids import (
    I64,
    ROW_BITS,
    U64,
    concatenate,
    hash_columns,
    pack_ids,
    partition_of,
    run_starts,
    unpack_ids,
)
from mixloom.pipeline.engine import like, part_of
from mixloom.pipeline.preference import source_priority
from mixloom.pipeline.shuffle import GatherDoFn, Grouped, Keyed

F64 = npt.NDArray[np.float64]

ROWS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("content_hash", pa.binary(16), nullable=False),
        pa.field("priority", pa.int32(), nullable=False),
    ]
)
"""What `ExactDuplicates` reads of each part; the part's name is in the schema metadata."""

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

_SHUFFLED = pa.schema([*ROWS, pa.field("part", pa.string(), nullable=False)])


def drops_at(parts: Sequence[str], places: U64, ids: U64, kept_ids: U64, similarity: F64) -> pa.RecordBatch:
    """`DROPS` of documents by place (see `candidates.places`), uint64 [n], and packed ids, uint64 [n, 2]."""
    part = [parts[int(p)] for p in places >> ROW_BITS]
    row = (places & np.uint64(0xFFFFFFFF)).astype(np.int32)
    arrays = [pa.array(part, pa.string()), pa.array(row), unpack_ids(ids), unpack_ids(kept_ids)]
    return pa.RecordBatch.from_arrays([*arrays, pa.array(similarity)], schema=DROPS)


def exact_survivors(hashes: U64, ids: U64, priority: npt.NDArray[np.int32] | None = None) -> I64:
    """For each row the index of the row kept for its content, int64 [n] (its own index where it is kept).

    Of the rows with one hash the one with the lowest priority number is kept, then the smallest id; of rows
    with the same id too, the first.

    Args:
        hashes: uint64 [n, 2], content hashes.
        ids: uint64 [n, 2], packed document ids.
        priority: int32 [n], smaller is preferred; equal by default.
    """
    rank = np.zeros(len(hashes), dtype=np.int32) if priority is None else priority
    order = np.lexsort((ids[:, 1], ids[:, 0], rank, hashes[:, 1], hashes[:, 0]))
    first = run_starts(hashes[order])
    keeper = np.empty(len(hashes), dtype=np.int64)
    keeper[order] = order[first][np.cumsum(first) - 1]
    return keeper


def exact_rows(annotations: pa.RecordBatch, priority: Sequence[str]) -> pa.RecordBatch:
    """doc_id, source, row and content_hash of a part -> `ROWS`, preferring sources in this order."""
    rank = pa.array(source_priority(annotations.column("source"), priority))
    columns = [annotations.column(c) for c in ("doc_id", "row", "content_hash")]
    return like(pa.RecordBatch.from_arrays([*columns, rank], schema=ROWS), annotations)


def exact_drops(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows with every copy of their content (schema `ROWS` and `part`) -> `DROPS`, sorted by part and row."""
    rows = rows.sort_by([("part", "ascending"), ("row", "ascending")])
    keeper = exact_survivors(
        hash_columns(rows.column("content_hash")),
        pack_ids(rows.column("doc_id")),
        np.asarray(rows.column("priority")),
    )
    dropped = np.flatnonzero(keeper != np.arange(len(keeper)))
    gone = rows.take(pa.array(dropped))
    kept_id = rows.column("doc_id").take(pa.array(keeper[dropped]))
    arrays = [gone.column("part"), gone.column("row"), gone.column("doc_id"), kept_id]
    return pa.RecordBatch.from_arrays([*arrays, pa.array(np.ones(len(dropped)))], schema=DROPS)


class _KeyByHashDoFn(GatherDoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        part = pa.array([part_of(batch)] * batch.num_rows, type=pa.string())
        arrays = [batch.column(f.name) for f in ROWS]
        rows = pa.RecordBatch.from_arrays([*arrays, part], schema=_SHUFFLED)
        hashes = hash_columns(batch.column("content_hash"))
        yield from self.gathered.add(rows, partition_of(hashes, self._partitions))


class _DropDoFn(beam.DoFn):
    def process(self, element: Grouped) -> Iterator[pa.RecordBatch]:
        drops = exact_drops(concatenate(element[1], _SHUFFLED))
        if drops.num_rows:
            yield drops


class KeyHashes(beam.PTransform):
    """One `ROWS` batch per part -> (partition, batch): its documents where their copies are."""

    def __init__(self, partitions: int) -> None:
        super().__init__()
        self._partitions = partitions

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_KeyByHashDoFn(self._partitions)).with_output_types(Keyed)


class DropCopies(beam.PTransform):
    """(partition, what `KeyHashes` gives), each partition once -> `DROPS` batches."""

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_DropDoFn()).with_output_types(pa.RecordBatch)


class ExactDuplicates(beam.PTransform):
    """One `ROWS` batch per part -> `DROPS` batches: every document whose content another one has.

    Args:
        partitions: keys of the shuffle; the result does not depend on it.
    """

    def __init__(self, partitions: int = 16) -> None:
        super().__init__()
        self._partitions = partitions

    def expand(self, pcoll: Any) -> Any:
        keyed_by_hash = pcoll | "ByHash" >> KeyHashes(self._partitions)
        return keyed_by_hash | "Group" >> beam.GroupByKey() | "Drop" >> DropCopies()
