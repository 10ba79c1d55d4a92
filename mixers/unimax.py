"""UniMax: as uniform as the sizes allow when no domain may be repeated more than a few times."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def unimax(tokens: ArrayLike, budget: float, max_epochs: float) -> NDArray[np.float64]:
    """Tokens to take from each domain: float64 [n] (Chung et al., arXiv 2304.09151, algorithm 1).

    Domains are visited in ascending order of size; each gets an equal share of what is left of the budget, or
    max_epochs times its size where that is less. The order matters: visited in descending order, what a small
    domain cannot take has nobody left to go to, and part of the budget stays unspent.

    The sum is min(budget, max_epochs * sum(tokens)): a budget no mixture can fill is clipped, as the paper
    defines it. `estimate` refuses such a budget before it comes here.

    Args:
        tokens: [n], size of each domain in tokens.
        budget: tokens to train on.
        max_epochs: the most often any domain may be seen.
    """
    sizes = np.asarray(tokens, dtype=np.float64)
    taken = np.zeros(len(sizes))
    left = float(budget)
    for done, i in enumerate(np.argsort(sizes, kind="stable")):
        taken[i] = min(left / (len(sizes) - done), max_epochs * sizes[i])
        left -= taken[i]
    return taken
