"""What the settings demand of the weights: shares of modalities, domains left out, and a budget that can be filled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.constraints import Bounds, feasible, largest_total, reachable
from mixloom.mixers.mix_config import MixtureConfig
from mixloom.mixers.sources import Domain, Sources
from mixloom.pipeline.errors import UserError, nearest

Floats = NDArray[np.float64]
REST = "rest"


def modality_rows(
    domains: Sequence[Domain], shares: dict[str, float] | None
) -> tuple[Floats, Floats, list[str]]:
    """Totals that hold the proportions of modalities: rows float64 [m, n], totals float64 [m], and the modality of each.

    A row holds the part of each domain's tokens that is of a modality, so that domains may be mixed.

    Raises:
        UserError: a modality nobody has or that has no share, or a domain whose modalities are not known.
    """
    if shares is None:
        return np.zeros((0, len(domains))), np.zeros(0), []
    unknown = [d.name for d in domains if not d.tokens_by_modality]
    if unknown:
        raise UserError(
            f"modality_shares is set, but the modality of domain '{unknown[0]}' is not known ({len(unknown)} in all)",
            fix="give the CSV a column modality, or tokens:MODALITY where domains are mixed",
        )
    present = list(dict.fromkeys(m for d in domains for m, _ in d.tokens_by_modality))
    named = [m for m in shares if m != REST]
    for name in named:
        if name not in present:
            raise UserError(
                f"modality_shares names '{name}', which no domain has{nearest(name, present)}",
                fix=f"use: {', '.join(present)}, {REST}",
            )
    others = [m for m in present if m not in named]
    if bool(others) != (REST in shares):
        raise UserError(
            f"modality_shares gives no share to {', '.join(others)}"
            if others
            else f"modality_shares has '{REST}', but names every modality there is",
            fix=f"add '{REST}', or every modality by its name" if others else f"leave '{REST}' out",
        )
    whole = math.fsum(shares.values())
    rows = [[dict(d.tokens_by_modality).get(m, 0) / d.tokens for d in domains] for m in named]
    if not others:  # the last follows from the sum of all
        rows, named = rows[:-1], named[:-1]
    totals = [shares[m] / whole for m in named]
    return np.array(rows, np.float64).reshape(len(named), len(domains)), np.array(totals), named


def bounds_of(
    domains: Sequence[Domain], room: Floats, budget: float, config: MixtureConfig, what: str = "budget_tokens"
) -> Bounds:
    """Floors, caps and totals of the weights of one phase.

    Args:
        room: [n], tokens each domain may still give.
        budget: tokens of the phase.

    Raises:
        UserError: nothing meets them all; it names the largest budget that would do, or the shares that can be had.
    """
    floor = 0.0 if config.method == "fixed" else config.min_share
    rows, totals, named = modality_rows(domains, config.modality_shares)

    def at(tokens: float) -> Bounds:
        caps = room / tokens
        return Bounds(np.minimum(floor, caps), caps, rows, totals)

    bounds = at(budget)
    if not len(totals) or feasible(bounds):
        return bounds
    most = largest_total(room, rows, totals)
    # The solver of linear programs is exact to a ten-millionth; a budget that is named must really be one, for every method.
    # Where a hundred-millionth is less than a token, the last token counts.
    slacks = (-1e-12, 1e-12, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5)[0 if most < 1e8 else 3 :]
    tried = (math.floor(most * (1 - slack)) for slack in slacks)
    largest = next((n for n in tried if n >= 1 and feasible(at(n))), 0)
    shares = ", ".join(f"{m} {v:g}" for m, v in (config.modality_shares or {}).items())
    if 1 <= largest < budget:
        raise UserError(
            f"{what} {budget:,.0f} cannot be filled with modality_shares {shares}: {config.max_epochs:g} epochs give"
            f" {largest:,} tokens in these proportions",
            fix=f"lower the budget to at most {largest:,}, raise max_epochs, or change the shares",
        )
    free = Bounds.plain(bounds.lower, bounds.upper)
    said = []
    for name, row, total in zip(named, rows, totals):
        ends = reachable(row, free)
        if ends is not None and not ends[0] - 1e-9 <= total <= ends[1] + 1e-9:
            said.append(f"{name} can have {ends[0]:.4g} to {ends[1]:.4g} of the tokens, not {total:.4g}")
    raise UserError(
        f"modality_shares {shares} cannot be met together with min_share {floor:g} and the caps: "
        + ("; ".join(said) or "each share alone could be"),
        fix="change the shares (domains of several modalities bring all of them along), min_share or max_epochs",
    )


def check_budget(sources: Sources, kept: Sequence[Domain], config: MixtureConfig, budget: int | None) -> int:
    """The budget in tokens. Raises UserError for none, or one that no weights can fill; it names the largest that can."""
    if budget is None or budget < 1:
        raise UserError(
            f"budget_tokens is {config.budget_tokens if budget is None else budget}, and no training length is known",
            fix="set budget_tokens to the tokens to train on",
        )
    whole = sum(d.tokens for d in kept)
    most = math.floor(config.max_epochs * whole)
    shared = (
        len(config.modality_shares or {}) > 1
    )  # then these shares have a largest budget, told by bounds_of
    if budget > most and not shared:
        left = len(sources.domains) - len(kept)
        raise UserError(
            f"budget_tokens {budget:,} cannot be filled: {config.max_epochs:g} epochs of all {len(kept)} domains"
            f"{f' that are not left out ({left} are)' if left else ''} are {most:,} tokens",
            fix=f"lower budget_tokens to at most {most:,}, or raise max_epochs to at least {budget / whole:.4g}",
        )
    if config.min_share * len(kept) > 1:
        raise UserError(
            f"min_share {config.min_share:g} for each of {len(kept)} domains is more than the whole",
            fix=f"set min_share to at most {1 / len(kept):.4g}",
        )
    return budget


def left_out(sources: Sources, config: MixtureConfig) -> dict[str, str]:
    """Domains that `exclude` leaves out, with the reason.

    Raises:
        UserError: a name that nothing has, a domain that is only partly of an excluded source, or nothing that is left.
    """
    ex = config.exclude
    found: dict[str, str] = {}
    _known("domain", ex.domain, sources.names)
    found |= dict.fromkeys(ex.domain, "by name")
    licences = {d.name: _licences(d, config) for d in sources.domains}
    _known("licence", ex.licence, sorted({x for parts in licences.values() for x in parts if x}))
    own = {d.name: dict(d.tokens_by_source) for d in sources.domains}
    _known("source", ex.source, sorted({s for parts in own.values() for s in parts}))
    for what, names, parts_of in (("source", ex.source, own), ("licence", ex.licence, licences)):
        for d in sources.domains:
            parts = parts_of[d.name]
            hit = {name: n for name, n in parts.items() if name in names}
            if not hit or d.name in found:
                continue
            share = sum(hit.values()) / d.tokens
            if share < 1 - 1e-9:
                raise UserError(
                    f"exclude.{what}: domain '{d.name}' is {100 * share:.1f}% of {what} {', '.join(hit)} and"
                    f" {100 * (1 - share):.1f}% of others, and its contexts mix them",
                    fix=f"take the {what} out before tokenising (sources of the run), exclude the whole domain by name,"
                    " or plan with group_by: [source, domain]",
                )
            found[d.name] = f"{what} {', '.join(hit)}"
    if len(found) == len(sources.domains):
        raise UserError("exclude leaves no domain", fix="exclude less")
    return {d: found[d] for d in sources.names if d in found}


def _licences(d: Domain, config: MixtureConfig) -> dict[str, int]:
    """Tokens of a domain by licence: its own, or that of its sources; '' where it is not known."""
    if d.licence:
        return {d.licence: d.tokens}
    out: dict[str, int] = {}
    for source, n in d.tokens_by_source:
        licence = config.licences.get(source, "")
        out[licence] = out.get(licence, 0) + n
    return out


def _known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            where = {"licence": "; licences come from a CSV column or from the setting licences"}.get(
                what, ""
            )
            raise UserError(
                f"exclude.{what} names '{name}', which no domain has{nearest(name, known)}{where}",
                fix=f"use: {', '.join(list(known)[:20]) or 'nothing: none is known'}",
            )
