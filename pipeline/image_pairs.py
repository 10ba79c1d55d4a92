"""Which images show the same picture: candidates by perceptual hash, confirmed by their thumbnails.

An image is known by its content key: the hash of its pixels (of its file, where it does not decode). Everything is a
pure function of uint64 columns; nothing here opens an image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.doc_ids import (
    I64,
    U64,
    fixed_bytes,
    hash_columns,
    pack_ids,
    places,
    run_bounds,
    run_starts,
)
from mixloom.pipeline.hamming import band_values, pairs_in_runs, run_pairs
from mixloom.pipeline.image_dedup_config import ImageNearConfig
from mixloom.pipeline.media_items import THUMB_BYTES
from mixloom.pipeline.perceptual import U8, thumb_differences


def _uint64(*names: str) -> pa.Schema:
    return pa.schema([pa.field(n, pa.uint64(), nullable=False) for n in names])


USES = _uint64("hi", "lo", "phash", "worse", "near", "place", "doc_hi", "doc_lo", "rank", "row", "segment")
"""An image in a document. hi, lo: the content key. worse: smaller for the better copy (more pixels). near: 1 where it
may be compared by its hash. place: index of its part << 32 | its row in `media/<part>`. rank: of the source, the
preferred first. row, segment: where it stands in the part."""

CONTENTS = _uint64("hi", "lo", "phash", "worse", "place")
"""A distinct image; the place is that of one of its uses."""

IMAGE_PAIRS = _uint64("a_hi", "a_lo", "a_worse", "a_place", "b_hi", "b_lo", "b_worse", "b_place", "distance")
"""Two distinct images whose hashes are near; the smaller key is a."""

IMAGE_EDGES = _uint64("a_hi", "a_lo", "b_hi", "b_lo", "a_worse", "b_worse", "distance")
"""Two images that show the same picture."""

ITEM_COLUMNS = ["row", "segment", "kind", "luminance_std", "width", "height", "sha256", "pixel_hash", "phash"]
_MOST_PIXELS = 1 << 40


def content_keys(items: pa.RecordBatch) -> tuple[U64, npt.NDArray[np.bool_]]:
    """The content keys of n items, uint64 [n, 2], and where there is one, bool [n]."""
    keys = np.zeros((items.num_rows, 2), np.uint64)
    pixels = np.asarray(items.column("pixel_hash").is_valid())
    files = np.asarray(items.column("sha256").is_valid()) & ~pixels
    files &= np.array([len(s or "") == 64 for s in items.column("sha256").to_pylist()], dtype=np.bool_)
    keys[pixels] = hash_columns(items.column("pixel_hash").filter(pa.array(pixels)))
    hexes = [s[:32] for s in items.column("sha256").filter(pa.array(files)).to_pylist()]
    keys[files] = pack_ids(pa.array(hexes, pa.string()))
    return keys, pixels | files


def image_uses(
    items: pa.RecordBatch,
    doc_ids: pa.Array,
    rank: npt.NDArray[np.int32],
    alive: npt.NDArray[np.integer],
    part: tuple[str, list[str]],
    min_std: float,
) -> pa.RecordBatch:
    """The images of the documents that are alive, `USES`.

    Args:
        items: of one part, with `ITEM_COLUMNS`.
        doc_ids, rank: id and rank of the source of every document of the part.
        alive: rows of the documents that are.
        part: the name of the part, and the sorted names of all parts.
        min_std: images with less spread of luminance are not compared by their hashes.
    """
    keys, known = content_keys(items)
    row = np.asarray(items.column("row"), dtype=np.int64)
    image = np.asarray(items.column("kind").to_pylist(), dtype=object) == "image"
    at = np.flatnonzero(image & known & np.isin(row, alive))

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(items.column(name).fill_null(0).to_numpy(zero_copy_only=False), dtype=np.float64)[
            at
        ]

    pixels = (column("width") * column("height")).astype(np.int64)
    hashes = items.column("phash").fill_null(0).to_numpy(zero_copy_only=False)[at]
    near = np.asarray(items.column("phash").is_valid())[at] & (column("luminance_std") >= min_std)
    ids = pack_ids(doc_ids)[row[at]]
    columns = [keys[at, 0], keys[at, 1], hashes, _MOST_PIXELS - np.minimum(pixels, _MOST_PIXELS), near]
    columns += [places(part[0], at.astype(np.int32), part[1]), ids[:, 0], ids[:, 1], rank[row[at]], row[at]]
    columns.append(np.asarray(items.column("segment"))[at])
    return pa.RecordBatch.from_arrays([pa.array(c.astype(np.uint64)) for c in columns], schema=USES)


def distinct_contents(uses: U64) -> U64:
    """`USES` uint64 [n, 11] -> the distinct images that may be compared, `CONTENTS` uint64 [m, 5], sorted by key."""
    rows = uses[uses[:, 4] == 1][:, [0, 1, 2, 3, 5]]
    rows = rows[np.lexsort(rows[:, ::-1].T)]
    return rows[run_starts(rows[:, :2])]


def _paired(a: U64, b: U64, distance: npt.NDArray[np.integer]) -> U64:
    """Rows of `CONTENTS` [m, 5] each -> `IMAGE_PAIRS` [m, 9]."""
    swap = (a[:, 0] > b[:, 0]) | ((a[:, 0] == b[:, 0]) & (a[:, 1] > b[:, 1]))
    first, second = np.where(swap[:, None], b, a), np.where(swap[:, None], a, b)
    keep = [0, 1, 3, 4]
    return np.concatenate([first[:, keep], second[:, keep], distance[:, None].astype(np.uint64)], axis=1)


def equal_hash_pairs(contents: U64, cap: int, leaders: int) -> tuple[U64, U64]:
    """Pairs of images with one hash, and those that stand for their hash in comparisons with others.

    Up to `cap` images of one hash give all their pairs; of more, the `leaders` best are paired with all the others.

    Args:
        contents: `CONTENTS` uint64 [n, 5], all images of each hash among them.

    Returns:
        `IMAGE_PAIRS` uint64 [m, 9], and `CONTENTS` of the best images of each hash.
    """
    rows = contents[np.lexsort((contents[:, 1], contents[:, 0], contents[:, 3], contents[:, 2]))]
    starts, stops = run_bounds(run_starts(rows[:, 2:3]))
    pairs = run_pairs(starts, stops, cap, min(leaders, cap))
    nth = np.arange(len(rows)) - np.repeat(starts, stops - starts)
    size = np.repeat(stops - starts, stops - starts)
    stands = (size <= cap) | (nth < leaders)
    equal = _paired(rows[pairs[:, 0]], rows[pairs[:, 1]], np.zeros(len(pairs), np.int64))
    return equal, rows[stands]


def near_hash_pairs(rows: U64, distance: int) -> U64:
    """Pairs of images whose hashes differ, by 1 to `distance` bits.

    Args:
        rows: uint64 [n, 6], a band and `CONTENTS`: every image once for each of its distance + 1 bands; all
            images with an equal value of a band are among them.

    Returns:
        `IMAGE_PAIRS` uint64 [m, 9], sorted, each pair once (in the first band it agrees in).
    """
    value = np.zeros(len(rows), np.uint64)
    for band in range(distance + 1):
        mine = rows[:, 0] == band
        value[mine] = band_values(rows[mine, 3], distance)[:, band]
    order = np.lexsort((rows[:, 2], rows[:, 1], value, rows[:, 0]))
    rows, value = rows[order], value[order]
    starts, stops = run_bounds(run_starts(np.stack([rows[:, 0], value], axis=1)))
    several = stops - starts > 1
    band = rows[starts[several], 0].astype(np.int64)
    pairs, far = pairs_in_runs(rows[:, 3], band, starts[several], stops[several], distance)
    differ = far > 0
    found = _paired(rows[pairs[differ, 0], 1:], rows[pairs[differ, 1], 1:], far[differ])
    return found[np.lexsort(found[:, ::-1].T)]


def banded(contents: U64, distance: int) -> U64:
    """Every image once for each band: `CONTENTS` [n, 5] -> uint64 [n * (distance + 1), 6], the band first."""
    bands = np.repeat(np.arange(distance + 1, dtype=np.uint64), len(contents))
    return np.concatenate([bands[:, None], np.tile(contents, (distance + 1, 1))], axis=1)


def same_picture(
    a: U8,
    b: U8,
    a_aspect: npt.NDArray[np.floating],
    b_aspect: npt.NDArray[np.floating],
    config: ImageNearConfig,
) -> npt.NDArray[np.bool_]:
    """Confirm pairs of images, bool [n], by their thumbnails uint8 [n, 1152] and width over height [n]."""
    mean, excess, colour = thumb_differences(a, b)
    ratio = np.maximum(a_aspect, b_aspect) / np.maximum(np.minimum(a_aspect, b_aspect), 1e-9)
    same = (mean <= config.max_mean) & (ratio <= config.max_aspect)
    if config.max_excess is not None:
        same &= excess <= config.max_excess
    if config.max_colour is not None:
        same &= colour <= config.max_colour
    return np.asarray(same, dtype=np.bool_)


THUMBS = pa.schema(
    [
        pa.field("place", pa.uint64(), nullable=False),
        pa.field("aspect", pa.float64(), nullable=False),  # width over height
        pa.field("thumb", pa.binary(THUMB_BYTES), nullable=False),
    ]
)


def thumbs_at(items: pa.RecordBatch, place: U64) -> pa.RecordBatch:
    """The thumbnails at some places of one part: items with width, height, thumb -> `THUMBS`, sorted by place."""
    place = np.unique(place)
    rows = items.take(pa.array((place & np.uint64(0xFFFFFFFF)).astype(np.int64)))
    sides = [np.asarray(rows.column(c), dtype=np.float64) for c in ("width", "height")]
    aspect = sides[0] / np.maximum(sides[1], 1)
    return pa.RecordBatch.from_arrays(
        [pa.array(place), pa.array(aspect), rows.column("thumb")], schema=THUMBS
    )


def confirmed(pairs: U64, thumbs: pa.RecordBatch, config: ImageNearConfig) -> U64:
    """The pairs that show the same picture: `IMAGE_PAIRS` [n, 9] -> `IMAGE_EDGES` uint64 [m, 7].

    Raises:
        ValueError: the thumbnail of a place is missing.
    """
    place = np.asarray(thumbs.column("place"))
    order = np.argsort(place, kind="stable")
    at: list[I64] = []
    for column in (3, 7):
        i = np.minimum(np.searchsorted(place[order], pairs[:, column]), max(len(place) - 1, 0))
        if len(pairs) and (not len(place) or (place[order][i] != pairs[:, column]).any()):
            raise ValueError("the thumbnail of a candidate is missing")
        at.append(order[i])
    data = fixed_bytes(thumbs.column("thumb"), THUMB_BYTES)
    aspect = np.asarray(thumbs.column("aspect"))
    same = np.zeros(len(pairs), np.bool_)
    for start in range(0, len(pairs), 1 << 14):  # bounds the memory of the differences
        a, b = (i[start : start + (1 << 14)] for i in at)
        same[start : start + (1 << 14)] = same_picture(data[a], data[b], aspect[a], aspect[b], config)
    return pairs[same][:, [0, 1, 4, 5, 2, 6, 8]]
