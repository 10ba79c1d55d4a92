"""RegMix: predict the loss of a mixture from mixtures that were trained small, then look for one with the lowest.

Liu et al., arXiv 2407.01492: fit a regressor on (weights, loss), simulate many mixtures from Dirichlet distributions around
the sizes, and average the best. Two regressors here: ridge regression on the weights, and boosted trees, for which
the paper takes LightGBM and this module scikit-learn's histogram boosting. `auto` takes the one that ranks held-out trials better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Regressor = Literal["linear", "trees"]

FOLDS = 5
KEPT = 0.005  # of the candidates are averaged
_STRENGTHS = np.logspace(-1.0, np.log10(5.0), 15)  # of the Dirichlet distributions, as published


@dataclass(frozen=True, eq=False)
class RegMix:
    """What was found.

    Attributes:
        weights: float64 [n], the mean of the best candidates; within the caps.
        regressor: the one used.
        predicted: its loss of these weights; of UniMax's and the like ask `Fitted.predict`.
        best_trial: the lowest measured loss; `best_weights` float64 [n] the trial that had it.
        rank_correlation: Spearman's, of predicted and measured losses of held-out trials, by regressor; nan where there
            are too few trials.
        fitted: predicts float64 [m] from weights [m, n].
    """

    weights: Floats
    regressor: Regressor
    predicted: float
    best_trial: float
    best_weights: Floats
    rank_correlation: dict[Regressor, float]
    fitted: Any


def regmix(
    weights: ArrayLike,
    losses: ArrayLike,
    prior: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    regressor: Literal["auto", "linear", "trees"] = "auto",
    candidates: int = 20_000,
    seed: int = 0,
) -> RegMix:
    """Fit, simulate, average.

    Candidates are drawn with the prior's square root as centre, and brought within floors and caps by scaling, where the
    paper rejects those outside: with tight caps nearly all would be. Their mean is within the bounds as well.

    Args:
        weights: [trials, n], mixtures that were trained.
        losses: [trials], what they lost on the target.
        prior: [n], shares in proportion to size.
        lower, upper: [n], floors and caps.

    Raises:
        ValueError: fewer than two trials, or shapes that do not agree.
    """
    w, y, p = (np.asarray(x, np.float64) for x in (weights, losses, prior))
    if w.ndim != 2 or y.shape != (len(w),) or p.shape != (w.shape[1],) or len(w) < 2:
        raise ValueError(
            f"trials are {w.shape}, losses {y.shape} and prior {p.shape}; needed: [m >= 2, n], [m], [n]"
        )
    tried: tuple[Regressor, ...] = ("linear", "trees") if regressor == "auto" else (regressor,)
    quality = {name: _held_out_rank(name, w, y, seed) for name in tried}
    name = tried[-1] if len(tried) == 1 or quality["trees"] > quality["linear"] else tried[0]
    fitted = FIT[name](w, y)
    drawn = bounded_many(
        _draw(p, candidates, seed), np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    )
    simulated = _predict(fitted, drawn)
    best = np.argsort(simulated, kind="stable")[: max(1, round(KEPT * candidates))]
    found = drawn[best].mean(axis=0)
    i = int(np.argmin(y))
    return RegMix(found, name, float(_predict(fitted, found[None])[0]), float(y[i]), w[i], quality, fitted)


def _linear(w: Floats, y: Floats) -> Any:
    """Ridge on the weights; they sum to 1, so a little of it is needed for a unique answer."""
    from sklearn.linear_model import Ridge

    return Ridge(alpha=1e-3 * len(w) / w.shape[1]).fit(w, y)


def _trees(w: Floats, y: Floats) -> Any:
    """Boosted trees, in fewer and larger steps than published (1000 at 0.01): on the authors' own trials they rank mixtures
    they have not seen as well (Spearman 0.990), in a fraction of the time. One thread: sums in another order give other trees."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    leaf = int(np.clip(len(w) // 10, 1, 20))
    model = HistGradientBoostingRegressor(
        learning_rate=0.1, max_iter=150, min_samples_leaf=leaf, early_stopping=False, random_state=0
    )
    with threadpool_limits(1):
        return model.fit(w, y)


FIT: dict[Regressor, Any] = {"linear": _linear, "trees": _trees}


def _predict(fitted: Any, weights: Floats) -> Floats:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return np.asarray(fitted.predict(weights), np.float64)


def _held_out_rank(name: Regressor, w: Floats, y: Floats, seed: int) -> float:
    """Spearman's correlation of losses and predictions from the other folds."""
    if len(w) < 2 * FOLDS or np.ptp(y) == 0:
        return float("nan")
    fold = np.random.Generator(np.random.PCG64(seed)).permutation(len(w)) % FOLDS
    predicted = np.empty(len(w))
    for f in range(FOLDS):
        predicted[fold == f] = _predict(FIT[name](w[fold != f], y[fold != f]), w[fold == f])
    if np.ptp(predicted) == 0:
        return float("nan")
    return spearman(predicted, y)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of two vectors; ties share their mean rank."""
    ranks = []
    for x in (np.asarray(a, np.float64), np.asarray(b, np.float64)):
        _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _draw(prior: Floats, candidates: int, seed: int) -> Floats:
    """Dirichlet draws of several strengths around the square root of the prior: float64 [candidates, n]."""
    rng = np.random.Generator(np.random.PCG64(seed))
    centre = np.sqrt(prior)
    centre /= centre.sum()
    strength = _STRENGTHS[np.arange(candidates) % len(_STRENGTHS)]
    gamma = rng.standard_gamma(np.maximum(strength[:, None] * centre, 1e-3))
    gamma += 1e-300  # a draw that is 0 everywhere becomes uniform
    return gamma / gamma.sum(axis=1, keepdims=True)


def bounded_many(target: Floats, lower: Floats, upper: Floats) -> Floats:
    """`heuristics.bounded_shares` for every row of float64 [m, n], by halving: within 1e-12 of a sum of 1."""
    t = np.maximum(target, 1e-12)
    low, high = np.zeros(len(t)), (upper / t).max(axis=1)
    for _ in range(120):
        s = (low + high) / 2
        small = np.clip(s[:, None] * t, lower, upper).sum(axis=1) < 1.0
        low, high = np.where(small, s, low), np.where(small, high, s)
    return np.clip(high[:, None] * t, lower, upper)
