"""The measures of one image (see `media_items.ITEM_MEASURES`), from one decoding of its bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from mixloom.pipeline.ingest.media import decode_image, open_image, orientation_of, upright_rgb
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.media_check_config import MediaCheckConfig
from mixloom.pipeline.perceptual import perceptual_hash, thumbnail

if TYPE_CHECKING:
    from PIL import Image

WEB_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
STATISTICS_SIDE = (
    512  # luminance, colours and sharpness are measured at no more than this on the longer side,
)
SHORT_SIDE = 256  # and no less than this on the shorter one
_PALETTES_OF_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_CHANNELS = {"CMYK": 4, "1": 1, "L": 1, "LA": 1, "La": 1, "F": 1}


def measure_image(data: bytes, config: MediaCheckConfig) -> dict[str, Any]:
    """The measures of an encoded image by name, without those that cannot be known; never raises.

    An image that does not decode has "decoded" 0 and "error", and what its header tells.
    """
    out: dict[str, Any] = {"decoded": 0, "file_bytes": len(data)}
    try:
        image = open_image(data, config.max_pixels)
        out |= _header(image, len(data))
        _reduce(image, config.reduce_above)
        decode_image(image, len(data))
        out |= _pixels(image, out)
        out |= {"decoded": 1, "truncated": 0}
    except Problem as problem:
        out["error"] = f"{problem.reason}: {problem.detail}"
        if problem.reason == "truncated_image":
            out["truncated"] = 1
    except Exception as e:  # a damaged file can make a decoder raise anything
        out["error"] = f"undecodable_image: {type(e).__name__}: {' '.join(str(e).split())}"
    return out


def _header(image: Image.Image, size: int) -> dict[str, Any]:
    width, height = image.size
    orientation = orientation_of(image)
    if orientation >= 5:
        width, height = height, width
    short, long = min(width, height), max(width, height)
    return {
        "web_format": int(image.format in WEB_FORMATS),
        "width": width,
        "height": height,
        "min_side": short,
        "max_side": long,
        "aspect": long / max(short, 1),
        "bytes_per_pixel": size / max(width * height, 1),
        "frames": _frames(image),
        "has_alpha": int(image.mode in _PALETTES_OF_ALPHA or "transparency" in image.info),
        "colour_channels": 1 if image.mode.startswith("I") else _CHANNELS.get(image.mode, 3),
        "exif_orientation": orientation if 1 <= orientation <= 8 else 1,
        "format": image.format,
        "mode": image.mode,
    }


def _frames(image: Image.Image) -> int:
    if image.format == "MPO":  # a second exposure or a preview beside the photo, no animation
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a damaged later frame; the first one may be whole
        return 1


def _reduce(image: Image.Image, above: int) -> None:
    """Ask the decoder of a large JPEG for fewer pixels: it skips most of its work."""
    pixels = image.width * image.height
    if pixels > above and image.format in ("JPEG", "MPO"):
        scale = (above / pixels) ** 0.5
        image.draft(image.mode, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))


def _pixels(image: Image.Image, header: dict[str, Any]) -> dict[str, Any]:
    transparent = 0.0
    if header["has_alpha"]:
        alpha = np.asarray(image.convert("RGBA").getchannel("A").histogram(), dtype=np.int64)
        transparent = float(alpha[:128].sum() / max(alpha.sum(), 1))
    rgb = upright_rgb(image, header["exif_orientation"])
    digest = hashlib.sha256(f"{header['width']} {header['height']} {rgb.width} {rgb.height} ".encode())
    values = np.asarray(rgb)
    digest.update(values.data)
    # Reducing rounds the sides up, which shifts the grid of the thumbnail: not where a side is short.
    factor = min(-(-max(rgb.size) // STATISTICS_SIDE), min(rgb.size) // SHORT_SIDE)
    small = rgb.reduce(factor) if factor > 1 else rgb
    values = np.asarray(small) if factor > 1 else values
    grey = np.asarray(small.convert("L")).astype(np.int32)
    thumb = thumbnail(values)
    return {
        "transparent_share": transparent,
        "luminance_std": float(grey.std(dtype=np.float64)),
        "top_colour_share": _top_colour(values),
        "sharpness": _sharpness(grey),
        "pixel_hash": digest.digest()[:16],
        "phash": perceptual_hash(thumb),
        "thumb": thumb.tobytes(),
    }


def _top_colour(rgb: np.ndarray[Any, Any]) -> float:
    five = (rgb >> 3).astype(np.int32)
    codes = (five[..., 0] << 10) | (five[..., 1] << 5) | five[..., 2]
    return float(np.bincount(codes.ravel()).max() / codes.size)


def _sharpness(grey: np.ndarray[Any, Any]) -> float:
    """Variance of the Laplacian (four neighbours) over the inner pixels; 0 where there are none."""
    inner = grey[1:-1, 1:-1]
    if not inner.size:
        return 0.0
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var(dtype=np.float64))
