"""From any picture to the square of bytes a codec eats. Nothing but Pillow and numpy: the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Picture = Image.Image | npt.NDArray[np.uint8]
GREY = (128, 128, 128)


def as_rgb(picture: Picture) -> Image.Image:
    """A PIL picture in RGB. Rotation, transparency and deep greys are the business of whoever opened the file.

    Raises:
        ValueError: an array that is not uint8 [h, w], [h, w, 3] or [h, w, 4].
    """
    if isinstance(picture, np.ndarray):
        shape = picture.shape
        if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and shape[2] in (3, 4))):
            raise ValueError(
                f"expected uint8 [h, w], [h, w, 3] or [h, w, 4], got {picture.dtype} {list(shape)}"
            )
        picture = Image.fromarray(picture)
    return picture.convert("RGB")


def square(picture: Picture, size: int, resize: Literal["crop", "pad", "stretch"]) -> npt.NDArray[np.uint8]:
    """uint8 [size, size, 3]: the picture brought to a square.

    `crop` keeps the centre square, `pad` keeps everything between grey bars, `stretch` changes the proportions.
    """
    rgb = as_rgb(picture)
    width, height = rgb.size
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC, box=box))
    if resize == "stretch":
        return np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC))
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", (size, size), GREY)
    canvas.paste(
        rgb.resize(inner, Image.Resampling.BICUBIC), ((size - inner[0]) // 2, (size - inner[1]) // 2)
    )
    return np.asarray(canvas)


def check_pixels(pictures: Pixels, size: int) -> None:
    """Raise ValueError unless pictures are uint8 [n, size, size, 3]."""
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (size, size, 3):
        raise ValueError(
            f"expected uint8 [n, {size}, {size}, 3], got {pictures.dtype} {list(pictures.shape)}"
        )


def check_codes(ids: npt.NDArray[np.int64], tokens: int, codebook_size: int) -> None:
    """Raise ValueError unless ids are [n, tokens] and inside the codebook."""
    if ids.ndim != 2 or ids.shape[1] != tokens:
        raise ValueError(f"expected codes [n, {tokens}], got {list(ids.shape)}")
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= codebook_size):
        raise ValueError(f"codes {ids.min()}..{ids.max()} are not in a codebook of {codebook_size}")


def slices(count: int, at_once: int) -> Iterator[slice]:
    """Ranges that cover 0..count-1 in order, `at_once` long but for the last."""
    return (slice(i, i + at_once) for i in range(0, count, at_once))


def psnr(pictures: Pixels, others: Pixels) -> float:
    """Mean over pictures of the peak signal to noise ratio in dB, for uint8 [n, h, w, 3]; equal ones give infinity."""
    error = np.square(pictures.astype(np.float64) - others.astype(np.float64)).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return float(np.mean(10 * np.log10(255.0**2 / error)))


class CodebookUse(NamedTuple):
    """How much of a codebook a set of codes uses: distinct codes, all codes, and exp(entropy) of their shares."""

    used: int
    size: int
    perplexity: float


def codebook_use(ids: npt.NDArray[np.integer], size: int) -> CodebookUse:
    """Count the codes in integer ids of any shape, each in 0..size-1."""
    counts = np.bincount(ids.reshape(-1), minlength=size)
    shares = counts[counts > 0] / max(1, ids.size)
    return CodebookUse(len(shares), size, float(np.exp(-np.sum(shares * np.log(shares)))))
