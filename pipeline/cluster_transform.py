"""Vectors to domains and cells as Beam transforms, by fitted and saved domains; and how many documents cells get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.cell_cuts import KeyRanges, cell_keys, range_counts
from mixloom.pipeline.cluster import Domains, assign_batch
from mixloom.pipeline.embed import vectors_of
from mixloom.pipeline.engine import like, part_of, seconds_since_start
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.pipeline.storage import Store


class _AssignDoFn(beam.DoFn):
    def __init__(self, model: Store) -> None:
        self._store = model
        self._model: Domains | None = None

    def setup(self) -> None:
        self._model = Domains.load(self._store.root)

    def process(self, vectors: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        assert self._model is not None
        yield like(assign_batch(self._model, vectors), vectors)


class AssignDomains(beam.PTransform):
    """Vectors -> nearest domain and cell (schema `DOMAINS`), by a fitted and saved model."""

    def __init__(self, model: Store) -> None:
        super().__init__()
        self._model = model

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_AssignDoFn(self._model)).with_output_types(pa.RecordBatch)


def domains_output(batch: pa.RecordBatch, documents: PartReader) -> UnitOutput:
    """The rows of one part, and how many of its documents each domain has from each source."""
    part = part_of(batch)
    sources = documents.read(part, ["source"])["source"].take(batch.column("row")).to_pylist()
    counts = Counter(zip(batch.column("domain").to_pylist(), sources, strict=True))
    info = {"sources": [[domain, source, n] for (domain, source), n in sorted(counts.items())]}
    table = OutputTable(part, pa.Table.from_batches([batch]))
    return UnitOutput(part, (table,), None, batch.num_rows, (), info, seconds_since_start(batch))


class _CountDoFn(beam.DoFn):
    def __init__(self, model: Store, ranges: KeyRanges | None) -> None:
        self._store, self._ranges = model, ranges
        self._model: Domains | None = None

    def setup(self) -> None:
        self._model = Domains.load(self._store.root)

    def process(self, batch: pa.RecordBatch) -> Iterator[tuple[int, int]]:
        assert self._model is not None
        vectors, text = vectors_of(batch), batch.column("has_text").to_numpy(zero_copy_only=False)
        cell = self._model.place(vectors, text)[1]
        if self._ranges is None:
            bins, counts = np.unique(cell, return_counts=True)
        else:
            rows = np.flatnonzero(np.isin(cell, self._ranges.cell))
            ids = batch.column("doc_id").take(pa.array(rows)).to_pylist()
            keys = cell_keys(vectors[rows], cell[rows], self._model.axes, ids)
            bins, counts = range_counts(keys, cell[rows], self._ranges)
        yield from zip(bins.tolist(), counts.tolist(), strict=True)


def _counts_output(counts: list[tuple[int, int]], unit: str) -> UnitOutput:
    counts = sorted(counts)
    columns = [pa.array([c[i] for c in counts], pa.int64()) for i in range(2)]
    return UnitOutput(unit, (OutputTable(f"counts/{unit}", pa.table(columns, ["bin", "documents"])),))


class CountCells(beam.PTransform):
    """Vectors -> one unit `name` with a table (bin, documents), by bin: documents of every cell before it is cut, or
    of every digit of the open `ranges` of keys (`cell_cuts.range_counts`). Only counts leave a part."""

    def __init__(self, model: Store, name: str, ranges: KeyRanges | None = None) -> None:
        super().__init__()
        self._name = name
        self._count = _CountDoFn(model, None if ranges is None else replace(ranges, leaves=(), counts={}))

    def expand(self, pcoll: Any) -> Any:
        pairs = pcoll | "Count" >> beam.ParDo(self._count).with_output_types(tuple[int, int])
        sums = pairs | "Sum" >> beam.CombinePerKey(sum).with_output_types(tuple[int, int])
        return (
            sums | "Gather" >> beam.combiners.ToList() | "Table" >> beam.Map(_counts_output, unit=self._name)
        )
