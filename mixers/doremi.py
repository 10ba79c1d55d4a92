"""DoReMi's arithmetic: weights that follow the domains a small model is furthest behind a reference on.

Xie et al., arXiv 2305.10429, algorithm 1. The proxy model that yields the losses is trained elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def doremi_step(weights: ArrayLike, excess: ArrayLike, eta: float = 1.0, smoothing: float = 1e-3) -> Floats:
    """One exponentiated-gradient update: float64 [n], sums to 1.

    Weights grow by exp(eta * excess), are normalised, and mixed with the uniform weights: (1 - smoothing) w + smoothing / n.
    So every weight stays at smoothing / n or above.

    Args:
        weights: [n], above 0, sum 1.
        excess: [n], mean over the tokens of a domain of max(proxy loss - reference loss, 0).
    """
    w, gain = np.asarray(weights, np.float64), np.asarray(excess, np.float64)
    logs = np.log(w) + eta * gain
    grown = np.exp(logs - logs.max())
    return (1.0 - smoothing) * grown / grown.sum() + smoothing / len(w)


def doremi(
    excess: ArrayLike, start: ArrayLike | None = None, eta: float = 1.0, smoothing: float = 1e-3
) -> tuple[Floats, Floats]:
    """Weights from the excess losses of a whole proxy training.

    A domain that a step did not see keeps the excess it last had, as in the authors' trainer; before it was seen, 0.

    Args:
        excess: [steps, n]; nan where a domain was not seen. Values below 0 count as 0.
        start: [n], weights before the first step, above 0; left out: uniform.

    Returns:
        The mean of the weights over the steps, float64 [n], which is the result of the method; and the weights after
        every step, float64 [steps, n].

    Raises:
        ValueError: no steps.
    """
    table = np.asarray(excess, np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"excess losses must be a table of steps by domains, got shape {table.shape}")
    n = table.shape[1]
    w = np.full(n, 1.0 / n) if start is None else np.asarray(start, np.float64) / np.sum(start)
    last = np.zeros(n)
    path = np.empty_like(table)
    for t, row in enumerate(table):
        last = np.where(np.isnan(row), last, np.maximum(row, 0.0))
        w = doremi_step(w, last, eta, smoothing)
        path[t] = w
    return path.mean(axis=0), path
