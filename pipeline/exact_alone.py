"""Exact duplicates of a corpus whose content hashes one process may hold: as `exact.ExactDuplicates`, by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.exact import exact_drops, exact_rows
from mixloom.pipeline.graph import Spread, Work
from mixloom.pipeline.settle import PartDrops, drops_by_part


class _DropDoFn(Work):
    def __init__(
        self, parts: tuple[str, ...], priority: tuple[str, ...], read: Callable[[str], pa.RecordBatch]
    ) -> None:
        self._parts, self._priority, self._read = parts, priority, read

    def process(self, impulse: bytes) -> Iterator[PartDrops]:
        rows = [exact_rows(self._read(part), self._parts, self._priority) for part in self._parts]
        yield from drops_by_part(exact_drops(np.concatenate(rows), self._parts), self._parts)


class AloneCopies(beam.PTransform):
    """Pipeline root -> (part, `DROPS` of it), every part once.

    Nothing is shuffled: a runner copies what goes through a shuffle ten times, which took longer than all the rest.

    Args:
        parts: names of all the parts, sorted.
        priority: source names, preferred first.
        read: doc_id, source, row and content_hash of a part, by its name; must be picklable.
    """

    def __init__(
        self, parts: Sequence[str], priority: Sequence[str], read: Callable[[str], pa.RecordBatch]
    ) -> None:
        super().__init__()
        self._drop = _DropDoFn(tuple(parts), tuple(priority), read)

    def expand(self, root: Any) -> Any:
        drops = "Drop" >> beam.ParDo(self._drop).with_output_types(PartDrops)
        return root | beam.Impulse() | drops | Spread()
