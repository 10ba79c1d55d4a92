"""The last phase of a mixture: what it aims at, from named shares of domains or groups."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.mix_config import FinalPhase
from mixloom.pipeline.errors import UserError, nearest

Floats = NDArray[np.float64]


def raised_target(
    names: Sequence[str], base: Floats, final: FinalPhase
) -> tuple[Floats, dict[str, list[str]]]:
    """What a final phase with named shares aims at: float64 [n], and the domains of every pattern.

    A pattern's share goes to its domains as the base weighs them; what no pattern takes goes to the other domains likewise.

    Args:
        base: [n], weights without the phase; above 0 somewhere in every group.

    Raises:
        UserError: a pattern that matches nothing, or two that match the same domain.
    """
    target = np.zeros(len(names))
    taken: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    for pattern, share in (final.shares or {}).items():
        hit = [i for i, name in enumerate(names) if name == pattern or fnmatchcase(name, pattern)]
        if not hit:
            raise UserError(
                f"final_phase.shares: no domain matches '{pattern}'{nearest(pattern, names)}",
                fix=f"use names or patterns with * for: {', '.join(list(names)[:20])}",
            )
        twice = [names[i] for i in hit if names[i] in taken]
        if twice:
            raise UserError(
                f"final_phase.shares: domain '{twice[0]}' matches both '{taken[twice[0]]}' and '{pattern}'",
                fix="let every domain match one pattern",
            )
        taken |= {names[i]: pattern for i in hit}
        members[pattern] = [names[i] for i in hit]
        target[hit] = share * _parts(base[hit])
    rest = [i for i, name in enumerate(names) if name not in taken]
    left = 1.0 - sum((final.shares or {}).values())
    if left > 1e-9 and not rest:
        raise UserError(
            f"final_phase.shares name all domains, and sum to {1 - left:.4g}", fix="let them sum to 1"
        )
    if rest:
        target[rest] = max(left, 0.0) * _parts(base[rest])
    return target / target.sum(), members


def _parts(weights: Floats) -> Floats:
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))
