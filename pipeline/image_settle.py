"""The fates of images written down: survivors, edits and ledger of every part."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.annotate import Annotator
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.doc_ids import U64, columns, concatenate, id_batch
from mixloom.pipeline.edited import edited_output
from mixloom.pipeline.engine import read_part
from mixloom.pipeline.image_dedup import FATES, OVERUSED, REPEATED, PartFacts, settle_images
from mixloom.pipeline.image_dedup_config import ImageDedupConfig
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.schema import SURVIVORS
from mixloom.pipeline.shuffle import Keyed
from mixloom.pipeline.stage import OutputTable, UnitOutput

Readers = tuple[PartReader, PartReader, PartReader, PartReader]
"""Documents, annotations, media measures and survivors, as they are before the stage."""


def part_facts(annotations: pa.Table) -> PartFacts:
    """What `settle_images` asks of the documents of a part (doc_id, words, images, speech_clips)."""

    def numbers(name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.asarray(annotations[name], dtype=np.int64)

    ids = annotations["doc_id"].combine_chunks()
    return PartFacts(ids, numbers("words"), numbers("speech_clips"), numbers("images"))


class _AnnounceDoFn(beam.DoFn):
    """Every part is settled, also one that loses nothing."""

    def process(self, index: int) -> Iterator[Keyed]:
        yield index, id_batch(FATES, np.empty((0, len(FATES)), np.uint64))


class _SettleDoFn(beam.DoFn):
    def __init__(
        self,
        parts: Sequence[str],
        todo: frozenset[str],
        readers: Readers,
        config: ImageDedupConfig,
        annotate: AnnotateConfig,
        stage: str,
    ) -> None:
        self._parts, self._todo, self._readers = list(parts), todo, readers
        self._config, self._annotate, self._stage = config, annotate, stage
        self._annotator: Annotator | None = None

    def setup(self) -> None:
        self._annotator = Annotator(self._annotate)

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[UnitOutput]:
        part = self._parts[element[0]]
        if part in self._todo:  # else finished by an earlier, interrupted run
            yield self._output(part, columns(concatenate(element[1], FATES), FATES.names))

    def _output(self, part: str, found: U64) -> UnitOutput:
        started = time.perf_counter()
        documents, annotations, media, survivors = self._readers
        info: dict[str, Any] = {
            "repeated_images": int((found[:, 3] == REPEATED).sum()),
            "overused_images": int((found[:, 3] == OVERUSED).sum()),
        }
        facts = part_facts(annotations.read(part, ["doc_id", "words", "images", "speech_clips"]))
        edits, dropped = settle_images(found, facts, self._config)
        if not edits.num_rows and not dropped.num_rows:
            kept = survivors.read(part, SURVIVORS.names)
            seconds = time.perf_counter() - started
            return UnitOutput(part, (OutputTable(part, kept),), None, kept.num_rows, (), info, seconds)
        output = edited_output(
            read_part(part, documents, ["doc_id", "source", "segments"], survivors),
            edits,
            dropped,
            part=part,
            stage=self._stage,
            annotator=self._annotator,
            items=media.read(part),
            info=info,
            seconds=time.perf_counter() - started,
        )
        return output


class SettleImages(beam.PTransform):
    """(index of a part, `FATES`) -> one `UnitOutput` for each part in `todo`.

    Args:
        parts: names of all the parts, sorted; todo: those to be written.
        readers: documents, annotations, media measures and survivors before this stage.
        annotate: how documents that lose an image are measured again.
        stage: for the ledger.
    """

    def __init__(
        self,
        parts: Sequence[str],
        todo: Sequence[str],
        readers: Readers,
        config: ImageDedupConfig,
        annotate: AnnotateConfig,
        stage: str,
    ) -> None:
        super().__init__()
        wanted = frozenset(todo)
        self._announced = [i for i, part in enumerate(parts) if part in wanted]
        self._settle = _SettleDoFn(parts, wanted, readers, config, annotate, stage)

    def expand(self, pcoll: Any) -> Any:
        announced = (
            pcoll.pipeline
            | "Parts" >> beam.Create(self._announced).with_output_types(int)
            | "Announce" >> beam.ParDo(_AnnounceDoFn()).with_output_types(Keyed)
        )
        return (
            (pcoll, announced)
            | "FatesAndParts" >> beam.Flatten()
            | "FatesOfPart" >> beam.GroupByKey()
            | "Settle" >> beam.ParDo(self._settle).with_output_types(UnitOutput)
        )
