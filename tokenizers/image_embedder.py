"""A fitted image codec as a model of images for document vectors: the mean of what its encoder makes of a picture.

Codecs lie in this folder, which `pipeline` must not import, so stage `embed` is handed `IMAGE_MODELS` by the recipe.
Nothing heavy is imported before a model is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixloom.pipeline.embed_config import CodecVectorsConfig
from mixloom.pipeline.embedder import LoadImageModel
from mixloom.pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image


class CodecImages:
    """Pictures to the means of their latents over a grid, float32 [n, grid * grid * channels].

    Latents are taken before they are quantised, one picture at a time on one thread. They are near the principal
    components of small patches, so such vectors tell colours and their layout apart, not what is shown.

    Raises:
        UserError: the folder holds no codec, or one that is not of kind fsq.
    """

    def __init__(self, config: CodecVectorsConfig) -> None:
        from mixloom.tokenizers.codecs import load_image_codec
        from mixloom.tokenizers.image import ImageCodec

        codec = load_image_codec(config.path)
        if not isinstance(codec, ImageCodec):
            raise UserError(
                f"embed.image.path {config.path} holds a codec of kind '{codec.kind}', and kind 'fsq' is wanted",
                fix="give the folder of a fitted codec, or use a model of kind 'clip'",
            )
        side = codec.size // codec.config.downsample
        if config.grid > side:
            raise UserError(
                f"embed.image.grid is {config.grid}, and this codec has {side} x {side} latents",
                fix=f"set grid to at most {side}",
            )
        self.config, self._codec = config, codec
        self.dim = config.grid**2 * len(codec.config.levels)
        self.fingerprint = f"{codec.fingerprint}-{config.grid}"

    def features(self, images: list[Image.Image]) -> npt.NDArray[np.float32]:
        """float32 [n, dim], of any length, of n RGB images of any size."""
        import numpy as np

        latents = self._codec.latents(np.stack([self._codec.prepare(i) for i in images])).astype(np.float64)
        fields = [
            field.mean(axis=(1, 2))
            for row in np.array_split(latents, self.config.grid, axis=1)
            for field in np.array_split(row, self.config.grid, axis=2)
        ]
        return np.concatenate(fields, axis=1).astype(np.float32)

    def content(self) -> dict[str, Any]:
        """The configuration, its path absolute."""
        return self.config.model_dump(mode="json") | {
            "path": str(Path(self.config.path).expanduser().resolve())
        }


def load_codec_images(content: dict[str, Any]) -> CodecImages:
    """The model of a configuration of kind `codec`, or of the `content` of one that was saved."""
    return CodecImages(CodecVectorsConfig.model_validate(content))


IMAGE_MODELS: dict[str, LoadImageModel] = {"codec": load_codec_images}
