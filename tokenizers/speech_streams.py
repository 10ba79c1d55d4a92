"""Several codebooks of a speech codec as one stream of units, and long recordings cut without seams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mixloom.tokenizers.devices import filled
from mixloom.tokenizers.melspectrum import Wave
from mixloom.tokenizers.speech_units import Units

Layout = Literal["frames", "delayed"]
Codes = npt.NDArray[np.int64]


def flatten(codes: Codes, size: int, layout: Layout) -> Units:
    """One unit a code, int64 [n * t], of codes [n, t] in 0..size-1; a unit is its codebook's number * size + its code.

    `frames` writes all codebooks of a frame, coarse to fine, then the next frame. `delayed` writes codebook q of frame
    f in step f + q, so that a model guesses the fine codes of a frame after the coarse ones of the next (the delay
    pattern of Copet et al. 2023, arXiv 2306.05284, section 2.1); the places without a code, at both ends, are left out.
    """
    count, frames = codes.shape
    units = codes + size * np.arange(count)[:, None]
    if layout == "frames":
        return np.ascontiguousarray(units.T.reshape(-1))
    book, frame = np.meshgrid(np.arange(count), np.arange(frames), indexing="ij")
    order = np.lexsort((book.ravel(), (book + frame).ravel()))
    return units.reshape(-1)[order]


def unflatten(units: Units, size: int, count: int, layout: Layout) -> Codes:
    """Codes int64 [count, t] of a stream made by `flatten`; frames of which a codebook is missing are left out.

    Works on any cut of a stream and on what a model has sampled: a unit of the same codebook as the one before, or of
    a coarser one, begins a new step.

    Raises:
        ValueError: a unit outside 0..count*size-1.
    """
    if units.size and (int(units.min()) < 0 or int(units.max()) >= count * size):
        raise ValueError(f"units {units.min()}..{units.max()} are not in {count} codebooks of {size}")
    book, code = np.divmod(units, size)
    if (np.bincount(book, minlength=count) == len(units) // count).all():
        whole = code[np.argsort(book, kind="stable")].reshape(count, -1)
        # Not cut: then the steps of a short delayed stream may have holes, which cannot be told from what follows.
        if np.array_equal(flatten(whole, size, layout), units):
            return whole
    step = np.cumsum(np.diff(book, prepend=-1) <= 0)
    frame = step - book * (layout == "delayed")
    # A stream that is cut inside has its first frames at negative places.
    frame -= min(0, int(frame.min(initial=0)))
    grid = np.full((count, int(frame.max(initial=-1)) + 1), -1, np.int64)
    grid[book, frame] = code
    return grid[:, (grid >= 0).all(axis=0)]


def in_chunks(
    waves: Sequence[Wave],
    hop: int,
    chunk: int,
    context: int,
    encode: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]],
    at_once: int = 1,
) -> list[npt.NDArray[Any]]:
    """What `encode` makes of waves of n * hop samples each, n rows, from pieces of bounded length.

    Each piece of `chunk` steps is heard with up to `context` steps before and after it, whose rows are dropped. Where no
    row depends on more than `context` steps around it, the rows are those of the whole. Pieces that have all of their
    context go through `encode` together, always `at_once` of them; beginnings, ends and short recordings go alone. So
    what becomes of a piece never depends on which others there are.

    Args:
        encode: rows [r, m, ...] of waves float32 [r, m * hop].

    Raises:
        ValueError: `encode` gives another number of rows.
    """
    pieces = [piece for i, wave in enumerate(waves) for piece in _pieces(i, len(wave) // hop, chunk, context)]
    whole = [p for p in pieces if p.last - p.first == chunk + 2 * context]
    passes = [whole[i : i + at_once] for i in range(0, len(whole), at_once)] if at_once > 1 else []
    passes += [[p] for p in pieces if at_once == 1 or p.last - p.first < chunk + 2 * context]
    found: list[dict[int, npt.NDArray[Any]]] = [{} for _ in waves]
    for together in passes:
        heard = np.stack([waves[p.wave][p.first * hop : p.last * hop] for p in together])
        steps = together[0].last - together[0].first
        rows = encode(filled(heard, at_once if steps == chunk + 2 * context else 1))
        if rows.shape[1] != steps:
            raise ValueError(f"{steps} steps were encoded as {rows.shape[1]}")
        for p, own in zip(together, rows):
            found[p.wave][p.start] = own[p.start - p.first : p.stop - p.first]
    return [np.concatenate([own[start] for start in sorted(own)]) for own in found]


class _Piece(NamedTuple):
    """Steps start..stop of a wave, heard from `first` to `last`."""

    wave: int
    start: int
    stop: int
    first: int
    last: int


def _pieces(wave: int, total: int, chunk: int, context: int) -> Iterator[_Piece]:
    for start in range(0, max(1, total), chunk):
        stop = min(total, start + chunk)
        yield _Piece(wave, start, stop, max(0, start - context), min(total, start + chunk + context))
