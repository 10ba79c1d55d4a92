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
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mixloom.pipeline.errors import UserError, nearest

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


class Phase(BaseModel):
    """A stretch of training with fixed weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the budget after which the phase begins."
    )
    weights: dict[str, float] = Field(description="Share of the tokens per domain; they sum to 1.")


class Mixture(BaseModel):
    """Weights by domain, in tokens. Validated on creation: weights sum to 1, names exist, no cap is exceeded.

    Raises:
        UserError: weights that do not sum to 1 or are negative, a name that is not a domain, a domain left out,
            or a weight that repeats its domain more often than its cap.
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
        min_length=1, max_length=1, description="One phase, from the first step on."
    )
    notes: tuple[str, ...] = Field(default=(), description="What a reader of the weights should know.")

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
        if self.phases[0].start != 0:
            raise UserError(f"the first phase starts at {self.phases[0].start}", fix="let it start at 0")
        for phase in self.phases:
            check_weights(phase.weights, names)
        for d in self.domains:
            epochs = self.epochs[d.name]
            if epochs > d.max_epochs * (1 + _SLACK):
                fits = d.max_epochs * d.tokens / self.budget_tokens
                raise UserError(
                    f"domain '{d.name}': weight {self.weights[d.name]:.6g} of {self.budget_tokens:,} tokens is"
                    f" {epochs:.3g} epochs of its {d.tokens:,} tokens; allowed: {d.max_epochs:g}",
                    fix=f"lower its weight to at most {fits:.6g}, raise max_epochs, or lower budget_tokens",
                )
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Share of the tokens per domain, in domain order."""
        return {d.name: self.phases[0].weights[d.name] for d in self.domains}

    @property
    def epochs(self) -> dict[str, float]:
        """How often each domain is seen over the whole budget."""
        return {d.name: self.phases[0].weights[d.name] * self.budget_tokens / d.tokens for d in self.domains}

    @property
    def capped(self) -> tuple[str, ...]:
        """Domains whose cap binds."""
        return tuple(d.name for d in self.domains if self.epochs[d.name] >= d.max_epochs * (1 - _SLACK))

    @property
    def effective_domains(self) -> float:
        """Effective number of domains, 1 / sum of squared weights."""
        return 1.0 / math.fsum(w * w for w in self.weights.values())

    @property
    def fingerprint(self) -> str:
        """sha256 over the content; `notes` are left out, for they change nothing that is served."""
        data = self.model_dump(mode="json", exclude={"notes"})
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write YAML under a temporary name, then rename it. A comment at the top gives the epochs."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"# {name}: {epochs:.4g} epochs" for name, epochs in self.epochs.items()]
        body = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.write_text(
            "\n".join([*(line.replace("\n", " ") for line in lines), body]), encoding="utf-8"
        )
        os.replace(temporary, target)
        return target

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
