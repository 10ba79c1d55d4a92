"""AdamW for towers, and learning rate schedules.

A modality that has no token in an update gets gradients of exactly zero. AdamW would still decay its weights
and coast on old momentum, so weights would move for a reason that is not in the data. `skip_absent` takes
those parameters out of the update: weights, moments and step count of an absent tower stay as they are. Absent
means absent from the whole update: from all its parts and on all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixloom.trainers.config import TrainConfig
from mixloom.trainers.distributed import local
from mixloom.trainers.model import Model


def build_optimizer(model: Model, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW in two groups: matrices with weight decay; norms and the embedding without.

    The embedding is left out of decay for the same reason as absent towers: most rows have no token in a step.
    """
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and name != "embedding"
        (decay if is_matrix else plain).append(parameter)
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-8, fused=True)


def skip_absent(model: Model, sizes: Sequence[int]) -> list[nn.Parameter]:
    """Drop the gradients of towers whose modality has no token in the update; returns their parameters.

    Args:
        sizes: input tokens per modality in the whole update, over all accumulation steps and all ranks.
    """
    skipped = [p for m, size in enumerate(sizes) if size == 0 for p in model.tower(m)]
    for parameter in skipped:
        parameter.grad = None
    return skipped


class Towers:
    """The gradient of a model, tower by tower: what all modalities share first, then each modality.

    Args:
        model: after it has been sharded. replicas: of its weights over all ranks.
    """

    def __init__(self, model: Model, replicas: int = 1) -> None:
        self._replicas = replicas
        tower = {id(p): 1 + m for m in range(model.config.modalities) for p in model.tower(m)}
        self._groups: list[list[nn.Parameter]] = [[] for _ in range(1 + model.config.modalities)]
        apart = {
            id(p) for p in model.foretelling()
        }  # they learn beside the model, and must not change its step
        for parameter in (p for p in model.parameters() if id(p) not in apart):
            self._groups[tower.get(id(parameter), 0)].append(parameter)

    def squares(self) -> Tensor:
        """Squared gradient norms, float64 [1 + K]; over ranks they have to be added."""
        norms = []
        for group in self._groups:
            grads = [local(p.grad) for p in group if p.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(grads) if grads else None)
        zero = next((n for n in norms if n is not None), torch.zeros(())).new_zeros(())
        both = torch.stack([zero if n is None else n for n in norms]).double()
        return both.square() / self._replicas

    def clip(self, norm: Tensor, limit: float) -> None:
        """Scale the gradient, whose norm over all ranks is given, to at most `limit`; nothing is waited for."""
        grads = [local(p.grad) for group in self._groups for p in group if p.grad is not None]
        if grads:
            torch._foreach_mul_(grads, (limit / (norm + 1e-6)).clamp(max=1.0).float())

    @torch.no_grad()
    def moved(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Squared norms of the last update and of the weights before it, float64 [2, 1 + K]; to be added over ranks.

        AdamW's update is formed again from its moments, one parameter at a time, so no copy of the weights is held.
        Call it between the update and the next `zero_grad`; what had no gradient counts for nothing.
        """
        settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        columns = []
        for group in self._groups:
            pairs = [
                _moved(p, optimizer.state[p], settings[id(p)])
                for p in group
                if p.grad is not None and p in optimizer.state
            ]
            columns.append(torch.stack(pairs).sum(0) if pairs else None)
        zero = next((c for c in columns if c is not None), torch.zeros(2, dtype=torch.float64)).new_zeros(2)
        return torch.stack([zero if c is None else c for c in columns], dim=1) / self._replicas


def _moved(parameter: nn.Parameter, state: dict[str, Tensor], settings: dict[str, Any]) -> Tensor:
    """Squared norms of the update and of the weights before it: float64 [2]."""
    (beta1, beta2), rate = settings["betas"], settings["lr"]
    mean, square = local(state["exp_avg"]), local(state["exp_avg_sq"])
    step = rate * (mean / (1 - beta1 ** state["step"]))
    step /= (square / (1 - beta2 ** state["step"])).sqrt_() + settings["eps"]
    after = local(parameter.detach())
    before = (after + step) / (1 - rate * settings["weight_decay"])
    return torch.stack([(after - before).norm(), before.norm()]).double().square()


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate of update `step` (from 0): a linear rise over `warmup` steps, then cosine or wsd down to `min_lr`.

    Sources: cosine, Loshchilov and Hutter (arXiv 1608.03983); warmup, stable, decay, Hu et al. (arXiv 2404.06395).
    """
    warmup = min(config.warmup, config.steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    span = config.lr - config.min_lr
    if config.schedule == "cosine":
        done = (step - warmup) / max(1, config.steps - 1 - warmup)
        return config.min_lr + span * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    decay = max(1, config.steps // 10)
    left = config.steps - 1 - step
    return config.min_lr + span * min(1.0, left / decay)
