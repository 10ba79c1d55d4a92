"""Discrete image models of `transformers`: Chameleon, Emu3, Janus and DALL-E's dVAE, read from a directory or hub id.

No preprocessing class of theirs is used: which one they pick depends on the libraries that are installed, and
another resize gives other codes. Pictures are brought to the declared size by `pixels.square`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.torch_threads import torch_threads
from mixloom.tokenizers.autoencoder import to_bytes
from mixloom.tokenizers.checkpoints import POINTER_FILE, Checkpoint
from mixloom.tokenizers.devices import filled, rows_of_a_pass, settled
from mixloom.tokenizers.pixels import Picture, Pixels, check_codes, check_pixels, slices, square
from mixloom.tokenizers.settings import ImageCodecConfig


class ImageCheckpoint(Checkpoint, ABC):
    """Pictures to codes in raster order by a published model, in float32.

    On a CPU pictures go through the model one at a time, on one thread; on a GPU in passes of `micro_batch` (`devices`).
    """

    classname: ClassVar[str]
    model_type: ClassVar[str]
    mean: ClassVar[tuple[float, float, float]] = (
        0.5,
        0.5,
        0.5,
    )  # of pixel values in 0..1, as the model was trained
    deviation: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    trained_at: ClassVar[int]  # side in pixels
    can_decode = True

    def __init__(self, config: ImageCodecConfig) -> None:
        super().__init__(config, self.classname, self.model_type)
        self.config = settled(config)
        self.kind = config.kind
        self.size = config.size
        patch = self._patch()
        if config.size % patch:
            raise UserError(
                f"image codec: size {config.size} is not a multiple of {patch}, the patch of {self.classname}",
                fix=f"set size to a multiple of {patch}; the model was trained at {self.trained_at}",
            )
        self.side = config.size // patch
        self.tokens = self.side**2
        self.codebook_size = self._codebook_size()
        self.at_once = rows_of_a_pass(self.model.device.type, config.micro_batch)

    def _patch(self) -> int:
        """Side in pixels of the square behind one code."""
        return int(2 ** (len(self.model.config.channel_multiplier) - 1))

    def _codebook_size(self) -> int:
        """Codes of the model."""
        return int(self.model.config.num_embeddings)

    @abstractmethod
    def _ids(self, pixels: Tensor) -> Tensor:
        """Codes int64, n * tokens of them in any shape, of pixels float32 [n, 3, size, size] scaled as trained."""

    def _draw(self, codes: Tensor) -> Tensor:
        """Pixels [n, 3, size, size], scaled as trained, of codes int64 [n, side, side]; of models that can decode."""
        raise NotImplementedError

    def vectors(self) -> npt.NDArray[np.float32]:
        """float32 [codebook_size, C]: what each code is decoded from.

        Raises:
            UserError: the model draws from codes themselves, not from vectors of them.
        """
        table = getattr(getattr(self.model, "quantize", None), "embedding", None)
        if table is None:
            raise UserError(
                f"the image codec '{self.kind}' has no vectors of its codes, so images cannot be learned as vectors",
                fix="use the embedded image codec or one with a codebook (Chameleon, Emu3, Janus), or leave model.flow out",
            )
        return np.asarray(table.weight.detach().float().cpu().numpy(), np.float32)

    def prepare(self, picture: Picture) -> Pixels:
        """uint8 [size, size, 3]: any picture brought to the declared size by the declared policy."""
        return square(picture, self.size, self.config.resize)

    def encode_batch(self, pictures: Sequence[Picture]) -> npt.NDArray[np.int64]:
        """int64 [n, tokens] codes of pictures of any size (PIL, or uint8 [h, w, 3])."""
        ids = [
            self.encode(np.stack([self.prepare(p) for p in pictures[at]]))
            for at in slices(len(pictures), self.at_once)
        ]
        return np.concatenate([np.zeros((0, self.tokens), np.int64), *ids])

    @torch.inference_mode()
    def encode(self, pictures: Pixels) -> npt.NDArray[np.int64]:
        """int64 [n, tokens] codes in 0..codebook_size-1 of uint8 [n, size, size, 3].

        Raises:
            ValueError: another dtype or shape.
        """
        check_pixels(pictures, self.size)
        ids = np.empty((len(pictures), self.tokens), np.int64)
        mean, deviation = self._scale()
        with torch_threads(1):
            for at in slices(len(pictures), self.at_once):
                pixels = torch.from_numpy(filled(pictures[at], self.at_once)).to(self.model.device)
                codes = self._ids((pixels.movedim(-1, 1).float() / 255 - mean) / deviation)
                ids[at] = codes.reshape(-1, self.tokens)[: len(ids[at])].cpu().numpy()
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
        pictures = np.empty((len(ids), self.size, self.size, 3), np.uint8)
        mean, deviation = self._scale()
        with torch_threads(1):
            for at in slices(len(ids), self.at_once):
                codes = torch.from_numpy(np.array(ids[at])).to(self.model.device)
                drawn = self._draw(codes.view(-1, self.side, self.side)).reshape(-1, 3, self.size, self.size)
                pictures[at] = to_bytes(((drawn * deviation + mean) * 2 - 1).cpu())
        return pictures

    def _scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation, float32 [3, 1, 1], where the model is."""
        device = self.model.device
        return (
            torch.tensor(self.mean, device=device).view(3, 1, 1),
            torch.tensor(self.deviation, device=device).view(3, 1, 1),
        )

    def save(self, directory: Path | str) -> None:
        """Write config.json, which points to the checkpoint; the weights stay where they are."""
        self._save(directory, self.config)

    @classmethod
    def load(cls, directory: Path | str) -> ImageCheckpoint:
        """Read what `save` wrote.

        Raises:
            UserError: the checkpoint is gone or has changed.
        """
        content = json.loads((Path(directory) / POINTER_FILE).read_text(encoding="utf-8"))
        codec = cls(ImageCodecConfig(**content["config"]))
        codec._require(content)
        return codec


