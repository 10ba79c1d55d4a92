"""Document vectors from images: those of a document are read where they lie, and their unit vectors averaged.

Where it is called: `ImageEmbedder.open` when stage `embed` begins, `ImageEmbedder.load` once per worker, `embed` per
part. What makes a vector of one image is an `embedder.ImageModel`: `clip` here, others handed over by the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.embedder import ImageModel, LoadImageModel, Surroundings
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.model_store import header_of, read_model, write_model
from mixloom.pipeline.storage import sha256_hex

if TYPE_CHECKING:
    from PIL import Image

KIND = "images"
TOGETHER = 32  # images held at a time


def _clip(content: dict[str, Any]) -> ImageModel:
    from mixloom.pipeline.encoder_clip import load_clip

    return load_clip(content)


IMAGE_MODELS: dict[str, LoadImageModel] = {"clip": _clip}


@dataclass(frozen=True, eq=False)
class ImageEmbedder:
    """A model of images as an embedder: the mean of the unit vectors of a document's images, to unit length.

    Each image counts once for every time it stands in the document. One that cannot be read any more counts as none:
    whether such a document is kept is decided elsewhere. A document without images has a zero vector.
    """

    model: ImageModel
    roots: dict[str, str]

    @classmethod
    def open(cls, settings: dict[str, Any], around: Surroundings) -> ImageEmbedder:
        """The embedder a section `embed.image` asks for, or the one whose `content` was saved.

        Raises:
            UserError: there is no model of this kind here, or it cannot be loaded.
        """
        models = {**IMAGE_MODELS, **around.image_models}
        kind = settings["kind"]
        if kind not in models:
            raise UserError(
                f"embed.image.kind '{kind}' is not known here; there are {', '.join(models)}",
                fix="run it by a recipe of mixloom, or hand the model over as `image_models`",
            )
        return cls(models[kind](settings), dict(around.roots))

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.model.dim

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over what decides the vectors of the model."""
        return str(header_of(KIND, {"model": self.model.fingerprint}, {})["fingerprint"])

    def embed(self, documents: pa.RecordBatch) -> npt.NDArray[np.float32]:
        """Unit or zero vectors, float32 [n, dim], of the images of n documents (columns source and segments)."""
        owners, media, sources = _images_of(documents)
        vectors = self._distinct(media, sources)
        out = np.zeros((len(documents), self.dim), np.float64)
        for owner, item in zip(
            owners, media, strict=True
        ):  # in the order of the segments: sums keep their bits
            if item["sha256"] in vectors:
                out[owner] += vectors[item["sha256"]]
        return _unit(out).astype(np.float32)

    def _distinct(
        self, media: list[dict[str, Any]], sources: list[str]
    ) -> dict[str, npt.NDArray[np.float64]]:
        """The unit vector of every image that can be read, by its sha256; each is read once."""
        found: dict[str, npt.NDArray[np.float64]] = {}
        waiting: dict[str, Image.Image] = {}
        for item, source in zip(media, sources, strict=True):
            if item["sha256"] not in found and item["sha256"] not in waiting:
                image = self._read(item, source)
                if image is not None:
                    waiting[item["sha256"]] = image
            if len(waiting) == TOGETHER:
                found |= self._vectors(waiting)
                waiting = {}
        return found | self._vectors(waiting)

    def _vectors(self, images: dict[str, Image.Image]) -> dict[str, npt.NDArray[np.float64]]:
        if not images:
            return {}
        rows = _unit(self.model.features(list(images.values())).astype(np.float64))
        return dict(zip(images, rows, strict=True))

    def _read(self, item: dict[str, Any], source: str) -> Image.Image | None:
        """The image at a media reference; None where it is gone, changed or does not decode."""
        from mixloom.pipeline.ingest.media import load_image, open_media
        from mixloom.pipeline.ingest.problems import Problem

        if source not in self.roots:
            raise UserError(
                f"embed: no root is known for the source '{source}', whose images are to be read",
                fix="give the embedder the roots of all sources",
            )
        try:
            data = open_media(self.roots[source], item["uri"], item["member"] or "")
            return load_image(data) if sha256_hex(data) == item["sha256"] else None
        except (Problem, OSError, ValueError, SyntaxError):
            return None

    def save(self, directory: str | Path) -> None:
        """Write `model.json`, which says where the model lies; what it is made of stays there."""
        content = {"model": self.model.fingerprint, "content": self.model.content()}
        write_model(directory, KIND, content, {})

    @classmethod
    def load(cls, directory: str | Path, around: Surroundings) -> ImageEmbedder:
        """Read what `save` wrote.

        Raises:
            UserError: the model is gone or another.
        """
        content, _ = read_model(directory, KIND)
        found = cls.open(content["content"], around)
        if found.model.fingerprint != content["model"]:
            raise UserError(
                f"embed.image: the model in {content['content'].get('path')} is not the one the run began with",
                fix="put the former files back, or run again: the stage will be redone with the new ones",
            )
        return found


def _images_of(documents: pa.RecordBatch) -> tuple[list[int], list[dict[str, Any]], list[str]]:
    """Row of the document, media reference and source of every image of a batch, in order."""
    lists = documents.column("segments")
    items = lists.flatten()
    rows = np.repeat(np.arange(len(documents)), pc.list_value_length(lists).to_numpy(zero_copy_only=False))
    chosen = np.flatnonzero(pc.equal(items.field("kind"), "image").to_numpy(zero_copy_only=False))
    owners = rows[chosen]
    media = items.field("media").take(pa.array(chosen)).to_pylist()
    return owners.tolist(), media, documents.column("source").take(pa.array(owners)).to_pylist()


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows to length 1; zero rows stay."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0)[:, None])
