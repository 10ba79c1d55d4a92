"""Log-mel features of speech, and a voice from them again.

Frames of 32 ms every 10 ms at 16 kHz; 80 triangular filters, linear up to 1 kHz and logarithmic above (the
scale of Slaney's Auditory Toolbox, 1998). A frame depends on its own 32 ms alone, so a recording can be of any
length. The way back is approximate: filters are inverted under non-negativity, phases are invented.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

RATE = 16_000
HOP = 160
WINDOW = 512
BANDS = 80
EDGE = (WINDOW - HOP) // 2  # zeros on either side, so that n hops give exactly n frames
_BLOCK = 4000  # frames transformed at once: memory stays bounded, and equal for every length

Wave = npt.NDArray[np.float32]


def _hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@lru_cache(maxsize=1)
def filters() -> Tensor:
    """float32 [257, 80]: the weight of each frequency in each band; every filter peaks at 1."""
    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    corners = _hertz(np.linspace(0, top, BANDS + 2))
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    frequency = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    weights = np.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle))
    return torch.from_numpy(np.maximum(weights, 0).astype(np.float32))


def _spectrum(padded: Tensor) -> Tensor:
    """complex64 [n, 257] of float32 [HOP * n + 2 * EDGE]."""
    return torch.fft.rfft(padded.unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW))


def _wave(spectrum: Tensor) -> Tensor:
    """float32 [HOP * n + 2 * EDGE]: the signal whose spectrum is nearest in the least squares sense."""
    window = torch.hann_window(WINDOW)
    frames = torch.fft.irfft(spectrum, n=WINDOW) * window
    length = HOP * len(spectrum) + 2 * EDGE

    def overlap(x: Tensor) -> Tensor:
        return torch.nn.functional.fold(x.T[None], (1, length), (1, WINDOW), stride=(1, HOP)).flatten()

    return overlap(frames) / overlap(window.square().expand_as(frames)).clamp_min(1e-3)


def power(wave: Wave) -> Tensor:
    """float32 [n, 80]: power in each band and frame of float32 [n * 160]."""
    padded = torch.nn.functional.pad(torch.from_numpy(np.ascontiguousarray(wave)), (EDGE, EDGE))
    count = len(wave) // HOP
    blocks = []
    for start in range(0, count, _BLOCK):
        stop = min(count, start + _BLOCK)
        piece = padded[start * HOP : stop * HOP + 2 * EDGE]
        blocks.append(_spectrum(piece).abs().square() @ filters())
    return torch.cat(blocks) if blocks else torch.zeros(0, BANDS)


def magnitudes(wave: Wave) -> Tensor:
    """float32 [n, 257]: magnitude of each frequency and frame of float32 [n * 160], what `griffin_lim` takes."""
    samples = torch.from_numpy(np.ascontiguousarray(wave))
    return _spectrum(torch.nn.functional.pad(samples, (EDGE, EDGE))).abs()


def invert_power(bands: Tensor, iterations: int = 50) -> Tensor:
    """float32 [n, 257]: non-negative power of each frequency whose bands come close to `bands` [n, 80].

    Multiplicative updates for non-negative least squares (Lee and Seung 2001, theorem 1).
    """
    weights = filters()
    gram = weights @ weights.T
    target = bands @ weights.T
    guess = target / weights.sum(1).square().clamp_min(1e-6)
    for _ in range(iterations):
        guess = guess * target / (guess @ gram).clamp_min(1e-20)
    return guess


def griffin_lim(magnitude: Tensor, iterations: int = 32, momentum: float = 0.99, seed: int = 0) -> Wave:
    """float32 [n * 160]: a wave with about these magnitudes [n, 257] (Perraudin et al. 2013, fast Griffin-Lim)."""
    generator = torch.Generator().manual_seed(seed)
    turns = torch.rand(magnitude.shape, generator=generator)
    phase = torch.polar(torch.ones_like(magnitude), 2 * torch.pi * turns)
    before = torch.zeros_like(phase)
    for _ in range(iterations):
        consistent = _spectrum(_wave(magnitude * phase))
        ahead = consistent + momentum * (consistent - before)
        phase = ahead / ahead.abs().clamp_min(1e-12)
        before = consistent
    wave = _wave(magnitude * phase)[EDGE:-EDGE]
    return wave.numpy()


def spectral_convergence(wave: Wave, other: Wave) -> float:
    """Frobenius distance of the magnitudes of two waves of one length, over the norm of the first; 0 is perfect.

    Raises:
        ValueError: different lengths.
    """
    if wave.shape != other.shape:
        raise ValueError(f"waves of {len(wave)} and {len(other)} samples cannot be compared")
    pad = (EDGE, EDGE + -len(wave) % HOP)
    first, second = (
        _spectrum(torch.nn.functional.pad(torch.from_numpy(np.ascontiguousarray(w)), pad)).abs()
        for w in (wave, other)
    )
    return float(torch.linalg.norm(first - second) / torch.linalg.norm(first).clamp_min(1e-12))


def log_spectral_distance(wave: Wave, other: Wave, floor: float = 1e-4) -> float:
    """Root mean square difference in dB of the band powers of two waves of one length, 0 is perfect.

    `floor` is the power below which a band counts as silent in both.

    Raises:
        ValueError: different lengths.
    """
    if wave.shape != other.shape:
        raise ValueError(f"waves of {len(wave)} and {len(other)} samples cannot be compared")
    first, second = (
        power(np.pad(w, (0, -len(w) % HOP))).clamp_min(floor).log10() * 10 for w in (wave, other)
    )
    return float((first - second).square().mean().sqrt()) if len(first) else 0.0
