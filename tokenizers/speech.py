"""The default speech codec: k-means units over log-mel frames and how they move, 25 a second.

A clip is brought to one loudness, each step of `stack` frames is described with what surrounds it, and is named after
the nearest centroid. Every unit knows the sound it stands for, so units can be heard again: roughly, in an average
voice and at an average pitch. Units learned by a neural model carry more of the words and less of the speaker.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.melspectrum import BANDS, HOP, RATE, Wave
from mixloom.tokenizers.settings import SpeechCodecConfig
from mixloom.tokenizers.speech_features import describe, hear
from mixloom.tokenizers.speech_units import (
    Durations,
    Floats,
    Units,
    collapsed,
    explained,
    fit_centroids,
    nearest_units,
    runs,
)
from mixloom.tokenizers.speech_voice import VOICE_ARRAYS, Voice, fit_voice

__all__ = ["SpeechCodec", "fit_speech_codec", "runs"]

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
ARRAYS = ("centroids", "scale", *VOICE_ARRAYS)
WHITENING = (
    0.5  # exponent: 0 leaves the loudest coefficients in charge, 1 makes noise as important as they are
)


class SpeechCodec:
    """Waves of 16 kHz to units and back. Units do not depend on batching or on the number of threads.

    `centroids` float32 [k, d] lie in the space of `describe`, each coordinate of which is multiplied by `scale` [d].
    """

    kind = "logmel"
    rate = RATE
    can_decode = True

    def __init__(self, config: SpeechCodecConfig, centroids: Floats, scale: Floats, voice: Voice) -> None:
        shapes = [(voice.size, config.moves * config.cepstra), (config.moves * config.cepstra,)]
        for name, array, shape in zip(ARRAYS, (centroids, scale), shapes):
            if array.dtype != np.float32 or array.shape != shape:
                raise ValueError(
                    f"{name}: expected float32 {list(shape)}, got {array.dtype} {list(array.shape)}"
                )
        if voice.frames != config.stack:
            raise ValueError(f"stacks: expected steps of {config.stack} frames, got {voice.frames}")
        self.config = config
        self.voice = voice
        self._arrays = {"centroids": centroids, "scale": scale, **voice.arrays}
        self.codebook_size = voice.size
        self.units_per_second = RATE / (HOP * config.stack)
        self.fingerprint = self._fingerprint()

    def encode(self, wave: Wave) -> tuple[Units, Durations]:
        """Units int64 [u] in 0..codebook_size-1 and their durations int32 [u], in steps of 1/units_per_second.

        `wave` is float32 [t], mono, 16 kHz. The durations sum to ceil(t / 640) with the default stack. Without
        `collapse` every duration is 1. No samples give no units.

        Raises:
            ValueError: not float32 [t], or samples that are not finite.
        """
        heard = hear(wave, self.config.stack, self.config.normalise)
        points = describe(heard.frames, self.config) * self._arrays["scale"]
        return collapsed(nearest_units(points, self._arrays["centroids"]), self.config.collapse)

    def encode_batch(self, waves: Sequence[Wave]) -> list[tuple[Units, Durations]]:
        """`encode` of several waves."""
        return [self.encode(wave) for wave in waves]

    def decode(self, units: Units, durations: Durations | None = None, *, iterations: int = 32) -> Wave:
        """A wave float32 [sum(durations) * 640] (default stack) of units int64 [u].

        Without durations every unit lasts as long as it does on average in the corpus the codec was fitted on.

        Raises:
            ValueError: a unit that does not exist, or durations of another length or below 1.
        """
        return self.voice.speak(units, durations, collapse=self.config.collapse, iterations=iterations)

    def save(self, directory: Path | str) -> None:
        """Write config.json and one .npy for each of `ARRAYS`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, array in self._arrays.items():
            np.save(directory / f"{name}.npy", array, allow_pickle=False)
        content = {
            "kind": self.kind,
            "config": self.config.model_dump(mode="json"),
            "fingerprint": self.fingerprint,
        }
        (directory / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path | str) -> SpeechCodec:
        """Read what `save` wrote.

        Raises:
            UserError: files missing, malformed or not belonging together.
        """
        directory = Path(directory)
        fix = "fit the codec again, or give the directory that the tokenizer stage wrote"
        try:
            content = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
            arrays = {name: np.load(directory / f"{name}.npy", allow_pickle=False) for name in ARRAYS}
            voice = Voice(**{name: arrays.pop(name) for name in VOICE_ARRAYS})
            codec = cls(SpeechCodecConfig(**content["config"]), voice=voice, **arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"speech codec: cannot load {directory}: {error}", fix=fix) from error
        if codec.fingerprint != content.get("fingerprint"):
            raise UserError(
                f"speech codec: the arrays in {directory} are not those config.json describes", fix=fix
            )
        return codec

    def _fingerprint(self) -> str:
        names = {"kind", "stack", "window", "cepstra", "moves", "normalise", "collapse"}
        decides = self.config.model_dump(mode="json", include=names)
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
        for name in ARRAYS:
            digest.update(name.encode() + np.ascontiguousarray(self._arrays[name]).tobytes())
        return digest.hexdigest()


def fit_speech_codec(
    waves: Iterable[Wave], config: SpeechCodecConfig, report: Callable[[dict[str, Any]], None] | None = None
) -> SpeechCodec:
    """Fit the units to waves (float32 [t], mono, 16 kHz), up to `fit_seconds`; k-means by faiss, one thread.

    With fewer steps of audio than `units`, as many units as there are steps are made, and a warning is logged.
    `report` is called once with {"seconds", "steps", "units", "variance_explained"}.

    Raises:
        UserError: no audio at all.
    """
    frames: list[Floats] = []
    total = np.zeros(BANDS)
    room = most = int(config.fit_seconds * RATE)
    for wave in waves:
        heard = hear(wave[:room], config.stack, config.normalise)
        room -= len(wave[:room])
        if len(heard.frames):
            frames.append(heard.frames)
            total += heard.power
        if room <= 0:
            break
    if not frames:
        raise UserError(
            "speech codec: there is no audio to fit on", fix="leave the speech codec out of the config"
        )
    lengths = [len(x) // config.stack for x in frames]
    points = np.concatenate([describe(x, config) for x in frames])
    spread = points.std(0, dtype=np.float64)
    # A coefficient that hardly moves must not be blown up.
    scale = np.maximum(spread, 1e-3 * max(spread.max(), 1e-3)) ** -WHITENING
    points *= scale.astype(np.float32)
    units = enough_units(config.units, len(points))
    centroids = fit_centroids(points, units, config.iterations, config.seed)
    assigned = nearest_units(points, centroids)
    voice = fit_voice(np.split(assigned, np.cumsum(lengths)[:-1]), frames, total, units)
    if report is not None:
        facts = {"seconds": round((most - room) / RATE, 2), "steps": len(points), "units": units}
        report({**facts, "variance_explained": explained(points, centroids, assigned)})
    return SpeechCodec(config, centroids, scale.astype(np.float32), voice)


def enough_units(wanted: int, steps: int) -> int:
    """As many units as are wanted and the corpus has steps for; fewer are logged."""
    if steps < wanted:
        log.warning(
            "speech codec: %d units instead of %d, the corpus has no more steps of audio", steps, wanted
        )
    return min(wanted, steps)
