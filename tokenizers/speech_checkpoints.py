"""Neural codecs of speech that are published models, read by `transformers`: Mimi, EnCodec and DAC.

One codebook, the first, is taken by default; `codebooks: n` takes n of them, each with its own range of units.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.torch_threads import torch_threads
from mixloom.tokenizers.checkpoints import POINTER_FILE, Checkpoint
from mixloom.tokenizers.devices import rows_of_a_pass, settled
from mixloom.tokenizers.melspectrum import Wave
from mixloom.tokenizers.settings import SpeechCodecConfig
from mixloom.tokenizers.speech_features import check_wave
from mixloom.tokenizers.speech_streams import flatten, in_chunks, unflatten
from mixloom.tokenizers.speech_units import Durations, Units, collapsed


class SpeechCheckpoint(Checkpoint, ABC):
    """Waves to codes of a residual quantiser and back, in float32.

    A recording longer than `chunk_seconds` is encoded in pieces, each heard with `context_seconds` on either side.
    """

    classname: ClassVar[str]
    model_type: ClassVar[str]
    can_decode = True

    def __init__(self, config: SpeechCodecConfig) -> None:
        super().__init__(config, self.classname, self.model_type)
        self.config = settled(config)
        self.kind: str = config.kind
        self.rate = int(self.model.config.sampling_rate)
        self.hop = self._hop()
        self.at_once = rows_of_a_pass(self.model.device.type, config.micro_batch)
        self._size = int(self.model.config.codebook_size)
        has = self._codebooks()
        if config.codebooks > has:
            raise UserError(
                f"speech codec: codebooks is {config.codebooks}, but {self.path} has {has}",
                fix=f"set codebooks to 1..{has}",
            )
        self.codebook_size = self._size * config.codebooks
        self.frames_per_second = self.rate / self.hop
        self.units_per_second = self.frames_per_second * config.codebooks

    @abstractmethod
    def _hop(self) -> int:
        """Samples of one frame."""

    @abstractmethod
    def _codebooks(self) -> int:
        """Codebooks of the model."""

    @abstractmethod
    def _codes(self, samples: Tensor) -> Tensor:
        """Codes int64 [r, codebooks or more, t] of samples float32 [r, 1, t * hop]."""

    def _wave(self, codes: Tensor) -> Tensor:
        """Samples float32, any shape, of codes int64 [1, codebooks, t]."""
        return self.model.decode(codes).audio_values

    def encode(self, wave: Wave) -> tuple[Units, Durations]:
        """Units int64 [u] in 0..codebook_size-1 and their durations int32 [u] of float32 [t], mono, at `rate`.

        One codebook: runs are collapsed as in SpeechCodec. Several: see `speech_streams.flatten`; every duration is 1.

        Raises:
            ValueError: not float32 [t], or samples that are not finite.
        """
        return self.encode_batch([wave])[0]

    @torch.inference_mode()
    def encode_batch(self, waves: Sequence[Wave]) -> list[tuple[Units, Durations]]:
        """`encode` of several waves: the same units as of each alone, in fewer passes where they are long.

        Raises:
            ValueError: not float32 [t], or samples that are not finite.
        """
        for wave in waves:
            check_wave(wave)
        count = self.config.codebooks

        def encode(pieces: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
            samples = torch.from_numpy(np.ascontiguousarray(pieces))[:, None].to(self.model.device)
            return self._codes(samples)[:, :count].movedim(1, 2).cpu().numpy().astype(np.int64)

        chunk, context = (
            max(1, round(s * self.frames_per_second))
            for s in (self.config.chunk_seconds, self.config.context_seconds)
        )
        padded = [np.pad(wave, (0, -len(wave) % self.hop)) for wave in waves if len(wave)]
        with torch_threads(1):
            found = iter(in_chunks(padded, self.hop, chunk, context, encode, self.at_once))
        none = np.zeros((0, count), np.int64)
        each = [next(found) if len(wave) else none for wave in waves]
        units = [flatten(np.ascontiguousarray(c.T), self._size, self.config.layout) for c in each]
        return [collapsed(u, self.config.collapse and count == 1) for u in units]

    @torch.inference_mode()
    def decode(self, units: Units, durations: Durations | None = None) -> Wave:
        """A wave float32 [t] at `rate` of units int64 [u]; each lasts one step where durations are not given.

        Raises:
            ValueError: a unit that does not exist, or durations of another length.
        """
        if durations is not None and durations.shape != units.shape:
            raise ValueError(f"expected {len(units)} durations, got {len(durations)}")
        repeated = units if durations is None else np.repeat(units, durations)
        codes = unflatten(repeated, self._size, self.config.codebooks, self.config.layout)
        if not codes.shape[1]:
            return np.zeros(0, np.float32)
        with torch_threads(1):
            wave = self._wave(torch.from_numpy(codes)[None].to(self.model.device))
        return wave.reshape(-1).cpu().numpy()

    def save(self, directory: Path | str) -> None:
        """Write config.json, which points to the checkpoint; the weights stay where they are."""
        self._save(directory, self.config)

    @classmethod
    def load(cls, directory: Path | str) -> SpeechCheckpoint:
        """Read what `save` wrote.

        Raises:
            UserError: the checkpoint is gone or has changed.
        """
        content = json.loads((Path(directory) / POINTER_FILE).read_text(encoding="utf-8"))
        codec = cls(SpeechCodecConfig(**content["config"]))
        codec._require(content)
        return codec


class MimiCodec(SpeechCheckpoint):
    """Mimi (Defossez et al. 2024, section 3.3): 12.5 frames a second; the first codebook carries the words.

    Decoding from the first codebook alone gives intelligible but coarse speech. A code depends on the 20 s before it.
    """

    classname, model_type = "MimiModel", "mimi"

    def _hop(self) -> int:
        return round(self.rate / float(self.model.config.frame_rate))

    def _codebooks(self) -> int:
        return int(self.model.config.num_quantizers)

    def _codes(self, samples: Tensor) -> Tensor:
        return self.model.encode(samples, num_quantizers=self.config.codebooks).audio_codes


class EncodecCodec(SpeechCheckpoint):
    """EnCodec of 24 kHz (Defossez et al. 2022, arXiv 2210.13438, section 3): 75 frames a second, 1024 codes a codebook."""

    classname, model_type = "EncodecModel", "encodec"

    def __init__(self, config: SpeechCodecConfig) -> None:
        super().__init__(config)
        settings: Any = self.model.config
        if settings.normalize or settings.audio_channels != 1:
            raise UserError(
                f"speech codec: the EnCodec in {self.path} is made for stereo or needs the loudness of each second beside "
                "its codes",
                fix="use the mono model of 24 kHz",
            )

    def _hop(self) -> int:
        return int(np.prod(self.model.config.upsampling_ratios))

    def _codebooks(self) -> int:
        return int(self._quantizers(max(self.model.config.target_bandwidths)))

    def _quantizers(self, bandwidth: float) -> int:
        return int(self.model.quantizer.get_num_quantizers_for_bandwidth(bandwidth))

    def _codes(self, samples: Tensor) -> Tensor:
        widths = sorted(self.model.config.target_bandwidths)
        enough = next(w for w in widths if self._quantizers(w) >= self.config.codebooks)
        return self.model.encode(samples, bandwidth=enough).audio_codes[0]

    def _wave(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes[None], [None]).audio_values


class DacCodec(SpeechCheckpoint):
    """DAC (Kumar et al. 2023, arXiv 2306.06546, section 3): 1024 codes a codebook; 31.25 frames a second at 16 kHz."""

    classname, model_type = "DacModel", "dac"

    def _hop(self) -> int:
        return int(self.model.config.hop_length)

    def _codebooks(self) -> int:
        return int(self.model.config.n_codebooks)

    def _codes(self, samples: Tensor) -> Tensor:
        return self.model.encode(samples, n_quantizers=self.config.codebooks).audio_codes

    def _wave(self, codes: Tensor) -> Tensor:
        return self.model.decode(audio_codes=codes).audio_values
