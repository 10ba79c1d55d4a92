"""Settings of the media checks (no decoder here: configurations are read by light commands too)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class MediaCheckConfig(BaseModel):
    """How images and recordings are measured; what is dropped is decided by rules over the measures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pixels: int = Field(
        default=178_956_970, ge=1, le=178_956_970, description="images of more pixels are not decoded"
    )
    max_bytes: int = Field(default=1 << 30, ge=1, description="files of more bytes are not read")
    max_seconds: float = Field(default=4 * 3600.0, gt=0, description="longer recordings are not decoded")
    reduce_above: int = Field(
        default=4_000_000,
        ge=250_000,
        description="JPEG images of more pixels are decoded at a half, a quarter or an eighth of their size, "
        "with no fewer pixels than a quarter of this",
    )
    silence_dbfs: float = Field(
        default=-50.0,
        ge=-120.0,
        le=0.0,
        description="a frame of 20 ms whose root mean square is below this many dB of full scale is silent",
    )
