"""Pictures beside their reconstructions, for a person to judge a codec by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mixloom.tokenizers.pixels import Pixels

SHEET_FILE = "reconstructions.png"
_GAP = 4  # pixels between a pair and the next; half as many inside a pair
_SHOWN = 128  # pixels of the side of a picture on the sheet, about: small ones are enlarged by a whole number


def contact_sheet(pictures: Pixels, drawn: Pixels, pairs: int = 6) -> Image.Image:
    """A white sheet with `pairs` pairs a row: each picture, and right of it what its codes give back.

    Args:
        pictures, drawn: uint8 [n, s, s, 3] of equal shape, n at least 1.

    Raises:
        ValueError: shapes that differ, or no picture.
    """
    if pictures.shape != drawn.shape or not len(pictures):
        raise ValueError(f"expected as many drawn as pictures, got {drawn.shape} and {pictures.shape}")
    times = max(1, _SHOWN // pictures.shape[1])
    side, gap = times * pictures.shape[1], _GAP // 2
    columns = min(pairs, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = 2 * side + gap + _GAP, side + _GAP
    sheet = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for i, pair in enumerate(zip(pictures, drawn, strict=True)):
        top, left = _GAP + (i // columns) * height, _GAP + (i % columns) * width
        for k, picture in enumerate(pair):
            at = left + k * (side + gap)
            sheet[top : top + side, at : at + side] = picture.repeat(times, 0).repeat(times, 1)
    return Image.fromarray(sheet)


def write_sheet(path: Path | str, pictures: Pixels, drawn: Pixels) -> None:
    """Write the contact sheet of up to 36 pictures as a PNG."""
    contact_sheet(pictures[:36], drawn[:36]).save(path, format="PNG", optimize=True)