class ChameleonCodec(ImageCheckpoint):
    """Chameleon's VQ-GAN (Chameleon team 2024, section 2.1): 8192 codes, patches of 16; encodes only."""

    classname, model_type, trained_at = "ChameleonVQVAE", "chameleon_vqgan", 512
    can_decode = False  # transformers ships the encoder alone

    def _ids(self, pixels: Tensor) -> Tensor:
        return self.model.encode(pixels).image_tokens


class Emu3Codec(ImageCheckpoint):
    """Emu3's VQ (Wang et al. 2024, section 2.2): 32768 codes, patches of 8, pixels scaled as CLIP does."""

    classname, model_type, trained_at = "Emu3VQVAE", "emu3_vqgan", 512
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def _codebook_size(self) -> int:
        return int(self.model.config.codebook_size)

    def _ids(self, pixels: Tensor) -> Tensor:
        sizes = torch.tensor([list(pixels.shape[-2:])] * len(pixels), device=pixels.device)
        return torch.stack(list(self.model.encode(pixels, image_sizes=sizes).image_tokens))

    def _draw(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes)


class JanusCodec(ImageCheckpoint):
    """Janus's VQ (Wu et al. 2024, section 3.1; LlamaGen, Sun et al. 2024, section 2.1): 16384 codes, patches of 16.

    The nearest code is sought between unit vectors, as the model was trained and as it draws: transformers'
    `encode` leaves the normalisation out, and so finds other codes than the language model has learnt.
    """

    classname, model_type, trained_at = "JanusVQVAE", "janus_vqgan", 384

    def __init__(self, config: ImageCodecConfig) -> None:
        super().__init__(config)
        self.model.quantize.quant_state_dims = [self.side, self.side]

    def _ids(self, pixels: Tensor) -> Tensor:
        latents = self.model.quant_conv(self.model.encoder(pixels)).movedim(1, -1)
        codes = F.normalize(self.model.quantize.embedding.weight, dim=-1)
        return (F.normalize(latents, dim=-1) @ codes.T).argmax(-1)

    def _draw(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes.flatten(1))


class DalleCodec(ImageCheckpoint):
    """DALL-E's dVAE as FLAVA carries it (Ramesh et al. 2021, section 2.1): 8192 codes, patches of 8; encodes only."""

    classname, model_type, trained_at = "FlavaImageCodebook", "flava_image_codebook", 112
    # Its pixels are 0.8 x + 0.1 for x in 0..1 (appendix A.3, logit-Laplace).
    mean, deviation = (-0.125,) * 3, (1.25,) * 3
    can_decode = False

    def _patch(self) -> int:
        return int(2 ** (self.model.config.num_groups - 1))

    def _codebook_size(self) -> int:
        return int(self.model.config.vocab_size)

    def _ids(self, pixels: Tensor) -> Tensor:
        return self.model.get_codebook_indices(pixels)
