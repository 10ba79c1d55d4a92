"""From sizes and settings to a mixture: one table of methods, one rule for caps and floors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mixloom.mixers.heuristics import Shares, bounded_shares, proportional, temperature, uniform
from mixloom.mixers.mixture import Mixture, MixtureDomain, Phase, check_weights
from mixloom.mixers.sources import Sources
from mixloom.mixers.unimax import unimax
from mixloom.pipeline.errors import UserError, nearest


class MixtureConfig(BaseModel):
    """How to weigh the domains."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["unimax", "proportional", "temperature", "uniform", "fixed"] = Field(
        "unimax", description="How the weights are found from the sizes."
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
    temperature: float = Field(
        3.33, gt=0, allow_inf_nan=False, description="Exponent 1/temperature on the sizes."
    )
    min_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Floor on every share (less only where a domain's cap is lower); not for fixed.",
    )
    weights: dict[str, float] | None = Field(
        None, description="For fixed: the share of every domain; they sum to 1."
    )


def _unimax(sources: Sources, config: MixtureConfig, budget: int) -> Shares:
    taken = unimax(sources.tokens, budget, config.max_epochs)
    return taken / taken.sum()


def _uniform(sources: Sources, config: MixtureConfig, budget: int) -> Shares:
    return _bounded(uniform(sources.tokens), sources, config, budget)


def _proportional(sources: Sources, config: MixtureConfig, budget: int) -> Shares:
    return _bounded(proportional(sources.tokens), sources, config, budget)


def _temperature(sources: Sources, config: MixtureConfig, budget: int) -> Shares:
    return _bounded(temperature(sources.tokens, config.temperature), sources, config, budget)


def _fixed(sources: Sources, config: MixtureConfig, budget: int) -> Shares:
    if config.weights is None:
        raise UserError(
            "method fixed needs weights", fix="set weights to the share of every domain, for example {a: 1.0}"
        )
    check_weights(config.weights, sources.names)
    return np.array([config.weights[name] for name in sources.names])


# The shares of the domains, float64 [n] in their order, from (sources, config, budget in tokens).
Estimator = Callable[[Sources, MixtureConfig, int], Shares]
ESTIMATORS: dict[str, Estimator] = {
    "unimax": _unimax,
    "uniform": _uniform,
    "proportional": _proportional,
    "temperature": _temperature,
    "fixed": _fixed,
}


def _bounded(target: Shares, sources: Sources, config: MixtureConfig, budget: int) -> Shares:
    caps = config.max_epochs * np.asarray(sources.tokens, dtype=np.float64) / budget
    return bounded_shares(target, np.minimum(config.min_share, caps), caps)


def estimate(sources: Sources, config: MixtureConfig, budget_tokens: int | None = None) -> Mixture:
    """Find the weights by `config.method`.

    A budget that no weights can fill within max_epochs is refused, not clipped: a run that is silently shorter
    than asked for would be the greater surprise. Caps bind for every method; what a cap takes from a domain goes
    to the others in proportion to their own weights, except for fixed weights, which are never altered.

    Args:
        sources: the domains and their tokens.
        config: method and settings.
        budget_tokens: the training length in tokens (steps * contexts per step * seq_len), used when
            config.budget_tokens is "steps".

    Raises:
        UserError: no budget, a budget or floor no weights can meet, or fixed weights that are not valid.
    """
    budget = config.budget_tokens if config.budget_tokens != "steps" else budget_tokens
    if budget is None or budget < 1:
        raise UserError(
            f"budget_tokens is {config.budget_tokens if budget is None else budget}, and no training length is known",
            fix="set budget_tokens to the tokens to train on",
        )
    most = math.floor(config.max_epochs * sum(sources.tokens))
    if budget > most:
        raise UserError(
            f"budget_tokens {budget:,} cannot be filled: {config.max_epochs:g} epochs of all"
            f" {len(sources.domains)} domains are {most:,} tokens",
            fix=f"lower budget_tokens to at most {most:,}, or raise max_epochs to at least"
            f" {budget / sum(sources.tokens):.4g}",
        )
    if config.min_share * len(sources.domains) > 1:
        raise UserError(
            f"min_share {config.min_share:g} for each of {len(sources.domains)} domains is more than the whole",
            fix=f"set min_share to at most {1 / len(sources.domains):.4g}",
        )
    shares = ESTIMATORS[config.method](sources, config, budget)
    settings = {
        k: v for k, v in config.model_dump(mode="json").items() if v is not None and k in _used(config)
    }
    return Mixture(
        estimator=config.method,
        settings=settings,
        inputs=sources.fingerprint,
        budget_tokens=budget,
        domains=tuple(
            MixtureDomain(name=d.name, tokens=d.tokens, max_epochs=config.max_epochs) for d in sources.domains
        ),
        phases=(Phase(start=0.0, weights=dict(zip(sources.names, map(float, shares)))),),
    )


def _used(config: MixtureConfig) -> set[str]:
    """The settings the method reads; the others would only make equal mixtures look different."""
    extra = {"temperature": {"temperature", "min_share"}, "fixed": {"weights"}}
    return {"max_epochs"} | extra.get(config.method, {"min_share"})


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
        name = str(first["loc"][0])
        about = MixtureConfig.model_fields[name].description
        raise UserError(
            f"mixture setting {name} is {values[name]!r}: {first['msg']}", fix=f"{name}: {about}"
        ) from None
