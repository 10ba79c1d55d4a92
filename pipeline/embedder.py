"""What every embedder offers, and how a saved one is loaded again by its kind.

Where it is called: the embedders are made by `embed_models` when stage `embed` begins; `load_embedder` runs once per
worker (`embed_transform`), `Embedder.embed` once per part through `embed.embed_batch`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.model_store import HEADER
from mixloom.pipeline.storage import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from PIL import Image

    Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """Documents to vectors of one length."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def fingerprint(self) -> str:
        """sha256 over all that decides a vector: equal fingerprints, equal vectors on one kind of machine."""

    def embed(self, documents: pa.RecordBatch) -> Vectors:
        """float32 [n, dim] of n documents (columns source and segments): rows of length 1, or zero for no content."""

    def save(self, directory: str | Path) -> None:
        """Write the embedder into a directory, `model.json` among its files; equal embedders write equal bytes."""


class ImageModel(Protocol):
    """Images to vectors of one length: what an embedder of images is built on."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def fingerprint(self) -> str:
        """sha256 over all that decides a vector."""

    def features(self, images: list[Image.Image]) -> Vectors:
        """float32 [n, dim], of any length, of n RGB images of any size; a row depends on its own image alone."""

    def content(self) -> dict[str, Any]:
        """Plain JSON values `LoadImageModel` makes the same model from."""


LoadImageModel = Callable[[dict[str, Any]], ImageModel]
"""Makes an image model from its settings (a configuration of `embed_config`, as JSON) or from its `content`."""


@dataclass(frozen=True)
class Surroundings:
    """What an embedder needs of the run it works in, and what is no part of it.

    roots: where each source lies, by name; images are read there. image_models: kinds of image models that lie in
    folders above this one (codecs), by name; a worker loads by them, so they are functions of a module.
    """

    roots: Mapping[str, str] = field(default_factory=dict)
    image_models: Mapping[str, LoadImageModel] = field(default_factory=dict)


def _tfidf(directory: str, around: Surroundings) -> Embedder:
    from mixloom.pipeline.tfidf import TfidfSvd

    return TfidfSvd.load(directory)


def _text(directory: str, around: Surroundings) -> Embedder:
    from mixloom.pipeline.encoder import TextEncoder

    return TextEncoder.load(directory)


def _images(directory: str, around: Surroundings) -> Embedder:
    from mixloom.pipeline.encoder_images import ImageEmbedder

    return ImageEmbedder.load(directory, around)


def _joint(directory: str, around: Surroundings) -> Embedder:
    from mixloom.pipeline.embed_joint import JointEmbedder

    return JointEmbedder.load(directory, around)


EMBEDDERS: dict[str, Callable[[str, Surroundings], Embedder]] = {
    "tfidf-svd": _tfidf,
    "text-encoder": _text,
    "images": _images,
    "joint": _joint,
}


def load_embedder(directory: str | Path, around: Surroundings | None = None) -> Embedder:
    """The embedder saved in a directory (local path or any fsspec URL), whatever its kind.

    Raises:
        UserError: there is none, it was changed, or what it refers to is not there or another.
    """
    kind = saved_kind(directory)
    if kind not in EMBEDDERS:
        raise UserError(
            f"{directory} holds a {kind!r} model{nearest(kind, EMBEDDERS)}, and an embedder is wanted: "
            f"{', '.join(EMBEDDERS)}",
            fix="check the path",
        )
    return EMBEDDERS[kind](str(directory), around or Surroundings())


def saved_kind(directory: str | Path) -> str:
    """The kind of the model saved in a directory.

    Raises:
        UserError: there is none.
    """
    store = Store.at(str(directory))
    try:
        return str(json.loads(store.read(HEADER))["kind"])
    except FileNotFoundError:
        raise UserError(
            f"{store.url(HEADER)} does not exist: no complete model lies there", fix="check the path"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{store.url(HEADER)} is not a model header: {error}", fix="check the path"
        ) from error
