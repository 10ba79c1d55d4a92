"""Settings of a mixture: the method, its budget and caps, and what the weights must respect. Nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mixloom.pipeline.errors import UserError, nearest

Method = Literal[
    "unimax", "uniform", "proportional", "temperature", "utilimax", "doremi", "regmix", "odm", "fixed"
]
Axis = Literal["source", "domain", "modality"]


class Exclude(BaseModel):
    """Domains that are left out: they stay in the list, with weight 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    licence: tuple[str, ...] = Field((), description="Licences that are left out, written as in the counts.")
    source: tuple[str, ...] = Field((), description="Sources that are left out.")
    domain: tuple[str, ...] = Field((), description="Domains that are left out, by name.")


class FinalPhase(BaseModel):
    """A last stretch of training that gives some domains more. It is counted against the same caps, and comes first to them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(
        0.15, gt=0, lt=1, description="Share of the budget; below 0.05 and above 0.3 the mixture warns."
    )
    shares: dict[str, float] | None = Field(
        None,
        description="Share of this phase by domain, or by pattern with * for a group, for example {'code-*': 0.4};"
        " the rest goes to the others as the method weighs them.",
    )
    utilities: str | None = Field(
        None, description="Weigh this phase by UtiliMax, with the utilities of this file (.yaml or .csv)."
    )
    risk: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="lambda of UtiliMax in this phase; smaller is bolder."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.shares is None) == (self.utilities is None):
            raise ValueError("give either shares or utilities")
        shares = list((self.shares or {}).values())
        if self.shares is not None and not (shares and min(shares) >= 0 and sum(shares) <= 1 + 1e-9):
            raise ValueError("shares must be 0 or more and sum to at most 1")
        return self


class MixtureConfig(BaseModel):
    """How to weigh the domains."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = Field(
        "unimax", description="How the weights are found; `mixloom mix methods` lists them."
    )
    max_epochs: float = Field(
        4.0,
        gt=0,
        allow_inf_nan=False,
        description="No domain is served more often than this, whatever the method.",
    )
    budget_tokens: int | Literal["steps"] = Field(
        "steps", description="Tokens to train on; 'steps' takes them from the training length of the caller."
    )
    group_by: tuple[Axis, ...] = Field(
        ("domain",),
        min_length=1,
        description="What counts as one domain: source, domain, modality or several of them. Only domain can be served"
        " by the stream; other groupings are for planning.",
    )
    temperature: float = Field(
        3.33, gt=0, allow_inf_nan=False, description="Exponent 1/temperature on the sizes."
    )
    min_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Floor on every share (less only where a domain's cap is lower); not for fixed.",
    )
    modality_shares: dict[str, float] | None = Field(
        None,
        description="Proportions of the tokens by modality, for example {speech: 1, rest: 6}; `rest` stands for the"
        " modalities not named. Holds in every phase.",
    )
    exclude: Exclude = Field(Exclude(), description="Domains that are left out.")
    licences: dict[str, str] = Field(
        {}, description="Licence of a source, where the counts do not give it (a run's manifest does not)."
    )
    final_phase: FinalPhase | None = Field(None, description="A last phase that gives some domains more.")
    weights: dict[str, float] | None = Field(
        None, description="For fixed: the share of every domain; they sum to 1."
    )
    utilities: str | None = Field(
        None, description="For utilimax: file of sources by skills, 0 to 1 (.yaml or .csv)."
    )
    risk: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="lambda of UtiliMax: how much spreading over domains counts against usefulness.",
    )
    skill_weights: dict[str, float] | None = Field(
        None, description="For utilimax and regmix: how much each skill counts; left out: all the same."
    )
    trials: str | None = Field(
        None,
        description="For regmix: CSV of trained mixtures, with the weight of every domain and columns loss:SKILL.",
    )
    regressor: Literal["auto", "linear", "trees"] = Field(
        "auto", description="For regmix; auto: the one that ranks held-out trials better."
    )
    candidates: int = Field(
        20_000,
        ge=100,
        le=1_000_000,
        description="For regmix: simulated mixtures; the best 0.5% are averaged.",
    )
    seed: int = Field(0, ge=0, description="For regmix: seed of the simulated mixtures.")
    excess: str | None = Field(
        None, description="For doremi: CSV with step and, per domain, the proxy's loss above the reference."
    )
    eta: float = Field(1.0, gt=0, allow_inf_nan=False, description="For doremi: step size.")
    smoothing: float = Field(
        1e-3, ge=0, lt=1, description="For doremi: what every step mixes in of the uniform weights."
    )
    losses: str | None = Field(
        None,
        description="For odm: CSV with step and, per domain, the training loss; left out: the weights it starts from.",
    )
    reward_smoothing: float = Field(
        0.9, ge=0, lt=1, description="For odm: how much of an old reward is kept at an update."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("modality_shares", "skill_weights"):
            parts = getattr(self, name)
            if parts is not None and not (parts and min(parts.values()) >= 0 and sum(parts.values()) > 0):
                raise ValueError(f"{name} must not be negative, and not all zero")
        if len(set(self.group_by)) != len(self.group_by):
            raise ValueError("group_by names an axis twice")
        return self


# What every method reads, and what only some do; the rest would only make equal mixtures look different.
_COMMON = ("max_epochs",)
_READ: dict[str, tuple[str, ...]] = {
    "unimax": ("min_share",),
    "uniform": ("min_share",),
    "proportional": ("min_share",),
    "temperature": ("temperature", "min_share"),
    "utilimax": ("min_share", "utilities", "risk", "skill_weights"),
    "doremi": ("min_share", "excess", "eta", "smoothing"),
    "regmix": ("min_share", "trials", "regressor", "candidates", "seed", "skill_weights"),
    "odm": ("min_share", "losses", "reward_smoothing"),
    "fixed": ("weights",),
}
_WHEN_SET = ("group_by", "modality_shares", "exclude", "licences", "final_phase")


def used_settings(config: MixtureConfig) -> dict[str, Any]:
    """The settings the estimate read, as JSON values, in the order of their definition."""
    read = {*_COMMON, *_READ[config.method]}
    if config.final_phase is not None and config.final_phase.utilities is not None:
        read.add("skill_weights")
    default = MixtureConfig()
    set_ = {k for k in _WHEN_SET if getattr(config, k) != getattr(default, k)}
    values = config.model_dump(mode="json", exclude_none=True)
    return {k: v for k, v in values.items() if k in read | set_}


def parse_settings(values: Mapping[str, Any]) -> MixtureConfig:
    """A config from loose settings. Raises UserError naming the setting, the value and what is allowed."""
    for name in values:
        if name not in MixtureConfig.model_fields:
            known = list(MixtureConfig.model_fields)
            raise UserError(
                f"no mixture setting '{name}'{nearest(name, known)}", fix=f"use one of: {', '.join(known)}"
            )
    try:
        return MixtureConfig.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise UserError(
                f"mixture settings: {first['msg']}", fix="see `mixloom mix estimate --help`"
            ) from None
        raise _refused(first["loc"], first["msg"], first.get("input")) from None


_NESTED: dict[str, type[BaseModel]] = {"exclude": Exclude, "final_phase": FinalPhase}


def _refused(where: tuple[int | str, ...], said: str, value: object) -> UserError:
    """The error of one setting, with what is allowed there."""
    name = str(where[0])
    about = f"{name}: {MixtureConfig.model_fields[name].description}"
    inner = _NESTED.get(name)
    if inner is not None and len(where) > 1:
        field = inner.model_fields.get(str(where[1]))
        about = (
            f"{where[1]}: {field.description}" if field else f"use one of: {', '.join(inner.model_fields)}"
        )
    elif inner is not None:
        about = f"{about} It has: {', '.join(inner.model_fields)}"
    told = said.removeprefix("Value error, ")
    return UserError(f"mixture setting {'.'.join(map(str, where))} is {value!r}: {told}", fix=about)
