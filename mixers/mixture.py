"""A mixture: the share of the training tokens each domain gets, with its caps, and how it was found."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mixloom.mixers.phases import (
    Phase,
    check_starts,
    last_phase_note,
    mean_weights,
    phase_at,
    phase_shares,
    too_often,
)
from mixloom.pipeline.errors import UserError, nearest

__all__ = [
    "MIXTURE_NAME",
    "Mixture",
    "MixtureDomain",
    "Phase",
    "check_servable",
    "check_weights",
    "find_mixture",
]

VERSION = 1
MIXTURE_NAME = "mixture.yaml"
_SLACK = 1e-6  # relative; what rounding in a hand-written file may amount to


class MixtureDomain(BaseModel):
    """One domain as the mixture sees it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="Name of the domain, as in the shard manifest.")
    tokens: int = Field(ge=1, description="Real tokens in one epoch of it.")
    max_epochs: float = Field(
        gt=0, allow_inf_nan=False, description="It is never served more often than this."
    )


class Mixture(BaseModel):
    """Weights by domain, in tokens, in one phase or several. Validated on creation.

    Raises:
        UserError: weights that do not sum to 1 or are negative, a name that is not a domain, a domain left out,
            phases out of order, or weights that repeat a domain more often, over all phases, than its cap.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(default=VERSION, description="Version of this file format.")
    estimator: str = Field(description="The method that found the weights.")
    settings: dict[str, Any] = Field(default_factory=dict, description="The settings it was given.")
    inputs: str = Field(description="Fingerprint of the sizes it was given.")
    budget_tokens: int = Field(ge=1, description="Tokens the mixture is made for.")
    domains: tuple[MixtureDomain, ...] = Field(
        min_length=1, description="All domains, also those of weight 0."
    )
    phases: tuple[Phase, ...] = Field(
        min_length=1, description="Stretches of the budget with their weights; the first starts at 0."
    )
    notes: tuple[str, ...] = Field(
        default=(), validate_default=True, description="What a reader of the weights should know."
    )

    record: dict[str, Any] = Field(
        default_factory=dict,
        description="What the estimate was made from, whole: `mixloom mix reproduce` makes it again from here.",
    )

    @field_validator("notes")
    @classmethod
    def _with_caution(cls, notes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        note = last_phase_note(info.data.get("phases") or ())
        return notes if not note or note in notes else (*notes, note)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.version != VERSION:
            raise UserError(
                f"mixture has version {self.version}; this mixloom reads {VERSION}",
                fix="estimate the mixture again",
            )
        names = [d.name for d in self.domains]
        if len(set(names)) != len(names):
            raise UserError("the mixture lists a domain twice", fix="list each domain once")
        check_starts(self.phases)
        for phase in self.phases:
            check_weights(phase.weights, names)
        epochs = self.epochs
        for d in self.domains:
            if epochs[d.name] > d.max_epochs * (1 + _SLACK):
                raise too_often(d.name, d.tokens, d.max_epochs, self.budget_tokens, self.phases)
        return self

    @property
    def names(self) -> list[str]:
        """Names of the domains, in order."""
        return [d.name for d in self.domains]

    @property
    def weights(self) -> dict[str, float]:
        """Share of all tokens per domain over the whole budget (the mean over the phases), in domain order."""
        return mean_weights(self.phases, self.names)

    @property
    def phase_shares(self) -> tuple[float, ...]:
        """Share of the budget each phase takes; they sum to 1."""
        return phase_shares(self.phases)

    def weights_at(self, share: float) -> dict[str, float]:
        """Weights in force after `share` of the budget (step / steps), in domain order; from 1 on the last phase's.

        Raises:
            ValueError: a negative share.
        """
        weights = self.phases[phase_at(self.phases, share)].weights
        return {name: weights[name] for name in self.names}

    @property
    def phase_tokens(self) -> list[dict[str, float]]:
        """For every phase the tokens each domain gives in it; all of them sum to budget_tokens."""
        return [
            {name: share * self.budget_tokens * phase.weights[name] for name in self.names}
            for share, phase in zip(self.phase_shares, self.phases)
        ]

    @property
    def phase_epochs(self) -> list[dict[str, float]]:
        """For every phase how often each domain is seen in it; their sum is `epochs`."""
        sizes = {d.name: d.tokens for d in self.domains}
        return [{name: t / sizes[name] for name, t in tokens.items()} for tokens in self.phase_tokens]

    @property
    def epochs(self) -> dict[str, float]:
        """How often each domain is seen over the whole budget, all phases together."""
        weights = self.weights
        return {d.name: weights[d.name] * self.budget_tokens / d.tokens for d in self.domains}

    @property
    def capped(self) -> tuple[str, ...]:
        """Domains whose cap binds."""
        epochs = self.epochs
        return tuple(d.name for d in self.domains if epochs[d.name] >= d.max_epochs * (1 - _SLACK))

    @property
    def effective_domains(self) -> float:
        """Effective number of domains, 1 / sum of squared weights."""
        return 1.0 / math.fsum(w * w for w in self.weights.values())

    @property
    def fingerprint(self) -> str:
        """sha256 over the content; `notes` and `record` are left out, for they change nothing that is served."""
        data = self.model_dump(mode="json", exclude={"notes", "record"})
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write `to_yaml` under a temporary name, then rename it."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.write_text(self.to_yaml(), encoding="utf-8")
        os.replace(temporary, target)
        return target

    def to_yaml(self) -> str:
        """The mixture as YAML. Comments at the top give the epochs, also by phase."""
        parts = self.phase_epochs
        lines = [
            f"# {name}: {epochs:.4g} epochs"
            + (f" ({' + '.join(f'{p[name]:.4g}' for p in parts)} by phase)" if len(parts) > 1 else "")
            for name, epochs in self.epochs.items()
        ]
        body = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
        return "\n".join([*(line.replace("\n", " ") for line in lines), body])

    @classmethod
    def load(cls, path: str | Path) -> Mixture:
        """Read a mixture from its YAML file, or from the run directory that holds it.

        Raises:
            UserError: no file, not YAML, or content that is no valid mixture.
        """
        file = find_mixture(path)
        try:
            data = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(
                f"{file} is not YAML: {error}", fix="restore the file, or estimate again"
            ) from None
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(x) for x in first["loc"]) or "content"
            raise UserError(
                f"{file}: field {where}: {first['msg']}",
                fix="correct the field, or estimate the mixture again",
            ) from None
        except UserError as error:
            raise UserError(f"{file}: {error.what}", fix=error.fix) from None


def check_servable(mixture: Mixture, domains: Iterable[str]) -> None:
    """Raise UserError unless the mixture is over exactly these domains of the shards.

    A mixture over sources or modalities is for planning: contexts hold documents of several, and only domains of the shards
    can be served.
    """
    axes = mixture.settings.get("group_by", ["domain"])
    if list(axes) != ["domain"]:
        raise UserError(
            f"the mixture weighs tokens by {' and '.join(axes)}, but the shards are served by domain",
            fix="use it for planning, and estimate with group_by=domain for what is served",
        )
    for phase in mixture.phases:
        check_weights(phase.weights, domains)


def check_weights(weights: dict[str, float], names: Iterable[str]) -> None:
    """Raise UserError unless the weights are over exactly these domains, non-negative, and sum to 1 (to 1e-6)."""
    known = list(names)
    for name in weights:
        if name not in known:
            raise UserError(
                f"weights name a domain '{name}' that does not exist{nearest(name, known)}",
                fix=f"use the names of the manifest: {', '.join(known[:20])}",
            )
    left_out = [name for name in known if name not in weights]
    if left_out:
        raise UserError(
            f"weights leave out domain '{left_out[0]}' ({len(left_out)} in all)",
            fix="give every domain a weight; 0 leaves it out of training",
        )
    for name, w in weights.items():
        if not (math.isfinite(w) and w >= 0):
            raise UserError(f"weight of domain '{name}' is {w}", fix="weights are finite and not negative")
    total = math.fsum(weights.values())
    if abs(total - 1) > _SLACK:
        raise UserError(f"weights sum to {total:.8g}, not 1", fix="divide every weight by their sum")


def find_mixture(path: str | Path) -> Path:
    """The mixture file meant by a YAML path or a run directory. Raises UserError when there is none."""
    base = Path(path)
    is_file = base.suffix in (".yaml", ".yml")
    tried = [base] if is_file else [base / MIXTURE_NAME, base / "mixture" / MIXTURE_NAME]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    places = " or ".join(str(t) for t in tried)
    raise UserError(f"no mixture at {places}", fix="estimate one first: mixloom mix estimate RUN --out PATH")
