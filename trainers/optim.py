"""AdamW for towers, and learning rate schedules.

A modality that has no token in an update gets gradients of exactly zero. AdamW would still decay its weights
and coast on old momentum, so weights would move for a reason that is not in the data. `skip_absent` takes
those parameters out of the update: weights, moments and step count of an absent tower stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from mixloom.trainers.config import TrainConfig
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
        sizes: input tokens per modality in the whole update, over all accumulation steps.
    """
    skipped = [p for m, size in enumerate(sizes) if size == 0 for p in model.tower(m)]
    for parameter in skipped:
        parameter.grad = None
    return skipped


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
