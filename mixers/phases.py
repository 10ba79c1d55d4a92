"""Phases of a mixture: stretches of the budget with fixed weights, for example more of the best domains at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from mixloom.pipeline.errors import UserError

# Published final phases take 10-20% of the tokens (Blakeney et al. 2024, arXiv 2406.03476).
SHORTEST_LAST, LONGEST_LAST = 0.05, 0.30


class Phase(BaseModel):
    """A stretch of training with fixed weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the budget after which the phase begins."
    )
    weights: dict[str, float] = Field(description="Share of the tokens per domain; they sum to 1.")


def check_starts(phases: Sequence[Phase]) -> None:
    """Raise UserError unless the first phase starts at 0 and each later one after the one before it."""
    if phases[0].start != 0:
        raise UserError(f"the first phase starts at {phases[0].start}", fix="let it start at 0")
    for i in range(1, len(phases)):
        if phases[i].start <= phases[i - 1].start:
            raise UserError(
                f"phase {i + 1} starts at {phases[i].start:g}, phase {i} at {phases[i - 1].start:g}",
                fix="list the phases in order; each starts after the one before it, all from 0 up to below 1",
            )


def phase_shares(phases: Sequence[Phase]) -> tuple[float, ...]:
    """Share of the budget each phase takes; they sum to 1."""
    ends = [p.start for p in phases[1:]] + [1.0]
    return tuple(end - p.start for p, end in zip(phases, ends))


def mean_weights(phases: Sequence[Phase], names: Sequence[str]) -> dict[str, float]:
    """Share of all tokens per domain over all phases, in the order of `names`."""
    if len(phases) == 1:
        return {name: phases[0].weights[name] for name in names}
    shares = phase_shares(phases)
    return {name: math.fsum(s * p.weights[name] for s, p in zip(shares, phases)) for name in names}


def phase_at(phases: Sequence[Phase], share: float) -> int:
    """The phase in force after `share` of the budget; from 1 on it is the last one.

    Raises:
        ValueError: a negative share.
    """
    if share < 0:
        raise ValueError(f"share {share} of the budget is negative")
    return max(i for i, p in enumerate(phases) if p.start <= share)


def last_phase_note(phases: Sequence[Phase]) -> str:
    """A caution where the last of several phases is unusually short or long, else ''."""
    if len(phases) < 2:
        return ""
    last = phase_shares(phases)[-1]
    if SHORTEST_LAST - 1e-9 <= last <= LONGEST_LAST + 1e-9:
        return ""
    word, why = (
        ("short", "few updates see its weights")
        if last < SHORTEST_LAST
        else ("long", "what it leaves out may be forgotten")
    )
    return (
        f"warning: the last phase takes {last:.3g} of the budget, which is {word}: {why};"
        f" usual are 0.1 to 0.2, at most {LONGEST_LAST:g}"
    )


def too_often(
    name: str, tokens: int, max_epochs: float, budget_tokens: int, phases: Sequence[Phase]
) -> UserError:
    """The error of a domain served beyond its cap; it names the phase in which the cap is passed."""
    shares = phase_shares(phases)
    served = [s * p.weights[name] * budget_tokens / tokens for s, p in zip(shares, phases)]
    total = math.fsum(served)
    at = next((i for i in range(len(phases)) if math.fsum(served[: i + 1]) > max_epochs), len(phases) - 1)
    others = total - served[at]
    fits = max(0.0, (max_epochs - others) * tokens / (budget_tokens * shares[at]))
    weight, where, also = phases[at].weights[name], "", ""
    if len(phases) > 1:
        where = f" in phase {at + 1} of {len(phases)}"
        also = f"; the other phases already give it {others:.3g} epochs" if others else ""
    return UserError(
        f"domain '{name}': weight {weight:.6g}{where} of {budget_tokens:,} tokens is {total:.3g} epochs of its"
        f" {tokens:,} tokens over the whole budget; allowed: {max_epochs:g}{also}",
        fix=f"lower its weight{where} to at most {fits:.6g}, raise max_epochs, or lower budget_tokens",
    )
