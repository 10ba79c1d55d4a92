"""Stages whose edits are found in each document by itself: `noise` cuts out noise, `pii` masks personal data.

Both read the documents as they are then (after line rules), and everything after them sees what they left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.noise_config import NoiseConfig
from mixloom.pipeline.pii_config import KINDS, PiiConfig
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    from mixloom.pipeline.annotate import Annotator
    from mixloom.pipeline.run import PartReader, UnitRecord


def find_personal(texts: pa.Array, config: PiiConfig) -> tuple[pa.RecordBatch, pa.Table, dict[str, Any]]:
    """What the stage `pii` does to n texts: spans to mask, documents to drop, and how many values of each kind.

    A dropped document's value is the number of values of the kind that was above its limit, never a value itself.
    """
    from mixloom.pipeline.edited import DROPPED
    from mixloom.pipeline.pii import pii_drops, pii_edits

    spans, counts = pii_edits(texts, config)
    drops = pii_drops(counts, config)
    dropped = pa.table(
        {
            "row": drops.column("document"),
            **{c: drops.column(c) for c in ("reason", "value", "limit")},
            "detail": pa.nulls(drops.num_rows, pa.string()),
        },
    ).cast(DROPPED)
    totals = {kind: pc.sum(counts.column(f"pii_{kind}")).as_py() or 0 for kind in KINDS}
    return spans, dropped, {"found": {kind: n for kind, n in totals.items() if n}}


def find_noisy(texts: pa.Array, config: NoiseConfig) -> tuple[pa.RecordBatch, pa.Table, dict[str, Any]]:
    """What the stage `noise` does to n texts: the spans of noise go, each with its reason `noise_<kind>`."""
    from mixloom.pipeline.edited import DROPPED
    from mixloom.pipeline.noise import noise_edits

    return noise_edits(texts, config), DROPPED.empty_table(), {}


class _SpanStage(Stage):
    """Survivors -> survivors and edits, document by document."""

    version = 1
    finder: Any  # (texts, config) -> (`edits.SPANS`, `edited.DROPPED` by place in the batch, counts)

    def __init__(self, config: PiiConfig | NoiseConfig, survivors: str, annotate: AnnotateConfig) -> None:
        self.config, self.annotate = config, annotate
        self.inputs = (survivors, "annotate", "ingest")

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.annotate import Annotator
        from mixloom.pipeline.engine import Commit, ReadParts

        survivors = ctx.reader(self.inputs[0])
        parts = ctx.part_names(self.inputs[0])
        work = _Edit(type(self).finder, self.config, Annotator(self.annotate), ctx.media(), self.name)
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts), reshuffle=False)
                | ReadParts(ctx.documents(), ["doc_id", "source", "segments"], survivors)
                | "Edit" >> beam.FlatMap(work).with_output_types(UnitOutput)
                | Commit(ctx.directory)
            ),
            len(parts),
        )

    def info_of(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """`edits` by reason, `edited_documents`, and what was found, over all parts."""
        from mixloom.pipeline.edited import total_info

        return total_info([r.info for r in records])


class PiiStage(_SpanStage):
    """Masks personal data and secrets, or drops the documents that hold too many."""

    name = "pii"
    version = 2
    finder = staticmethod(find_personal)


class NoiseStage(_SpanStage):
    """Cuts out spans of noise: random characters, encoding garbage, base64, binary."""

    name = "noise"
    version = 2
    finder = staticmethod(find_noisy)


@dataclass
class _Edit:
    finder: Any
    config: PiiConfig | NoiseConfig
    annotator: Annotator
    media: PartReader
    stage: str

    def __call__(self, documents: pa.RecordBatch) -> Iterator[UnitOutput]:
        from mixloom.pipeline.annotate import document_text
        from mixloom.pipeline.edited import edited_output
        from mixloom.pipeline.edits import rows_of, spans_to_edits
        from mixloom.pipeline.engine import part_of, seconds_since_start
        from mixloom.pipeline.overlay import MEDIA_FOLDER

        part = part_of(documents)
        spans, dropped, info = self.finder(document_text(documents), self.config)
        rows = rows_of(documents)[np.asarray(dropped["row"], dtype=np.int64)]
        dropped = dropped.set_column(0, dropped.schema.field(0), pa.array(rows, pa.int32()))
        yield edited_output(
            documents,
            spans_to_edits(documents, spans),
            dropped,
            part=part,
            stage=self.stage,
            annotator=self.annotator,
            items=self.media.read(part) if f"{MEDIA_FOLDER}/{part}" in self.media else None,
            info=info,
            seconds=seconds_since_start(documents),
        )
