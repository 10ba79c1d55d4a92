"""Paragraph deduplication as Beam transforms: texts -> units -> repeats -> what each part loses.

Shuffles carry hashes, ids and places; text stays where it lies.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.doc_ids import columns, concatenate, partition_of, split, unpack_ids
from mixloom.pipeline.edit_writer import COLUMNS, EditWriter
from mixloom.pipeline.edited import DROPPED
from mixloom.pipeline.engine import read_part
from mixloom.pipeline.paragraph_config import ParagraphConfig
from mixloom.pipeline.paragraphs import (
    KEYED,
    REPEATS,
    SHUFFLED,
    SLICES,
    doomed_rows,
    find_units,
    mark_repeats,
    owner_ids,
    removal_spans,
    repeat_spans,
    shuffled_units,
)
from mixloom.pipeline.run import PartReader, StageDirectory
from mixloom.pipeline.shuffle import Keyed, keyed
from mixloom.pipeline.stage import OutputTable, UnitOutput

UNITS_FOLDER, REPEATS_FOLDER, OWNERS_FOLDER = "units", "repeats", "owners"
DROP_REASON = "duplicate_text"

OWNERS = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),  # bytes of the document's text before the stage
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("copies", pa.int32(), nullable=False),
        pa.field("owner", pa.string(), nullable=False),  # doc_id of the document in which it is kept
    ]
)


def working_part(
    work: StageDirectory, unit: str, name: str, table: pa.Table, row_groups: list[int] | None, started: float
) -> UnitOutput:
    """Write a table that only this stage reads; the record of its unit says under `work` where it is."""
    part = work.write_table(f"{name}.parquet", name, table, row_groups)
    info = {"work": asdict(part)}
    return UnitOutput(unit, info=info, seconds=time.perf_counter() - started)


class _UnitsDoFn(beam.DoFn):
    def __init__(
        self, documents: PartReader, survivors: PartReader, work: StageDirectory, config: ParagraphConfig
    ) -> None:
        self._documents, self._survivors = documents, survivors
        self._work, self._config = work, config

    def process(self, part: str) -> Iterator[UnitOutput]:
        started = time.perf_counter()
        batch = read_part(part, self._documents, COLUMNS, self._survivors)
        units, groups = find_units(batch, self._config)
        name = f"{UNITS_FOLDER}/{part}"
        yield working_part(self._work, f"units-{part}", name, units, groups or None, started)


class FindUnits(beam.PTransform):
    """Names of parts -> one `UnitOutput` each: `UNITS` as `units/<part>` in `work`, a row group for each slice."""

    def __init__(
        self, documents: PartReader, survivors: PartReader, work: StageDirectory, config: ParagraphConfig
    ) -> None:
        super().__init__()
        self._find = _UnitsDoFn(documents, survivors, work, config)

    def expand(self, parts: Any) -> Any:
        return (
            parts
            | "Spread" >> beam.Reshuffle()
            | "Find" >> beam.ParDo(self._find).with_output_types(UnitOutput)
        )


class _ReadUnitsDoFn(beam.DoFn):
    def __init__(self, units: PartReader, slices: Sequence[int], partitions: int, every: bool) -> None:
        self._units, self._slices, self._partitions, self._every = units, slices, partitions, every

    def process(self, element: tuple[int, str]) -> Iterator[Keyed]:
        number, part = element
        name = f"{UNITS_FOLDER}/{part}"
        if self._every:
            tables = [self._units.read(name, list(KEYED))]
        else:
            tables = [self._units.read_where(name, "slice", s, list(KEYED))[0] for s in self._slices]
        for table in tables:
            batch = shuffled_units(table, number)
            yield from keyed(batch, partition_of(columns(batch, ("hi", "lo")), self._partitions))


class _MarkDoFn(beam.DoFn):
    """All units of some keys -> repeats, by part."""

    def __init__(self, config: ParagraphConfig) -> None:
        self._config = config

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        batch = concatenate(element[1], SHUFFLED)
        repeats = mark_repeats(batch, self._config.max_copies, self._config.within)
        if repeats.num_rows:
            yield from split(repeats, np.asarray(repeats.column("part"), dtype=np.int64))


class _AnnounceDoFn(beam.DoFn):
    """Every part is settled, also one that repeats nothing."""

    def process(self, number: int) -> Iterator[Keyed]:
        yield number, concatenate([], REPEATS)


def _by_part(repeats: Any, numbers: Sequence[int]) -> Any:
    announced = (
        repeats.pipeline
        | "Parts" >> beam.Create(list(numbers)).with_output_types(int)
        | "Announce" >> beam.ParDo(_AnnounceDoFn()).with_output_types(Keyed)
    )
    return (repeats, announced) | beam.Flatten() | "OfPart" >> beam.GroupByKey()


class _KeepRepeatsDoFn(beam.DoFn):
    def __init__(self, parts: Sequence[str], step: int, work: StageDirectory) -> None:
        self._parts, self._step, self._work = list(parts), step, work

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[UnitOutput]:
        started = time.perf_counter()
        part = self._parts[element[0]]
        table = pa.Table.from_batches([concatenate(element[1], REPEATS)])
        table = table.sort_by([("row", "ascending"), ("unit", "ascending")])
        name = repeats_name(self._step, part)
        yield working_part(self._work, f"repeats-{self._step:02d}-{part}", name, table, None, started)


def repeats_name(step: int, part: str) -> str:
    """Name of the part that holds the repeats found in one pass."""
    return f"{REPEATS_FOLDER}/{step:02d}/{part}"


class FindRepeats(beam.PTransform):
    """Pipeline root -> one `UnitOutput` per part: its `REPEATS` among the units of some slices.

    Args:
        parts: names of all parts, sorted. units: what `FindUnits` wrote.
        step, slices: which pass this is, and the slices it compares.
        work: where the repeats are written.
    """

    def __init__(
        self,
        parts: Sequence[str],
        units: PartReader,
        step: int,
        slices: Sequence[int],
        work: StageDirectory,
        config: ParagraphConfig,
    ) -> None:
        super().__init__()
        self._parts, self._units, self._work = list(parts), units, work
        self._step, self._slices, self._config = step, list(slices), config

    def expand(self, root: Any) -> Any:
        read = _ReadUnitsDoFn(self._units, self._slices, self._config.partitions, len(self._slices) == SLICES)
        repeats = (
            root
            | "Names" >> beam.Create(list(enumerate(self._parts)), reshuffle=True)
            | "Read" >> beam.ParDo(read).with_output_types(Keyed)
            | "ByText" >> beam.GroupByKey()
            | "Mark" >> beam.ParDo(_MarkDoFn(self._config)).with_output_types(Keyed)
        )
        keep = _KeepRepeatsDoFn(self._parts, self._step, self._work)
        return _by_part(repeats, range(len(self._parts))) | "Keep" >> beam.ParDo(keep).with_output_types(
            UnitOutput
        )


class _PartRepeats:
    """Repeats of a part over all passes, and the documents that lose too much."""

    def __init__(
        self,
        parts: Sequence[str],
        units: PartReader,
        repeats: PartReader,
        steps: int,
        config: ParagraphConfig,
    ) -> None:
        self.parts, self.config = list(parts), config
        self._units, self._repeats, self._steps = units, repeats, steps

    def read(self, number: int) -> tuple[pa.Table, pa.Table, dict[int, tuple[int, int]]]:
        part = self.parts[number]
        names = [repeats_name(s, part) for s in range(self._steps)]
        repeats = pa.concat_tables([self._repeats.read(n) for n in names])
        units = self._units.read(f"{UNITS_FOLDER}/{part}")
        return units, repeats, doomed_rows(units, repeats, self.config.max_removed_share)


class _AgainDoFn(beam.DoFn):
    """Repeats of documents that stay, by text: one that is dropped may own nothing."""

    def __init__(self, repeats: _PartRepeats) -> None:
        self._repeats = repeats

    def process(self, number: int) -> Iterator[Keyed]:
        _, repeats, doomed = self._repeats.read(number)
        left = _without(repeats, doomed).select(SHUFFLED.names).combine_chunks()
        for batch in left.to_batches():
            of = partition_of(columns(batch, ("hi", "lo")), self._repeats.config.partitions)
            yield from keyed(batch, of)


def _without(repeats: pa.Table, rows: Iterable[int]) -> pa.Table:
    gone = pc.is_in(repeats["row"], value_set=pa.array(sorted(rows), pa.int32()))
    return repeats.filter(pc.invert(gone))


class _SettleDoFn(beam.DoFn):
    def __init__(self, repeats: _PartRepeats, todo: frozenset[str], writer: EditWriter) -> None:
        self._repeats, self._todo, self._writer = repeats, todo, writer

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[UnitOutput]:
        started = time.perf_counter()
        number, batches = element
        part, config = self._repeats.parts[number], self._repeats.config
        if part not in self._todo:  # finished by an earlier, interrupted run
            return
        units, repeats, doomed = self._repeats.read(number)
        again = pa.Table.from_batches([concatenate(batches, REPEATS)])
        again = again.filter(again["removed"])
        copies = _copies(repeats, again)  # in the whole corpus, with those of dropped documents
        again = again.set_column(again.schema.get_field_index("copies"), REPEATS.field("copies"), copies)
        removal = removal_spans(units, again)
        info = {"units": units.num_rows, "removed_units": removal.num_rows, "dropped_documents": len(doomed)}
        if not removal.num_rows and not doomed:
            yield self._writer.unchanged(part, info, started)
            return
        owners = _owners(removal)
        tables = [OutputTable(f"{OWNERS_FOLDER}/{part}", owners)] if owners.num_rows else []
        yield self._writer.changed(
            part,
            lambda batch: repeat_spans(batch, removal, config),
            _dropped(doomed, config),
            info,
            started,
            tables,
        )


def _copies(repeats: pa.Table, again: pa.Table) -> pa.Array:
    def key(table: pa.Table) -> npt.NDArray[np.int64]:
        row, unit = (np.asarray(table[c], dtype=np.int64) for c in ("row", "unit"))
        return (row << 32) | unit

    known = key(repeats)
    order = np.argsort(known)
    at = order[np.searchsorted(known, key(again), sorter=order)]
    return repeats["copies"].take(pa.array(at)).combine_chunks()


def _owners(removal: pa.Table) -> pa.Table:
    owner = unpack_ids(owner_ids(removal))
    return pa.table([*(removal[c] for c in ("row", "start", "stop", "copies")), owner], schema=OWNERS)


def _dropped(doomed: dict[int, tuple[int, int]], config: ParagraphConfig) -> pa.Table:
    rows = [
        {
            "row": row,
            "reason": DROP_REASON,
            "value": lost / total,
            "limit": config.max_removed_share,
            "detail": f"{lost} of {total} bytes repeat other {config.unit}s of the corpus",
        }
        for row, (lost, total) in sorted(doomed.items())
    ]
    return pa.Table.from_pylist(rows, schema=DROPPED)


class SettleRepeats(beam.PTransform):
    """Pipeline root -> one `UnitOutput` for each part in `todo`: survivors, edits, owners, ledger.

    Documents that lose too much are dropped first; then what is kept is decided once more without them, so that no
    text is lost because the document that owned it was dropped.
    """

    def __init__(
        self,
        parts: Sequence[str],
        todo: Sequence[str],
        units: PartReader,
        repeats: PartReader,
        steps: int,
        config: ParagraphConfig,
        writer: EditWriter,
    ) -> None:
        super().__init__()
        self._parts = list(parts)
        self._config = config
        self._repeats = _PartRepeats(parts, units, repeats, steps, config)
        self._settle = _SettleDoFn(self._repeats, frozenset(todo), writer)

    def expand(self, root: Any) -> Any:
        numbers = range(len(self._parts))
        again = (
            root
            | "Numbers" >> beam.Create(list(numbers), reshuffle=True).with_output_types(int)
            | "Again" >> beam.ParDo(_AgainDoFn(self._repeats)).with_output_types(Keyed)
            | "ByText" >> beam.GroupByKey()
            | "Mark" >> beam.ParDo(_MarkDoFn(self._config)).with_output_types(Keyed)
        )
        return _by_part(again, numbers) | "Settle" >> beam.ParDo(self._settle).with_output_types(UnitOutput)
