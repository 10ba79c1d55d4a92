"""The stages that decide: `filter`, and where rule sets edit documents, `filter_2` and so on.

`filter` judges the annotations. When a rule set edits, the next stage measures the changed documents again and asks
the rule sets that come after it. Text is read only for documents that were changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.decide import RulePlan
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.measures import check_measured
from mixloom.pipeline.noise_measures import NOISE_MEASURES
from mixloom.pipeline.overlay import (
    ANNOTATIONS_FOLDER,
    EDITS_FOLDER,
    LINES_FOLDER,
    MEDIA_FOLDER,
    EditedDocuments,
    replace_items,
    replace_rows,
)
from mixloom.pipeline.run import one_batch
from mixloom.pipeline.stage import OutputTable, Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    from mixloom.pipeline.overlay import EditedMedia
    from mixloom.pipeline.run import PartReader, UnitRecord


def filter_name(step: int) -> str:
    """The name of the stage of a step: filter, filter_2, filter_3."""
    return "filter" if step == 0 else f"filter_{step + 1}"


class FilterStage(Stage):
    """Annotations -> survivors, edits, and a reason for every document dropped.

    Args:
        plan: the rule sets.
        step: 0 judges what annotate measured; a later one what the step before it left.
    """

    version = 2

    def __init__(self, plan: RulePlan, step: int = 0) -> None:
        self.plan, self.step = plan, step
        self.name = filter_name(step)  # type: ignore[misc]
        if step == 0:
            self.inputs = ("annotate",)
        else:
            self.inputs = (filter_name(step - 1), "annotate", "ingest")
            self.edits = tuple(filter_name(s) for s in range(step))

    def settings(self) -> dict[str, Any]:
        return self.plan.to_json(
            self.step
        )  # the rules themselves, not their names: an edited file redoes the stage

    def execute(self, ctx: StageContext) -> None:
        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.graph import Given, flat
        from mixloom.pipeline.transforms import ApplyRules

        check_annotations(self.plan, self.step, ctx.manifest("annotate").config)
        parts = ctx.part_names("annotate")
        if self.step:
            work = _Refilter(self, ctx)
            todo = Given(ctx.todo(parts))
            ctx.beam(
                lambda p: (
                    p | todo | "Judge" >> flat(work).with_output_types(UnitOutput) | Commit(ctx.directory)
                ),
                len(parts),
            )
            return
        needed = self.plan.rulesets(0)
        lines = ctx.reader("annotate") if any(r.needs_lines for r in needed) else None
        items = ctx.reader("annotate") if any(r.needs_items for r in needed) else None
        ctx.beam(
            lambda p: (
                p
                | Given(ctx.todo(parts), spread=False)
                | ReadParts(ctx.reader("annotate"), self.plan.columns(0))
                | ApplyRules(self.plan, self.name, 0, lines, items)
                | Commit(ctx.directory)
            ),
            len(parts),
        )

    def info_of(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """`fired`: what each rule fires on by itself. `edits`: by reason; `edited_documents`: how many have any."""
        from mixloom.pipeline.edited import total_info

        return total_info([r.info for r in records])


class _Refilter:
    """One part of a later step: measures what changed again, and judges all that is left."""

    def __init__(self, stage: FilterStage, ctx: StageContext) -> None:
        from mixloom.pipeline.annotate import Annotator
        from mixloom.pipeline.annotate_config import AnnotateConfig

        known = set(AnnotateConfig.model_fields)
        config = {k: v for k, v in ctx.manifest("annotate").config.items() if k in known}
        before = filter_name(stage.step - 1)
        self._plan, self._step, self._stage = stage.plan, stage.step, stage.name
        self._annotator = Annotator(AnnotateConfig.model_validate(config))
        self._before: PartReader = ctx.reader(before)  # survivors and edits of the step before
        self._documents, self._annotations = ctx.documents(), ctx.annotations()
        self._base = ctx.reader("annotate")
        self._items: EditedMedia | None = ctx.media() if config["media"] is not None else None

    def __call__(self, part: str) -> Iterator[UnitOutput]:
        import time

        from mixloom.pipeline.decide import decide
        from mixloom.pipeline.edited import NOTHING_LEFT
        from mixloom.pipeline.engine import read_part, with_part
        from mixloom.pipeline.transforms import decision_output

        started = time.time()
        columns = sorted({*self._plan.columns(self._step), "doc_id", "source"})
        annotations = read_part(part, self._annotations, columns, self._before)
        alive = np.asarray(annotations.column("row"))
        changed, dropped = self._measured(part, alive)
        tables: list[OutputTable] = []
        if changed is not None:
            tables = self._tables(part, changed)
            old = pa.Table.from_batches([annotations]).replace_schema_metadata(None)
            annotations = one_batch(replace_rows(old, alive, tables[0].table))
        emptied = np.isin(alive, dropped)
        lines, items = self._lines(part, changed), self._media(part, tables)
        decision = decide(annotations, self._plan, self._step, lines, items)
        for at in np.flatnonzero(emptied):
            decision.keep[at], decision.reason[at] = False, NOTHING_LEFT
            decision.value[at] = decision.limit[at] = np.nan
        yield decision_output(with_part(annotations, part, started), decision, part, self._stage, tables)

    def _measured(self, part: str, alive: np.ndarray) -> tuple[pa.RecordBatch | None, np.ndarray]:
        """The surviving documents changed by the step before, as they are now, and the rows that were emptied."""
        name = f"{EDITS_FOLDER}/{part}"
        if name not in self._before:
            return None, np.zeros(0, np.int32)
        rows = np.unique(np.asarray(self._before.read(name, ["row"])["row"]))
        rows = rows[np.isin(rows, alive)]
        if not len(rows):
            return None, rows
        documents = one_batch(self._documents.read_rows(part, rows, ["doc_id", "source", "segments"]))
        documents = documents.append_column("row", pa.array(rows.astype(np.int32)))
        size = pc.list_value_length(documents.column("segments")).to_numpy(zero_copy_only=False)
        return documents, rows[size == 0]

    def _tables(self, part: str, changed: pa.RecordBatch) -> list[OutputTable]:
        measured = pa.Table.from_batches([self._annotator.annotate(changed)]).replace_schema_metadata(None)
        measured = measured.append_column("row", changed.column("row"))
        out = [OutputTable(f"{ANNOTATIONS_FOLDER}/{part}", measured)]
        if self._items is not None:
            from mixloom.pipeline.edited import renumbered_items

            edits = self._before.read(f"{EDITS_FOLDER}/{part}")
            items = renumbered_items(self._items.read(part), edits, changed)
            out.append(OutputTable(f"{MEDIA_FOLDER}/{part}", items))
        return out

    def _lines(self, part: str, changed: pa.RecordBatch | None) -> pa.Table | None:
        if not any(r.needs_lines for r in self._plan.rulesets(self._step)):
            return None
        # Lines of documents changed two steps ago are measured again too: their table was never written.
        edited = self._all_changed(part)
        table = self._base.read(f"{LINES_FOLDER}/{part}")
        table = table.filter(pc.invert(pc.is_in(table["row"], pa.array(edited, pa.int32()))))
        if not len(edited):
            return table
        documents = one_batch(self._documents.read_rows(part, edited, ["segments"]))
        new = pa.Table.from_batches([self._annotator.lines(documents)])
        rows = pa.array(edited[np.asarray(new["row"])].astype(np.int32))
        new = new.set_column(new.schema.get_field_index("row"), new.schema.field("row"), rows)
        order = [(c, "ascending") for c in ("row", "segment", "start")]
        return pa.concat_tables([table, new.cast(table.schema)]).sort_by(order)

    def _all_changed(self, part: str) -> np.ndarray:
        assert isinstance(self._documents, EditedDocuments)
        readers = [r for r in self._documents.edits if f"{EDITS_FOLDER}/{part}" in r]
        rows = [np.asarray(r.read(f"{EDITS_FOLDER}/{part}", ["row"])["row"]) for r in readers]
        return np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.int32)

    def _media(self, part: str, tables: list[OutputTable]) -> pa.Table | None:
        if self._items is None or not any(r.needs_items for r in self._plan.rulesets(self._step)):
            return None
        table = self._items.read(part)
        new = next((t.table for t in tables if t.name.startswith(f"{MEDIA_FOLDER}/")), None)
        if new is None:
            return table
        return replace_items(table, tables[0].table["row"], new)


def check_annotations(plan: RulePlan, step: int, annotate: dict[str, Any]) -> None:
    """Raise UserError where a rule set asks for something that annotate was not told to measure."""
    rulesets = plan.rulesets(step)
    if any(r.needs_lines for r in rulesets) and not annotate["lines"]:
        raise UserError(
            "a rule set edits lines, but annotate.lines is false, so lines were not measured",
            fix="set annotate.lines: true, or leave that rule set out",
        )
    if any(r.needs_items for r in rulesets) and annotate["media"] is None:
        raise UserError(
            "a rule set judges single images or recordings, but these were not measured",
            fix="add `annotate: {media: {}}`, or leave that rule set out",
        )
    read = set(plan.columns(step))
    if read & {"language", "language_score"} and annotate["language"] is None:
        raise UserError(
            "a rule asks for the language of documents, but languages were not identified",
            fix="add `annotate: {language: {}}`, or leave that rule (or filter.by_language) out",
        )
    check_measured(read, annotate, "a rule")
    noisy = sorted(read & set(NOISE_MEASURES))
    if noisy and annotate.get("noise") is None:
        raise UserError(
            f"a rule asks for '{noisy[0]}', but noise was not measured",
            fix="add `annotate: {noise: {action: measure}}`, or leave that rule out",
        )
    scores = {f"quality_{name}" for name in annotate.get("quality") or {}}
    unknown = sorted(c for c in read if c.startswith("quality_") and c not in scores)
    if unknown:
        raise UserError(
            f"a rule asks for '{unknown[0]}', but annotate.quality has no classifier '{unknown[0][8:]}'",
            fix=f"use one of: {', '.join(sorted(scores))}"
            if scores
            else "add it: annotate.quality: {name: {model: path}}",
        )
