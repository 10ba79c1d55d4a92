"""Speech by rule: glottal pulses and noise through formant resonators, sample by sample.

The classic source-filter model (Fant 1960) in the form of Klatt, "Software for a cascade/parallel formant
synthesizer" (1980): a cascade of second-order resonators for what comes through the throat, one resonator of
its own for hiss. Control values change every 5 ms; targets glide into each other as tongues do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mixloom.pipeline.demo.phonemes import PHONEMES, Target, pronounce

RATE = 16_000  # samples per second
_FRAME = 80  # samples between control values: 5 ms
_BANDWIDTHS = (70.0, 90.0, 130.0, 250.0, 350.0)


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker: mean pitch (Hz), formants relative to an average man, speed, and share of breath in the voice."""

    name: str
    pitch: float
    formants: float
    speed: float
    breath: float


VOICES = (
    Voice("alba", 205.0, 1.16, 1.00, 0.05),
    Voice("bruno", 98.0, 0.96, 0.92, 0.02),
    Voice("celia", 178.0, 1.12, 1.10, 0.10),
    Voice("dario", 122.0, 1.00, 1.05, 0.03),
    Voice("elmo", 252.0, 1.28, 1.08, 0.04),
    Voice("fosca", 140.0, 1.05, 0.88, 0.12),
)


def speak(text: str, voice: Voice, rng: np.random.Generator) -> NDArray[np.int16]:
    """A sentence of known words as 16 kHz mono samples, int16 [n]; peak at about -3 dB of full scale.

    Raises:
        KeyError: a word no voice can say.
    """
    targets = _sentence(text.split(), voice, rng)
    controls = _controls(targets, voice, rng)
    samples = _synthesise(controls, rng.standard_normal(len(controls) * _FRAME))
    samples += 0.0008 * np.abs(samples).max() * rng.standard_normal(len(samples))  # a room is never silent
    return np.rint(samples * (0.7 * 32767 / np.abs(samples).max())).astype(np.int16)


def _sentence(words: list[str], voice: Voice, rng: np.random.Generator) -> list[tuple[Target, float, float]]:
    """(target, its milliseconds, pitch in Hz at its middle) for the whole sentence, silence at both ends."""
    out: list[tuple[Target, float, float]] = []
    pause = Target(0, (500, 1500, 2500))
    out.append((pause, float(rng.uniform(60, 140)), voice.pitch))
    for n, word in enumerate(words):
        fall = (
            1.1 - 0.25 * n / max(1, len(words) - 1) if len(words) > 1 else 1.0
        )  # pitch declines over a sentence
        stretch = float(rng.uniform(0.92, 1.08)) / voice.speed * (1.25 if n == len(words) - 1 else 1.0)
        parts = [t for name in pronounce(word) for t in PHONEMES[name]]
        for i, target in enumerate(parts):
            accent = 0.08 * math.sin(math.pi * (i + 1) / (len(parts) + 1))
            out.append((target, target.ms * stretch, voice.pitch * (fall + accent)))
        out.append((pause, float(rng.uniform(25, 70)) / voice.speed, voice.pitch * fall))
    out.append((pause, float(rng.uniform(80, 160)), voice.pitch * 0.8))
    return out


# Columns of the control table.
_PITCH, _VOICE, _BREATH, _HISS, _CENTRE, _BAND, _NASAL, _F1 = range(8)


