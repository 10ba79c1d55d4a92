"""Drops of a deduplication written down: survivors and ledger of every part."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.doc_ids import concatenate, split
from mixloom.pipeline.exact import DROPS, JUDGED
from mixloom.pipeline.graph import Given, Work
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
    rows, dropped = np.asarray(survivors.column("row")), np.asarray(drops.column("row"))
    is_dropped = np.zeros(int(max(rows.max(initial=-1), dropped.max(initial=-1))) + 1, dtype=np.bool_)
    is_dropped[dropped] = True
    gone = is_dropped[rows]
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


def drops_by_part(drops: pa.RecordBatch, parts: Iterable[str] = ()) -> Iterator[PartDrops]:
    """`DROPS` or `JUDGED` by part; for every one of `parts`, also one that loses nothing."""
    names = drops.column("part").dictionary_encode()
    found = {
        names.dictionary[code].as_py(): rows
        for code, rows in split(drops, np.asarray(names.indices).astype(np.int64))
    }
    nothing = drops.slice(0, 0)
    yield from found.items()
    yield from ((part, nothing) for part in parts if part not in found)


class _ByPartDoFn(Work):
    """Collects drops over a bundle, so that each part gets few batches."""

    def start_bundle(self) -> None:
        self._drops: list[pa.RecordBatch] = []

    def process(self, drops: pa.RecordBatch) -> None:
        self._drops.append(drops)

    def finish_bundle(self) -> Iterator[Any]:
        if self._drops:
            for element in drops_by_part(concatenate(self._drops, self._drops[0].schema)):
                yield last(element)


class _AnnounceDoFn(Work):
    """Every part is settled, also one that loses nothing."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def process(self, part: str) -> Iterator[PartDrops]:
        yield part, concatenate([], self._schema)


@dataclass(frozen=True)
class Settlement:
    """How the parts of a stage are settled.

    Attributes:
        todo: names of the parts; others are left out (finished by an earlier, interrupted run).
        survivors: the deciding stage before this one.
        annotations: rows of every document with its source.
        stage, reason, limit: for the ledger.
        judged: the drops are of schema `JUDGED`: they state reason and limit themselves.
    """

    todo: frozenset[str]
    survivors: PartReader
    annotations: PartReader
    stage: str
    reason: str = ""
    limit: float = 0.0
    judged: bool = False

    @property
    def schema(self) -> pa.Schema:
        """That of the drops."""
        return JUDGED if self.judged else DROPS

    def settle(self, part: str, drops: pa.RecordBatch) -> UnitOutput:
        """A part, without these documents of it."""
        started = time.perf_counter()
        survivors = self.survivors.read(part, SURVIVORS.names)
        kept, rejects = survivors.cast(SURVIVORS), None
        if drops.num_rows:
            sources = self.annotations.read(part, ["source"])["source"].combine_chunks()
            sources = sources.take(survivors["row"].combine_chunks())
            kept, rejects = settle_part(survivors, sources, drops, self.stage, self.reason, self.limit)
        seconds = time.perf_counter() - started
        return UnitOutput(part, (OutputTable(part, kept),), rejects, kept.num_rows, seconds=seconds)


class _SettleDoFn(Work):
    def __init__(self, settlement: Settlement) -> None:
        self._settlement = settlement

    def process(self, element: tuple[str, pa.RecordBatch | Iterable[pa.RecordBatch]]) -> Iterator[UnitOutput]:
        part, drops = element
        if part in self._settlement.todo:
            one = drops if isinstance(drops, pa.RecordBatch) else concatenate(drops, self._settlement.schema)
            yield self._settlement.settle(part, one)


class Settle(beam.PTransform):
    """`DROPS` batches -> one `UnitOutput` for each part to do: its survivors and its rejects.

    Args:
        todo: names of the parts.
        survivors, annotations, stage, reason, limit, judged: see `Settlement`.
    """

    def __init__(
        self,
        todo: Iterable[str],
        survivors: PartReader,
        annotations: PartReader,
        stage: str,
        reason: str = "",
        limit: float = 0.0,
        judged: bool = False,
    ) -> None:
        super().__init__()
        self._how = Settlement(frozenset(todo), survivors, annotations, stage, reason, limit, judged)

    @classmethod
    def of(cls, how: Settlement) -> Settle:
        """The transform for a settlement."""
        return cls(how.todo, how.survivors, how.annotations, how.stage, how.reason, how.limit, how.judged)

    def expand(self, pcoll: Any) -> Any:
        drops = pcoll | "ByPart" >> beam.ParDo(_ByPartDoFn()).with_output_types(PartDrops)
        announce = beam.ParDo(_AnnounceDoFn(self._how.schema)).with_output_types(PartDrops)
        todo = Given(sorted(self._how.todo), spread=False)
        parts = pcoll.pipeline | "Parts" >> todo | "Announce" >> announce
        return (
            (drops, parts)
            | beam.Flatten()
            | "OfPart" >> beam.GroupByKey()
            | "Settle" >> beam.ParDo(_SettleDoFn(self._how)).with_output_types(UnitOutput)
        )


class SettleParts(beam.PTransform):
    """(part, all `DROPS` of it), every part once -> one `UnitOutput` for each part to do; as `Settle` without a shuffle."""

    def __init__(self, settlement: Settlement) -> None:
        super().__init__()
        self._settle = _SettleDoFn(settlement)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(self._settle).with_output_types(UnitOutput)
