"""Codecs that are published models, read by `transformers` from a directory on this machine.

Images: ChameleonVQVAE, Emu3VQVAE. Speech: Mimi (its first, semantic codebook). A directory may hold the codec
alone or a whole language model with the codec inside it. Nothing is downloaded. transformers fills tensors
that a checkpoint lacks with random numbers and only logs it; here that is an error.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.autoencoder import to_bytes
from mixloom.tokenizers.codebook import weights_fingerprint
from mixloom.tokenizers.determinism import torch_threads
from mixloom.tokenizers.melspectrum import Wave
from mixloom.tokenizers.pixels import Picture, Pixels, check_codes, check_pixels, square
from mixloom.tokenizers.settings import ImageCodecConfig, SpeechCodecConfig
from mixloom.tokenizers.speech import Durations, Units, runs

POINTER_FILE = "config.json"
_INNER = {
    r"^model\.vqmodel\.": ""
}  # where Chameleon, Emu3 and their kin keep the codec inside the language model


def read_model(classname: str, model_type: str, directory: Path | str, device: str) -> Any:
    """A transformers model of the given class in float32, every tensor of it read from the directory.

    Raises:
        UserError: no such checkpoint, one of another type, or one that lacks tensors.
    """
    import transformers

    fix = f"give the directory of a {classname} checkpoint (config.json and .safetensors files)"
    cls = getattr(transformers, classname)
    try:
        config = transformers.AutoConfig.from_pretrained(str(directory), local_files_only=True)
        whole = config.model_type != model_type
        if whole:
            config = getattr(config, "vq_config", None)
        if config is None or config.model_type != model_type:
            raise UserError(f"codec: {directory} holds no '{model_type}' model", fix=fix)
        model, info = cls.from_pretrained(
            str(directory),
            config=config,
            key_mapping=_INNER if whole else None,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"codec: cannot load {directory}: {error}", fix=fix) from error
    if info["missing_keys"]:
        some = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(
            f"codec: {directory} lacks {len(info['missing_keys'])} tensors, among them {some}", fix=fix
        )
    return model.to(device).requires_grad_(False).eval()


class _Checkpoint:
    """What all of them share: a fingerprint over the weights, and a saved form that points to the directory."""

    def __init__(self, config: ImageCodecConfig | SpeechCodecConfig, classname: str, model_type: str) -> None:
        assert config.path is not None  # declared by the config
        self.path = Path(config.path).resolve()
        self.model = read_model(classname, model_type, self.path, config.device)
        decides = config.model_dump(mode="json", include={"kind", "size", "resize", "collapse", "device"})
        self.fingerprint = weights_fingerprint(decides, self.model.state_dict())

    def _save(self, directory: Path | str, config: ImageCodecConfig | SpeechCodecConfig) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        content = {
            "kind": config.kind,
            "config": config.model_dump(mode="json") | {"path": str(self.path)},
            "fingerprint": self.fingerprint,
        }
        (directory / POINTER_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _require(self, content: dict[str, Any]) -> None:
        if self.fingerprint != content.get("fingerprint"):
            raise UserError(
                f"codec: the checkpoint {self.path} is not the one this run was tokenized with",
                fix="put the former checkpoint back, or tokenize into a new run",
            )


class _ImageCheckpoint(_Checkpoint, ABC):
    """Pictures to codes in raster order, by a VQ model; pictures go through it one at a time, on one thread."""

    classname: ClassVar[str]
    model_type: ClassVar[str]
    mean: ClassVar[tuple[float, float, float]]  # of pixel values in 0..1, as the model was trained
    deviation: ClassVar[tuple[float, float, float]]
    can_decode = True

    def __init__(self, config: ImageCodecConfig) -> None:
        super().__init__(config, self.classname, self.model_type)
        self.config = config
        self.kind = config.kind
        self.size = config.size
        patch = 2 ** (len(self.model.config.channel_multiplier) - 1)
        if config.size % patch:
            raise UserError(
                f"image codec: size {config.size} is not a multiple of {patch}, the patch of {self.classname}",
                fix=f"set size to a multiple of {patch}; the model was trained at 512",
            )
        self.tokens = (config.size // patch) ** 2
        self.codebook_size = self._codebook_size()

    @abstractmethod
    def _codebook_size(self) -> int:
        """Codes of the model."""

    @abstractmethod
    def _ids(self, pixels: Tensor) -> Tensor:
        """Codes int64 [n, tokens] of pixels float32 [n, 3, size, size] in -1..1."""

    def prepare(self, picture: Picture) -> Pixels:
        """uint8 [size, size, 3]: any picture brought to the declared size by the declared policy."""
        return square(picture, self.size, self.config.resize)

    @torch.inference_mode()
    def encode(self, pictures: Pixels) -> npt.NDArray[np.int64]:
        """int64 [n, tokens] codes in 0..codebook_size-1 of uint8 [n, size, size, 3].

        Raises:
            ValueError: another dtype or shape.
        """
        check_pixels(pictures, self.size)
        ids = np.empty((len(pictures), self.tokens), np.int64)
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (self.mean, self.deviation))
        with torch_threads(1):
            for i, picture in enumerate(pictures):
                pixels = torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0).float() / 255
                ids[i] = (
                    self._ids(((pixels - mean) / deviation)[None].to(self.model.device))
                    .flatten()
                    .cpu()
                    .numpy()
                )
        return ids

    @torch.inference_mode()
    def decode(self, ids: npt.NDArray[np.int64]) -> Pixels:
        """uint8 [n, size, size, 3] pictures of int64 [n, tokens] codes.

        Raises:
            ValueError: another shape, or a code outside the codebook.
            UserError: the model has no decoder (`can_decode` is False).
        """
        if not self.can_decode:
            raise UserError(f"image codec: {self.classname} of transformers cannot draw pictures from codes")
        check_codes(ids, self.tokens, self.codebook_size)
        side = round(self.tokens**0.5)
        pictures = np.empty((len(ids), self.size, self.size, 3), np.uint8)
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (self.mean, self.deviation))
        with torch_threads(1):
            for i, row in enumerate(ids):
                grid = torch.from_numpy(np.ascontiguousarray(row)).view(1, side, side).to(self.model.device)
                drawn = self.model.decode(grid).reshape(1, 3, self.size, self.size).cpu()
                pictures[i] = to_bytes((drawn * deviation + mean) * 2 - 1)[0]
        return pictures

    def save(self, directory: Path | str) -> None:
        """Write config.json, which points to the checkpoint; the weights stay where they are."""
        self._save(directory, self.config)

    @classmethod
    def load(cls, directory: Path | str) -> _ImageCheckpoint:
        """Read what `save` wrote.

        Raises:
            UserError: the checkpoint is gone or has changed.
        """
        content = json.loads((Path(directory) / POINTER_FILE).read_text(encoding="utf-8"))
        codec = cls(ImageCodecConfig(**content["config"]))
        codec._require(content)
        return codec


class ChameleonCodec(_ImageCheckpoint):
    """Chameleon's VQ-GAN (Chameleon team 2024, section 2.1): 8192 codes, patches of 16; encodes only."""

    classname, model_type = "ChameleonVQVAE", "chameleon_vqgan"
    mean, deviation = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    can_decode = False  # transformers ships the encoder alone

    def _codebook_size(self) -> int:
        return int(self.model.config.num_embeddings)

    def _ids(self, pixels: Tensor) -> Tensor:
        return self.model.encode(pixels).image_tokens


