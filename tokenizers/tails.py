"""The ends of cells, packed together.

Every cell of a domain leaves contexts that nothing more could be put into. Their documents are packed once more, those of
neighbouring cells one after another, so that a domain ends with one badly filled context and not each of its cells.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.packing import pack
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.tokenizers.pack import TAILS_FOLDER, Pieces, contexts_table, facts, shuffle_keys, spans_of
from mixloom.tokenizers.stages import ShardsConfig, domain_name

SEVERAL = -1  # stands for the cell of a context of several
_LOOK_AHEAD = 1024  # pieces
_KEYS = 1 << 31  # no cell has such a number; the domain is added to it


@dataclass(frozen=True, slots=True)
class TailSpec:
    """The cells of a domain that left tails, neighbours in a row."""

    domain: int
    cells: tuple[str, ...]

    @property
    def unit(self) -> str:
        return domain_name(self.domain)


def join_tails(spec: TailSpec, tails: PartReader, config: ShardsConfig) -> UnitOutput:
    """Pack the tails of a domain into contexts (schema `CONTEXTS`)."""
    started = time.perf_counter()
    tables = [tails.read(f"{TAILS_FOLDER}/{cell}") for cell in spec.cells]
    table = pa.concat_tables(tables)
    # Groups are numbered inside their cell: apart from another's they are by the number of the cell.
    cell = np.repeat(np.arange(len(tables)), [t.num_rows for t in tables])
    group = np.asarray(table["group"], np.int64)
    apart = np.where(group < 0, -1, cell * (group.max(initial=0) + 1) + group)
    start = np.asarray(table["start"], np.int64)
    length = np.asarray(table["stop"], np.int64) - start
    pieces = Pieces(
        table.select(["doc_id", "part", "row", "copy"]), start, length, spans_of(table["blocks"]), apart
    )
    window = config.window_of(spec.domain)
    if window > 1:  # near duplicates that no context of their cell could take lie side by side here
        window = max(window, _LOOK_AHEAD)
    plan = pack(length, config.seq_len, window, pieces.blocks, pieces.groups)
    keys = shuffle_keys(config.seed, _KEYS + spec.domain, len(plan))
    output = OutputTable(spec.unit, contexts_table(plan, pieces, spec.domain, SEVERAL, keys))
    # Its documents were counted with their cells.
    seconds = time.perf_counter() - started
    return UnitOutput(spec.unit, (output,), None, 0, (), facts(plan, spec.domain), seconds)


class JoinTails(beam.PTransform):
    """`TailSpec` -> one `UnitOutput` of contexts per domain."""

    def __init__(self, tails: PartReader, config: ShardsConfig) -> None:
        super().__init__()
        self._args = (tails, config)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | "Spread" >> beam.Reshuffle() | "Join" >> beam.ParDo(_JoinDoFn(*self._args))


class _JoinDoFn(beam.DoFn):
    def __init__(self, tails: PartReader, config: ShardsConfig) -> None:
        self._tails, self._config = tails, config

    def process(self, spec: TailSpec) -> Iterator[UnitOutput]:
        yield join_tails(spec, self._tails, self._config)
