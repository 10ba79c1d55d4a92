"""The curation stages as Beam transforms, each usable on its own in another pipeline.

Every element is an Arrow record batch of one part (see `engine.with_part`). The judgement lies in the pure
functions these transforms call; nothing is decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.annotate import Annotator
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.decide import Decision, RulePlan, decide, survivors_and_rejects
from mixloom.pipeline.engine import one_batch, part_of, seconds_since_start
from mixloom.pipeline.graph import Work
from mixloom.pipeline.overlay import EDITS_FOLDER, LINES_FOLDER, MEDIA_FOLDER
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.sampling import sampled
from mixloom.pipeline.stage import OutputTable, UnitOutput


class _AnnotateDoFn(Work):
    def __init__(self, annotator: Annotator, roots: dict[str, str]) -> None:
        self._annotator, self._roots = annotator, roots

    def process(self, documents: pa.RecordBatch) -> Iterator[UnitOutput]:
        yield annotation_output(documents, self._annotator, self._roots)


def annotation_output(
    documents: pa.RecordBatch, annotator: Annotator, roots: dict[str, str] | None = None
) -> UnitOutput:
    """The annotations of a part, and beside them its lines and its media as the configuration asks."""
    part, config = part_of(documents), annotator.config
    annotations = pa.Table.from_batches([annotator.annotate(documents)])
    tables = [OutputTable(part, annotations)]
    if config.lines:
        tables.append(
            OutputTable(f"{LINES_FOLDER}/{part}", pa.Table.from_batches([annotator.lines(documents)]))
        )
    if config.media is not None:
        from mixloom.pipeline.media_checks import measure_media

        items = measure_media(documents, roots or {}, config.media)
        tables.append(OutputTable(f"{MEDIA_FOLDER}/{part}", pa.Table.from_batches([items])))
    return UnitOutput(part, tuple(tables), None, documents.num_rows, seconds=seconds_since_start(documents))


class Annotate(beam.PTransform):
    """Documents (schema `DOCUMENTS`) of whole parts -> a `UnitOutput` each: annotations, lines, media.

    Args:
        roots: where each source lies, by name; needed to measure media.
    """

    def __init__(self, config: AnnotateConfig, roots: dict[str, str] | None = None) -> None:
        super().__init__()
        self._work = _AnnotateDoFn(Annotator(config), roots or {})

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(self._work).with_output_types(UnitOutput)


class _ApplyRulesDoFn(Work):
    def __init__(
        self, plan: RulePlan, stage: str, step: int, lines: PartReader | None, items: PartReader | None
    ) -> None:
        self._plan, self._stage, self._step = plan, stage, step
        self._lines, self._items = lines, items

    def process(self, annotations: pa.RecordBatch) -> Iterator[UnitOutput]:
        part = part_of(annotations)
        lines = self._lines.read(f"{LINES_FOLDER}/{part}") if self._lines is not None else None
        items = self._items.read(f"{MEDIA_FOLDER}/{part}") if self._items is not None else None
        decision = decide(annotations, self._plan, self._step, lines, items)
        yield decision_output(annotations, decision, part, self._stage)


class ApplyRules(beam.PTransform):
    """Annotations of whole parts -> a `UnitOutput` each: survivors, edits, and the ledger of the dropped.

    Args:
        plan: the rule sets. stage: its name in the ledger. step: which step of the plan.
        lines, items: where the tables of lines and of media are read, when a rule set needs them.
    """

    def __init__(
        self,
        plan: RulePlan,
        stage: str = "filter",
        step: int = 0,
        lines: PartReader | None = None,
        items: PartReader | None = None,
    ) -> None:
        super().__init__()
        self._work = _ApplyRulesDoFn(plan, stage, step, lines, items)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(self._work).with_output_types(UnitOutput)


def decision_output(
    annotations: pa.RecordBatch,
    decision: Decision,
    part: str,
    stage: str,
    tables: Sequence[OutputTable] = (),
) -> UnitOutput:
    """What a filter stage writes of a part; its info counts what every rule fires on, and the edits by reason."""
    survivors, rejects = survivors_and_rejects(annotations, decision, stage)
    info: dict[str, Any] = {"fired": decision.fired}
    out = [OutputTable(part, survivors), *tables]
    if decision.edits.num_rows:
        out.append(OutputTable(f"{EDITS_FOLDER}/{part}", decision.edits))
        info["edits"] = dict(sorted(Counter(decision.edits["reason"].to_pylist()).items()))
        info["edited_documents"] = len(decision.edits["row"].unique())
    seconds = seconds_since_start(annotations)
    return UnitOutput(part, tuple(out), rejects, survivors.num_rows, info=info, seconds=seconds)


def rows_output(batch: pa.RecordBatch) -> UnitOutput:
    """One output row per document, nothing dropped."""
    part = part_of(batch)
    table = OutputTable(part, pa.Table.from_batches([batch]))
    return UnitOutput(part, (table,), None, batch.num_rows, seconds=seconds_since_start(batch))


def sample_output(batch: pa.RecordBatch, bound: str, select: Any) -> UnitOutput:
    """What `select(batch, chosen)` takes from one part, as a part `sample/<part>`; `chosen` is the mask of the sample."""
    part = part_of(batch)
    table = pa.Table.from_batches([select(batch, sampled(batch.column("doc_id"), bound))])
    return UnitOutput(
        f"sample-{part}", (OutputTable(f"sample/{part}", table),), seconds=seconds_since_start(batch)
    )


def sample_segments(batch: pa.RecordBatch, chosen: pa.Array, media: int) -> pa.RecordBatch:
    """The texts of the sampled documents, and references to media of any document, for fitting codecs.

    Media are rare in some corpora, so they are drawn apart from the documents: from each part, the `media`
    images and as many clips with the smallest hashes.
    """
    segments = batch.column("segments").flatten()
    of = pa.array(np.repeat(np.arange(batch.num_rows), pc.list_value_length(batch.column("segments"))))
    item = segments.field("media")
    rows = pa.RecordBatch.from_pydict(
        {
            "doc_id": batch.column("doc_id").take(of),
            "source": batch.column("source").take(of),
            "kind": segments.field("kind"),
            "text": segments.field("text"),
            "uri": item.field("uri"),
            "member": item.field("member"),
            "sha256": item.field("sha256"),
            "seconds": item.field("seconds"),
        }
    )
    kinds = rows.column("kind")
    taken = [rows.filter(pc.and_(pc.equal(kinds, "text"), chosen.take(of)))]
    for kind in ("image", "speech"):
        found = rows.filter(pc.equal(kinds, kind)).sort_by([("sha256", "ascending"), ("doc_id", "ascending")])
        taken.append(found.slice(0, media))
    return one_batch(pa.Table.from_batches(taken))
