"""The output of one part of a stage that may drop documents or edit them; text is read only where something changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mixloom.pipeline.annotate import Annotator
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.edited import edited_output
from mixloom.pipeline.edits import spans_to_edits
from mixloom.pipeline.engine import read_part
from mixloom.pipeline.overlay import MEDIA_FOLDER
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.schema import SURVIVORS
from mixloom.pipeline.stage import OutputTable, UnitOutput

COLUMNS = ["doc_id", "source", "segments"]


@dataclass
class EditWriter:
    """Turns spans and drops of a part into its `UnitOutput`. Small and picklable until it is first used.

    documents, media, survivors: as they are before the stage. annotate: how changed documents are measured again.
    """

    documents: PartReader
    media: PartReader
    survivors: PartReader
    annotate: AnnotateConfig
    stage: str
    _annotator: Annotator | None = field(default=None, repr=False)

    def unchanged(self, part: str, info: dict[str, Any] | None, started: float) -> UnitOutput:
        """The part as it came in; `started` is the `time.perf_counter()` at which work on it began."""
        kept = self.survivors.read(part, SURVIVORS.names)
        seconds = time.perf_counter() - started
        return UnitOutput(part, (OutputTable(part, kept),), None, kept.num_rows, (), info, seconds)

    def changed(
        self,
        part: str,
        spans: Callable[[pa.RecordBatch], pa.Table],
        dropped: pa.Table,
        info: dict[str, Any] | None,
        started: float,
        tables: Sequence[OutputTable] = (),
    ) -> UnitOutput:
        """The part after `spans(documents)` (`SPANS`) are applied and `dropped` (`edited.DROPPED`) are gone."""
        if self._annotator is None:
            self._annotator = Annotator(self.annotate)
        batch = read_part(part, self.documents, COLUMNS, self.survivors)
        items = self.media.read(part) if f"{MEDIA_FOLDER}/{part}" in self.media else None
        edits = spans_to_edits(batch, spans(batch))
        return edited_output(
            batch,
            edits,
            dropped,
            part=part,
            stage=self.stage,
            annotator=self._annotator,
            items=items,
            tables=tables,
            info=info,
            seconds=time.perf_counter() - started,
        )
