"""Semantic deduplication as a stage of a run, after `cluster`: `dedup_semantic`."""

from __future__ import annotations

from typing import Any

from mixloom.pipeline.dedup_config import DedupConfig
from mixloom.pipeline.dedup_stage import check_columns
from mixloom.pipeline.semantic_config import SemanticConfig
from mixloom.pipeline.stage import Stage, StageContext

MUCH = 0.05  # a share dropped that deserves a word


class SemanticDedupStage(Stage):
    """Survivors with vectors and cells -> survivors without those too close to another of their cell.

    Writes survivors and rejects of every part; a reject names the kept document and their cosine.
    """

    name = "dedup_semantic"
    version = 1

    def __init__(self, config: SemanticConfig, dedup: DedupConfig, survivors: str) -> None:
        self.config, self.dedup = config, dedup
        self.inputs = (survivors, "cluster", "embed", "annotate", "ingest")

    def settings(self) -> dict[str, Any]:
        order = self.dedup.model_dump(mode="json", include={"priority", "quality", "length"})
        return {**self.config.model_dump(mode="json"), **(order if self.config.keep == "preferred" else {})}

    def execute(self, ctx: StageContext) -> None:
        from mixloom.pipeline.engine import Commit
        from mixloom.pipeline.semantic_cells import ReadCellRows, SemanticDuplicates
        from mixloom.pipeline.settle import Settle

        check_columns(self.dedup, ctx.manifest("annotate").config)
        survivors, annotations = ctx.reader(self.inputs[0]), ctx.annotations()
        parts = sorted(ctx.part_names(self.inputs[0]))
        todo = ctx.todo(parts)
        if not todo:
            return
        rows = ReadCellRows(
            parts,
            ctx.reader("embed"),
            ctx.reader("cluster"),
            ctx.documents(),
            annotations,
            self.config,
            self.dedup,
        )
        limit = 1.0 - self.config.eps
        settle = Settle(todo, survivors, annotations, self.name, "semantic_duplicate", limit)
        ctx.beam(
            lambda p: p | rows | SemanticDuplicates(parts, limit) | settle | Commit(ctx.directory), len(parts)
        )
        self._warn(ctx)

    def _warn(self, ctx: StageContext) -> None:
        units = ctx.directory.units()
        kept, came = sum(u.counts.kept for u in units), sum(u.counts.documents_in for u in units)
        if came and (came - kept) / came > MUCH:
            ctx.console.say(
                f"{self.name}: {came - kept} of {came} documents are closer than eps {self.config.eps:g} to a kept one; "
                "look at some in the report before you rely on it: vectors of tf-idf are equal for documents "
                "of which the model knows only the same few words"
            )
