"""Deduplication as stages of a run: `dedup_exact`, then `dedup_near`.

Both read survivors and annotations and write survivors; text is read only where two documents are compared.
Beam and the kernels are imported when a stage has work to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mixloom.pipeline.annotate_config import MinHashConfig
from mixloom.pipeline.dedup_config import DedupConfig, NearConfig, candidate_probability
from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    from mixloom.pipeline.near import Search
    from mixloom.pipeline.settle import Settlement

WORK = "_work"
SEARCH = "search"  # the unit whose info tells how the search for edges went
PIECE = 50_000  # documents of a partition: its bucket keys are 36 MB
MOST_HELD = 250_000  # documents whose content hashes one process may hold, 48 bytes each
MOST_SIGNED = 200_000  # documents searched in one piece: their signatures and bucket keys are 50 MB
MOST_PAIRED = 1_000_000  # documents whose candidates one process may find: the same, of these 250 MB
MOST_TEXT = 128 << 20  # bytes of documents as they lie on disk, whose shingles one process may hold
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
        from mixloom.pipeline.engine import Commit, ReadPart, ReadParts
        from mixloom.pipeline.exact import DropCopies, KeyHashes
        from mixloom.pipeline.exact_alone import AloneCopies
        from mixloom.pipeline.graph import Given
        from mixloom.pipeline.settle import Settle, Settlement, SettleParts
        from mixloom.pipeline.shuffle import DONE, ReadSpilled, SpillBatches

        survivors, annotations = ctx.reader(self.inputs[0]), ctx.annotations()
        parts = sorted(ctx.part_names(self.inputs[0]))
        todo = ctx.todo(parts)
        if not todo:
            ctx.directory.store.remove(WORK)
            return
        documents = ctx.manifest(self.inputs[0]).counts.kept
        wanted = ["doc_id", "source", "content_hash"]
        settlement = Settlement(frozenset(todo), survivors, annotations, self.name, "exact_duplicate", 1.0)
        if documents <= MOST_HELD:
            find = AloneCopies(parts, self.config.priority, ReadPart(annotations, wanted, survivors))
            settled = SettleParts(settlement)
            ctx.beam(lambda p: p | find | settled | Commit(ctx.directory), len(parts))
            return
        partitions = partitions_of(self.config, documents)
        given, read = Given(parts, spread=False), ReadParts(annotations, wanted, survivors)
        key = KeyHashes(parts, self.config.priority, partitions)
        settle = Settle.of(settlement)
        hashes = ctx.directory.store.child(f"{WORK}/{partitions}")
        if not hashes.exists(DONE):
            hashes.remove("")  # of an interrupted attempt
            ctx.beam(lambda p: p | given | read | key | SpillBatches(hashes))
            hashes.write_json(DONE, {})
        ctx.beam(
            lambda p: p | ReadSpilled(hashes) | DropCopies(parts) | settle | Commit(ctx.directory), len(parts)
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
        from mixloom.pipeline.near import Search
        from mixloom.pipeline.near_pairs import PairSearch
        from mixloom.pipeline.near_rows import NearRowsOf, ReadSignaturesOf, ReadTextsOf
        from mixloom.pipeline.settle import Settlement

        check_columns(self.config, ctx.manifest("annotate").config)
        documents, annotations = ctx.documents(), ctx.annotations()
        survivors = ctx.reader(self.inputs[0])
        parts = tuple(sorted(ctx.part_names(self.inputs[0])))
        signature = MinHashConfig(**ctx.manifest("annotate").config["minhash"])
        bands, rows = banding_of(self.near, signature)
        if ctx.todo([SEARCH, *parts]):
            self._warn_of_banding(ctx, bands, rows)
            rows_of = NearRowsOf(documents, annotations, survivors, self.config)
            kept = ctx.manifest(self.inputs[0]).counts.kept
            partitions = partitions_of(self.config, kept)
            work = ctx.directory.store.child(f"{WORK}/{partitions}")
            reads = rows_of, ReadTextsOf(documents), ReadSignaturesOf(annotations)
            pairs = PairSearch.of(parts, self.near, signature.num_perm, (bands, rows), kept)
            at_once = self._few(ctx, MOST_PAIRED)
            search = Search(*reads, pairs, self.near, signature.ngram, at_once, partitions, work)
            ledger = self.name, "near_duplicate", self.near.threshold
            settlement = Settlement(frozenset(ctx.todo(parts)), survivors, annotations, *ledger)
            find = self._in_one_piece if self._fits(ctx) else self._in_steps
            if settlement.todo:
                find(ctx, search, settlement)
            told = search.told()
            if ctx.todo([SEARCH]):
                ctx.commit(UnitOutput(SEARCH, info=told))
            self._warn_of_buckets(ctx, told)
        ctx.directory.store.remove(WORK)

    def _few(self, ctx: StageContext, most: int) -> bool:
        """Whether one process may hold what is told of each document, of so many at most."""
        return self.config.partitions == 1 and ctx.manifest(self.inputs[0]).counts.kept <= most

    def _fits(self, ctx: StageContext) -> bool:
        """Whether one process may hold that, and shingles, of everything at once."""
        documents = ctx.manifest(self.inputs[0]).counts.kept
        joined = self.near.components == "local" or documents <= self.near.local_edges
        text = sum(p.bytes for p in ctx.manifest("ingest").parts)
        return joined and self._few(ctx, MOST_SIGNED) and text <= MOST_TEXT

    def _in_one_piece(self, ctx: StageContext, search: Search, settlement: Settlement) -> None:
        from mixloom.pipeline.engine import Commit
        from mixloom.pipeline.near_alone import Alone, AloneDuplicates
        from mixloom.pipeline.settle import SettleParts

        find, settle = AloneDuplicates(Alone.of(search), search.rows_of), SettleParts(settlement)
        ctx.beam(lambda p: p | find | settle | Commit(ctx.directory), len(search.pairs.parts) + 1)

    def _in_steps(self, ctx: StageContext, search: Search, settlement: Settlement) -> None:
        from mixloom.pipeline.engine import Commit
        from mixloom.pipeline.settle import Settle

        drops = search.run(ctx.beam)
        ctx.beam(
            lambda p: drops(p) | Settle.of(settlement) | Commit(ctx.directory), len(search.pairs.parts) + 1
        )

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


def check_columns(config: DedupConfig, annotate: Mapping[str, Any]) -> None:
    """Refuse annotations to rank by that do not exist, or that annotate (its configuration) leaves out (UserError)."""
    from mixloom.pipeline.measures import MEASURE_NAMES, check_measured

    for key in ("quality", "length"):
        column = getattr(config, key)
        if column is not None and column not in MEASURE_NAMES:
            raise UserError(
                f"dedup.{key} is '{column}', which is not an annotation{nearest(column, MEASURE_NAMES)}",
                fix=f"use one of: {', '.join(MEASURE_NAMES)}",
            )
        if column is not None:
            check_measured([column], annotate, f"dedup.{key}")
