"""One vector for the words and the images of a document: two embedders behind the interface of one.

Where it is called: by stage `embed` when its configuration names both `text` and `image`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.embedder import Embedder, Surroundings, load_embedder
from mixloom.pipeline.model_store import header_of, read_model, write_model
from mixloom.pipeline.storage import Store

KIND = "joint"
TEXT, IMAGE = "text", "image"  # where the two lie inside the folder of the model


@dataclass(frozen=True, eq=False)
class JointEmbedder:
    """The vectors of words t and of images i, each of length 1, as [sqrt(1-w) t, sqrt(w) i], to unit length.

    Between documents that have both, the cosine is (1-w) of the words plus w of the images. What a document lacks is
    zero: two documents of words alone (or of images alone) compare by these in full; one that has both and one of
    words alone by sqrt(1-w) times the cosine of their words; one of words alone and one of images alone by 0.
    """

    text: Embedder
    image: Embedder
    image_weight: float

    @property
    def dim(self) -> int:
        """Length of a vector: of the words, then of the images."""
        return self.text.dim + self.image.dim

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the two embedders and the weight."""
        return str(header_of(KIND, self._content(), {})["fingerprint"])

    def embed(self, documents: pa.RecordBatch) -> npt.NDArray[np.float32]:
        """Unit or zero vectors, float32 [n, dim], of n documents (columns source and segments)."""
        weights = (math.sqrt(1.0 - self.image_weight), math.sqrt(self.image_weight))
        both = np.hstack(
            [
                w * e.embed(documents).astype(np.float64)
                for w, e in zip(weights, (self.text, self.image), strict=True)
            ]
        )
        length = np.sqrt(np.einsum("ij,ij->i", both, both))
        return (both / np.where(length > 0, length, 1.0)[:, None]).astype(np.float32)

    def save(self, directory: str | Path) -> None:
        """Write both embedders in folders of their own, and `model.json`."""
        store = Store.at(str(directory))
        self.text.save(store.url(TEXT))
        self.image.save(store.url(IMAGE))
        write_model(directory, KIND, self._content(), {})

    @classmethod
    def load(cls, directory: str | Path, around: Surroundings) -> JointEmbedder:
        """Read what `save` wrote. Raises UserError when it is incomplete or changed."""
        content, _ = read_model(directory, KIND)
        store = Store.at(str(directory))
        text, image = (load_embedder(store.url(name), around) for name in (TEXT, IMAGE))
        return cls(text, image, float(content["image_weight"]))

    def _content(self) -> dict[str, object]:
        return {
            "image_weight": self.image_weight,
            TEXT: self.text.fingerprint,
            IMAGE: self.image.fingerprint,
        }
