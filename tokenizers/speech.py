"""The default speech codec: k-means units over stacked log-mel frames, 25 a second.

A clip is brought to one loudness, cut into stacks of `stack` frames, and each stack is named after the nearest
centroid. Centroids are themselves stacks of log-mel frames, so units can be heard again: roughly, in an average
voice and at an average pitch. Units learned by a neural model carry more of the words and less of the speaker.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.determinism import torch_threads
from mixloom.tokenizers.melspectrum import BANDS, HOP, RATE, Wave, griffin_lim, invert_power, power
from mixloom.tokenizers.settings import SpeechCodecConfig

__all__ = ["SpeechCodec", "fit_speech_codec", "runs"]

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
ARRAYS = ("centroids", "offset", "run_lengths")
QUIETEST = 1e-5  # mean band power (about -80 dBFS) below which a clip counts as silence and is not amplified
FLOOR = 1e-6  # a band this far (60 dB) below the mean of its clip counts as empty

Floats = npt.NDArray[np.float32]
Units = npt.NDArray[np.int64]
Durations = npt.NDArray[np.int32]


class SpeechCodec:
    """Waves of 16 kHz to units and back. Units do not depend on batching or on the number of threads.

    `centroids` float32 [k, stack * 80]; `offset` float32 [80] is added when decoding and gives the corpus its
    long-term spectrum back: it undoes normalisation on average, and the dulling of averages of logarithms; `run_lengths` float32 [k], how long a unit lasts on average where durations are lost.
    """

    kind = "logmel"
    rate = RATE
    can_decode = True

    def __init__(
        self, config: SpeechCodecConfig, centroids: Floats, offset: Floats, run_lengths: Floats
    ) -> None:
        self.config = config
        self._arrays = {"centroids": centroids, "offset": offset, "run_lengths": run_lengths}
        shapes = [(len(centroids), config.stack * BANDS), (BANDS,), (len(centroids),)]
        for (name, array), shape in zip(self._arrays.items(), shapes):
            if array.dtype != np.float32 or array.shape != shape:
                raise ValueError(
                    f"{name}: expected float32 {list(shape)}, got {array.dtype} {list(array.shape)}"
                )
        self.codebook_size = len(centroids)
        self.units_per_second = RATE / (HOP * config.stack)
        self._centroids = torch.from_numpy(centroids)
        self._bias = self._centroids.square().sum(1) / 2
        self.fingerprint = self._fingerprint()

    def encode(self, wave: Wave) -> tuple[Units, Durations]:
        """Units int64 [u] in 0..codebook_size-1 and their durations int32 [u], in steps of 1/units_per_second.

        `wave` is float32 [t], mono, 16 kHz. A last step that is not full is filled with silence: the durations sum to
        ceil(t / 640) with the default stack. Without `collapse` every duration is 1. No samples give no units.

        Raises:
            ValueError: not float32 [t], or samples that are not finite.
        """
        with torch_threads(1):
            stacks, _ = _features(wave, self.config)
            units = self._assign(stacks)
        return runs(units) if self.config.collapse else (units, np.ones(len(units), np.int32))

    def _assign(self, stacks: Tensor) -> Units:
        return np.argmax((stacks @ self._centroids.T - self._bias).numpy(), axis=1).astype(np.int64)

    def decode(self, units: Units, durations: Durations | None = None, *, iterations: int = 32) -> Wave:
        """A wave float32 [sum(durations) * 640] (default stack) of units int64 [u].

        Without durations every unit lasts as long as it does on average in the corpus the codec was fitted on.
        `iterations` of Griffin-Lim trade time for less metallic sound.

        Raises:
            ValueError: a unit that does not exist, or durations of another length or below 1.
        """
        if units.size and (int(units.min()) < 0 or int(units.max()) >= self.codebook_size):
            raise ValueError(
                f"units {units.min()}..{units.max()} are not in a codebook of {self.codebook_size}"
            )
        if durations is None:
            lengths = self._arrays["run_lengths"] if self.config.collapse else np.ones(self.codebook_size)
            durations = np.maximum(1, np.rint(lengths[units])).astype(np.int32)
        if durations.shape != units.shape or (durations < 1).any():
            raise ValueError(f"expected {len(units)} durations of at least 1")
        if not len(units):
            return np.zeros(0, np.float32)
        with torch_threads(1):
            steps = self._arrays["centroids"][np.repeat(units, durations)].reshape(-1, BANDS)
            bands = torch.from_numpy(steps + self._arrays["offset"]).exp()
            wave = griffin_lim(invert_power(bands).sqrt(), iterations)
        return wave / max(1.0, float(np.abs(wave).max()))

    def save(self, directory: Path | str) -> None:
        """Write config.json and one .npy for each of centroids, offset and run_lengths."""
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
            codec = cls(SpeechCodecConfig(**content["config"]), **arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"speech codec: cannot load {directory}: {error}", fix=fix) from error
        if codec.fingerprint != content.get("fingerprint"):
            raise UserError(
                f"speech codec: the arrays in {directory} are not those config.json describes", fix=fix
            )
        return codec

    def _fingerprint(self) -> str:
        decides = self.config.model_dump(mode="json", include={"kind", "stack", "normalise", "collapse"})
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
        for name in ARRAYS:
            digest.update(name.encode() + np.ascontiguousarray(self._arrays[name]).tobytes())
        return digest.hexdigest()


def runs(units: Units) -> tuple[Units, Durations]:
    """Each run of equal units [n] written once, int64 [r], and the lengths of the runs, int32 [r]."""
    starts = np.flatnonzero(np.diff(units, prepend=-1))
    return units[starts], np.diff(starts, append=len(units)).astype(np.int32)


def _features(wave: Wave, config: SpeechCodecConfig) -> tuple[Tensor, Tensor]:
    """Normalised stacks float32 [u, stack * 80] of a wave, and its band powers float32 [u * stack, 80].

    Loudness is one number for the whole clip, so a clip that is merely louder has the same units.
    """
    if wave.dtype != np.float32 or wave.ndim != 1:
        raise ValueError(f"expected a wave float32 [t], got {wave.dtype} {list(wave.shape)}")
    if not np.isfinite(wave).all():
        raise ValueError("the wave has samples that are not finite")
    step = HOP * config.stack
    bands = power(np.pad(wave, (0, -len(wave) % step)))
    level = torch.ones(()) if config.normalise == "none" else bands.mean().nan_to_num().clamp_min(QUIETEST)
    frames = (bands / level).clamp_min(FLOOR).log()
    if config.normalise == "mean" and len(frames):
        frames = frames - frames.mean(0)
    return frames.reshape(-1, config.stack * BANDS), bands


def fit_speech_codec(
    waves: Iterable[Wave], config: SpeechCodecConfig, report: Callable[[dict[str, Any]], None] | None = None
) -> SpeechCodec:
    """Fit the units to waves (float32 [t], mono, 16 kHz), up to `fit_seconds`; k-means by faiss, one thread.

    With fewer steps of audio than `units`, as many units as there are steps are made, and a warning is logged.
    `report` is called once with {"seconds", "steps", "units", "variance_explained"}.

    Raises:
        UserError: no audio at all.
    """
    clips: list[Tensor] = []
    heard = torch.zeros(BANDS, dtype=torch.float64)
    room = int(config.fit_seconds * RATE)
    with torch_threads(1):
        for wave in waves:
            stacks, bands = _features(wave[:room], config)
            room -= len(wave[:room])
            if len(stacks):
                clips.append(stacks)
                heard += bands.double().sum(0)
            if room <= 0:
                break
        if not clips:
            raise UserError(
                "speech codec: there is no audio to fit on", fix="leave the speech codec out of the config"
            )
        data = torch.cat(clips)
        units = min(config.units, len(data))
        if units < config.units:
            log.warning(
                "speech codec: %d units instead of %d, the corpus has no more steps of audio",
                units,
                config.units,
            )
        centroids = _kmeans(data.numpy(), units, config)
        plain = SpeechCodec(config, centroids, np.zeros(BANDS, np.float32), np.ones(units, np.float32))
        assigned = [plain._assign(clip) for clip in clips]
        counts = np.bincount(np.concatenate(assigned), minlength=units)
        drawn = counts @ np.exp(centroids.astype(np.float64)).reshape(units, config.stack, BANDS).sum(1)
        offset = np.log(np.maximum(heard.numpy(), 1e-10 * len(data)) / drawn).astype(np.float32)
    if report is not None:
        error = float((data - torch.from_numpy(centroids[np.concatenate(assigned)])).square().sum())
        spread = float((data - data.mean(0)).square().sum())
        seconds = int(config.fit_seconds * RATE) - room
        report(
            {
                "seconds": round(seconds / RATE, 2),
                "steps": len(data),
                "units": units,
                "variance_explained": round(1 - error / spread, 4) if spread else 1.0,
            }
        )
    return SpeechCodec(config, centroids, offset, _mean_runs(assigned, units))


def _kmeans(data: Floats, units: int, config: SpeechCodecConfig) -> Floats:
    """float32 [units, d] centroids of float32 [n, d]."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # the sums behind a centroid depend on how points are split between threads
    try:
        kmeans = faiss.Kmeans(
            data.shape[1],
            units,
            niter=config.iterations,
            seed=config.seed,
            min_points_per_centroid=1,
            max_points_per_centroid=len(data),
        )
        kmeans.train(np.ascontiguousarray(data))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.array(kmeans.centroids, np.float32)


def _mean_runs(clips: list[Units], units: int) -> Floats:
    """float32 [units]: mean length of the runs of each unit; 1 for a unit that never occurs."""
    steps = np.zeros(units, np.int64)
    starts = np.zeros(units, np.int64)
    for clip in clips:
        steps += np.bincount(clip, minlength=units)
        starts += np.bincount(runs(clip)[0], minlength=units)
    return (np.maximum(steps, 1) / np.maximum(starts, 1)).astype(np.float32)
