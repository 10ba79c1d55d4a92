"""Curation as plain loops over parts, without Beam: the same functions, for comparison with the stages.

`InMemory` keeps everything between the steps in memory and writes nothing but the surviving documents. The stages below
write and read what the stages of a run do, files and checks included, so what a run takes beyond them is Beam's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mixloom.pipeline.annotate import Annotator, document_text
from mixloom.pipeline.annotate_config import AnnotateConfig, MinHashConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.decide import RulePlan, decide
from mixloom.pipeline.dedup_config import DedupConfig
from mixloom.pipeline.dedup_stage import ExactDedupStage, NearDedupStage, banding_of
from mixloom.pipeline.edits import apply_edits, changed_rows
from mixloom.pipeline.engine import ReadPart, one_batch, read_part, with_part
from mixloom.pipeline.exact import exact_drops, exact_rows
from mixloom.pipeline.filter_stage import FilterStage, _Refilter
from mixloom.pipeline.near_alone import Alone
from mixloom.pipeline.near_pairs import PairSearch
from mixloom.pipeline.near_rows import NearRowsOf, ReadTextsOf, near_rows, part_media_keys
from mixloom.pipeline.overlay import LINES_FOLDER
from mixloom.pipeline.run import PartReader, parquet_bytes
from mixloom.pipeline.settle import Settlement, drops_by_part
from mixloom.pipeline.stage import StageContext
from mixloom.pipeline.storage import Store
from mixloom.pipeline.transforms import annotation_output, decision_output
from mixloom.pipeline.verify import ReadTexts


def alone(
    read_texts: ReadTexts, parts: Sequence[str], config: DedupConfig, minhash: MinHashConfig, documents: int
) -> Alone:
    """The search for near duplicates in these parts (sorted), of so many documents, in one process."""
    near = config.near
    assert near is not None
    pairs = PairSearch.of(parts, near, minhash.num_perm, banding_of(near, minhash), documents)
    return Alone(pairs, read_texts, near, minhash.ngram)


@dataclass
class InMemory:
    """One curation: read, annotate, judge, find duplicates, write the documents that are left.

    Args:
        ingest: the documents. out: where the surviving documents are written, one file per part.
        stage: what the ledger calls the filter.
    """

    ingest: PartReader
    annotate: AnnotateConfig
    plan: RulePlan
    dedup: DedupConfig
    out: Store
    survivors: dict[str, pa.RecordBatch] = field(default_factory=dict)
    edits: dict[str, list[pa.Table]] = field(default_factory=dict)

    def run(self) -> int:
        """Do it; returns the number of surviving documents."""
        annotator = Annotator(self.annotate)
        for part in sorted(self.ingest.parts):
            self.survivors[part] = self._judged(part, annotator)
        parts = list(self.survivors)
        exact = [exact_rows(with_part(b, p), parts, self.dedup.priority) for p, b in self.survivors.items()]
        self._drop(exact_drops(np.concatenate(exact), parts))
        if self.dedup.near is not None:
            documents = sum(batch.num_rows for batch in self.survivors.values())
            search = alone(self.texts, parts, self.dedup, self.annotate.minhash, documents)
            near = (search.pairs.signed(self._near_rows(p, b)) for p, b in self.survivors.items())
            self._drop(search.drops(near))
        return sum(self._write(part) for part in self.survivors)

    def _near_rows(self, part: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        return with_part(near_rows(batch, part_media_keys(part, batch, self.ingest), self.dedup), part)

    def _judged(self, part: str, annotator: Annotator) -> pa.RecordBatch:
        """The annotations deduplication needs, of the documents of a part that pass every step of the rules."""
        documents = read_part(part, self.ingest)
        rows = pa.array(np.arange(documents.num_rows, dtype=np.int32))
        documents = documents.append_column("row", rows)
        annotations = annotator.annotate(documents).append_column("row", rows)
        lines = pa.Table.from_batches([annotator.lines(documents)]) if self.annotate.lines else None
        for step in range(self.plan.stages):
            decision = decide(annotations, self.plan, step, lines)
            documents = documents.filter(pa.array(decision.keep))
            annotations = annotations.filter(pa.array(decision.keep))
            at = changed_rows(documents, decision.edits)
            if not len(at):
                continue
            self.edits.setdefault(part, []).append(decision.edits)
            documents = apply_edits(documents, decision.edits)
            new = annotator.annotate(documents.take(pa.array(at))).replace_schema_metadata(None)
            new = new.append_column("row", documents.column("row").take(pa.array(at)))
            order = np.arange(annotations.num_rows)
            order[at] = annotations.num_rows + np.arange(len(at))
            old = annotations.replace_schema_metadata(None)
            both = pa.Table.from_batches([old, new.select(old.schema.names)])
            annotations = one_batch(both.take(pa.array(order)))
        extra = [self.dedup.length] + ([self.dedup.quality] if self.dedup.quality else [])
        needed = ["doc_id", "source", "row", "content_hash", "minhash", "images", "speech_clips", *extra]
        return annotations.select(list(dict.fromkeys(needed)))

    def _drop(self, drops: pa.RecordBatch) -> None:
        part, row = (
            np.asarray(drops.column("part").to_pylist(), dtype=object),
            np.asarray(drops.column("row")),
        )
        for name in sorted(set(part.tolist())):
            mine = self.survivors[name]
            gone = np.isin(np.asarray(mine.column("row")), row[part == name])
            self.survivors[name] = mine.filter(pa.array(~gone))

    def texts(self, part: str, rows: np.ndarray) -> pa.LargeStringArray:
        """The text of some rows of a part, with the edits so far."""
        batch = one_batch(self.ingest.read_rows(part, rows, ["segments"]))
        batch = batch.append_column("row", pa.array(np.asarray(rows, np.int32)))
        for edits in self.edits.get(part, []):
            batch = apply_edits(batch, edits)
        return document_text(batch)

    def _write(self, part: str) -> int:
        rows = self.survivors[part].column("row")
        batch = one_batch(self.ingest.read(part).take(rows).append_column("row", rows))
        for edits in self.edits.get(part, []):
            batch = apply_edits(batch, edits)
        self.out.write(f"{part}.parquet", parquet_bytes(pa.Table.from_batches([batch])))
        return batch.num_rows


class LoopAnnotate(AnnotateStage):
    """`AnnotateStage` as a loop."""

    def execute(self, ctx: StageContext) -> None:
        annotator, reader = Annotator(self.config), ctx.reader("ingest")
        for part in ctx.part_names("ingest"):
            ctx.commit(annotation_output(with_part(read_part(part, reader), part), annotator, self.roots))


class LoopFilter(FilterStage):
    """`FilterStage` as a loop."""

    def execute(self, ctx: StageContext) -> None:
        parts = ctx.part_names("annotate")
        if self.step:
            work = _Refilter(self, ctx)
            for part in parts:
                for output in work(part):
                    ctx.commit(output)
            return
        reader = ctx.reader("annotate")
        needs_lines = any(r.needs_lines for r in self.plan.rulesets(0))
        for part in parts:
            annotations = with_part(read_part(part, reader, self.plan.columns(0)), part)
            lines = reader.read(f"{LINES_FOLDER}/{part}") if needs_lines else None
            decision = decide(annotations, self.plan, 0, lines)
            ctx.commit(decision_output(annotations, decision, part, self.name))


def _settle(
    ctx: StageContext, drops: pa.RecordBatch, survivors: PartReader, reason: str, limit: float
) -> None:
    parts = ctx.part_names(ctx.stage.inputs[0])
    settlement = Settlement(frozenset(parts), survivors, ctx.annotations(), ctx.stage.name, reason, limit)
    for part, mine in drops_by_part(drops, parts):
        ctx.commit(settlement.settle(part, mine))


class LoopExact(ExactDedupStage):
    """`ExactDedupStage` as a loop."""

    def execute(self, ctx: StageContext) -> None:
        survivors, annotations = ctx.reader(self.inputs[0]), ctx.annotations()
        wanted = ["doc_id", "source", "content_hash"]
        parts = sorted(ctx.part_names(self.inputs[0]))
        read = ReadPart(annotations, wanted, survivors)
        rows = [exact_rows(read(part), parts, self.config.priority) for part in parts]
        _settle(ctx, exact_drops(np.concatenate(rows), parts), survivors, "exact_duplicate", 1.0)


class LoopNear(NearDedupStage):
    """`NearDedupStage` as a loop, in one process."""

    def execute(self, ctx: StageContext) -> None:
        survivors, annotations, documents = ctx.reader(self.inputs[0]), ctx.annotations(), ctx.documents()
        minhash = MinHashConfig(**ctx.manifest("annotate").config["minhash"])
        parts = sorted(ctx.part_names(self.inputs[0]))
        kept = ctx.manifest(self.inputs[0]).counts.kept
        search = alone(ReadTextsOf(documents), parts, self.config, minhash, kept)
        rows_of = NearRowsOf(documents, annotations, survivors, self.config)
        signed = (search.pairs.signed(rows_of(part)) for part in parts)
        _settle(ctx, search.drops(signed), survivors, "near_duplicate", self.near.threshold)
