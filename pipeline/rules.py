"""Rules are data: a rule set is a YAML file of measures and bounds, applied to annotations in one vectorised step.

    description: what the set is for
    rules:
      - name: too_few_words      # the reason in the ledger
        measure: words           # one of `measures.MEASURE_NAMES`
        min: 50                  # dropped when the value is less than this
      - name: symbols
        measure: hashes_per_word
        max: 0.1                 # dropped when the value is greater than this
        when: {words: {min: 10}} # the rule is silent unless every condition holds

A value equal to a bound is kept; `strict: true` drops it too. A null (nothing to measure) never fires a rule and never
meets a condition. Bounds of float32 measures are rounded to float32, so that a ratio of exactly 1/10 equals 0.1.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mixloom.pipeline.config import read_yaml, validate
from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.measures import MEASURE_NAMES


def _known(measure: str) -> str:
    if measure not in MEASURE_NAMES:
        raise ValueError(
            f"there is no measure '{measure}'{nearest(measure, MEASURE_NAMES)}; use one of: {', '.join(MEASURE_NAMES)}"
        )
    return measure


class Bounds(BaseModel):
    """An interval of allowed values; both ends belong to it unless `strict`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = Field(default=None, allow_inf_nan=False, description="values below this are outside")
    max: float | None = Field(default=None, allow_inf_nan=False, description="values above this are outside")
    strict: bool = Field(default=False, description="a value equal to a bound is outside too")

    @model_validator(mode="after")
    def _bounded(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("there is no bound; give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is greater than max {self.max:g}; swap them")
        return self


class Rule(Bounds):
    """Drop a document whose measure lies outside the bounds, if every condition in `when` holds."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="the reason in the ledger, in snake_case")
    measure: str = Field(description="the measure that is judged")
    when: dict[str, Bounds] = Field(default={}, description="measures that must lie inside these bounds")

    @field_validator("measure")
    @classmethod
    def _known_measure(cls, measure: str) -> str:
        return _known(measure)

    @field_validator("when")
    @classmethod
    def _known_conditions(cls, when: dict[str, Bounds]) -> dict[str, Bounds]:
        for measure in when:
            _known(measure)
        return when


class RuleSet(BaseModel):
    """Rules in the order in which they are asked; the first that fires is a document's reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(default="", description="what the set is for and where its numbers are from")
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=1000, description="the rules, in order")

    @model_validator(mode="after")
    def _distinct(self) -> RuleSet:
        names = [rule.name for rule in self.rules]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two rules are named '{twice[0]}'; a name is a reason and must be its own")
        return self

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of every measure the rules read, in the order of `MEASURE_NAMES`."""
        read = {m for rule in self.rules for m in (rule.measure, *rule.when)}
        return tuple(name for name in MEASURE_NAMES if name in read)

    def to_json(self) -> dict[str, Any]:
        """The rules as plain JSON values, without the description: what decides, and nothing else."""
        return {"rules": [rule.model_dump(mode="json") for rule in self.rules]}


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a rule set says of n documents.

    keep: bool [n]. rule: int16 [n], the first rule that fired, -1 for a kept document. value, limit: float64 [n],
    what that rule measured and the bound it broke; NaN for a kept document. fired: int64 [rules], how many documents
    each rule fires on by itself, whatever the others say.
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

    Raises:
        UserError: two different rules have one name, or `rulesets` is empty.
    """
    rules: dict[str, Rule] = {}
    for rule in (rule for ruleset in rulesets for rule in ruleset.rules):
        if rules.setdefault(rule.name, rule) != rule:
            raise UserError(
                f"two different rules are named '{rule.name}' in the rule sets that are to be combined",
                fix="rename one of them, or use the rule sets for different sources",
            )
    if not rules:
        raise UserError("no rule set is given", fix="name at least one, for example basic")
    return RuleSet(description=" ".join(r.description for r in rulesets).strip(), rules=tuple(rules.values()))


def _column(annotations: pa.RecordBatch, measure: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A measure as numpy (null as 0) and where it is known."""
    array = annotations.column(measure)
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    return values, array.is_valid().to_numpy(zero_copy_only=False)


def _outside(
    values: NDArray[Any], known: NDArray[np.bool_], bounds: Bounds
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where a known value lies below min, and where above max; bool [n] each."""
    none = np.zeros(len(values), np.bool_)
    kind = np.float32 if values.dtype == np.float32 else np.float64
    below = above = none
    if bounds.min is not None:
        low = kind(bounds.min)
        below = known & (values <= low if bounds.strict else values < low)
    if bounds.max is not None:
        high = kind(bounds.max)
        above = known & (values >= high if bounds.strict else values > high)
    return below, above


def judge(annotations: pa.RecordBatch, ruleset: RuleSet) -> Verdicts:
    """Apply every rule to n annotated documents (any batch that has the columns `ruleset.measures`).

    Raises KeyError where a column is missing.
    """
    n = annotations.num_rows
    columns = {measure: _column(annotations, measure) for measure in ruleset.measures}
    first = np.full(n, -1, np.int16)
    value, limit = np.full(n, np.nan), np.full(n, np.nan)
    fired = np.zeros(len(ruleset.rules), np.int64)
    for k, rule in enumerate(ruleset.rules):
        values, known = columns[rule.measure]
        below, above = _outside(values, known, rule)
        fires = below | above
        for measure, bounds in rule.when.items():
            low, high = _outside(*columns[measure], bounds)
            fires &= columns[measure][1] & ~(low | high)
        fired[k] = np.count_nonzero(fires)
        new = fires & (first < 0)
        first[new] = k
        value[new] = values[new]
        limit[new] = np.where(
            below[new], np.nan if rule.min is None else rule.min, np.nan if rule.max is None else rule.max
        )
    return Verdicts(keep=first < 0, rule=first, value=value, limit=limit, fired=fired)
