"""The phases of a mixture in draws: shares of contexts instead of tokens, and where each phase ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.mixture import Mixture
from mixloom.pipeline.errors import UserError

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Group:
    """A domain as the order sees it: its contexts, their real tokens, and the key of its permutations."""

    name: str
    contexts: int
    tokens: int
    key: int


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What holds in a phase.

    Attributes:
        shares: float64 [n], share of each domain in the draws.
        end: the draw at which the phase ends by the mixture's own budget, counted from the first draw of the run.
        length: draws of the whole phase.
        last: whether it holds on after `end`, where a run is longer than the budget.
        caps: int64 [n], most places of each domain over the whole run: floor(max_epochs * contexts).
        limits: max_epochs of each domain.
        where: how an error names it.
    """

    shares: NDArray[np.float64]
    end: int
    length: int
    last: bool
    caps: Int64
    limits: tuple[float, ...]
    where: str


def timeline(mixture: Mixture, groups: Sequence[Group], where: str = "the mixture") -> list[Weights]:
    """The phases of a mixture in draws; one too short for a draw is left out, unless it is the last.

    A context of a domain holds, on average, its domain's own number of real tokens, so a domain is drawn in
    proportion to weight / mean tokens per context, and equal shares of the budget may be unequal numbers of draws.

    Raises:
        UserError: a domain with weight of which the shards hold nothing.
    """
    limits = {d.name: d.max_epochs for d in mixture.domains}
    bounds = tuple(limits[g.name] for g in groups)
    caps = np.array([math.floor(b * g.contexts + 1e-9) for b, g in zip(bounds, groups)], np.int64)
    sizes = np.array([g.contexts for g in groups], np.int64)
    tokens = np.array([g.tokens for g in groups], np.int64)
    out: list[Weights] = []
    drawn: list[float] = []
    start = 0
    for i, (share, phase) in enumerate(zip(mixture.phase_shares, mixture.phases)):
        w = np.array([phase.weights[g.name] for g in groups])
        check_filled(groups, w)
        per_token = np.divide(w * sizes, tokens, out=np.zeros(len(w)), where=w > 0)
        rate = math.fsum(per_token)  # contexts per token of the phase; fsum: the same on every machine
        drawn.append(mixture.budget_tokens * share * rate)
        end = max(1, math.floor(math.fsum(drawn) + 1e-6))
        last = i == len(mixture.phases) - 1
        if end > start or last:
            named = where if len(mixture.phases) == 1 else f"phase {i + 1} of {where}"
            out.append(Weights(per_token / rate, end, max(1, end - start), last, caps, bounds, named))
            start = end
    return out


def check_filled(groups: Sequence[Group], w: NDArray[np.float64]) -> None:
    """Raise UserError where a domain has weight (float64 [n]) and nothing to serve: its readers would starve."""
    for group, weight in zip(groups, w.tolist()):
        if weight > 0 and (group.contexts < 1 or group.tokens < 1):
            raise UserError(
                f"domain '{group.name}' has weight {weight:.6g}, but the shards hold no context of it",
                fix="set its weight to 0, or write shards that hold it",
            )
