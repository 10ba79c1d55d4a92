"""Vectors to one ordered path per cell, as a Beam transform."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.embed import vectors_of
from mixloom.pipeline.engine import one_batch, part_of
from mixloom.pipeline.order import VECTORS_FOLDER
from mixloom.pipeline.order_config import OrderConfig
from mixloom.pipeline.order_rows import order_rows
from mixloom.pipeline.questions import names_and_links
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.stage import OutputTable, UnitOutput


def split_by(batch: pa.RecordBatch, keys: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Split a batch by an integer key per row, in key order; rows keep their order."""
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    rows = batch.take(pa.array(order))
    for i, value in enumerate(values):
        stop = starts[i + 1] if i + 1 < len(starts) else len(order)
        yield int(value), rows.slice(int(starts[i]), int(stop - starts[i]))


def cell_name(cell: int) -> str:
    return f"cell-{cell:06d}"


@dataclass(frozen=True, slots=True)
class OrderInputs:
    """What the order of cells is made from, beside the vectors.

    assignments: parts with domain and cell, row by row beside the vectors. documents: parts of ingest, needed for
    questions. annotations: needed to repeat long documents.
    """

    assignments: PartReader
    documents: PartReader | None = None
    annotations: PartReader | None = None


@dataclass(frozen=True, slots=True)
class CellShare:
    """The cells that are ordered in one pass: those with cell % of == number, without the finished ones (by name)."""

    number: int = 0
    of: int = 1
    finished: frozenset[str] = frozenset()

    def holds(self, cells: np.ndarray) -> np.ndarray:
        """Which of these cells (int [n]) are in the share, bool [n]."""
        there, at = np.unique(cells, return_inverse=True)
        mine = [c % self.of == self.number and cell_name(c) not in self.finished for c in there.tolist()]
        return np.array(mine, bool)[at]


class _ByCellDoFn(beam.DoFn):
    """Joins a part's vectors with its cells and sends ids and half-precision vectors to the cells."""

    def __init__(self, inputs: OrderInputs, config: OrderConfig, share: CellShare) -> None:
        self._inputs, self._config, self._share = inputs, config, share

    def process(self, vectors: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        part = part_of(vectors)
        table = self._inputs.assignments.read(part, ["domain", "cell"])
        cells = np.asarray(table["cell"])
        mine = self._share.holds(cells)
        if not mine.any():
            return
        half = vectors_of(vectors).astype(np.float16)
        columns = {
            "doc_id": vectors.column("doc_id"),
            "part": pa.array([part] * vectors.num_rows, pa.string()),
            "row": vectors.column("row"),
            "domain": table["domain"].combine_chunks(),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(half.ravel()), half.shape[1]),
            **self._beside(part, np.asarray(vectors.column("row"))),
        }
        batch = pa.RecordBatch.from_pydict(columns).filter(pa.array(mine))
        yield from split_by(batch, cells[mine])

    def _beside(self, part: str, rows: np.ndarray) -> dict[str, pa.Array]:
        """What some settings need to know of the documents."""
        out: dict[str, pa.Array] = {}
        if self._config.questions is not None:
            assert self._inputs.documents is not None
            wanted = ["doc_id", "locator", "meta"]
            batch = one_batch(self._inputs.documents.read_rows(part, rows, wanted))
            names, links = names_and_links(batch, self._config.questions)
            out |= {"name": pa.array(names, pa.string()), "link": pa.array(links, pa.string())}
        if self._config.upsample_long is not None:
            assert self._inputs.annotations is not None
            measured = self._inputs.annotations.read_rows(part, rows, ["text_chars"])
            out["characters"] = measured["text_chars"].combine_chunks()
        return out


class _OrderCellDoFn(beam.DoFn):
    def __init__(self, config: OrderConfig, threads: int) -> None:
        self._config, self._threads = config, threads

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[UnitOutput]:
        started = time.perf_counter()
        cell, batches = element
        rows = one_batch(pa.Table.from_batches(list(batches)).sort_by("doc_id"))
        table, vectors, info = order_rows(rows, cell, self._config, self._threads)
        name = cell_name(cell)
        outputs = [OutputTable(name, table)]
        if self._config.keep_vectors:
            outputs.append(OutputTable(f"{VECTORS_FOLDER}/{name}", vectors))
        seconds = time.perf_counter() - started
        yield UnitOutput(name, tuple(outputs), None, rows.num_rows, (), info, seconds)


class OrderCells(beam.PTransform):
    """Vectors of every part -> one ordered path per cell (schema `ORDER`), as one unit of work per cell.

    Only ids and half-precision vectors go through the shuffle. A cell is bounded by `cluster.max_cell`. `threads` of the
    search work on one cell together, and change no bit of it.
    """

    def __init__(
        self,
        inputs: OrderInputs,
        config: OrderConfig,
        share: CellShare | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__()
        self._inputs, self._config, self._threads = inputs, config, threads
        self._share = share or CellShare()

    def expand(self, pcoll: Any) -> Any:
        return (
            pcoll
            | "ByCell"
            >> beam.ParDo(_ByCellDoFn(self._inputs, self._config, self._share)).with_output_types(
                tuple[int, pa.RecordBatch]
            )
            | "Gather" >> beam.GroupByKey()
            | "Order" >> beam.ParDo(_OrderCellDoFn(self._config, self._threads)).with_output_types(UnitOutput)
        )
