"""The methods that find weights, behind one interface and in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.constraints import Bounds, nearest_weights, tilted_weights
from mixloom.mixers.doremi import doremi
from mixloom.mixers.given import Given
from mixloom.mixers.heuristics import Shares, bounded_shares, proportional, temperature, uniform
from mixloom.mixers.mix_config import MixtureConfig
from mixloom.mixers.mixture import check_weights
from mixloom.mixers.online import OnlineState, replay
from mixloom.mixers.unimax import unimax
from mixloom.mixers.utilimax import utilimax
from mixloom.mixers.utility import METHODS, Utilities
from mixloom.pipeline.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Problem:
    """One phase to be weighed.

    Attributes:
        names: n domains, those left out not among them.
        tokens: float64 [n], sizes.
        budget: tokens of the phase.
        bounds: floors, caps and totals of the weights.
    """

    names: tuple[str, ...]
    tokens: Floats
    budget: float
    bounds: Bounds
    config: MixtureConfig
    given: Given


@dataclass(frozen=True, eq=False)
class Found:
    """Weights float64 [n], and what to say about them."""

    weights: Shares
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Estimator:
    """A method: what it is in one line, which table of `Given` it needs ("" none), and how it finds weights."""

    about: str
    needs: str
    find: Callable[[Problem], Found]
    wants: str = ""


def towards(target: Floats, p: Problem) -> Shares:
    """The target within the bounds, in its own proportions."""
    if len(p.bounds.totals):
        try:
            return tilted_weights(np.maximum(target, 1e-300), p.bounds)
        except ValueError:  # at the very edge of what can be met, where next to no choice is left
            return nearest_weights(target, p.bounds)
    return bounded_shares(target, p.bounds.lower, p.bounds.upper)


def _unimax(p: Problem) -> Found:
    if len(p.bounds.totals):
        return Found(nearest_weights(np.zeros(len(p.names)), p.bounds))
    taken = unimax(p.bounds.upper * p.budget, p.budget, 1.0)
    return Found(np.minimum(taken / taken.sum(), p.bounds.upper))


def _uniform(p: Problem) -> Found:
    return Found(towards(uniform(p.tokens), p))


def _proportional(p: Problem) -> Found:
    return Found(towards(proportional(p.tokens), p))


def _temperature(p: Problem) -> Found:
    return Found(towards(temperature(p.tokens, p.config.temperature), p))


def _utilimax(p: Problem) -> Found:
    assert p.given.utilities is not None
    return weigh_by_utilities(p, p.given.utilities, p.config.risk)


def weigh_by_utilities(p: Problem, utilities: Utilities, risk: float) -> Found:
    """UtiliMax within the bounds, with what should be said about the utilities.

    Raises:
        UserError: utilities that do not have exactly these domains, or skill weights of skills they do not have.
    """
    u = utilities.aligned(p.names)
    v = skill_weights(p.config, u.skills)
    root = np.sqrt(v * len(v))
    solved = utilimax(
        u.values * root,
        p.bounds.lower,
        p.bounds.upper,
        risk,
        ideal=root,
        rows=p.bounds.rows,
        totals=p.bounds.totals,
    )
    notes = [f"utilities: {METHODS[u.method]}; lambda {risk:g}"]
    if u.loss_only:
        notes.append("warning: the utilities rest on losses alone; a lower loss need not mean a better model")
    dull = [s for s, column in zip(u.skills, u.values.T) if np.ptp(column) <= 1e-12 and column[0] < 1]
    if dull:
        notes.append(
            f"all domains are worth the same for {', '.join(dull[:5])}: it says nothing, and still takes weight"
            " from the other skills; leave it out"
        )
    return Found(solved.weights, [*notes, *concentration(dict(zip(u.skills, v.tolist())))])


def skill_weights(config: MixtureConfig, skills: tuple[str, ...]) -> Floats:
    """What each skill counts: float64 [k], sum 1. Raises UserError for names that are not these skills."""
    if config.skill_weights is None:
        return np.full(len(skills), 1.0 / len(skills))
    unknown = [s for s in config.skill_weights if s not in skills]
    if unknown:
        raise UserError(
            f"skill_weights name a skill '{unknown[0]}' that does not exist",
            fix=f"use the skills that were measured: {', '.join(skills[:20])}",
        )
    v = np.array([config.skill_weights.get(s, 0.0) for s in skills])
    if not v.sum() > 0:
        raise UserError("skill_weights are all 0", fix="give at least one skill a weight above 0")
    return v / v.sum()


def concentration(weights: dict[str, float]) -> list[str]:
    """A warning where more than half of what the weights are judged by is one skill."""
    name, most = max(weights.items(), key=lambda x: x[1])
    if most <= 0.5 + 1e-9:
        return []
    return [
        f"warning: {100 * most:.0f}% of the validation weight is on the skill '{name}': the mixture may be made for it"
        " at the cost of everything else; add skills or lower its weight"
    ]


def _doremi(p: Problem) -> Found:
    assert p.given.excess is not None
    trace = p.given.excess
    mean, _ = doremi(trace.values, None, p.config.eta, p.config.smoothing)
    notes = [
        f"mean weights of {len(trace.steps)} steps of a proxy model; published results change much with its size"
    ]
    return Found(towards(mean, p), notes)


def _regmix(p: Problem) -> Found:
    from mixloom.mixers.regmix import regmix

    assert p.given.trials is not None
    trials = p.given.trials
    v = skill_weights(p.config, trials.skills)
    loss = trials.losses @ v

    def padded(
        values: Floats,
    ) -> Floats:  # domains left out are in the trials, behind the others; they get nothing
        return np.concatenate([values, np.zeros(len(trials.domains) - len(p.names))])

    found = regmix(
        trials.weights,
        loss,
        padded(proportional(p.tokens)),
        padded(p.bounds.lower),
        padded(np.minimum(p.bounds.upper, 1.0)),
        regressor=p.config.regressor,
        candidates=p.config.candidates,
        seed=p.config.seed,
    )
    weights = towards(found.weights[: len(p.names)], p)
    predicted, beside = (
        float(found.fitted.predict(padded(w)[None])[0]) for w in (weights, _unimax(p).weights)
    )
    rank = found.rank_correlation[found.regressor]
    notes = [
        f"{len(loss)} trials, regressor {found.regressor}: loss {predicted:.4f} predicted, of UniMax {beside:.4f};"
        f" lowest measured {found.best_trial:.4f}",
        "warning: the utilities rest on losses alone; a lower loss need not mean a better model",
    ]
    if not rank >= 0.5:
        told = "could not be checked" if np.isnan(rank) else f"is {rank:.2f}"
        notes.append(
            f"warning: the rank correlation of predicted and measured losses of held-out trials {told}: too few"
            " trials, or losses that the weights do not explain"
        )
    return Found(weights, [*notes, *concentration(dict(zip(trials.skills, v.tolist())))])


def _odm(p: Problem) -> Found:
    start = _unimax(p).weights
    if p.given.losses is None:
        note = "weights of the warm-up (UniMax): online mixing changes them during training, through the mixture log"
        return Found(start, [note])
    trace = p.given.losses
    state, path = replay(OnlineState.start(p.names, start, p.config.reward_smoothing), trace.values)
    note = f"mean policy over {state.updates} updates of a training that was replayed"
    return Found(towards(path.mean(axis=0), p), [note])


def _fixed(p: Problem) -> Found:
    # A domain that is left out may be listed, with 0.
    weights = {d: w for d, w in (p.config.weights or {}).items() if w != 0 or d in p.names}
    check_weights(weights, p.names)
    w = np.array([weights[name] for name in p.names])
    off = np.abs(p.bounds.rows @ w - p.bounds.totals)
    if len(off) and off.max() > 1e-6:
        raise UserError(
            "the fixed weights do not meet modality_shares",
            fix="change the weights, or leave modality_shares out",
        )
    return Found(w)


# "weights" and the tables are attributes of the settings and of Given.
ESTIMATORS: dict[str, Estimator] = {
    "unimax": Estimator("as uniform as the caps allow (Chung et al. 2023)", "", _unimax),
    "uniform": Estimator("the same for every domain, scaled within the caps", "", _uniform),
    "proportional": Estimator("by size: every domain is seen equally often", "", _proportional),
    "temperature": Estimator("by size to the power 1/temperature", "", _temperature),
    "utilimax": Estimator(
        "useful for every skill without resting on few domains (Held et al. 2025)",
        "utilities",
        _utilimax,
        "utilities=FILE, sources by skills from 0 to 1 (.yaml or .csv)",
    ),
    "doremi": Estimator(
        "follows what a proxy model is behind a reference on (Xie et al. 2023)",
        "excess",
        _doremi,
        "excess=FILE, a CSV of step and excess loss per domain",
    ),
    "regmix": Estimator(
        "the lowest loss that a regression on small trainings predicts (Liu et al. 2024)",
        "trials",
        _regmix,
        "trials=FILE, a CSV of mixtures that were trained, with their losses",
    ),
    "odm": Estimator(
        "changed during training by a bandit on the losses (Albalak et al. 2023)",
        "",
        _odm,
        "losses=FILE, a CSV of step and training loss per domain, to replay a training",
    ),
    "fixed": Estimator(
        "your own weights, used as they are or refused", "weights", _fixed, "weights={DOMAIN: SHARE, ...}"
    ),
}
