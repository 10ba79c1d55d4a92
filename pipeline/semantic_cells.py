"""Vectors and cells of a run, cell by cell: semantic deduplication as a Beam pipeline.

Ids, ranks and vectors go through the shuffle; a cell is bounded by `cluster.max_cell`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.dedup_config import DedupConfig
from mixloom.pipeline.doc_ids import U64, columns, pack_ids, places, run_bounds, run_starts, split
from mixloom.pipeline.embed import vectors_of
from mixloom.pipeline.engine import one_batch, with_part
from mixloom.pipeline.exact import drops_at
from mixloom.pipeline.near_rows import part_media_keys
from mixloom.pipeline.one_thread import one_thread
from mixloom.pipeline.preference import preference, source_priority
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.semantic import semantic_keepers
from mixloom.pipeline.semantic_config import SemanticConfig
from mixloom.pipeline.shuffle import Keyed

_IDS = ("rank", "hi", "lo", "place", "media_key")


def cell_rows_schema(dim: int) -> pa.Schema:
    """Schema of what `SemanticDuplicates` reads: survivor order (smaller is kept first), id, place, media, cell, vector."""
    vector = pa.list_(pa.field("item", pa.float32(), nullable=False), dim)
    return pa.schema(
        [
            *(pa.field(n, pa.uint64(), nullable=False) for n in _IDS),
            pa.field("cell", pa.int32(), nullable=False),
            pa.field("vector", vector, nullable=False),
        ]
    )


def distance_rank(distance: npt.NDArray[np.float32], far_first: bool) -> U64:
    """Survivor order by distance to the centre, float32 [n] of at least 0.0 -> uint64 [n], smaller is kept first."""
    bits = (np.maximum(distance, 0).astype(np.float32) + np.float32(0.0)).view(np.uint32)
    return (~bits if far_first else bits).astype(
        np.uint64
    )  # bits of floats that are not negative sort as they do


class _ReadDoFn(beam.DoFn):
    def __init__(
        self,
        parts: tuple[str, ...],
        vectors: PartReader,
        cells: PartReader,
        documents: PartReader,
        annotations: PartReader,
        config: SemanticConfig,
        dedup: DedupConfig,
    ) -> None:
        self._parts, self._config, self._dedup = parts, config, dedup
        self._vectors, self._cells = vectors, cells
        self._documents, self._annotations = documents, annotations

    def process(self, part: str) -> Iterator[pa.RecordBatch]:
        rows = one_batch(self._vectors.read(part, ["doc_id", "row", "vector"]))
        cells = one_batch(self._cells.read(part, ["cell", "distance"]))
        vectors = vectors_of(rows)
        schema = cell_rows_schema(vectors.shape[1])
        ids = pack_ids(rows.column("doc_id"))
        about = self._about(part, rows)
        keys = np.zeros(rows.num_rows, dtype=np.uint64)
        if self._config.media == "equal":
            keys = part_media_keys(part, about, self._documents)
        arrays = [
            pa.array(self._rank(about, cells)),
            pa.array(ids[:, 0]),
            pa.array(ids[:, 1]),
            pa.array(places(part, np.asarray(rows.column("row")), self._parts)),
            pa.array(keys),
            cells.column("cell"),
            pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.ravel(), pa.float32()), type=schema.field("vector").type
            ),
        ]
        yield with_part(pa.RecordBatch.from_arrays(arrays, schema=schema), part)

    def _about(self, part: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The annotations needed of these rows, with their ids and row numbers."""
        d = self._dedup
        names = ["source", "images", "speech_clips", d.length, *([d.quality] if d.quality else [])]
        table = self._annotations.read(part, list(dict.fromkeys(names))).take(rows.column("row"))
        for name in ("doc_id", "row"):
            table = table.append_column(name, rows.column(name))
        return one_batch(table)

    def _rank(self, about: pa.RecordBatch, cells: pa.RecordBatch) -> U64:
        if self._config.keep != "preferred":
            return distance_rank(np.asarray(cells.column("distance")), self._config.keep == "far")
        d = self._dedup
        quality = None
        if d.quality is not None:
            quality = about.column(d.quality).cast(pa.float32()).to_numpy(zero_copy_only=False)
        length = pc.fill_null(about.column(d.length), 0).to_numpy(zero_copy_only=False)
        return preference(source_priority(about.column("source"), d.priority), quality, length)


class ReadCellRows(beam.PTransform):
    """Pipeline root -> one batch per part (`cell_rows_schema`).

    Args:
        parts: names of the parts, sorted.
        vectors, cells: the stages `embed` and `cluster`, whose rows are the same documents in the same order.
        documents: their media digests are read, where there are media.
        annotations: rows of every document; what `dedup` names of them ranks documents for `keep: preferred`.
    """

    def __init__(
        self,
        parts: Sequence[str],
        vectors: PartReader,
        cells: PartReader,
        documents: PartReader,
        annotations: PartReader,
        config: SemanticConfig,
        dedup: DedupConfig,
    ) -> None:
        super().__init__()
        self._parts = list(parts)
        self._read = _ReadDoFn(tuple(parts), vectors, cells, documents, annotations, config, dedup)

    def expand(self, root: Any) -> Any:
        names = root | "Names" >> beam.Create(self._parts, reshuffle=True).with_output_types(str)
        return names | "Read" >> beam.ParDo(self._read).with_output_types(pa.RecordBatch)


class _ByCellDoFn(beam.DoFn):
    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        if batch.num_rows:
            yield from split(batch, np.asarray(batch.column("cell")).astype(np.int64))


class _CellDoFn(beam.DoFn):
    def __init__(self, parts: tuple[str, ...], limit: float) -> None:
        self._parts, self._limit = parts, limit

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
        rows = one_batch(pa.Table.from_batches([b.replace_schema_metadata(None) for b in element[1]]))
        ids = columns(rows, _IDS)
        order = np.lexsort((ids[:, 2], ids[:, 1], ids[:, 0], ids[:, 4]))  # by media, then survivor order
        ids, vectors = ids[order], vectors_of(rows)[order]
        starts, stops = run_bounds(run_starts(ids[:, 4:]))
        for start, stop in zip(starts, stops, strict=True):
            if stop - start > 1:
                yield from self._judged(ids[start:stop], vectors[start:stop])

    def _judged(self, ids: U64, vectors: npt.NDArray[np.float32]) -> Iterator[pa.RecordBatch]:
        with one_thread():
            keeper, cosine = semantic_keepers(vectors, self._limit)
        gone = np.flatnonzero(keeper != np.arange(len(keeper)))
        if len(gone):
            kept = ids[keeper[gone]]
            yield drops_at(self._parts, ids[gone, 3], ids[gone, 1:3], kept[:, 1:3], cosine[gone])


class SemanticDuplicates(beam.PTransform):
    """Batches of `cell_rows_schema` -> `DROPS` batches: documents too close to a kept one of their cell.

    Args:
        parts: names of all the parts, sorted.
        limit: cosine above which two documents are too close.
    """

    def __init__(self, parts: Sequence[str], limit: float) -> None:
        super().__init__()
        self._parts, self._limit = tuple(parts), limit

    def expand(self, pcoll: Any) -> Any:
        return (
            pcoll
            | "ByCell" >> beam.ParDo(_ByCellDoFn()).with_output_types(Keyed)
            | "Gather" >> beam.GroupByKey()
            | "Judge" >> beam.ParDo(_CellDoFn(self._parts, self._limit)).with_output_types(pa.RecordBatch)
        )
