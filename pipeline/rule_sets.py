"""What a rule set may say: the models of its YAML file. `mixloom.pipeline.rules` loads, combines and applies them."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mixloom.pipeline.errors import nearest
from mixloom.pipeline.line_measures import LINE_MEASURE_NAMES, REST_MEASURE_NAMES
from mixloom.pipeline.measures import MEASURE_NAMES
from mixloom.pipeline.media_items import ITEM_MEASURE_NAMES
from mixloom.pipeline.noise_measures import NOISE_MEASURES

LANGUAGE = "language"  # the one column of names; every other is a number
SCORE_NAMES = (LANGUAGE, "language_score", *NOISE_MEASURES)
_QUALITY = re.compile(r"quality_[a-z0-9_]+")
_MEDIA_REST = frozenset(
    n for n in REST_MEASURE_NAMES if "media" in n or n in ("kept_images", "kept_speech", "kept_segments")
)
_TEXT_REST = frozenset(REST_MEASURE_NAMES) - _MEDIA_REST | {"kept_segments"}


def _known(measure: str, names: Sequence[str], of: str) -> None:
    if measure not in names:
        raise ValueError(
            f"there is no {of} '{measure}'{nearest(measure, names)}; use one of: {', '.join(names)}"
        )


def _possible(measure: str, bounds: Bounds) -> None:
    """Raise ValueError where a bound lies where the measure never is: the rule would drop nothing, or everything."""
    share = measure.endswith("_share") and not measure.startswith("top_")  # overlapping n-grams all count
    if measure == "loudness_dbfs":
        low, high = -math.inf, math.inf
    elif share or measure == "language_score" or _QUALITY.fullmatch(measure):
        low, high = 0.0, 1.0
    else:
        low, high = 0.0, math.inf
    for end, bound in (("min", bounds.min), ("max", bounds.max)):
        if bound is not None and not low <= bound <= high:
            where = "between 0 and 1" if high == 1 else "never below 0"
            raise ValueError(
                f"{end} is {bound:g}, but '{measure}' is {where}; no value would make a difference"
            )


class Bounds(BaseModel):
    """An interval of allowed values; both ends belong to it unless `strict`. Of a name: the allowed ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    min: float | None = Field(default=None, allow_inf_nan=False, description="values below this are outside")
    max: float | None = Field(default=None, allow_inf_nan=False, description="values above this are outside")
    strict: bool = Field(default=False, description="a value equal to a bound is outside too")
    one_of: tuple[str, ...] | None = Field(
        default=None, alias="in", min_length=1, description="the names allowed, where the column holds names"
    )

    @model_validator(mode="after")
    def _bounded(self) -> Bounds:
        bounded = self.min is not None or self.max is not None
        if self.one_of is not None and bounded:
            raise ValueError("'in' is for names, min and max are for numbers; give one of them")
        if self.one_of is None and not bounded:
            raise ValueError("there is no bound; give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is greater than max {self.max:g}; swap them")
        return self


class AnyRule(Bounds, ABC):
    """What the rules of every section have in common."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="the reason in the ledger, in snake_case")
    measure: str = Field(description="the measure that is judged")
    when: dict[str, Bounds] = Field(default={}, description="measures that must lie inside these bounds")

    @model_validator(mode="after")
    def _known_measures(self) -> AnyRule:
        for measure, bounds in ((self.measure, self), *self.when.items()):
            self._check(measure)
            _possible(measure, bounds)
            if (measure == LANGUAGE) != (bounds.one_of is not None):
                raise ValueError(
                    f"'{measure}' holds names; write it as {{in: [en, de]}}"
                    if measure == LANGUAGE
                    else f"'{measure}' is a number; give min, max or both, not 'in'"
                )
        return self

    @abstractmethod
    def _check(self, measure: str) -> None:
        """Raise ValueError where the measure is none that these rules can ask."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The measures the rule reads, its own first."""
        return (self.measure, *self.when)


class Rule(AnyRule):
    """Drop a document whose measure lies outside the bounds, if every condition in `when` holds."""

    def _check(self, measure: str) -> None:
        if not _QUALITY.fullmatch(measure):
            _known(measure, (*MEASURE_NAMES, *SCORE_NAMES, *REST_MEASURE_NAMES), "measure")

    @property
    def asks_rest(self) -> bool:
        """Whether it asks what line and media rules have left."""
        return any(m in REST_MEASURE_NAMES for m in self.reads)


class LineRule(AnyRule):
    """Remove a line, or drop its document, by a measure of the line."""

    action: Literal["line", "document"] = Field(
        default="line",
        description="what goes: the line, or the whole document if no earlier rule removed the line",
    )

    def _check(self, measure: str) -> None:
        _known(measure, LINE_MEASURE_NAMES, "measure of lines")


