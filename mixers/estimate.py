"""From sizes and settings to a mixture: one table of methods, one rule for caps, floors, shares and phases."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.constraints import Bounds
from mixloom.mixers.estimators import ESTIMATORS, Found, Problem, towards, weigh_by_utilities
from mixloom.mixers.final_phase import raised_target
from mixloom.mixers.given import Given
from mixloom.mixers.limits import bounds_of, check_budget, left_out
from mixloom.mixers.mix_config import Exclude, MixtureConfig, parse_settings, used_settings
from mixloom.mixers.mix_notes import left_out_note, modality_notes, raised_notes, skill_notes
from mixloom.mixers.mixture import Mixture, MixtureDomain, Phase
from mixloom.mixers.sources import Domain, Sources
from mixloom.mixers.tables import Trace, Trials
from mixloom.mixers.utility import Utilities
from mixloom.pipeline.errors import UserError

__all__ = ["ESTIMATORS", "MixtureConfig", "estimate", "needs", "parse_settings", "recorded", "reproduce"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Plan:
    """Weights of the domains that are kept, phase by phase: (start, float64 [kept]), and what to say."""

    phases: list[tuple[float, Floats]]
    notes: list[str]

    @property
    def mean(self) -> Floats:
        ends = [start for start, _ in self.phases[1:]] + [1.0]
        return sum(((e - s) * w for (s, w), e in zip(self.phases, ends)), np.zeros(len(self.phases[0][1])))


def estimate(
    sources: Sources,
    config: MixtureConfig,
    budget_tokens: int | None = None,
    *,
    utilities: Utilities | None = None,
    given: Given | None = None,
) -> Mixture:
    """Find the weights by `config.method`.

    A budget that no weights can fill within max_epochs is refused, not clipped: a run that is silently shorter
    than asked for would be the greater surprise. Caps bind for every method; what a cap takes from a domain goes
    to the others in proportion to their own weights, except for fixed weights, which are never altered.

    Args:
        sources: the domains and their tokens.
        config: method and settings; the files it names are read.
        budget_tokens: the training length in tokens (steps * contexts per step * seq_len), used when
            config.budget_tokens is "steps".
        utilities: instead of the file of config.utilities.
        given: instead of all files.

    Raises:
        UserError: no budget, a budget or floor no weights can meet, what the method needs is not given, or fixed weights
            that are not valid.
    """
    given = given if given is not None else Given.load(config, utilities)
    missing = needs(config, given)
    if missing:
        raise UserError(f"method {config.method} needs {missing.split('=')[0]}", fix=f"set {missing}")
    out = left_out(sources, config)
    kept = [d for d in sources.domains if d.name not in out]
    budget = config.budget_tokens if config.budget_tokens != "steps" else budget_tokens
    budget = check_budget(sources, kept, config, budget)
    own = _aligned(given, _used_tables(config), [d.name for d in kept], list(out))
    plan = _weigh(kept, config, own, budget)
    alone = config == _as_unimax(config)
    beside = plan if alone else _weigh(kept, _as_unimax(config), own, budget)
    notes = [*sources.notes, *plan.notes, *skill_notes(config, own, plan.mean, beside.mean)]
    notes += modality_notes(kept, plan.mean, config)
    record: dict[str, Any] = {
        "sources": {
            "origin": Path(sources.origin).name,
            "fingerprint": sources.fingerprint,
            "group_by": list(sources.group_by),
            "notes": list(sources.notes),
            "rows": sources.rows(),
        },
        "seed": config.seed,
        "given": given.record(_used_tables(config)),
        "unimax": _named(kept, beside.mean, sources),
    }
    if out:
        before = _before(sources, config, given, budget)
        record["before"] = before
        notes.append(left_out_note(out, before))
    return Mixture(
        estimator=config.method,
        settings=used_settings(config),
        inputs=sources.fingerprint,
        budget_tokens=budget,
        domains=tuple(
            MixtureDomain(name=d.name, tokens=d.tokens, max_epochs=config.max_epochs) for d in sources.domains
        ),
        phases=tuple(Phase(start=start, weights=_named(kept, w, sources)) for start, w in plan.phases),
        notes=tuple(notes),
        record=record,
    )


def needs(config: MixtureConfig, given: Given) -> str:
    """What the method of the settings still needs, as SETTING=WHAT; "" when it can be computed."""
    method = ESTIMATORS[config.method]
    source: object = config if method.needs == "weights" else given
    return method.wants if method.needs and getattr(source, method.needs) is None else ""


def recorded(mixture: Mixture) -> tuple[Sources, MixtureConfig, Given]:
    """What a mixture records of the estimate that made it: sizes, settings and tables.

    Raises:
        UserError: it records nothing, as when it was written by hand.
    """
    record = mixture.record
    if "sources" not in record:
        raise UserError(
            "the mixture does not record what it was estimated from",
            fix="estimate it again: mixloom mix estimate RUN --out PATH",
        )
    try:
        return _recorded(mixture, record)
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise UserError(
            f"the record of the mixture cannot be read: {type(error).__name__}: {error}",
            fix="restore the file, or estimate the mixture again",
        ) from None


def _recorded(mixture: Mixture, record: dict[str, Any]) -> tuple[Sources, MixtureConfig, Given]:
    about = record["sources"]
    sources = Sources.from_rows(about["rows"], about["origin"], about["fingerprint"], about["group_by"])
    settings = {**mixture.settings, "method": mixture.estimator, "budget_tokens": mixture.budget_tokens}
    config = parse_settings({"seed": record["seed"], **settings})
    return replace(sources, notes=tuple(about["notes"])), config, Given.from_record(record["given"])


def reproduce(mixture: Mixture) -> Mixture:
    """The same estimate from what the mixture records of itself, and nothing else. Raises UserError as `recorded`."""
    sources, config, given = recorded(mixture)
    return estimate(sources, config, given=given)


def _weigh(kept: Sequence[Domain], config: MixtureConfig, given: Given, budget: int) -> _Plan:
    """All phases. The final one comes first to the caps: it is short, and made for the domains that are scarce."""
    sizes = np.array([d.tokens for d in kept], np.float64)
    room = config.max_epochs * sizes
    whole = _phase(kept, room, float(budget), config, given)
    final = config.final_phase
    if final is None:
        return _Plan([(0.0, whole.weights)], whole.notes)
    last = final.share * budget
    bounds = bounds_of(kept, room, last, config, "the final phase, of tokens")
    problem = _problem(kept, last, bounds, config, given)
    if final.utilities is None:
        target, groups = raised_target(problem.names, whole.weights, final)
        found = Found(towards(np.maximum(target, 1e-300), problem), [])
        found.notes.extend(raised_notes(problem.names, whole.weights, found.weights, groups, final))
    else:
        assert given.final is not None
        found = weigh_by_utilities(problem, given.final, final.risk)
    left = np.maximum(room - found.weights * last, 0.0)
    base = _phase(kept, left, budget - last, config, given)
    return _Plan([(0.0, base.weights), (1.0 - final.share, found.weights)], [*base.notes, *found.notes])


def _phase(kept: Sequence[Domain], room: Floats, budget: float, config: MixtureConfig, given: Given) -> Found:
    bounds = bounds_of(kept, room, budget, config)
    try:
        return ESTIMATORS[config.method].find(_problem(kept, budget, bounds, config, given))
    except ValueError as error:
        raise UserError(
            f"method {config.method}, {budget:,.0f} tokens: {error}",
            fix="lower budget_tokens a little: it is at the very edge of what caps and shares of modalities allow",
        ) from None


def _problem(
    kept: Sequence[Domain], budget: float, bounds: Bounds, config: MixtureConfig, given: Given
) -> Problem:
    sizes = np.array([d.tokens for d in kept], np.float64)
    return Problem(tuple(d.name for d in kept), sizes, budget, bounds, config, given)


def _as_unimax(config: MixtureConfig) -> MixtureConfig:
    """UniMax under the same caps, floors and shares, without a final phase: what an estimate is shown beside."""
    return config.model_copy(update={"method": "unimax", "final_phase": None})


def _before(sources: Sources, config: MixtureConfig, given: Given, budget: int) -> dict[str, float]:
    """The weights had nothing been left out; by UniMax where the method cannot weigh the domains left out."""
    config = config.model_copy(update={"exclude": Exclude()})
    try:
        own = _aligned(given, _used_tables(config), sources.names, ())
        plan = _weigh(sources.domains, config, own, budget)
    except UserError:
        plan = _weigh(sources.domains, _as_unimax(config), given, budget)
    return _named(sources.domains, plan.mean, sources)


def _named(kept: Sequence[Domain], weights: Floats, sources: Sources) -> dict[str, float]:
    by = dict(zip((d.name for d in kept), weights.tolist()))
    return {name: by.get(name, 0.0) for name in sources.names}


def _used_tables(config: MixtureConfig) -> list[str]:
    own = {"utilimax": ["utilities"], "regmix": ["trials"], "doremi": ["excess"], "odm": ["losses"]}
    final = config.final_phase is not None and config.final_phase.utilities is not None
    return [*own.get(config.method, []), *(["final"] if final else [])]


def _aligned(given: Given, used: Sequence[str], names: Sequence[str], out: Sequence[str]) -> Given:
    """The tables that are used, over these domains in this order; what they say of domains left out is no mistake.

    Trials keep the columns of domains left out, behind the others: their losses depend on those weights too.

    Raises:
        UserError: a domain that a table lacks, or one in it that nobody knows.
    """

    def utilities(table: Utilities | None) -> Utilities | None:
        if table is None:
            return None
        rows = [i for i, s in enumerate(table.sources) if s not in out]
        kept = tuple(table.sources[i] for i in rows)
        return replace(table, sources=kept, values=table.values[rows]).aligned(names)

    def trace(table: Trace | None) -> Trace | None:
        if table is None:
            return None
        columns = [i for i, d in enumerate(table.domains) if d not in out]
        kept = tuple(table.domains[i] for i in columns)
        return replace(table, domains=kept, values=table.values[:, columns]).aligned(names)

    def trials(table: Trials | None) -> Trials | None:
        return table and table.aligned([*names, *(d for d in out if d in table.domains)])

    found: dict[str, Any] = {}
    for name, own in (("utilities", utilities), ("final", utilities), ("excess", trace), ("losses", trace)):
        found[name] = own(getattr(given, name)) if name in used else getattr(given, name)
    found["trials"] = trials(given.trials) if "trials" in used else given.trials
    return Given(**found)
