"""Which experts speak for a text, and the mixture of what they say: inference of c-BTM.

Gururangan et al., arXiv 2303.14177, section 3.3, equations 2 and 3: p(x_t | x_<t) is the sum over domains j of
p_j(x_t | x_<t) p(D=j | x_<t), with p(D=j | x_<t) proportional to exp(-dist^2 / T) over the nearest domains. The
distance is that of the embedded prefix to the centre of the domain, squared once.

Called when a group of expert models is evaluated or asked to write: `routing_weights` on
`distances.squared_distances(vectors, domains.centres)`, `mixture_log_probs` on the outputs of the experts.
"""

from __future__ import annotations

import numpy as np

TEMPERATURE = 0.1


def routing_weights(
    squared_distances: np.ndarray, temperature: float = TEMPERATURE, top_k: int | None = None
) -> np.ndarray:
    """Probability of each domain, float64 [n, k]; every row sums to 1, domains beyond the `top_k` nearest get 0.

    Args:
        squared_distances: float [n, k], to the k centres, finite and not negative.
        temperature: T of exp(-distance^2 / T). 0 is the nearest domain alone, infinity all of the `top_k` alike.
        top_k: how many of the nearest domains share the weight (ties: the lower index); None, or more than k: all.

    Raises:
        ValueError: no domain, a distance that is none, a negative temperature, or a top_k under 1.
    """
    distances = np.asarray(squared_distances, np.float64)
    if distances.ndim != 2 or distances.shape[1] == 0:
        raise ValueError(
            f"routing needs distances [n, k] to at least one domain, got shape {distances.shape}"
        )
    if not (np.isfinite(distances).all() and (distances >= 0).all()):
        raise ValueError("squared distances must be finite and not negative")
    if not temperature >= 0:
        raise ValueError(f"temperature must be 0 or more, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be 1 or more, got {top_k}")
    n, k = distances.shape
    near = np.argsort(distances, axis=1, kind="stable")[:, : min(top_k or k, k)]
    if temperature == 0:
        near = near[:, :1]
    gap = np.take_along_axis(distances, near, axis=1)
    gap -= gap[:, :1]  # the nearest has weight 1 before the sum, so nothing under- or overflows to 0 / 0
    with np.errstate(over="ignore"):
        share = np.exp(-gap / temperature) if temperature > 0 else np.ones_like(gap)
    weights = np.zeros((n, k), np.float64)
    np.put_along_axis(weights, near, share / share.sum(axis=1, keepdims=True), axis=1)
    return weights


def mixture_log_probs(expert_log_probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Log of the weighted mean of the experts' probabilities, float64 [n, ...].

    Probabilities are mixed, not logits: log sum_j w_j exp(log p_j), so the result sums to 1 wherever the experts do.

    Args:
        expert_log_probs: float [k, n, ...]: what each of k experts gives to n positions, for the token that stands
            there ([k, n]) or for a whole vocabulary ([k, n, v]). -inf is a probability of 0.
        weights: float [n, k] as from `routing_weights`. An expert of weight 0 has no say, whatever it holds.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    logs, share = np.asarray(expert_log_probs, np.float64), np.asarray(weights, np.float64)
    if logs.ndim < 2 or share.shape != (logs.shape[1], logs.shape[0]) or logs.shape[0] == 0:
        raise ValueError(
            f"experts of shape [k, n, ...] need weights [n, k], got {logs.shape} and {share.shape}"
        )
    by_expert = share.T.reshape(share.shape[1], share.shape[0], *(1 for _ in logs.shape[2:]))
    with np.errstate(divide="ignore"):
        terms = np.where(by_expert > 0, logs, -np.inf) + np.log(by_expert)
    largest = terms.max(axis=0)
    base = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        out: np.ndarray = base + np.log(np.exp(terms - base).sum(axis=0))
    return out
