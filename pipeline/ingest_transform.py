"""Reading splits of sources as a Beam transform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from mixloom.pipeline.ingest.config import Source
from mixloom.pipeline.ingest.readers import read_split
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.ingest_stage import PartSize, ingest_unit
from mixloom.pipeline.run import StageDirectory
from mixloom.pipeline.stage import UnitOutput


class _ReadSplitDoFn(beam.DoFn):
    def __init__(self, roots: dict[str, str], directory: StageDirectory, size: PartSize) -> None:
        self._roots, self._directory, self._size = roots, directory, size

    def process(self, element: tuple[str, Source, Split]) -> Iterator[UnitOutput]:
        name, source, split = element
        items = read_split(split, source, self._roots[source.name])
        yield ingest_unit(name, items, self._directory, self._size)


class ReadSplits(beam.PTransform):
    """(unit name, source, split) -> one `UnitOutput` per split; its parts are written as they are read."""

    def __init__(self, roots: dict[str, str], directory: StageDirectory, size: PartSize) -> None:
        super().__init__()
        self._args = (roots, directory, size)

    def expand(self, pcoll: Any) -> Any:
        return (
            pcoll
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(_ReadSplitDoFn(*self._args)).with_output_types(UnitOutput)
        )
