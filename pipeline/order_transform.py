"""Vectors to one ordered path per cell, as a Beam transform."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.embed import vectors_of
from mixloom.pipeline.engine import one_batch, part_of
from mixloom.pipeline.order import ORDER, OrderConfig, order_cell
from mixloom.pipeline.stage import OutputTable, UnitOutput


def split_by(batch: pa.RecordBatch, keys: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Split a batch by an integer key per row, in key order; rows keep their order."""
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    rows = batch.take(pa.array(order))
    for i, value in enumerate(values):
        stop = starts[i + 1] if i + 1 < len(starts) else len(order)
        yield int(value), rows.slice(int(starts[i]), int(stop - starts[i]))


class _ByCellDoFn(beam.DoFn):
    """Joins a part's vectors with its cells and sends ids and half-precision vectors to the cells."""

    def __init__(self, assignments: Any, finished: frozenset[str]) -> None:
        self._assignments, self._finished = assignments, finished

    def process(self, vectors: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        part = part_of(vectors)
        table = self._assignments.read(part, ["domain", "cell"])
        half = vectors_of(vectors).astype(np.float16)
        dim = half.shape[1]
        batch = pa.RecordBatch.from_pydict(
            {
                "doc_id": vectors.column("doc_id"),
                "part": pa.array([part] * vectors.num_rows, pa.string()),
                "row": vectors.column("row"),
                "domain": table["domain"].combine_chunks(),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(half.ravel()), dim),
            }
        )
        for cell, rows in split_by(batch, np.asarray(table["cell"])):
            if cell_name(cell) not in self._finished:
                yield cell, rows


def cell_name(cell: int) -> str:
    return f"cell-{cell:06d}"


class _OrderCellDoFn(beam.DoFn):
    def __init__(self, config: OrderConfig) -> None:
        self._config = config

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[UnitOutput]:
        started = time.perf_counter()
        cell, batches = element
        rows = one_batch(pa.Table.from_batches(list(batches)).sort_by("doc_id"))
        vectors = np.asarray(rows.column("vector").flatten()).reshape(rows.num_rows, -1).astype(np.float32)
        # Half precision leaves the vectors a little off unit length; cosine needs them exact.
        norm = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(norm > 0, norm, 1.0)
        order = order_cell(vectors, rows.column("doc_id").to_pylist(), self._config)
        path = rows.take(pa.array(order.path))
        n = rows.num_rows
        table = pa.table(
            {
                "doc_id": path.column("doc_id"),
                "part": path.column("part"),
                "row": path.column("row"),
                "domain": path.column("domain"),
                "cell": pa.array(np.full(n, cell, np.int32)),
                "rank": pa.array(np.arange(n, dtype=np.int32)),
                "similarity": pa.array(order.similarity.astype(np.float32)),
            },
            schema=ORDER,
        )
        info = {**asdict(order.stats), "bound_share": order.stats.bound_share}
        output = OutputTable(cell_name(cell), table)
        yield UnitOutput(cell_name(cell), (output,), None, n, (), info, time.perf_counter() - started)


class OrderCells(beam.PTransform):
    """Vectors of every part -> one ordered path per cell (schema `ORDER`), as one unit of work per cell.

    Only ids and half-precision vectors go through the shuffle. A cell is bounded by `cluster.max_cell`.
    """

    def __init__(self, assignments: Any, config: OrderConfig, finished: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._assignments, self._config, self._finished = assignments, config, finished

    def expand(self, pcoll: Any) -> Any:
        return (
            pcoll
            | "ByCell"
            >> beam.ParDo(_ByCellDoFn(self._assignments, self._finished)).with_output_types(
                tuple[int, pa.RecordBatch]
            )
            | "Gather" >> beam.GroupByKey()
            | "Order" >> beam.ParDo(_OrderCellDoFn(self._config))
        )
