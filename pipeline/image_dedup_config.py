"""Settings of image deduplication (no Beam and no kernels here: configurations are read by light commands too)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ImageNearConfig(BaseModel):
    """When two images with different pixels are the same picture.

    Candidates are all pairs of hashes within `distance`; each pair is then confirmed by its thumbnails.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    distance: int = Field(
        default=7,
        ge=0,
        le=15,
        description="bits in which the 64-bit perceptual hashes of candidates may differ; no pair within it is missed",
    )
    max_mean: float = Field(
        default=10.0, ge=0, le=255, description="greatest mean difference of the luminance of the thumbnails"
    )
    max_excess: float | None = Field(
        default=13.0,
        ge=0,
        le=255,
        description="by how much one cell may stand out beyond what an encoding or another size explains "
        "(`perceptual.thumb_differences`), as another label or arrow does; "
        "null: figures that differ in their labels are the same picture",
    )
    max_colour: float | None = Field(
        default=32.0,
        ge=0,
        le=255,
        description="greatest difference of Cb or Cr in one cell; null: not compared",
    )
    max_aspect: float = Field(
        default=1.06, ge=1, le=10, description="greatest ratio between the aspect ratios of the two"
    )
    min_std: float = Field(
        default=4.0,
        ge=0,
        le=128,
        description="images with less spread of luminance are near constant: only equal pixels make them equal",
    )
    bucket_cap: int = Field(
        default=16, ge=2, le=256, description="all pairs are compared of at most this many images of one hash"
    )
    leaders: int = Field(
        default=4,
        ge=1,
        le=64,
        description="of more images of one hash, the best that all others are compared with",
    )
    max_rounds: int = Field(
        default=50, ge=1, description="rounds after which the search for connected components gives up"
    )


class ImageDedupConfig(BaseModel):
    """What happens to images that occur in several documents."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["none", "segment", "document"] = Field(
        default="none",
        description="segment: a repeated image is removed from every document but one; document: a document is "
        "dropped when every image in it is kept elsewhere; none: repeated images stay",
    )
    max_uses: int | None = Field(
        default=10,
        ge=1,
        description="an image in more documents than this is removed everywhere, as a logo (OBELICS: 10); null: never",
    )
    document_words: int = Field(
        default=0,
        ge=0,
        description="with action document: documents of more words are kept, for their text does not repeat",
    )
    near: ImageNearConfig | None = Field(
        default_factory=lambda: ImageNearConfig(),
        description="find re-encoded images too; null: equal pixels only",
    )
    priority: tuple[str, ...] = Field(
        default=(), description="source names, preferred first as the place where an image stays"
    )
    partitions: int = Field(
        default=16, ge=1, le=1_000_000, description="keys of each shuffle; about one per 100,000 images"
    )
