"""Several models of one configuration as one: the plain average of their weights, and one weighed by Fisher information.

Averages are taken around the first model in float64 and rounded once, so that models that are equal give themselves.
Called by hand, after `experts.branch`; the result goes into `Model.load_state_dict` or begins another training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mixloom.trainers.attention import Kind
from mixloom.trainers.data import Batch
from mixloom.trainers.model import Model
from mixloom.trainers.step import batch_losses

State = Mapping[str, Tensor]


def average(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Weighted mean of the weights of several models.

    Branch-train-merge (Li et al., arXiv 2208.03306, section 3.2) averages experts this way to seed new ones.

    Args:
        states: a `state_dict` each, of one configuration. weights: of the models, not negative; None: all alike.

    Raises:
        ValueError: no model, weights that do not fit, or models of different parameters.
    """
    shares = _shares(states, weights)
    return {
        name: _around(first, [s[name] for s in states], [torch.tensor(w) for w in shares])
        for name, first in states[0].items()
    }


def fisher_average(
    states: Sequence[State],
    fishers: Sequence[State],
    weights: Sequence[float] | None = None,
    *,
    floor: float = 1e-12,
) -> dict[str, Tensor]:
    """Mean of the weights of several models, each weight in proportion to its Fisher information in that model.

    Matena and Raffel, arXiv 2111.09832, equation 4. What no model holds to matter is averaged plainly.

    Args:
        fishers: diagonal Fisher information of each model, by the names of its parameters, see `fisher`.
        floor: added to every entry, relative to the mean of all.

    Raises:
        ValueError: as `average`, or information that does not fit the models.
    """
    shares = _shares(states, weights)
    if len(fishers) != len(states):
        raise ValueError(f"Fisher information of {len(fishers)} models for {len(states)}")
    low = floor * sum(_mean(f) for f in fishers) / len(fishers)
    out = {}
    for name, first in states[0].items():
        if any(name not in f or f[name].shape != first.shape for f in fishers):
            raise ValueError(f"there is no Fisher information that fits '{name}' in every model")
        kept = [w * (f[name].double() + low) for w, f in zip(shares, fishers)]
        total = torch.stack(kept).sum(0)
        plain = torch.tensor(shares, dtype=torch.float64, device=total.device)
        by_model = [torch.where(total > 0, k / total, p) for k, p in zip(kept, plain)]
        out[name] = _around(first, [s[name] for s in states], by_model)
    return out


def fisher(
    model: Model, batches: Iterable[Batch], kind: Kind, dtype: torch.dtype = torch.float32, chunk: int = 1024
) -> dict[str, Tensor]:
    """Diagonal of the empirical Fisher information, float32 by the name of the parameter.

    The mean over the batches of the squared gradient of their log-likelihood. Squares of a sum are not the sum of
    squares: give batches of one context each. Gradients of the model are overwritten.

    Args:
        batches: on the device of the model.

    Raises:
        ValueError: no batch with a target.
    """
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    count = 0
    for batch in batches:
        if not batch.targets_total:
            continue
        model.zero_grad(set_to_none=True)
        batch_losses(model, batch, kind, dtype, chunk).total.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] += parameter.grad.square()
        count += 1
    model.zero_grad(set_to_none=True)
    if not count:
        raise ValueError("Fisher information needs a batch with at least one target")
    return {name: total / count for name, total in sums.items()}


def _shares(states: Sequence[State], weights: Sequence[float] | None) -> list[float]:
    """Weights that sum to 1, one per model."""
    if not states:
        raise ValueError("there is no model to average")
    for i, state in enumerate(states):
        shapes = {name: tuple(t.shape) for name, t in state.items()}
        if shapes != {name: tuple(t.shape) for name, t in states[0].items()}:
            raise ValueError(f"model {i} has other parameters than model 0")
    given = [1.0] * len(states) if weights is None else [float(w) for w in weights]
    if len(given) != len(states) or min(given) < 0 or not sum(given) > 0:
        raise ValueError(f"{len(states)} models need as many weights, none negative and not all 0: {given}")
    return [w / sum(given) for w in given]


def _mean(information: State) -> float:
    count = sum(t.numel() for t in information.values())
    return sum(float(t.double().sum()) for t in information.values()) / max(1, count)


def _around(first: Tensor, tensors: Sequence[Tensor], shares: Sequence[Tensor]) -> Tensor:
    """First + sum of share * (tensor - first): float64 inside, the type of the first outside."""
    base = first.double()
    for tensor, share in zip(tensors, shares):
        base = base + share.to(first.device) * (tensor.to(first.device).double() - first.double())
    return base.to(first.dtype)
