"""Exact duplicates of a corpus whose content hashes one process may hold: as `exact.ExactDuplicates`, by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from mixloom.pipeline.doc_ids import unpacked_rows
from mixloom.pipeline.exact import ROWS, KeyHashes, exact_drops
from mixloom.pipeline.graph import Spread, Work
from mixloom.pipeline.settle import PartDrops, drops_by_part
from mixloom.pipeline.shuffle import Grouped


class _DropDoFn(Work):
    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts = parts

    def process(self, element: Grouped) -> Iterator[PartDrops]:
        yield from drops_by_part(exact_drops(unpacked_rows(element[1], len(ROWS)), self._parts), self._parts)


class AloneCopies(beam.PTransform):
    """Annotations of whole parts (doc_id, source, row, content_hash) -> (part, `DROPS` of it), every part once.

    Args:
        parts: names of all the parts, sorted.
        priority: source names, preferred first.
    """

    def __init__(self, parts: Sequence[str], priority: Sequence[str]) -> None:
        super().__init__()
        self._key, self._drop = KeyHashes(parts, priority, 1), _DropDoFn(tuple(parts))

    def expand(self, pcoll: Any) -> Any:
        return (
            pcoll
            | "ByHash" >> self._key
            | "Together" >> beam.GroupByKey()
            | "Drop" >> beam.ParDo(self._drop).with_output_types(PartDrops)
            | Spread()
        )
