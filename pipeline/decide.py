"""Deciding: which rule sets judge a document, and what they say of a part of annotations. No text is read.

Rule sets are applied in the order they are named. One that edits (removes lines, images or recordings) ends a step:
what comes after it judges the documents as it left them, so they are measured again in between (`FilterStage`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mixloom.pipeline.edits import EDITS
from mixloom.pipeline.judgement import judge_document
from mixloom.pipeline.ledger import dropped_documents
from mixloom.pipeline.measures import MEASURES
from mixloom.pipeline.rules import LANGUAGE, RuleSet, load_ruleset, split_at_edits
from mixloom.pipeline.schema import SURVIVORS


class FilterConfig(BaseModel):
    """Which rules decide. Thresholds are data: change them and only the deciding is done again."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rules: list[str] = Field(
        default=["basic", "media"], description="rule sets by name (conf/rules/) or by path, applied in order"
    )
    by_source: dict[str, list[str]] = Field(
        default={}, description="other rule sets for some sources, by source name"
    )
    by_language: dict[str, list[str]] = Field(
        default={},
        description="other rule sets for some languages, by code as annotate.language writes it; by_source goes first",
    )


@dataclass(frozen=True, slots=True)
class RulePlan:
    """The rule sets of every document, step by step: lists of rule sets, of which only the last of each edits."""

    default: tuple[RuleSet, ...]
    by_source: dict[str, tuple[RuleSet, ...]]
    by_language: dict[str, tuple[RuleSet, ...]]

    @classmethod
    def load(cls, config: FilterConfig) -> RulePlan:
        """Read the rule sets a configuration names. Raises UserError as `load_ruleset` and `combine` do."""

        def steps(names: Sequence[str]) -> tuple[RuleSet, ...]:
            return tuple(split_at_edits([load_ruleset(n) for n in names]))

        by_source = {s: steps(names) for s, names in sorted(config.by_source.items())}
        by_language = {s: steps(names) for s, names in sorted(config.by_language.items())}
        return cls(steps(config.rules), by_source, by_language)

    @property
    def choices(self) -> tuple[tuple[RuleSet, ...], ...]:
        return (self.default, *self.by_source.values(), *self.by_language.values())

    @property
    def stages(self) -> int:
        """Filter stages needed: one per step, and one more to measure what the last step changed."""
        return max(len(c) + c[-1].edits for c in self.choices)

    def rulesets(self, step: int) -> list[RuleSet]:
        """Every rule set some document may meet in this step."""
        return [c[step] for c in self.choices if step < len(c)]

    def columns(self, step: int) -> list[str]:
        """Columns of the annotations this step reads."""
        read = {"doc_id", "source"}.union(*(r.measures for r in self.rulesets(step)))
        return sorted(read | ({LANGUAGE} if self.by_language else set()))

    def text_measures(self, step: int | None = None) -> tuple[str, ...]:
        """The measures of text some document may be asked for in this step, or in any: what `AnnotateConfig.measures` needs."""
        steps = range(self.stages) if step is None else (step,)
        read = {name for k in steps for ruleset in self.rulesets(k) for name in ruleset.measures}
        return tuple(name for name in MEASURES if name in read)

    def to_json(self, step: int) -> dict[str, Any]:
        """What this step decides by, as plain JSON values."""

        def at(steps: tuple[RuleSet, ...]) -> Any:
            return steps[step].to_json() if step < len(steps) else None

        out = {"default": at(self.default), "by_source": {s: at(r) for s, r in self.by_source.items()}}
        if self.by_language:
            out["by_language"] = {s: at(r) for s, r in self.by_language.items()}
        return out

    def assigned(self, annotations: pa.RecordBatch, step: int) -> Iterator[tuple[RuleSet, NDArray[np.int64]]]:
        """Each rule set of this step with the documents it judges (indices, ascending)."""
        left = np.ones(annotations.num_rows, np.bool_)
        sources = annotations.column("source")
        for column, choices in ((sources, self.by_source), (None, self.by_language)):
            for name, steps in choices.items():
                values = annotations.column(LANGUAGE) if column is None else column
                hit = pc.fill_null(pc.equal(values, name), False).to_numpy(zero_copy_only=False) & left
                left &= ~hit
                if step < len(steps):
                    yield steps[step], np.flatnonzero(hit)
        if step < len(self.default):
            yield self.default[step], np.flatnonzero(left)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say of n documents.

    keep: bool [n]. reason: the rule that dropped it, by document, or None. value, limit: float64 [n], NaN where there is
    none. edits: `EDITS` of kept documents. fired: on how many documents, lines or segments each rule fires by itself.
    """

    keep: NDArray[np.bool_]
    reason: list[str | None]
    value: NDArray[np.float64]
    limit: NDArray[np.float64]
    edits: pa.Table
    fired: dict[str, int]


def decide(
    annotations: pa.RecordBatch,
    plan: RulePlan,
    step: int = 0,
    lines: pa.Table | None = None,
    items: pa.Table | None = None,
) -> Decision:
    """Judge every document by its rule sets of one step.

    Args:
        annotations: the columns `plan.columns(step)`, and `row` where these are not all rows of the part.
        lines, items: tables of the part (`lines.LINES`, `media_items.ITEMS`) where a rule set needs them; rows of
            other documents are passed over.

    Raises:
        KeyError: a column is missing.
    """
    n = annotations.num_rows
    has_row = "row" in annotations.schema.names
    rows = np.asarray(annotations.column("row"), dtype=np.int64) if has_row else np.arange(n)
    keep = np.ones(n, np.bool_)
    reason: list[str | None] = [None] * n
    value, limit = np.full(n, np.nan), np.full(n, np.nan)
    edits: list[pa.Table] = []
    fired: Counter[str] = Counter()
    for ruleset, of in plan.assigned(annotations, step):
        fired.update(dict.fromkeys(ruleset.names, 0))
        if not len(of):
            continue
        asked = annotations.select(sorted(ruleset.measures))
        judged = judge_document(
            asked if len(of) == n else asked.take(pa.array(of)),
            lines if ruleset.needs_lines else None,
            items if ruleset.needs_items else None,
            ruleset,
            rows[of].astype(np.int32),
        )
        v, names = judged.verdicts, ruleset.names
        keep[of], value[of], limit[of] = v.keep, v.value, v.limit
        for at in np.flatnonzero(v.rule >= 0).tolist():
            reason[of[at]] = names[v.rule[at]]
        fired.update(dict(zip(names, v.fired.tolist())))
        if judged.edits is not None and judged.edits.num_rows:
            edits.append(judged.edits)
    return Decision(keep, reason, value, limit, _named(edits, rows, annotations), dict(fired))


def _named(edits: list[pa.Table], rows: NDArray[np.int64], annotations: pa.RecordBatch) -> pa.Table:
    """The edits of all rule sets together, with the ids of their documents."""
    if not edits:
        return EDITS.empty_table()
    order = [(c, "ascending") for c in ("row", "segment", "start")]
    table = pa.concat_tables(edits).sort_by(order)
    by_row = np.argsort(rows, kind="stable")
    at = by_row[np.searchsorted(rows[by_row], np.asarray(table["row"], dtype=np.int64))]
    doc_ids = annotations.column("doc_id").take(pa.array(at))
    return table.add_column(0, "doc_id", doc_ids).select(EDITS.names).cast(EDITS)


def survivors_and_rejects(
    annotations: pa.RecordBatch, decision: Decision, stage: str
) -> tuple[pa.Table, pa.Table]:
    """A decision over (some rows of) a part -> survivors with their row numbers, and the ledger of the dropped."""
    keep = pa.array(decision.keep)
    n = annotations.num_rows
    rows = (
        annotations.column("row")
        if "row" in annotations.schema.names
        else pa.array(np.arange(n, dtype=np.int32))
    )
    survivors = pa.table([annotations.column("doc_id"), rows], schema=SURVIVORS).filter(keep)
    gone = pc.invert(keep)
    dropped = annotations.select(["doc_id", "source"]).filter(gone)
    why = {"reason": pa.array(decision.reason, pa.string()).filter(gone)}
    for name, values in (("value", decision.value), ("limit", decision.limit)):
        why[name] = pa.array(values, pa.float64(), mask=np.isnan(values)).filter(gone)
    rejects = dropped_documents(dropped.column("doc_id"), dropped.column("source"), stage, why)
    return survivors, rejects