def _controls(
    targets: list[tuple[Target, float, float]], voice: Voice, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Control values float64 [frames, 11]: pitch, three amplitudes, hiss centre and band, nasality, F1 to F4."""
    rows, lengths = [], []
    for target, ms, pitch in targets:
        f4 = 3500.0
        formants = [f * voice.formants for f in (*target.formants, f4)]
        breath = target.breath + voice.breath * target.voice
        row = [pitch, target.voice, breath, target.hiss, min(target.centre * math.sqrt(voice.formants), 7000)]
        rows.append([*row, target.band, float(target.nasal), *formants])
        lengths.append(max(1, round(ms / 5)))
    table = np.repeat(np.array(rows), lengths, axis=0)
    silent = table[:, [_VOICE, _BREATH, _HISS]].sum(axis=1) == 0
    steady = np.where(~silent)[0]
    if len(steady):  # silence has no tongue: formants glide straight across it
        for c in range(_F1, table.shape[1]):
            table[:, c] = np.interp(np.arange(len(table)), steady, table[steady, c])
    for c in range(table.shape[1]):
        table[:, c] = _smooth(table[:, c], 3.5 if c in (_PITCH, *range(_F1, table.shape[1])) else 0.9)
    wander = _smooth(rng.standard_normal(len(table)), 6.0) * 0.05
    table[:, _PITCH] *= 1 + wander
    return table


def _smooth(values: NDArray[np.float64], frames: float) -> NDArray[np.float64]:
    """Convolution with a Gaussian of that width, the ends held."""
    reach = math.ceil(3 * frames)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / frames) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), weights / weights.sum(), mode="valid")


@njit("f8[::1](f8[:,::1],f8[::1])", cache=True, nogil=True)
def _synthesise(table: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Samples float64 [frames * 80] from the control table float64 [frames, 11] and white noise of that length."""
    frames = table.shape[0]
    out = np.zeros(frames * _FRAME)
    coefficients = np.zeros(
        (6, 3)
    )  # five throat resonators and the one for hiss: gain, first and second feedback
    state = np.zeros((6, 2))
    phase, tilt, previous = 0.0, 0.0, 0.0
    for frame in range(frames):
        row = table[frame]
        for k in range(6):
            if k < 4:
                f, width = row[7 + k], _BANDWIDTHS[k] * (1.0 + 1.5 * row[6])
            elif k == 4:
                f, width = row[10] * 1.25, _BANDWIDTHS[k]
            else:
                f, width = row[4], row[5]
            f = min(f, 7600.0)
            r = math.exp(-math.pi * width / 16000.0)
            coefficients[k, 1] = 2.0 * r * math.cos(2.0 * math.pi * f / 16000.0)
            coefficients[k, 2] = -r * r
            coefficients[k, 0] = 1.0 - coefficients[k, 1] - coefficients[k, 2]
            if k == 5:  # unit gain at its centre, not at zero frequency
                coefficients[k, 0] = (1.0 - r) * math.sqrt(
                    1.0 + r * r - 2.0 * r * math.cos(4.0 * math.pi * f / 16000.0)
                )
        for i in range(_FRAME):
            n = frame * _FRAME + i
            phase += row[0] / 16000.0
            if phase >= 1.0:
                phase -= 1.0
            # Flow through the glottis rises and shuts abruptly (KLGLOTT88 shape, open for 0.6 of a period).
            x = phase / 0.6
            flow = x * x * (1.0 - x) * 6.75 if x < 1.0 else 0.0
            tilt = 0.25 * tilt + 0.75 * flow
            # The derivative grows with the pitch; loudness should not.
            source = 1800.0 / row[0] * (tilt - previous) * row[1]
            previous = tilt
            gate = 1.0 if x < 1.0 or row[1] < 0.1 else 0.4  # breath comes while the glottis is open
            y = source + 0.25 * row[2] * gate * noise[n]
            for k in range(5):
                y = (
                    coefficients[k, 0] * y
                    + coefficients[k, 1] * state[k, 0]
                    + coefficients[k, 2] * state[k, 1]
                )
                state[k, 1] = state[k, 0]
                state[k, 0] = y
            h = coefficients[5, 0] * noise[n] * row[3]
            h += coefficients[5, 1] * state[5, 0] + coefficients[5, 2] * state[5, 1]
            state[5, 1] = state[5, 0]
            state[5, 0] = h
            out[n] = y + h
    return out
