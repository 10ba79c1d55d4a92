"""Incremental deduplication as stages of a run: `dedup_against` earlier runs, and `dedup_index` for later ones."""

from __future__ import annotations

import math
from typing import Any

from mixloom.pipeline.annotate_config import SIGNATURES, MinHashConfig
from mixloom.pipeline.dedup_config import DedupConfig
from mixloom.pipeline.dedup_stage import banding_of
from mixloom.pipeline.earlier_runs import (
    INDEX_STAGE,
    SIGNATURE,
    Corpus,
    EarlierRun,
    check_signatures,
    find_earlier,
)
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput


class AgainstDedupStage(Stage):
    """Survivors -> survivors without exact and near duplicates of what the runs in `dedup.against` kept.

    Text of earlier runs is not read. The fingerprints of what is read of them are part of the key, so a
    changed earlier run redoes the stage.
    """

    name = "dedup_against"
    version = 1

    def __init__(self, config: DedupConfig, survivors: str = "filter") -> None:
        self.config = config
        self.inputs = (survivors, "annotate", "ingest")
        self._earlier: list[EarlierRun] | None = None

    @property
    def earlier(self) -> list[EarlierRun]:
        """The earlier runs; raises UserError where one cannot be used."""
        if self._earlier is None:
            self._earlier = [find_earlier(path) for path in self.config.against]
        return self._earlier

    def settings(self) -> dict[str, Any]:
        near = self.config.near
        fields = {"threshold", "recall", "bands", "rows", "media", "bucket_cap", "max_shingles"}
        return {
            "earlier": [{"run": e.corpus.name, "read": e.fingerprints} for e in self.earlier],
            "near": near.model_dump(mode="json", include=fields) if near else None,
            "margin": self.config.against_margin,
        }

    def execute(self, ctx: StageContext) -> None:
        from mixloom.pipeline.earlier_matches import Comparison
        from mixloom.pipeline.engine import Commit
        from mixloom.pipeline.incremental import AgainstEarlier, Corpora
        from mixloom.pipeline.settle import Settle

        signature = MinHashConfig(**ctx.manifest("annotate").config["minhash"])
        self._check(ctx, signature)
        annotations, survivors = ctx.annotations(), ctx.reader(self.inputs[0])
        parts = tuple(sorted(ctx.part_names(self.inputs[0])))
        todo = ctx.todo(parts)
        if not todo:
            return
        near = self.config.near
        bands, rows = banding_of(near, signature) if near else (1, 1)
        comparison = Comparison(
            signature.ngram,
            bands,
            rows,
            near.threshold if near else 1.0,
            self.config.against_margin,
            near.bucket_cap if near else 0,
            near.max_shingles if near else 0,
            near is not None and near.media == "equal",
        )
        self._tell(ctx, signature, comparison)
        mine = Corpus(
            "", "signatures", parts, documents=ctx.documents(), annotations=annotations, survivors=survivors
        )
        corpora = Corpora((mine, *(e.corpus for e in self.earlier)), comparison)
        documents = ctx.manifest(self.inputs[0]).counts.kept
        against = AgainstEarlier(corpora, self.config.partitions, near is not None, documents)
        settle = Settle(todo, survivors, annotations, self.name, judged=True)
        ctx.beam(lambda p: p | against | settle | Commit(ctx.directory), len(parts))

    def _check(self, ctx: StageContext, signature: MinHashConfig) -> None:
        for earlier in self.earlier:
            if earlier.root == ctx.run.store.root:
                raise UserError(
                    f"dedup.against names {earlier.corpus.name}, which is this run itself",
                    fix="name earlier runs only",
                )
        if self.config.near is not None:
            check_signatures(signature, self.earlier)

    def _tell(self, ctx: StageContext, signature: MinHashConfig, comparison: Any) -> None:
        """Say which similarities are only estimated, and what that costs."""
        t = comparison.threshold
        error = math.sqrt(t * (1 - t) / signature.num_perm)
        for earlier in self.earlier if self.config.near is not None else []:
            if earlier.corpus.kind == "signatures":
                ctx.console.say(
                    f"{self.name}: {earlier.corpus.name} left no index, so similarities to it are estimated from "
                    f"{signature.num_perm} signature values (standard error {error:.3f}); dropped is what is estimated "
                    f"at {min(1.0, t + comparison.margin * error):.3f} or more. For exact ones set dedup.index there"
                )


class DedupIndexStage(Stage):
    """Survivors -> an index of what was kept: content hash, media key, signature and sketch of every document.

    Stands after the last stage that drops documents. Its parts have the schema `dedup_index.index_schema`.
    """

    name = INDEX_STAGE
    version = 2

    def __init__(self, config: DedupConfig, survivors: str) -> None:
        if config.index is None:
            raise ValueError("no index is wanted (dedup.index is null)")
        self.config, self.index = config, config.index
        self.inputs = (survivors, "annotate", "ingest")

    def settings(self) -> dict[str, Any]:
        return self.index.model_dump(mode="json")

    def execute(self, ctx: StageContext) -> None:
        from mixloom.pipeline.engine import Commit
        from mixloom.pipeline.graph import Given, each
        from mixloom.pipeline.incremental import index_part

        minhash = ctx.manifest("annotate").config["minhash"]
        if ctx.todo([SIGNATURE]):
            ctx.commit(UnitOutput(SIGNATURE, info={"minhash": minhash, "signatures": SIGNATURES}))
        survivors = ctx.reader(self.inputs[0])
        parts = tuple(sorted(ctx.part_names(self.inputs[0])))
        corpus = Corpus(
            "",
            "signatures",
            parts,
            documents=ctx.documents(),
            annotations=ctx.annotations(),
            survivors=survivors,
        )
        ngram, hashes = MinHashConfig(**minhash).ngram, self.index.hashes
        ctx.beam(
            lambda p: (
                p
                | Given(ctx.todo(parts))
                | "Index" >> each(index_part, corpus=corpus, ngram=ngram, hashes=hashes)
                | Commit(ctx.directory)
            ),
            len(parts) + 1,
        )
