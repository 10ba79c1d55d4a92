"""Deduplication as stages of a run: `dedup_exact`, then `dedup_near`.

Both read survivors and annotations and write survivors; text is read only where two documents are compared.
Beam and the kernels are imported when a stage has work to do.
"""

from __future__ import annotations

from typing import Any

from mixloom.pipeline.annotate_config import MinHashConfig
from mixloom.pipeline.dedup_config import DedupConfig, NearConfig, candidate_probability
from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

WORK = "_work"
SEARCH = "search"  # the unit whose info tells how the search for edges went
PIECE = 50_000  # documents of a partition: its bucket keys are 36 MB
WARNED = 3  # buckets named on the console; more stand in the manifest
FEW = 0.8  # a search that finds fewer of the pairs at its own threshold deserves a word


class ExactDedupStage(Stage):
    """Survivors -> survivors with one document of each content: preferred source first, then smallest id."""

    name = "dedup_exact"
    version = 1

    def __init__(self, config: DedupConfig, survivors: str = "filter") -> None:
        self.config = config
        self.inputs = (survivors, "annotate")

    def settings(self) -> dict[str, Any]:
        return {"priority": list(self.config.priority)}  # partitions change no byte

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam
        import pyarrow as pa

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.exact import DropCopies, KeyHashes, exact_rows
        from mixloom.pipeline.settle import Settle
        from mixloom.pipeline.shuffle import DONE, ReadSpilled, SpillBatches

        survivors, annotations = ctx.reader(self.inputs[0]), ctx.annotations()
        parts = ctx.part_names(self.inputs[0])
        todo = ctx.todo(parts)
        if not todo:
            ctx.directory.store.remove(WORK)
            return
        partitions = partitions_of(self.config, ctx.manifest(self.inputs[0]).counts.kept)
        hashes = ctx.directory.store.child(f"{WORK}/{partitions}")
        if not hashes.exists(DONE):
            hashes.remove("")  # of an interrupted attempt
            ctx.beam(
                lambda p: (
                    p
                    | beam.Create(parts, reshuffle=False)
                    | ReadParts(annotations, ["doc_id", "source", "content_hash"], survivors)
                    | "Rank"
                    >> beam.Map(exact_rows, priority=self.config.priority).with_output_types(pa.RecordBatch)
                    | KeyHashes(partitions)
                    | SpillBatches(hashes)
                )
            )
            hashes.write_json(DONE, {})
        settle = Settle(todo, survivors, annotations, self.name, "exact_duplicate", 1.0)
        ctx.beam(
            lambda p: p | ReadSpilled(hashes) | DropCopies() | settle | Commit(ctx.directory), len(parts)
        )
        ctx.directory.store.remove(WORK)


class NearDedupStage(Stage):
    """Survivors -> survivors without near duplicates of others.

    Candidates by MinHash LSH, verified by Jaccard similarity, joined into components, then the best documents
    kept (see `survivors`). Finished edges and rounds are kept while the stage is unfinished.
    """

    name = "dedup_near"
    version = 2

    def __init__(self, config: DedupConfig, survivors: str = "dedup_exact") -> None:
        if config.near is None:
            raise ValueError("near deduplication is turned off (dedup.near is null)")
        self.config, self.near = config, config.near
        self.inputs = (survivors, "annotate", "ingest")

    def settings(self) -> dict[str, Any]:
        neutral = {"components", "local_edges", "max_rounds", "bucket_warn"}  # how, not what
        near = self.near.model_dump(mode="json", exclude=neutral)
        rest = self.config.model_dump(mode="json", include={"priority", "quality", "length"})
        return {"near": near, **rest}

    def execute(self, ctx: StageContext) -> None:
        from mixloom.pipeline.engine import Commit
        from mixloom.pipeline.near import Search
        from mixloom.pipeline.near_rows import ReadNearRows, ReadTextsOf
        from mixloom.pipeline.settle import Settle

        check_columns(self.config)
        documents, annotations = ctx.documents(), ctx.annotations()
        survivors = ctx.reader(self.inputs[0])
        parts = sorted(ctx.part_names(self.inputs[0]))
        signature = MinHashConfig(**ctx.manifest("annotate").config["minhash"])
        bands, rows = banding_of(self.near, signature)
        todo = ctx.todo(parts)
        if todo:
            self._warn_of_banding(ctx, bands, rows)
            read = (parts, documents, annotations, survivors, self.config)
            partitions = partitions_of(self.config, ctx.manifest(self.inputs[0]).counts.kept)
            search = Search(
                lambda p: p | ReadNearRows(*read),
                lambda p: p | ReadNearRows(*read, signatures=False),
                ReadTextsOf(documents),
                parts,
                self.near,
                signature.ngram,
                bands,
                rows,
                partitions,
                ctx.directory.store.child(f"{WORK}/{partitions}"),
            )
            drops = search.run(ctx.beam)
            told = search.told()
            if ctx.todo([SEARCH]):
                ctx.commit(UnitOutput(SEARCH, info=told))
            self._warn_of_buckets(ctx, told)
            settle = Settle(todo, survivors, annotations, self.name, "near_duplicate", self.near.threshold)
            ctx.beam(lambda p: drops(p) | settle | Commit(ctx.directory), len(parts) + 1)
        ctx.directory.store.remove(WORK)

    def _warn_of_banding(self, ctx: StageContext, bands: int, rows: int) -> None:
        found = candidate_probability(self.near.threshold, bands, rows)
        if found < FEW:
            ctx.console.say(
                f"{self.name}: {bands} bands of {rows} rows find a pair of similarity "
                f"{self.near.threshold:g} with probability {found:.2f} only; leave out dedup.near.bands and "
                "dedup.near.rows to have them chosen, or raise annotate.minhash.bands for longer signatures"
            )

    def _warn_of_buckets(self, ctx: StageContext, told: dict[str, Any]) -> None:
        for bucket in told["largest"][:WARNED]:
            ctx.console.say(
                f"{self.name}: bucket {bucket['key']} of band {bucket['band']} holds {bucket['documents']} "
                f"documents (for example {bucket['example']}), more than dedup.near.bucket_warn "
                f"({self.near.bucket_warn}); each is compared with {self.near.leaders} leaders and "
                f"{self.near.neighbours} neighbours, not with all. A text that so many share is often a template"
            )


def partitions_of(config: DedupConfig, documents: int) -> int:
    """Pieces of a shuffle of so many documents: as configured, or more where one would hold more than `PIECE`."""
    return max(config.partitions, documents // PIECE + 1)


def banding_of(near: NearConfig, signature: MinHashConfig) -> tuple[int, int]:
    """(bands, rows) over signatures made like this.

    Raises:
        UserError: the signatures are too short for what the configuration states.
    """
    try:
        return near.banding(signature.num_perm)
    except ValueError as e:
        raise UserError(
            f"dedup.near: {e}, but the signatures have {signature.num_perm} (annotate.minhash)",
            fix="leave out dedup.near.bands and dedup.near.rows, or annotate with longer signatures",
        ) from None


def check_columns(config: DedupConfig) -> None:
    """Refuse annotations to rank by that do not exist (UserError)."""
    from mixloom.pipeline.measures import MEASURE_NAMES

    for key in ("quality", "length"):
        column = getattr(config, key)
        if column is not None and column not in MEASURE_NAMES:
            raise UserError(
                f"dedup.{key} is '{column}', which is not an annotation{nearest(column, MEASURE_NAMES)}",
                fix=f"use one of: {', '.join(MEASURE_NAMES)}",
            )
