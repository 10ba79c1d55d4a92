"""Units from a layer of HuBERT, wav2vec 2.0 or WavLM: k-means over what a published model hears.

The recipe of Hsu et al. 2021 (HuBERT, arXiv 2106.07447, section 3.1) and Lakhotia et al. 2021 (arXiv 2102.01192, section
3.1). The checkpoint is pointed to; centroids are fitted on the corpus, and so is a voice (`speech_voice`), for these
models have no way back to sound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.torch_threads import torch_threads
from mixloom.tokenizers.checkpoints import POINTER_FILE, Checkpoint
from mixloom.tokenizers.devices import rows_of_a_pass, settled
from mixloom.tokenizers.melspectrum import BANDS, HOP, RATE, Wave
from mixloom.tokenizers.settings import SpeechCodecConfig
from mixloom.tokenizers.speech import enough_units
from mixloom.tokenizers.speech_features import check_wave, hear
from mixloom.tokenizers.speech_streams import in_chunks
from mixloom.tokenizers.speech_units import (
    Durations,
    Floats,
    Units,
    collapsed,
    explained,
    fit_centroids,
    nearest_units,
)
from mixloom.tokenizers.speech_voice import VOICE_ARRAYS, Voice, fit_voice

CLASSES = {"hubert": "HubertModel", "wav2vec2": "Wav2Vec2Model", "wavlm": "WavLMModel"}
MOST_POINTS = 200_000  # steps k-means is fitted on, at most: about 600 MB for a model of 768 numbers
_ARRAYS = ("centroids", *VOICE_ARRAYS)


class HiddenFeatures(Checkpoint):
    """Waves of 16 kHz to the outputs of one layer, in float32, 50 a second.

    A recording longer than `chunk_seconds` is heard in pieces with `context_seconds` on either side. Attention reaches
    over all of a piece, so points near the cut differ a little from those of the whole.
    """

    def __init__(self, config: SpeechCodecConfig) -> None:
        super().__init__(config, CLASSES[config.kind], config.kind)
        self.config = settled(config)
        self.at_once = rows_of_a_pass(self.model.device.type, config.micro_batch)
        settings = self.model.config
        layers = int(settings.num_hidden_layers)
        if config.layer > layers:
            raise UserError(
                f"speech codec: layer is {config.layer}, but {self.path} has {layers}",
                fix=f"set layer to 1..{layers}",
            )
        self.hop, self._field = 1, 1
        for kernel, stride in zip(settings.conv_kernel, settings.conv_stride):
            self._field += (kernel - 1) * self.hop
            self.hop *= stride
        rate, self._scaled = _preprocessing(self.path)
        if rate != RATE or self.hop % HOP:
            raise UserError(
                f"speech codec: {self.path} hears {rate} samples a second in steps of {self.hop}",
                fix=f"use a model of {RATE} samples a second and steps of a multiple of {HOP}",
            )
        # Later layers are never asked.
        self.model.encoder.layers = self.model.encoder.layers[: config.layer]

    def points(self, wave: Wave) -> Floats:
        """float32 [ceil(t / hop), d] of float32 [t], mono, 16 kHz.

        Raises:
            ValueError: not float32 [t], or samples that are not finite.
        """
        return self.points_batch([wave])[0]

    def points_batch(self, waves: Sequence[Wave]) -> list[Floats]:
        """`points` of several waves: the same as of each alone, in fewer passes where they are long."""
        for wave in waves:
            check_wave(wave)
        chunk, context = (
            max(1, round(s * RATE / self.hop))
            for s in (self.config.chunk_seconds, self.config.context_seconds)
        )
        with torch_threads(1):
            padded = [self._ready(wave) for wave in waves if len(wave)]
            found = iter(in_chunks(padded, self.hop, chunk, context, self._hear, self.at_once))
        none = np.zeros((0, int(self.model.config.hidden_size)), np.float32)
        return [next(found) if len(wave) else none for wave in waves]

    def _ready(self, wave: Wave) -> Wave:
        if self._scaled:
            wave = ((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)).astype(np.float32)
        return np.pad(wave, (0, -len(wave) % self.hop))

    @torch.inference_mode()
    def _hear(self, pieces: Floats) -> Floats:
        """Outputs float32 [r, m, d] of float32 [r, m * hop]."""
        # So much silence on either side that every step has its window around it.
        edge = self._field - self.hop
        padded = np.pad(pieces, ((0, 0), (edge // 2, edge - edge // 2)))
        states = self.model(torch.from_numpy(padded).to(self.model.device), output_hidden_states=True)
        return states.hidden_states[self.config.layer].cpu().numpy()


class HiddenUnitCodec:
    """Waves of 16 kHz to units and back; `centroids` float32 [k, d] lie among the outputs of the layer."""

    rate = RATE
    can_decode = True

    def __init__(self, features: HiddenFeatures, centroids: Floats, voice: Voice) -> None:
        size = int(features.model.config.hidden_size)
        if centroids.dtype != np.float32 or centroids.shape != (voice.size, size):
            raise ValueError(
                f"centroids: expected float32 {[voice.size, size]}, got {centroids.dtype} {list(centroids.shape)}"
            )
        self.features, self.voice, self.config = features, voice, features.config
        self.kind: str = self.config.kind
        self.codebook_size = voice.size
        self.units_per_second = RATE / features.hop
        self._arrays = {"centroids": centroids, **voice.arrays}
        digest = hashlib.sha256(features.fingerprint.encode())
        for name in _ARRAYS:
            digest.update(name.encode() + np.ascontiguousarray(self._arrays[name]).tobytes())
        self.fingerprint = digest.hexdigest()

    def encode(self, wave: Wave) -> tuple[Units, Durations]:
        """Units int64 [u] and durations int32 [u] of float32 [t], mono, 16 kHz; `collapse` as in SpeechCodec.

        Raises:
            ValueError: not float32 [t], or samples that are not finite.
        """
        return self.encode_batch([wave])[0]

    def encode_batch(self, waves: Sequence[Wave]) -> list[tuple[Units, Durations]]:
        """`encode` of several waves: the same units as of each alone, in fewer passes where they are long."""
        units = [nearest_units(p, self._arrays["centroids"]) for p in self.features.points_batch(waves)]
        return [collapsed(u, self.config.collapse) for u in units]

    def decode(self, units: Units, durations: Durations | None = None, *, iterations: int = 32) -> Wave:
        """A wave float32 [t], 16 kHz, of units int64 [u], in an average voice; see `Voice.speak`."""
        return self.voice.speak(units, durations, collapse=self.config.collapse, iterations=iterations)

    def save(self, directory: Path | str) -> None:
        """Write config.json, which points to the checkpoint, and one .npy for each array that was fitted."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, array in self._arrays.items():
            np.save(directory / f"{name}.npy", array, allow_pickle=False)
        content = {
            "kind": self.kind,
            "config": self.config.model_dump(mode="json") | {"path": str(self.features.path)},
            "fingerprint": self.fingerprint,
        }
        (directory / POINTER_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path | str) -> HiddenUnitCodec:
        """Read what `save` wrote.

        Raises:
            UserError: the checkpoint is gone, or files are missing, malformed or not those that were saved.
        """
        directory = Path(directory)
        fix = "put the former checkpoint back, or fit the codec again"
        try:
            content = json.loads((directory / POINTER_FILE).read_text(encoding="utf-8"))
            arrays = {name: np.load(directory / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
            voice = Voice(**{name: arrays.pop(name) for name in VOICE_ARRAYS})
            codec = cls(HiddenFeatures(SpeechCodecConfig(**content["config"])), arrays["centroids"], voice)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"speech codec: cannot load {directory}: {error}", fix=fix) from error
        if codec.fingerprint != content.get("fingerprint"):
            raise UserError(
                f"speech codec: the checkpoint or the arrays of {directory} have changed since it was fitted",
                fix=fix,
            )
        return codec


def fit_hidden_units(
    waves: Iterable[Wave], config: SpeechCodecConfig, report: Callable[[dict[str, Any]], None] | None = None
) -> HiddenUnitCodec:
    """Fit units to a layer of the checkpoint at `config.path`, on up to `fit_seconds` of waves (float32 [t], 16 kHz).

    `report` is called once with {"seconds", "steps", "units", "variance_explained", "fitted_on"} (clips heard).

    Raises:
        UserError: no such checkpoint or layer, or no audio at all.
    """
    features = HiddenFeatures(config)
    stack = features.hop // HOP
    clips: list[Floats] = []
    frames: list[Floats] = []
    total = np.zeros(BANDS)
    room = most = int(config.fit_seconds * RATE)
    for wave in waves:
        wave = wave[:room]
        room -= len(wave)
        if len(wave):
            heard = hear(wave, stack, "mean")
            clips.append(features.points(wave))
            frames.append(heard.frames)
            total += heard.power
        if room <= 0 or sum(map(len, clips)) >= MOST_POINTS:
            break
    if not clips:
        raise UserError(
            "speech codec: there is no audio to fit on", fix="leave the speech codec out of the config"
        )
    points = np.concatenate(clips)
    units = enough_units(config.units, len(points))
    centroids = fit_centroids(points, units, config.iterations, config.seed)
    assigned = nearest_units(points, centroids)
    voice = fit_voice(np.split(assigned, np.cumsum([len(c) for c in clips])[:-1]), frames, total, units)
    if report is not None:
        facts = {"seconds": round((most - room) / RATE, 2), "steps": len(points), "units": units}
        report(
            {**facts, "variance_explained": explained(points, centroids, assigned), "fitted_on": len(clips)}
        )
    return HiddenUnitCodec(features, centroids, voice)


def _preprocessing(directory: Path) -> tuple[int, bool]:
    """Samples a second a checkpoint hears, and whether clips are brought to mean 0 and variance 1 first."""
    file = directory / "preprocessor_config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return int(content.get("sampling_rate", RATE)), bool(content.get("do_normalize", True))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"speech codec: cannot read {file}: {error}", fix="fetch the checkpoint again"
        ) from error
