"""Deciding again about a finished run, as a question: rule sets over its annotations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixloom.pipeline.config import read_yaml, validate
from mixloom.pipeline.decide import FilterConfig, RulePlan, decide
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.filter_stage import check_annotations
from mixloom.pipeline.overlay import LINES_FOLDER, MEDIA_FOLDER
from mixloom.pipeline.run import PartReader, RunDirectory, one_batch


def filter_config(names: Sequence[str]) -> FilterConfig:
    """The decision that is asked for: rule sets by name or path, or one configuration that has a `filter` section.

    Raises:
        UserError: the configuration cannot be read, or its section is not right.
    """
    if len(names) == 1 and names[0].endswith((".yaml", ".yml")):
        try:
            tree = read_yaml(Path(names[0]).read_text(encoding="utf-8"), names[0])
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"{names[0]} cannot be read: {e}", fix="check the path") from None
        if "filter" in tree:
            return validate(FilterConfig, tree["filter"] or {}, names[0])
    return FilterConfig(rules=list(names))


def apply_rules(run_dir: str, config: FilterConfig) -> dict[str, Any]:
    """What these rules decide about the documents of a run (their first step), and what differs from its own decision.

    Returns:
        documents, kept, dropped, edited; rules: by name drops, fires, edits; change: now_kept and now_dropped against
        the stage `filter` of the run ({} when it has none); later_steps; seconds.

    Raises:
        UserError: no such run, it is not annotated, or a rule asks for what was not measured.
    """
    started = time.perf_counter()
    run = RunDirectory.existing(run_dir)
    plan = RulePlan.load(config)
    annotated = run.stage("annotate").manifest()
    if annotated is None:
        raise UserError(f"{run.store.root} has no finished annotations", fix="run `mixloom run` on it first")
    check_annotations(plan, 0, annotated.config)
    reader = PartReader(run.stage("annotate").store, {p.name: p for p in annotated.parts})
    own = run.stage("filter").manifest()
    before = PartReader(run.stage("filter").store, {p.name: p for p in own.parts}) if own else None
    lines = any(r.needs_lines for r in plan.rulesets(0))
    items = any(r.needs_items for r in plan.rulesets(0))
    drops, fires, edits = Counter[str](), Counter[str](), Counter[str]()
    documents = kept = edited = now_kept = now_dropped = 0
    for name in sorted(p for p in reader.parts if "/" not in p):
        annotations = one_batch(reader.read(name, plan.columns(0)))
        decision = decide(
            annotations,
            plan,
            0,
            reader.read(f"{LINES_FOLDER}/{name}") if lines else None,
            reader.read(f"{MEDIA_FOLDER}/{name}") if items else None,
        )
        documents += annotations.num_rows
        kept += int(decision.keep.sum())
        drops.update(r for r in decision.reason if r is not None)
        fires.update(decision.fired)
        edits.update(decision.edits["reason"].to_pylist())
        edited += len(decision.edits["row"].unique())
        if before is not None and name in before:
            old = np.zeros(annotations.num_rows, np.bool_)
            old[np.asarray(before.read(name, ["row"])["row"])] = True
            now_kept += int((decision.keep & ~old).sum())
            now_dropped += int((~decision.keep & old).sum())
    rules = {
        n: {"drops": drops[n], "fires": fires[n], "edits": edits[n]} for n in {**fires, **drops, **edits}
    }
    later = [name for step in range(1, plan.stages) for r in plan.rulesets(step) for name in r.names]
    return {
        "documents": documents,
        "kept": kept,
        "dropped": documents - kept,
        "edited": edited,
        "rules": rules,
        "change": {"now_kept": now_kept, "now_dropped": now_dropped} if before is not None else {},
        "later_steps": later,
        "seconds": round(time.perf_counter() - started, 2),
    }
