"""Drops of a deduplication written down: survivors and ledger of every part."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.doc_ids import concatenate, split
from mixloom.pipeline.exact import DROPS, JUDGED
from mixloom.pipeline.ledger import dropped_documents
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.schema import SURVIVORS
from mixloom.pipeline.shuffle import last
from mixloom.pipeline.stage import OutputTable, UnitOutput

PartDrops = tuple[str, pa.RecordBatch]


def settle_part(
    survivors: pa.Table, sources: pa.Array, drops: pa.RecordBatch, stage: str, reason: str, limit: float
) -> tuple[pa.Table, pa.Table]:
    """What is left of a part, and the ledger of what is not.

    Args:
        survivors: the part before this stage (`SURVIVORS`).
        sources: source of each of those rows.
        drops: rows of this part to drop (`DROPS` or `JUDGED`).
        stage, reason, limit: for the ledger; `JUDGED` drops have reasons and limits of their own.

    Returns:
        `SURVIVORS` and `REJECTS` tables; the detail of a reject is the id of the document kept in its place.
    """
    order = np.argsort(np.asarray(drops.column("row")), kind="stable")
    drops = drops.take(pa.array(order))
    rows = np.asarray(survivors.column("row"))
    gone = np.isin(rows, np.asarray(drops.column("row")))
    n = drops.num_rows
    if int(gone.sum()) != n:
        raise AssertionError(f"{stage}: {n} drops name {int(gone.sum())} of the documents of their part")
    at = np.flatnonzero(gone)
    at = at[np.argsort(rows[at], kind="stable")]
    judged = "reason" in drops.schema.names
    why = {
        "reason": drops.column("reason") if judged else pa.array([reason] * n, pa.string()),
        "value": drops.column("similarity"),
        "limit": drops.column("limit") if judged else pa.array(np.full(n, limit)),
        "detail": drops.column("kept_id"),
    }
    rejects = dropped_documents(drops.column("doc_id"), sources.take(pa.array(at)), stage, why)
    return survivors.filter(pa.array(~gone)).select(SURVIVORS.names).cast(SURVIVORS), rejects


class _ByPartDoFn(beam.DoFn):
    """Collects drops over a bundle, so that each part gets few batches."""

    def start_bundle(self) -> None:
        self._drops: list[pa.RecordBatch] = []

    def process(self, drops: pa.RecordBatch) -> None:
        self._drops.append(drops)

    def finish_bundle(self) -> Iterator[Any]:
        if not self._drops:
            return
        drops = concatenate(self._drops, self._drops[0].schema)
        names = drops.column("part").dictionary_encode()
        for code, rows in split(drops, np.asarray(names.indices).astype(np.int64)):
            yield last((names.dictionary[code].as_py(), rows))


class _AnnounceDoFn(beam.DoFn):
    """Every part is settled, also one that loses nothing."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def process(self, part: str) -> Iterator[PartDrops]:
        yield part, concatenate([], self._schema)


class _SettleDoFn(beam.DoFn):
    def __init__(
        self,
        todo: frozenset[str],
        survivors: PartReader,
        annotations: PartReader,
        ledger: tuple[str, str, float],
        schema: pa.Schema,
    ) -> None:
        self._todo, self._survivors, self._annotations = todo, survivors, annotations
        self._ledger, self._schema = ledger, schema

    def process(self, element: tuple[str, Iterable[pa.RecordBatch]]) -> Iterator[UnitOutput]:
        started = time.perf_counter()
        part, batches = element
        if part not in self._todo:  # finished by an earlier, interrupted run
            return
        survivors = self._survivors.read(part, SURVIVORS.names)
        sources = self._annotations.read(part, ["source"])["source"].combine_chunks()
        sources = sources.take(survivors["row"].combine_chunks())
        kept, rejects = settle_part(survivors, sources, concatenate(batches, self._schema), *self._ledger)
        seconds = time.perf_counter() - started
        yield UnitOutput(part, (OutputTable(part, kept),), rejects, kept.num_rows, seconds=seconds)


class Settle(beam.PTransform):
    """`DROPS` batches -> one `UnitOutput` for each part in `todo`: its survivors and its rejects.

    Args:
        todo: names of the parts.
        survivors: the deciding stage before this one.
        annotations: rows of every document with its source.
        stage, reason, limit: for the ledger.
        judged: the drops are of schema `JUDGED`: they state reason and limit themselves.
    """

    def __init__(
        self,
        todo: Sequence[str],
        survivors: PartReader,
        annotations: PartReader,
        stage: str,
        reason: str = "",
        limit: float = 0.0,
        judged: bool = False,
    ) -> None:
        super().__init__()
        self._todo = sorted(todo)
        self._schema = JUDGED if judged else DROPS
        ledger = (stage, reason, limit)
        self._settle = _SettleDoFn(frozenset(todo), survivors, annotations, ledger, self._schema)

    def expand(self, pcoll: Any) -> Any:
        drops = pcoll | "ByPart" >> beam.ParDo(_ByPartDoFn()).with_output_types(PartDrops)
        parts = (
            pcoll.pipeline
            | "Parts" >> beam.Create(self._todo).with_output_types(str)
            | "Announce" >> beam.ParDo(_AnnounceDoFn(self._schema)).with_output_types(PartDrops)
        )
        return (
            (drops, parts)
            | beam.Flatten()
            | "OfPart" >> beam.GroupByKey()
            | "Settle" >> beam.ParDo(self._settle)
        )
