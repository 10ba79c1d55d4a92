"""The image side of a CLIP-like model of `transformers` (CLIP, SigLIP) in a folder on this machine.

Pictures are prepared here by what the folder says of it (preprocessor_config.json), with Pillow and numpy: the image
processors of transformers need torchvision, and prepare the same picture differently from version to version.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mixloom.pipeline.embed_config import ClipConfig
from mixloom.pipeline.embed_files import checkpoint_files
from mixloom.pipeline.encoder_model import choose_device, read_network
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.model_store import header_of
from mixloom.pipeline.torch_threads import torch_threads

_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
)  # the second holds the first under image_processor
_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes the numbers a model was trained on.

    shortest: the shorter side is brought to it; or else size (height, width): the picture is stretched to it. crop
    (height, width): cut out of the middle afterwards. resample: a filter of Pillow. Values: (x * scale - mean) / std.
    """

    shortest: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> Preparation:
        """From the folder of a checkpoint. Raises UserError where it is not told."""
        told: dict[str, Any] = {}
        for name in _FILES:
            if (folder / name).is_file() and not told:
                content = json.loads((folder / name).read_text(encoding="utf-8"))
                told = content if name == _FILES[0] else content.get("image_processor", {})
        if not told:
            raise UserError(
                f"embed.image: {folder} does not say how pictures are prepared: no {_FILES[0]} in it",
                fix="save the image processor of the model beside it",
            )
        size = told.get("size", 224) if told.get("do_resize", True) else {}
        crop = told.get("crop_size", 224) if told.get("do_center_crop", False) else None
        if isinstance(size, int):
            size = {"shortest_edge": size}
        fixed = (int(size["height"]), int(size["width"])) if "height" in size else None
        if isinstance(crop, int):
            crop = {"height": crop, "width": crop}
        normal = told.get("do_normalize", True)
        return cls(
            shortest=int(size["shortest_edge"]) if "shortest_edge" in size else None,
            size=fixed,
            crop=(int(crop["height"]), int(crop["width"])) if crop else None,
            resample=int(told.get("resample", Image.Resampling.BICUBIC)),
            scale=float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1.0,
            mean=tuple(told.get("image_mean", _OPENAI_MEAN)) if normal else (0.0, 0.0, 0.0),
            std=tuple(told.get("image_std", _OPENAI_STD)) if normal else (1.0, 1.0, 1.0),
        )

    def pixels(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """float32 [3, height, width] of an RGB image of any size."""
        size = self.size[::-1] if self.size else image.size
        if self.shortest:
            width, height = image.size
            short, long = min(width, height), max(width, height)
            far = int(self.shortest * long / short)
            size = (self.shortest, far) if width <= height else (far, self.shortest)
        if size != image.size:
            image = image.resize(size, Image.Resampling(self.resample))
        if self.crop:
            left, top = (image.width - self.crop[1]) // 2, (image.height - self.crop[0]) // 2
            image = image.crop(
                (left, top, left + self.crop[1], top + self.crop[0])
            )  # black beyond the border
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        values = (np.asarray(image, np.float32) * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1))


class ClipImages:
    """`get_image_features` of a model, as an `embedder.ImageModel`.

    On the processor each image goes through the model alone, on one thread; on a GPU always `batch` at a time.
    """

    def __init__(self, config: ClipConfig, device: str) -> None:
        self.config, self.device = config, device
        folder = Path(config.path).expanduser()
        self.files = checkpoint_files(folder)
        self._prepare = Preparation.read(folder)
        self._network = read_network(folder, device, config.dtype)
        if not hasattr(self._network, "get_image_features"):
            raise UserError(
                f"embed.image: the model in {folder} is of type '{self._network.config.model_type}' and has no "
                "image features",
                fix="give the folder of a CLIP or SigLIP model",
            )
        settings = config.model_dump(mode="json", exclude={"path", "device"})
        decides = {"settings": settings, "device": device, "files": self.files}
        self.fingerprint = str(header_of("clip", decides, {})["fingerprint"])
        self.dim = int(self.features([Image.new("RGB", (8, 8))]).shape[1])

    def features(self, images: list[Image.Image]) -> npt.NDArray[np.float32]:
        """float32 [n, dim], of any length, of n RGB images of any size."""
        import torch

        rows = 1 if self.device == "cpu" else self.config.batch
        out: list[npt.NDArray[np.float32]] = []
        with torch_threads(1), torch.inference_mode():
            for start in range(0, len(images), rows):
                pixels = [self._prepare.pixels(i) for i in images[start : start + rows]]
                filled = np.stack(pixels + pixels[:1] * (rows - len(pixels)))
                given = torch.from_numpy(filled).to(self.device, self._network.dtype)
                found = self._network.get_image_features(pixel_values=given)
                # A tensor up to some version of transformers, an output with the tensor in it from there on.
                found = found if isinstance(found, torch.Tensor) else found.pooler_output
                out.append(found.float().cpu().numpy()[: len(pixels)])
        return np.concatenate(out)

    def content(self) -> dict[str, Any]:
        """The configuration, its path absolute and its device settled."""
        path = str(Path(self.config.path).expanduser().resolve())
        return self.config.model_dump(mode="json") | {"path": path, "device": self.device}


def load_clip(content: dict[str, Any]) -> ClipImages:
    """The model of a configuration of kind `clip`, or of the `content` of one that was saved."""
    config = ClipConfig.model_validate(content)
    return ClipImages(config, choose_device(config.device))
