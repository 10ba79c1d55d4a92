"""What an image looks like, in few bytes: a thumbnail, a 64-bit hash of it, and how far two thumbnails are apart.

All of it is integer arithmetic, so the same pixels give the same bytes on every machine. Both survive another encoding
and another size; neither survives a crop, a flip or a turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.media_items import THUMB_BYTES, THUMB_CHROMA_SIDE, THUMB_SIDE

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Whole = npt.NDArray[np.integer]

_HASH_SIDE = 8
_LUMA = THUMB_SIDE**2
_CHROMA = THUMB_CHROMA_SIDE**2


def _window_sums(values: Whole, windows: int, greatest: int) -> Whole:
    """Sums over `windows` equal windows along the first axis, in units of 1/windows of a pixel; exact.

    `greatest` bounds the values, so that 32 bits are used where they suffice.
    """
    n = values.shape[0]
    kind: Any = np.int32 if n * windows * greatest < 2**31 else np.int64
    nothing = np.zeros((1, *values.shape[1:]), kind)
    before = np.concatenate([nothing, np.cumsum(values, axis=0, dtype=kind)])
    at, part = np.divmod(np.arange(windows + 1) * n, windows)  # a bound lies `part`/windows into pixel `at`
    cut = np.concatenate([values, nothing.astype(values.dtype)])[at].astype(kind)
    within = cut * part.astype(kind).reshape(-1, *([1] * (values.ndim - 1)))
    sums: Whole = np.diff(before[at] * windows + within, axis=0)
    return sums


def area_mean(values: Whole, side: int) -> I64:
    """Shrink or stretch [h, w] or [h, w, c] of 0 to 255 to int64 [side, side, ...]: exact area means, rounded half up."""
    h, w = values.shape[:2]
    rows = _window_sums(values, side, 255)
    sums = np.swapaxes(_window_sums(np.swapaxes(rows, 0, 1), side, 255 * h), 0, 1).astype(np.int64)
    return np.asarray((2 * sums + h * w) // (2 * h * w), dtype=np.int64)


def thumbnail(rgb: U8) -> U8:
    """The thumbnail of an image uint8 [h, w, 3]: uint8 [1152], luminance 32 x 32, then Cb and Cr 8 x 8 each."""
    small = area_mean(rgb, THUMB_SIDE)
    r, g, b = small[..., 0], small[..., 1], small[..., 2]
    y = (299 * r + 587 * g + 114 * b + 500) // 1000
    cb = np.clip((564 * (b - y) + 128_500) // 1000, 0, 255)
    cr = np.clip((713 * (r - y) + 128_500) // 1000, 0, 255)
    chroma = [area_mean(c, THUMB_CHROMA_SIDE).ravel() for c in (cb, cr)]
    return np.concatenate([y.ravel(), *chroma]).astype(np.uint8)


def _cosines() -> I64:
    """The first 9 rows of the cosine transform of 32 values, times 2**14, int64 [9, 32]."""
    k, x = np.arange(_HASH_SIDE + 1)[:, None], np.arange(THUMB_SIDE)[None, :]
    return np.round(np.cos(np.pi * k * (2 * x + 1) / (2 * THUMB_SIDE)) * 2**14).astype(np.int64)


def perceptual_hash(thumb: U8) -> int:
    """The 64-bit hash of a thumbnail uint8 [1152]: which low frequencies of the luminance lie above their median.

    The frequencies are those of an 8 x 8 corner of the discrete cosine transform (Zauner 2010, "Implementation and
    Benchmarking of Perceptual Image Hash Functions", section 3.2.1), with (0, 8) in the place of the mean.
    """
    cosines = _cosines()
    spectrum = cosines @ thumb[:_LUMA].astype(np.int64).reshape(THUMB_SIDE, THUMB_SIDE) @ cosines.T
    low = spectrum[:_HASH_SIDE, :_HASH_SIDE].ravel()
    low[0] = spectrum[0, _HASH_SIDE]
    ordered = np.sort(low)
    middle = ordered[31] + ordered[32]
    return int.from_bytes(np.packbits(2 * low > middle).tobytes(), "big")


def _contrast(luma: U8) -> U8:
    """Greatest less smallest of each 3 x 3 neighbourhood: uint8 [n, side, side], the same shape."""
    high, low = luma.copy(), luma.copy()
    for axis in (1, 2):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        a, b = tuple(ahead), tuple(behind)
        for out, source, pick in ((high, high.copy(), np.maximum), (low, low.copy(), np.minimum)):
            pick(out[b], source[a], out=out[b])
            pick(out[a], source[b], out=out[a])
    return high - low


def thumb_differences(a: U8, b: U8) -> tuple[F32, F32, F32]:
    """How thumbnails differ pair by pair: uint8 [n, 1152] each -> three float32 [n], in levels of 0 to 255.

    mean: mean difference of the luminance. excess: greatest difference of the luminance in a cell, less a tenth of the
    contrast around it, less five times the mean. Another encoding or size spreads its differences over the picture and
    along its edges; another label or arrow stands out. colour: greatest difference of Cb or Cr.

    Raises:
        ValueError: the shapes differ or are not [n, 1152].
    """
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != THUMB_BYTES:
        raise ValueError(f"expected two arrays [n, {THUMB_BYTES}], got {a.shape} and {b.shape}")
    squares = [x[:, :_LUMA].reshape(-1, THUMB_SIDE, THUMB_SIDE) for x in (a, b)]
    d = np.abs(squares[0].astype(np.int16) - squares[1].astype(np.int16))
    edges = np.minimum(_contrast(squares[0]), _contrast(squares[1]))
    mean = d.mean(axis=(1, 2), dtype=np.float64)
    excess = (d - 0.1 * edges).max(axis=(1, 2)) - 5.0 * mean
    colour = np.abs(a[:, _LUMA:].astype(np.int16) - b[:, _LUMA:].astype(np.int16)).max(axis=1)
    return mean.astype(np.float32), excess.astype(np.float32), colour.astype(np.float32)
