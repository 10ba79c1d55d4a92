"""The default image codec: a small autoencoder around a finite scalar quantiser, fitted on the corpus itself.

Patches of `downsample` squared pixels are projected onto their principal components, mixed with their neighbours
by residual convolutions, quantised to one code each, and drawn again by the mirror image of all that. Starting
from the principal components, the untrained network already draws blurred pictures; a few minutes on a
laptop sharpen them. It is meant for small-scale research and for pipelines that must run without a download;
larger runs plug in a published model (see `codecs`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.torch_threads import torch_threads
from mixloom.tokenizers.autoencoder import Autoencoder, to_bytes, to_float
from mixloom.tokenizers.codebook import FiniteScalarQuantiser, weights_fingerprint
from mixloom.tokenizers.devices import filled, placed, rows_of_a_pass, settled
from mixloom.tokenizers.image_fit import Progress, fit_weights
from mixloom.tokenizers.pixels import (
    Picture,
    Pixels,
    check_codes,
    check_pixels,
    codebook_use,
    psnr,
    slices,
    square,
)
from mixloom.tokenizers.settings import ImageCodecConfig

__all__ = ["ImageCodec", "codebook_use", "fit_image_codec", "psnr"]

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class ImageCodec:
    """Pictures to `tokens` codes each, in raster order, and back.

    On a CPU ids do not depend on how pictures are batched or on the number of threads: each picture goes through
    the network alone, on one thread, in float32. On a GPU a pass has `micro_batch` rows, however many pictures there are
    (`devices`). A processor with other instructions may round a borderline value to the neighbouring level, so encode
    one corpus on one kind of machine.
    """

    kind = "fsq"
    can_decode = True

    def __init__(self, config: ImageCodecConfig, weights: dict[str, Tensor]) -> None:
        self.config = config = settled(config)
        self.device = placed(config.device, "image codec")
        self.size = config.size
        self.tokens = (config.size // config.downsample) ** 2
        self._quantiser = FiniteScalarQuantiser(config.levels)
        self.codebook_size = self._quantiser.size
        with torch.device("meta"):
            self._model = Autoencoder(config)
        self._model.load_state_dict(weights, assign=True, strict=True)
        self._model.to(self.device).requires_grad_(False).eval()
        self.at_once = rows_of_a_pass(self.device, config.micro_batch)
        self.fingerprint = _fingerprint(config, weights)

    def prepare(self, picture: Picture) -> Pixels:
        """uint8 [size, size, 3]: any picture brought to the size of the codec by the declared policy."""
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
        with torch_threads(1):
            for at in slices(len(pictures), self.at_once):
                rows = to_float(filled(pictures[at], self.at_once)).to(self.device)
                codes = self._quantiser.ids(self._quantiser.quantise(self._model.encode(rows))).flatten(1)
                ids[at] = codes[: len(ids[at])].cpu().numpy()
        return ids

    @torch.inference_mode()
    def latents(self, pictures: Pixels) -> npt.NDArray[np.float32]:
        """float32 [n, side, side, len(levels)] of uint8 [n, size, size, 3]: what is quantised to codes, before it is.

        Raises:
            ValueError: another dtype or shape.
        """
        check_pixels(pictures, self.size)
        side = self.size // self.config.downsample
        out = np.empty((len(pictures), side, side, len(self.config.levels)), np.float32)
        with torch_threads(1):
            for i, picture in enumerate(pictures):
                out[i] = self._model.encode(to_float(picture[None]).to(self.device))[0].cpu().numpy()
        return out

    def vectors(self) -> npt.NDArray[np.float32]:
        """float32 [codebook_size, len(levels)]: what each code is decoded from."""
        return self._quantiser.codes(torch.arange(self.codebook_size)).numpy()

    @torch.inference_mode()
    def decode(self, ids: npt.NDArray[np.int64]) -> Pixels:
        """uint8 [n, size, size, 3] pictures of int64 [n, tokens] codes.

        Raises:
            ValueError: another shape, or a code outside the codebook.
        """
        check_codes(ids, self.tokens, self.codebook_size)
        side = self.size // self.config.downsample
        pictures = np.empty((len(ids), self.size, self.size, 3), np.uint8)
        with torch_threads(1):
            for at in slices(len(ids), self.at_once):
                numbers = torch.from_numpy(np.array(ids[at])).to(self.device)
                codes = self._quantiser.codes(numbers.view(-1, side, side))
                pictures[at] = to_bytes(self._model.decode(codes).cpu())
        return pictures

    def save(self, directory: Path | str) -> None:
        """Write config.json and model.safetensors into a directory, made if need be."""
        from safetensors.torch import save_file

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        save_file(self._model.state_dict(), directory / WEIGHTS_FILE)
        content = {
            "kind": self.kind,
            "config": self.config.model_dump(mode="json"),
            "fingerprint": self.fingerprint,
        }
        (directory / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path | str) -> ImageCodec:
        """Read what `save` wrote.

        Raises:
            UserError: files missing, malformed or not belonging together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        directory = Path(directory)
        fix = "fit the codec again, or give the directory that the tokenizer stage wrote"
        try:
            content = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
            codec = cls(ImageCodecConfig(**content["config"]), load_file(directory / WEIGHTS_FILE))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise UserError(f"image codec: cannot load {directory}: {error}", fix=fix) from error
        if codec.fingerprint != content.get("fingerprint"):
            raise UserError(
                f"image codec: {WEIGHTS_FILE} in {directory} is not the one config.json describes", fix=fix
            )
        return codec


def fit_image_codec(
    images: Iterable[Picture], config: ImageCodecConfig, progress: Progress | None = None
) -> ImageCodec:
    """Fit the codec to pictures of any shape (PIL, or uint8 [h, w, 3]); the first `max_images` are taken.

    The same pictures, config and version of torch give the same weights on the same kind of machine.

    Raises:
        UserError: no picture at all, or a device that is not there.
    """
    return ImageCodec(config, fit_weights(images, config, progress))


def _fingerprint(config: ImageCodecConfig, weights: dict[str, Tensor]) -> str:
    """sha256 over what decides the ids: sizes, policy, levels and weights; not over how they were fitted."""
    decides = {"kind", "size", "resize", "downsample", "levels"} | (
        {"device", "micro_batch"} if config.device != "cpu" else set()
    )
    inference = config.model_dump(mode="json", include=decides)
    return weights_fingerprint(inference, weights)