class MediaRule(AnyRule):
    """Remove an image or a recording, or drop its document, by a measure of it."""

    action: Literal["segment", "document"] = Field(
        default="segment", description="what goes: the image or recording, or the whole document"
    )

    def _check(self, measure: str) -> None:
        _known(measure, ITEM_MEASURE_NAMES, "measure of images and recordings")


class Removal(BaseModel):
    """What is taken out of lines that stay. Of the snippets a line consists of, the line goes with them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: Literal["citations", "snippets"] = Field(description="what is taken out (see `line_measures`)")
    when: dict[str, Bounds] = Field(
        default={}, description="measures of the line that must lie inside these bounds"
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"what": value} if isinstance(value, str) else value

    @field_validator("when")
    @classmethod
    def _known_conditions(cls, when: dict[str, Bounds]) -> dict[str, Bounds]:
        for measure, bounds in when.items():
            _known(measure, LINE_MEASURE_NAMES, "measure of lines")
            _possible(measure, bounds)
        return when


class RuleSet(BaseModel):
    """Rules in the order in which they are asked; the first that fires is a document's (a line's, a segment's) reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(default="", description="what the set is for and where its numbers are from")
    rules: tuple[Rule, ...] = Field(default=(), max_length=1000, description="rules that drop documents")
    lines: tuple[LineRule, ...] = Field(default=(), max_length=1000, description="rules that remove lines")
    media: tuple[MediaRule, ...] = Field(
        default=(), max_length=1000, description="rules that remove images and recordings"
    )
    remove: tuple[Removal, ...] = Field(
        default=(),
        max_length=1,
        description="what is taken out of the lines that stay: citations, or snippets",
    )
    layout: Literal["joined", "in_place"] = Field(
        default="in_place",
        description="joined: the lines that stay, without white space at their ends and without blank lines, joined by "
        "newlines; in_place: a line that goes takes its line break with it, all else stays as it is; "
        "both: no white space at the ends of the text",
    )
    max_empty_lines: int | None = Field(
        default=None, ge=0, description="of more empty lines in a row, so many stay; in_place only"
    )

    @model_validator(mode="after")
    def _whole(self) -> RuleSet:
        if not (self.rules or self.edits):
            raise ValueError("there is no rule; give at least one in rules, lines, media or remove")
        twice = sorted({n for n in self.names if self.names.count(n) > 1})
        if twice:
            raise ValueError(f"two rules are named '{twice[0]}'; a name is a reason and must be its own")
        asking = [r.name for r in self.rules if r.asks_rest]
        if asking and not self.edits:
            raise ValueError(
                f"rule '{asking[0]}' asks what is left of the document, but the set removes nothing; "
                "give it a lines, media or remove section"
            )
        if not self.edits_text and self.model_fields_set & {"layout", "max_empty_lines"}:
            raise ValueError("layout and max_empty_lines are for sets with a lines or remove section")
        if self.layout == "joined" and self.max_empty_lines is not None:
            raise ValueError("max_empty_lines is for layout in_place; joined leaves no empty line")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all rules: those of `rules`, of `lines`, of `media`. Verdicts count along this order."""
        return tuple(rule.name for rule in (*self.rules, *self.lines, *self.media))

    @property
    def measures(self) -> tuple[str, ...]:
        """The columns of the annotations that the rules read, in the order of `MEASURE_NAMES`, then by name."""
        read = {m for rule in self.rules for m in rule.reads} - set(REST_MEASURE_NAMES)
        known = tuple(name for name in MEASURE_NAMES if name in read)
        return (*known, *sorted(read - set(known)))

    @property
    def edits_text(self) -> bool:
        """Whether it may change text."""
        return bool(self.lines or self.remove)

    @property
    def edits(self) -> bool:
        """Whether it may change documents, so that what is judged after it must be measured again."""
        return self.edits_text or bool(self.media)

    @property
    def needs_lines(self) -> bool:
        """Whether judging reads the table of lines."""
        return self.edits_text or self._asks(_TEXT_REST)

    @property
    def needs_items(self) -> bool:
        """Whether judging reads the table of images and recordings."""
        return bool(self.media) or self._asks(_MEDIA_REST)

    def _asks(self, names: frozenset[str]) -> bool:
        return any(m in names for rule in self.rules for m in rule.reads)

    def to_json(self) -> dict[str, Any]:
        """The rules as plain JSON values, without the description: what decides, and nothing else."""
        out: dict[str, Any] = {"rules": [_plain(rule) for rule in self.rules]}
        for section in ("lines", "media", "remove"):
            if getattr(self, section):
                out[section] = [_plain(rule) for rule in getattr(self, section)]
        if self.edits_text:
            out |= {"layout": self.layout, "max_empty_lines": self.max_empty_lines}
        return out


def _plain(model: BaseModel) -> dict[str, Any]:
    """A rule as JSON values; "in" only where it is used, so that rules written before it keep their text."""
    dumped = model.model_dump(mode="json", by_alias=True)
    for part in (dumped, *dumped["when"].values()):
        if part.get("in", ...) is None:
            del part["in"]
    return dumped
