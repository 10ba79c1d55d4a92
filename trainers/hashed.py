"""Numbers that look random and depend on nothing but whole numbers: the same on every device, rank and batch."""

from __future__ import annotations

import torch
from torch import Tensor


def mixed(x: Tensor) -> Tensor:
    """Mix the lower 31 bits of whole numbers, int64: multiplications and shifts, exact on every device."""
    for _ in range(2):
        x = ((x & 0x7FFFFFFF) * 0x45D9F3B) & 0x7FFFFFFF
        x = x ^ (x >> 15)
    return x


def uniform(seeds: Tensor, n: int) -> Tensor:
    """n numbers in (0, 1) for every seed, float32 [..., n]. seeds: int64 [...], below 2^31."""
    return torch.stack([(mixed(seeds + 7919 * (i + 1)).float() + 0.5) * 2.0**-31 for i in range(n)], dim=-1)


def normal(seeds: Tensor, n: int) -> Tensor:
    """n normally distributed numbers for every seed, float32 [..., n] (Box and Muller, 1958)."""
    radius = (-2.0 * uniform(seeds, n).clamp(max=1 - 2.0**-24).log()).sqrt()
    return radius * torch.cos(2 * torch.pi * uniform(mixed(seeds + 104729), n))
