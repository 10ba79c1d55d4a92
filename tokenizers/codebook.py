"""Finite scalar quantisation: a codebook without parameters (Mentzer et al. 2023, arXiv 2309.15505, section 3.1).

Each of a few latents is squashed and rounded to one of its levels; a code is the tuple of levels, its id the
number they spell in mixed radix (the first latent counts fastest). Nothing to collapse, nothing to store.
"""

from __future__ import annotations

import hashlib
import json
import math

import torch
from torch import Tensor


class FiniteScalarQuantiser:
    """Quantises the last axis, of length len(levels), of a float tensor."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        self.levels = levels
        self.size = math.prod(levels)
        radix = [math.prod(levels[:i]) for i in range(len(levels))]
        self._radix = torch.tensor(radix, dtype=torch.int64)
        self._levels = torch.tensor(levels, dtype=torch.int64)
        self._half = self._levels // 2

    def bound(self, z: Tensor) -> Tensor:
        """Squash z [..., d] so that rounding gives exactly `levels[i]` values: -(L//2) .. (L-1)//2."""
        levels = self._levels.to(z.device)
        reach = (levels - 1).to(z.dtype) * (1 + 1e-3) / 2
        # An even number of levels has no middle one: the interval is moved by half a level, and z so that 0 stays 0.
        offset = torch.where(levels % 2 == 0, 0.5, 0.0).to(z.dtype)
        return torch.tanh(z + torch.atanh(offset / reach)) * reach - offset

    def quantise(self, z: Tensor) -> Tensor:
        """Codes for z [..., d], scaled to about [-1, 1]; the gradient passes through the rounding unchanged."""
        squashed = self.bound(z)
        rounded = squashed + (squashed.round() - squashed).detach()
        return rounded / self._half.to(z)

    def ids(self, codes: Tensor) -> Tensor:
        """int64 [...] ids in 0..size-1 of codes [..., d] made by `quantise`."""
        digits = torch.round(codes * self._half.to(codes)).to(torch.int64) + self._half.to(codes.device)
        return (digits * self._radix.to(codes.device)).sum(-1)

    def codes(self, ids: Tensor) -> Tensor:
        """float32 [..., d] codes of ids [...]; the inverse of `ids`."""
        radix, levels, half = (t.to(ids.device) for t in (self._radix, self._levels, self._half))
        digits = torch.div(ids.unsqueeze(-1), radix, rounding_mode="floor") % levels
        return (digits - half).to(torch.float32) / half.to(torch.float32)


def weights_fingerprint(content: dict[str, object], weights: dict[str, Tensor]) -> str:
    """sha256 hex over plain JSON values and tensors (name, dtype, shape, bytes), in order of name."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
