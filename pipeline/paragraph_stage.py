"""Paragraph and line deduplication as a stage of a run. Beam and the kernels are imported when there is work."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.paragraph_config import ParagraphConfig
from mixloom.pipeline.stage import Stage, StageContext

if TYPE_CHECKING:
    from mixloom.pipeline.run import PartReader, StageDirectory, UnitRecord

WORK = "_work"
PASSES = 16  # at most: a pass compares whole slices of the hash


def _committed(root: Any, transform: Any, ctx: StageContext) -> Any:
    from mixloom.pipeline.engine import Commit

    return root | transform | Commit(ctx.directory)


class ParagraphDedupStage(Stage):
    """Survivors -> survivors, and edits that remove text which stands elsewhere in the corpus.

    Args:
        config: what is compared, and what is kept.
        survivors: the deciding stage before this one.
        annotate: how documents were measured; those that change are measured again.
    """

    name = "dedup_paragraphs"
    version = 1

    def __init__(self, config: ParagraphConfig, survivors: str, annotate: AnnotateConfig) -> None:
        self.config, self.annotate = config, annotate
        self.inputs = (survivors, "annotate", "ingest")

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", exclude={"partitions", "units_per_pass"})  # how, not what

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.edit_writer import EditWriter
        from mixloom.pipeline.engine import Commit
        from mixloom.pipeline.paragraph_transform import FindRepeats, FindUnits, SettleRepeats
        from mixloom.pipeline.run import StageDirectory

        parts = sorted(ctx.part_names(self.inputs[0]))
        documents, survivors = ctx.documents(), ctx.reader(self.inputs[0])
        work = StageDirectory(ctx.directory.store.child(WORK), self.name)
        todo = ctx.todo([f"units-{p}" for p in parts])
        if todo:
            names = [u.removeprefix("units-") for u in todo]
            find = FindUnits(documents, survivors, work, self.config)
            ctx.beam(lambda p: p | beam.Create(names) | find | Commit(ctx.directory), 3 * len(parts))
        units = self._working_parts(ctx, work, "units-")
        passes = self._passes(units)
        total = (2 + len(passes)) * len(parts)
        for step, slices in enumerate(passes):
            if ctx.todo([f"repeats-{step:02d}-{p}" for p in parts]):
                compare = FindRepeats(parts, units, step, slices, work, self.config)
                ctx.beam(functools.partial(_committed, transform=compare, ctx=ctx), total)
        left = ctx.todo(parts)
        if left:
            writer = EditWriter(documents, ctx.media(), survivors, self.annotate, self.name)
            repeats = self._working_parts(ctx, work, "repeats-")
            settle = SettleRepeats(parts, left, units, repeats, len(passes), self.config, writer)
            ctx.beam(functools.partial(_committed, transform=settle, ctx=ctx), total)
        ctx.directory.store.remove(WORK)

    def _passes(self, units: PartReader) -> list[list[int]]:
        """The slices of the hash that are compared together."""
        rows = sum(p.rows for p in units.parts.values())
        count = min(PASSES, max(1, -(-rows // self.config.units_per_pass)))
        return [[s for s in range(PASSES) if s * count // PASSES == step] for step in range(count)]

    def _working_parts(self, ctx: StageContext, work: StageDirectory, prefix: str) -> PartReader:
        from mixloom.pipeline.run import Part, PartReader

        found = [Part(**u.info["work"]) for u in ctx.directory.units() if u.unit.startswith(prefix)]
        return PartReader(work.store, {p.name: p for p in found})

    def info_of(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Units long enough to be removed, units removed, documents dropped and edited, over all parts."""
        from mixloom.pipeline.edited import total_info

        return total_info([r.info for r in records if "work" not in r.info])