class Emu3Codec(_ImageCheckpoint):
    """Emu3's VQ (Wang et al. 2024, section 2.2): 32768 codes, patches of 8, pixels scaled as CLIP does."""

    classname, model_type = "Emu3VQVAE", "emu3_vqgan"
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def _codebook_size(self) -> int:
        return int(self.model.config.codebook_size)

    def _ids(self, pixels: Tensor) -> Tensor:
        sizes = torch.tensor([list(pixels.shape[-2:])], device=pixels.device)
        return self.model.encode(pixels, image_sizes=sizes).image_tokens[0]


class MimiCodec(_Checkpoint):
    """Mimi (Defossez et al. 2024, section 3.3): the first codebook, which carries the words; 12.5 units a second.

    A unit depends on all that was said before it, so a recording is encoded as one whole. Decoding from the first
    codebook alone gives intelligible but coarse speech.
    """

    kind = "mimi"
    can_decode = True

    def __init__(self, config: SpeechCodecConfig) -> None:
        super().__init__(config, "MimiModel", "mimi")
        self.config = config
        self.rate = int(self.model.config.sampling_rate)
        self.codebook_size = int(self.model.config.codebook_size)
        self.units_per_second = float(self.model.config.frame_rate)

    @torch.inference_mode()
    def encode(self, wave: Wave) -> tuple[Units, Durations]:
        """Units int64 [u] and durations int32 [u] of float32 [t], mono, at `rate`; `collapse` as in SpeechCodec.

        Raises:
            ValueError: not float32 [t], or samples that are not finite.
        """
        if wave.dtype != np.float32 or wave.ndim != 1 or not np.isfinite(wave).all():
            raise ValueError(f"expected a finite wave float32 [t], got {wave.dtype} {list(wave.shape)}")
        if not len(wave):
            return np.zeros(0, np.int64), np.zeros(0, np.int32)
        with torch_threads(1):
            samples = torch.from_numpy(np.ascontiguousarray(wave))[None, None].to(self.model.device)
            codes = self.model.encode(samples, num_quantizers=1).audio_codes
        units = codes[0, 0].to(torch.int64).cpu().numpy()
        return runs(units) if self.config.collapse else (units, np.ones(len(units), np.int32))

    @torch.inference_mode()
    def decode(self, units: Units, durations: Durations | None = None) -> Wave:
        """A wave float32 [t] of units int64 [u]; each lasts one step where durations are not given.

        Raises:
            ValueError: a unit that does not exist, or durations of another length.
        """
        if durations is not None and durations.shape != units.shape:
            raise ValueError(f"expected {len(units)} durations, got {len(durations)}")
        repeated = units if durations is None else np.repeat(units, durations)
        check_codes(repeated[None], len(repeated), self.codebook_size)
        if not len(repeated):
            return np.zeros(0, np.float32)
        with torch_threads(1):
            codes = torch.from_numpy(np.ascontiguousarray(repeated))[None, None].to(self.model.device)
            return self.model.decode(codes).audio_values[0, 0].cpu().numpy()

    def save(self, directory: Path | str) -> None:
        """Write config.json, which points to the checkpoint; the weights stay where they are."""
        self._save(directory, self.config)

    @classmethod
    def load(cls, directory: Path | str) -> MimiCodec:
        """Read what `save` wrote.

        Raises:
            UserError: the checkpoint is gone or has changed.
        """
        content = json.loads((Path(directory) / POINTER_FILE).read_text(encoding="utf-8"))
        codec = cls(SpeechCodecConfig(**content["config"]))
        codec._require(content)
        return codec
