"""Rules are data: a rule set is a YAML file of measures and bounds, applied to annotations in one vectorised step.

    description: what the set is for
    rules:                         # a document is dropped
      - name: too_few_words        # the reason in the ledger
        measure: words             # one of `measures.MEASURE_NAMES`, or a score of the run (see below)
        min: 50                    # fires when the value is less than this
      - name: symbols
        measure: hashes_per_word
        max: 0.1                   # fires when the value is greater than this
        when: {words: {min: 10}, language: {in: [en, de]}}  # silent unless every condition holds
    lines:                         # a line is removed; measures of `line_measures.LINE_MEASURES`
      - {name: shouting, measure: upper_share, max: 0.5}
      - {name: lorem_ipsum, measure: lorem_ipsum, max: 0, action: document}  # or the document is dropped
    media:                         # an image or a recording is removed; measures of `media_items.ITEM_MEASURES`
      - {name: tiny, measure: min_side, min: 32}
    remove: [citations]            # taken out of the lines that stay
    layout: joined                 # how the lines that stay are put together

A value equal to a bound is kept; `strict: true` lets the rule fire on it. A null (nothing to measure) never fires a rule and
never meets a condition. Bounds of float32 measures are rounded to float32, so that a ratio of exactly 1/10 equals 0.1.

Besides the measures, `rules` may ask `language` (with `in`), `language_score` and `quality_<name>`, which a run computes
when it is configured to, and in a set that edits, what is left of the document (`line_measures.REST_MEASURES`).
How a set that edits is applied is in `mixloom.pipeline.judgement`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline.config import read_yaml, validate
from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.rule_sets import LANGUAGE, AnyRule, Bounds, LineRule, MediaRule, Removal, Rule, RuleSet

__all__ = [
    "Bounds",
    "Firing",
    "LineRule",
    "MediaRule",
    "Removal",
    "Rule",
    "RuleSet",
    "Verdicts",
    "ask",
    "column_of",
    "combine",
    "judge",
    "load_ruleset",
    "meets",
    "ruleset_names",
    "split_at_edits",
]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a rule set says of n documents.

    keep: bool [n]. rule: int16 [n], the first rule that fired (an index into `RuleSet.names`), -1 for a kept document.
    value, limit: float64 [n], what that rule measured and the bound it broke; NaN for a kept document and where names
    are judged. fired: int64 [names], how many documents (lines, segments) each rule fires on by itself, whatever the
    others say.
    """

    keep: NDArray[np.bool_]
    rule: NDArray[np.int16]
    value: NDArray[np.float64]
    limit: NDArray[np.float64]
    fired: NDArray[np.int64]


def ruleset_names() -> list[str]:
    """Names of the rule sets that come with the package."""
    folder = files("mixloom.conf.rules")
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_ruleset(name_or_path: str | Path) -> RuleSet:
    """Load a rule set of the package by its name ("basic"), or one's own by its path ("my/rules.yaml").

    Raises:
        UserError: no such rule set or file, an unknown key or measure, a rule without a bound, a name used twice.
    """
    name = os.fspath(name_or_path)
    if isinstance(name_or_path, Path) or name.endswith((".yaml", ".yml")) or "/" in name or os.sep in name:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"the rule file {name} cannot be read: {error}",
                fix="check the path, and that it is UTF-8 text",
            ) from None
    else:
        known = ruleset_names()
        if name not in known:
            raise UserError(
                f"there is no rule set '{name}'{nearest(name, known)}",
                fix=f"use one of: {', '.join(known)}; or the path of a YAML file of your own",
            )
        text = (files("mixloom.conf.rules") / f"{name}.yaml").read_text(encoding="utf-8")
    return validate(RuleSet, read_yaml(text, name), f"rule set {name}")


def combine(rulesets: Sequence[RuleSet]) -> RuleSet:
    """One rule set that asks all of these in order; a rule that stands in two of them is asked once.

    At most one of them edits, and it is the last: see `split_at_edits` for any list.

    Raises:
        UserError: two different rules have one name, `rulesets` is empty, or a set stands behind one that edits.
    """
    if any(ruleset.edits for ruleset in rulesets[:-1]):
        raise UserError(
            "a rule set that removes lines or segments has another rule set behind it, which judges the edited documents",
            fix="apply them one after the other",
        )
    rules: dict[str, Rule] = {}
    for rule in (rule for ruleset in rulesets for rule in ruleset.rules):
        if rules.setdefault(rule.name, rule) != rule:
            raise UserError(
                f"two different rules are named '{rule.name}' in the rule sets that are to be combined",
                fix="rename one of them, or use the rule sets for different sources",
            )
    if not rulesets:
        raise UserError("no rule set is given", fix="name at least one, for example basic")
    description = " ".join(r.description for r in rulesets).strip()
    last = rulesets[-1]
    taken = sorted(set(rules) & {rule.name for rule in (*last.lines, *last.media)})
    if taken:
        raise UserError(
            f"two different rules are named '{taken[0]}' in the rule sets that are to be combined",
            fix="rename one of them, or use the rule sets for different sources",
        )
    return last.model_copy(update={"description": description, "rules": tuple(rules.values())})


