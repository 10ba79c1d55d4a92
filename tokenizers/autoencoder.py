"""The network of the default image codec, and the way in and out of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixloom.tokenizers.settings import ImageCodecConfig


class _Residual(nn.Module):
    """x + conv(act(conv(act(x)))); the last convolution starts at zero, so the block starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class Autoencoder(nn.Module):
    """Pictures [n, 3, h, w] in -1..1 to latents [n, h/f, w/f, d], and codes of that shape back to pictures."""

    def __init__(self, config: ImageCodecConfig) -> None:
        super().__init__()
        self.patch = config.downsample
        width, values, latents = config.width, 3 * config.downsample**2, len(config.levels)
        self.patch_in = nn.Conv2d(values, width, 1)
        self.encoder = nn.Sequential(*(_Residual(width) for _ in range(config.blocks)))
        self.to_latent = nn.Conv2d(width, latents, 1)
        self.from_latent = nn.Conv2d(latents, width, 1)
        self.decoder = nn.Sequential(*(_Residual(width) for _ in range(config.blocks)))
        self.patch_out = nn.Conv2d(width, values, 1)

    def mixers(self) -> list[_Residual]:
        """The residual blocks, encoder first."""
        return [m for m in (*self.encoder, *self.decoder) if isinstance(m, _Residual)]

    def encode(self, x: Tensor) -> Tensor:
        z = self.to_latent(self.encoder(self.patch_in(F.pixel_unshuffle(x, self.patch))))
        return z.movedim(1, -1)

    def decode(self, codes: Tensor) -> Tensor:
        h = self.decoder(self.from_latent(codes.movedim(-1, 1)))
        return F.pixel_shuffle(self.patch_out(h), self.patch)

    @torch.no_grad()
    def start_from_components(self, pictures: Tensor) -> None:
        """Set the four 1x1 projections to the principal components of the patches of `pictures` [n, 3, h, w]."""
        patches = F.pixel_unshuffle(pictures, self.patch).movedim(1, -1).flatten(0, -2).double()
        mean = patches.mean(0)
        spread, basis = torch.linalg.eigh(torch.cov(patches.T))
        width, latents = self.patch_in.out_channels, self.to_latent.out_channels
        basis = basis.flip(1)[:, :width]  # columns by falling variance
        basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
        deviation = spread.flip(0)[:width].clamp_min(1e-8).sqrt()
        scale = deviation.square().mean().sqrt()  # one scale for all: the geometry of the patches is kept
        along = torch.eye(latents, width, dtype=torch.float64)
        # A normal variable through tanh, rounded and scaled to [-1, 1], is best undone by a factor of about 1.5.
        _set(self.patch_in, basis.T / scale, -(mean @ basis) / scale)
        _set(self.to_latent, along * scale / deviation, torch.zeros(latents))
        _set(self.from_latent, (along * deviation / scale * 1.5).T, torch.zeros(width))
        _set(self.patch_out, basis * scale, mean)


def _set(projection: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    assert projection.bias is not None
    projection.weight.copy_(weight[:, :, None, None])
    projection.bias.copy_(bias)


def to_float(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """float32 [n, 3, h, w] in -1..1 of uint8 [n, h, w, 3]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).movedim(-1, 1).float() / 127.5 - 1


def to_bytes(pictures: Tensor) -> npt.NDArray[np.uint8]:
    """uint8 [n, h, w, 3] of float [n, 3, h, w] in -1..1."""
    scaled = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.movedim(1, -1).numpy()
