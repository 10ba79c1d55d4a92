"""Curation as plain loops over parts, without Beam: the same functions, for comparison with the stages.

`InMemory` keeps everything between the steps in memory and writes nothing but the surviving documents. The stages below
write and read what the stages of a run do, files and checks included, so what a run takes beyond them is Beam's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from mixloom.pipeline.annotate import Annotator, document_text
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.candidates import bucket_keys, bucket_pairs, places, signature_matrix, sorted_buckets
from mixloom.pipeline.components import components_local
from mixloom.pipeline.decide import RulePlan, decide
from mixloom.pipeline.dedup_config import DedupConfig
from mixloom.pipeline.dedup_stage import ExactDedupStage, NearDedupStage, banding_of
from mixloom.pipeline.doc_ids import ROW_BITS, U64, columns, concatenate, pack_ids
from mixloom.pipeline.edits import apply_edits, changed_rows
from mixloom.pipeline.engine import one_batch, read_part, with_part
from mixloom.pipeline.exact import DROPS, ROWS, drops_at, exact_drops, exact_rows
from mixloom.pipeline.filter_stage import FilterStage, _Refilter
from mixloom.pipeline.near import roots_of
from mixloom.pipeline.near_rows import ReadTextsOf, near_rows, part_media_keys
from mixloom.pipeline.overlay import LINES_FOLDER
from mixloom.pipeline.run import PartReader, parquet_bytes
from mixloom.pipeline.schema import SURVIVORS
from mixloom.pipeline.settle import settle_part
from mixloom.pipeline.signatures import shingle_sets
from mixloom.pipeline.stage import OutputTable, StageContext, UnitOutput
from mixloom.pipeline.storage import Store
from mixloom.pipeline.survivors import greedy_keepers, sorted_members
from mixloom.pipeline.transforms import annotation_output, decision_output
from mixloom.pipeline.verify import SKETCHES, ReadTexts, Sets, sketch, verified_edges

NamedBatch = tuple[str, pa.RecordBatch]


def exact_duplicates(rows: Sequence[NamedBatch]) -> pa.RecordBatch:
    """`DROPS` of the documents whose content another one has. rows: the part and its batch of schema `exact.ROWS`."""
    named = pa.schema([*ROWS, pa.field("part", pa.string(), nullable=False)])
    batches = [
        pa.RecordBatch.from_arrays([*b.columns, pa.array([part] * b.num_rows, pa.string())], schema=named)
        for part, b in rows
    ]
    return exact_drops(concatenate(batches, named))


def near_duplicates(
    rows: Sequence[NamedBatch], read_texts: ReadTexts, config: DedupConfig, minhash: Any
) -> pa.RecordBatch:
    """`DROPS` of near duplicates; what `near.NearDuplicates` finds, in one process.

    Args:
        rows: every part, sorted by name, with its batch of columns `candidates.ROWS`.
        minhash: the configuration of the signatures.
    """
    near = config.near
    assert near is not None
    bands, per_band = banding_of(near, minhash)
    parts = [part for part, _ in rows]
    buckets, documents = [], []
    for part, batch in rows:
        signatures, alive = signature_matrix(batch.column("minhash"))
        place = places(part, np.asarray(batch.column("row")), parts)[alive]
        ids = pack_ids(batch.column("doc_id"))[alive]
        better = columns(batch, ["preference"])[alive]
        keys = bucket_keys(signatures, columns(batch, ["media_key"])[alive, 0], bands, per_band)
        who = np.concatenate([better, ids, place[:, None]], axis=1)
        documents.append(who)
        flat = np.empty((len(alive), bands, 5), np.uint64)
        flat[:, :, 0], flat[:, :, 1:] = keys, who[:, None, :]
        buckets.append(flat.reshape(-1, 5))
    ordered = sorted_buckets(np.concatenate(buckets))
    pairs = bucket_pairs(ordered, near.bucket_cap, near.leaders, near.neighbours)
    sets = _sets_of(pairs, read_texts, parts, minhash.ngram, near.max_shingles)
    edges, similarity = verified_edges(pairs[:, [0, 1, 3, 4]], sets, near.threshold)
    if not len(edges):
        return concatenate([], DROPS)
    everyone = np.concatenate(documents)
    root, found = roots_of(everyone[:, 1:3], _with_roots(components_local(edges)))
    members = sorted_members(np.concatenate([root[found], everyone[found]], axis=1))
    keeper, jaccard = greedy_keepers(members, edges, similarity, sets, near.compare_cap, near.threshold)
    gone = np.flatnonzero(keeper != np.arange(len(keeper)))
    dropped, kept = members[gone], members[keeper[gone]]
    return drops_at(parts, dropped[:, 5], dropped[:, 3:5], kept[:, 3:5], jaccard[gone])


def _with_roots(stars: U64) -> U64:
    """Components with their smallest node as a member of its own."""
    return np.unique(np.concatenate([stars, stars[:, [2, 3, 2, 3]]]), axis=0)


def _sets_of(pairs: U64, read_texts: ReadTexts, parts: list[str], ngram: int, most: int) -> Sets:
    """Shingle sets of every document of these pairs (schema `candidates.PAIRS`)."""
    both = np.unique(np.concatenate([pairs[:, [2, 0, 1]], pairs[:, [5, 3, 4]]]), axis=0)
    part = (both[:, 0] >> ROW_BITS).astype(np.int64)
    made = []
    for k in np.unique(part).tolist():
        mine = both[part == k]
        texts = read_texts(parts[k], (mine[:, 0] & np.uint64(0xFFFFFFFF)).astype(np.int32))
        hashes, sizes = sketch(shingle_sets(texts, ngram), most)
        arrays = [pa.array(mine[:, 1]), pa.array(mine[:, 2]), pa.array(sizes), hashes]
        made.append(pa.RecordBatch.from_arrays(arrays, schema=SKETCHES))
    return Sets(concatenate(made, SKETCHES))


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
        exact = [(part, exact_rows(b, self.dedup.priority)) for part, b in self.survivors.items()]
        self._drop(exact_duplicates(exact))
        if self.dedup.near is not None:
            near = [
                (part, near_rows(b, part_media_keys(part, b, self.ingest), self.dedup))
                for part, b in self.survivors.items()
            ]
            self._drop(near_duplicates(near, self.texts, self.dedup, self.annotate.minhash))
        return sum(self._write(part) for part in self.survivors)

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
    annotations, stage = ctx.annotations(), ctx.stage.name
    of = np.asarray(drops.column("part").to_pylist(), dtype=object)
    for part in sorted(ctx.part_names(ctx.stage.inputs[0])):
        alive = survivors.read(part, SURVIVORS.names)
        sources = annotations.read(part, ["source"])["source"].combine_chunks()
        sources = sources.take(alive["row"].combine_chunks())
        mine = drops.take(pa.array(np.flatnonzero(of == part)))
        kept, rejects = settle_part(alive, sources, mine, stage, reason, limit)
        ctx.commit(UnitOutput(part, (OutputTable(part, kept),), rejects, kept.num_rows))


class LoopExact(ExactDedupStage):
    """`ExactDedupStage` as a loop."""

    def execute(self, ctx: StageContext) -> None:
        survivors, annotations = ctx.reader(self.inputs[0]), ctx.annotations()
        wanted = ["doc_id", "source", "content_hash"]

        def rows() -> Iterator[NamedBatch]:
            for part in ctx.part_names(self.inputs[0]):
                yield part, exact_rows(read_part(part, annotations, wanted, survivors), self.config.priority)

        _settle(ctx, exact_duplicates(list(rows())), survivors, "exact_duplicate", 1.0)


class LoopNear(NearDedupStage):
    """`NearDedupStage` as a loop, in one process."""

    def execute(self, ctx: StageContext) -> None:
        from mixloom.pipeline.annotate_config import MinHashConfig

        survivors, annotations, documents = ctx.reader(self.inputs[0]), ctx.annotations(), ctx.documents()
        wanted = ["doc_id", "source", "minhash", "images", "speech_clips", self.config.length]
        minhash = MinHashConfig(**ctx.manifest("annotate").config["minhash"])

        def rows() -> Iterator[NamedBatch]:
            for part in sorted(ctx.part_names(self.inputs[0])):
                batch = read_part(part, annotations, wanted, survivors)
                yield part, near_rows(batch, part_media_keys(part, batch, documents), self.config)

        drops = near_duplicates(list(rows()), ReadTextsOf(documents), self.config, minhash)
        _settle(ctx, drops, survivors, "near_duplicate", self.near.threshold)