def split_at_edits(rulesets: Sequence[RuleSet]) -> list[RuleSet]:
    """The rule sets to apply one after the other: each ends with a set that edits, and is judged in one go.

    What follows a set that edits judges the documents as it left them, so they are measured again before.

    Raises:
        UserError: as `combine`.
    """
    groups: list[list[RuleSet]] = [[]]
    for ruleset in rulesets:
        groups[-1].append(ruleset)
        if ruleset.edits:
            groups.append([])
    if len(groups) > 1 and not groups[-1]:
        groups.pop()
    return [combine(group) for group in groups]


Column = tuple[NDArray[Any], NDArray[np.bool_]]


def column_of(table: pa.RecordBatch | pa.Table, name: str) -> Column:
    """A measure as numpy (null as 0, or "") and where it is known. Raises KeyError where the column is missing."""
    array = table.column(name)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    values: NDArray[Any]
    if name == LANGUAGE:
        values = np.array(array.to_pylist(), dtype=object)
    elif not array.null_count:  # as most measures are
        return array.to_numpy(zero_copy_only=False), np.ones(len(array), np.bool_)
    else:
        values = array.fill_null(0).to_numpy(zero_copy_only=False)
    return values, array.is_valid().to_numpy(zero_copy_only=False)


def _outside(
    values: NDArray[Any], known: NDArray[np.bool_], bounds: Bounds
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where a known value lies below min (or is no name allowed), and where above max; bool [n] each."""
    none = np.zeros(len(values), np.bool_)
    if bounds.one_of is not None:
        return known & ~np.isin(values, np.array(bounds.one_of, dtype=object)), none
    kind = np.float32 if values.dtype == np.float32 else np.float64
    below = above = none
    if bounds.min is not None:
        low = kind(bounds.min)
        below = known & (values <= low if bounds.strict else values < low)
    if bounds.max is not None:
        high = kind(bounds.max)
        above = known & (values >= high if bounds.strict else values > high)
    return below, above


def meets(columns: Mapping[str, Column], when: Mapping[str, Bounds], n: int) -> NDArray[np.bool_]:
    """Where every condition holds; bool [n]."""
    holds = np.ones(n, np.bool_)
    for measure, bounds in when.items():
        low, high = _outside(*columns[measure], bounds)
        holds &= columns[measure][1] & ~(low | high)
    return holds


@dataclass(slots=True)
class Firing:
    """The first rule that fires on each of n things. first: int16 [n], -1 for none; value, limit: float64 [n], or NaN.

    fired: int64 [rules], on how many of them each rule fires by itself.
    """

    first: NDArray[np.int16]
    value: NDArray[np.float64]
    limit: NDArray[np.float64]
    fired: NDArray[np.int64]


def ask(
    columns: Mapping[str, Column], rules: Sequence[AnyRule], n: int, among: NDArray[np.bool_] | None = None
) -> Firing:
    """Ask every rule (of one section) of n things, those in `among` (bool [n]; by default all).

    columns: every measure the rules read, as `column_of` gives it.
    """
    first = np.full(n, -1, np.int16)
    value, limit = np.full(n, np.nan), np.full(n, np.nan)
    fired = np.zeros(len(rules), np.int64)
    for k, rule in enumerate(rules):
        values, known = columns[rule.measure]
        below, above = _outside(values, known, rule)
        fires = (below | above) & meets(columns, rule.when, n)
        if among is not None:
            fires &= among
        fired[k] = np.count_nonzero(fires)
        new = fires & (first < 0)
        first[new] = k
        if rule.one_of is None:
            value[new] = values[new]
            low, high = (np.nan if b is None else b for b in (rule.min, rule.max))
            limit[new] = np.where(below[new], low, high)
    return Firing(first, value, limit, fired)


def judge(annotations: pa.RecordBatch, ruleset: RuleSet) -> Verdicts:
    """Apply every rule to n annotated documents (any batch that has the columns `ruleset.measures`).

    Raises KeyError where a column is missing, ValueError where the set edits (see `judgement.judge_document`).
    """
    if ruleset.edits:
        raise ValueError("a rule set that edits is judged by judgement.judge_document")
    columns = {measure: column_of(annotations, measure) for measure in ruleset.measures}
    found = ask(columns, ruleset.rules, annotations.num_rows)
    return Verdicts(found.first < 0, found.first, found.value, found.limit, found.fired)
