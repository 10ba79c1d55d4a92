"""What log-mel units are made from: the shape of the spectrum around a step, and how it moves.

The frames around a step are described by the first cosines over the bands (cepstra: the shape of the vocal tract,
without pitch and fine structure) times the first cosines over time (level, slope and curve of each), as in the cosine
transform of spectrogram patches of Ahmed, Natarajan and Rao (1974) and the delta features of Furui (1986, section III).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from mixloom.pipeline.torch_threads import torch_threads
from mixloom.tokenizers.melspectrum import BANDS, HOP, Wave, power
from mixloom.tokenizers.settings import SpeechCodecConfig
from mixloom.tokenizers.speech_units import Floats

QUIETEST = 1e-5  # mean band power (about -80 dBFS) below which a clip counts as silence and is not amplified
FLOOR = 1e-6  # a band this far (60 dB) below the mean of its clip counts as empty


class Heard(NamedTuple):
    """What was heard of one clip of n steps of s frames.

    `frames` float32 [n * s, 80] are normalised log-mel frames; `power` float64 [80] the power in each band, summed.
    """

    frames: Floats
    power: npt.NDArray[np.float64]


def hear(wave: Wave, stack: int, normalise: str) -> Heard:
    """Log-mel frames of float32 [t], mono, 16 kHz: ceil(t / (160 stack)) steps; a last step is filled with its last frame.

    Loudness is one number for the whole clip, so a clip that is merely louder has the same frames.

    Raises:
        ValueError: not float32 [t], or samples that are not finite.
    """
    check_wave(wave)
    with torch_threads(1):
        bands = power(np.pad(wave, (0, -len(wave) % HOP))).numpy()
    if not len(bands):
        return Heard(np.zeros((0, BANDS), np.float32), np.zeros(BANDS))
    level = np.float32(1) if normalise == "none" else max(np.float32(QUIETEST), bands.mean(dtype=np.float32))
    frames = np.log(np.maximum(bands / level, np.float32(FLOOR)))
    if normalise == "mean":
        frames -= frames.mean(0)
    missing = -len(frames) % stack
    heard = bands.sum(0, dtype=np.float64) * ((len(bands) + missing) / len(bands))
    return Heard(np.pad(frames, ((0, missing), (0, 0)), mode="edge"), heard)


def check_wave(wave: Wave) -> None:
    """Raise ValueError unless a wave is float32 [t] of finite samples."""
    if wave.dtype != np.float32 or wave.ndim != 1:
        raise ValueError(f"expected a wave float32 [t], got {wave.dtype} {list(wave.shape)}")
    if not np.isfinite(wave).all():
        raise ValueError("the wave has samples that are not finite")


def describe(frames: Floats, config: SpeechCodecConfig) -> Floats:
    """Points float32 [n, moves * cepstra] of the steps of frames [n * stack, 80]; beyond its ends a clip stands still."""
    window = max(config.window, config.stack)
    before = (window - config.stack) // 2
    if not len(frames):
        return np.zeros((0, config.moves * config.cepstra), np.float32)
    taper = np.hanning(window + 2)[1:-1].astype(np.float32)
    over_time = torch.from_numpy(_cosines(window, config.moves) * taper)
    with torch_threads(1):
        shape = torch.from_numpy(frames) @ torch.from_numpy(_cosines(BANDS, config.cepstra)).T
        ends = (before, window - config.stack - before)
        padded = F.pad(shape.T[None], ends, mode="replicate")
        # A convolution over time, with one kernel for each move.
        moved = F.conv1d(padded.swapaxes(0, 1), over_time[:, None], stride=config.stack)
        return np.ascontiguousarray(moved.permute(2, 1, 0).reshape(moved.shape[2], -1).numpy())


def _cosines(size: int, count: int) -> Floats:
    """float32 [count, size]: the first rows of the orthonormal discrete cosine transform of type II."""
    rows = np.cos(np.pi / size * (np.arange(size) + 0.5) * np.arange(count)[:, None])
    rows *= np.sqrt(2 / size)
    rows[0] *= np.sqrt(0.5)
    return rows.astype(np.float32)
