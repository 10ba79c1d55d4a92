"""What a mixture says of itself: promises by skill, modalities, what was left out, what the final phase raises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.given import Given
from mixloom.mixers.mix_config import FinalPhase, MixtureConfig
from mixloom.mixers.sources import Domain

Floats = NDArray[np.float64]


def skill_notes(config: MixtureConfig, given: Given, weights: Floats, beside: Floats) -> list[str]:
    """What the weights promise for each skill, beside what UniMax's do; the skills that differ most, where there are many."""
    if config.method != "utilimax" or given.utilities is None:
        return []
    u = given.utilities
    mine, other = weights @ u.values, beside @ u.values
    order = sorted(range(len(u.skills)), key=lambda j: -abs(mine[j] - other[j]))[:8]
    shown = ", ".join(f"{u.skills[j]} {mine[j]:.3f} ({other[j]:.3f})" for j in sorted(order))
    few = "" if len(order) == len(u.skills) else f"; {len(u.skills) - len(order)} more differ less"
    return [f"expected utility, UniMax's in brackets: {shown}{few}"]


def modality_notes(kept: Sequence[Domain], weights: Floats, config: MixtureConfig) -> list[str]:
    """What a token of each modality takes: counts of different modalities are never compared without saying so."""
    sums: dict[str, float] = {}
    for d, w in zip(kept, weights):
        for name, n in d.tokens_by_modality:
            sums[name] = sums.get(name, 0.0) + float(w) * n / d.tokens
    shown = ", ".join(f"{name} {100 * share:.1f}%" for name, share in sums.items())
    unknown = [d.name for d in kept if not d.tokens_by_modality]
    if unknown and sums:
        return [f"the modality of {len(unknown)} domains is not known; of the others: {shown}"]
    if len(sums) < 2:
        return []
    if config.modality_shares is not None:
        return [f"shares of the tokens by modality, as set: {shown}"]
    return [
        f"tokens of different modalities are counted alike, though they do not hold alike: {shown};"
        " set modality_shares to decide it yourself"
    ]


def left_out_note(out: dict[str, str], before: dict[str, float]) -> str:
    freed = sum(before[name] for name in out)
    shown = "; ".join(f"{name} ({why})" for name, why in list(out.items())[:5])
    more = f" and {len(out) - 5} more" if len(out) > 5 else ""
    return f"left out: {shown}{more}; they would have had {100 * freed:.1f}% of the tokens, which the others share"


def raised_notes(
    names: Sequence[str], base: Floats, weights: Floats, groups: dict[str, list[str]], final: FinalPhase
) -> list[str]:
    """What the final phase does to each group, and where a cap kept it below its share."""
    place = {name: i for i, name in enumerate(names)}
    notes = []
    for pattern, members in groups.items():
        rows = [place[m] for m in members]
        asked, got, was = (final.shares or {})[pattern], float(weights[rows].sum()), float(base[rows].sum())
        short = (
            f", not the {asked:.4g} asked for: caps and shares of modalities allow no more"
            if got < asked - 1e-6
            else ""
        )
        notes.append(f"final phase: {pattern} from {was:.4g} to {got:.4g}{short}")
    return notes
