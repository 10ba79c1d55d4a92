"""All pairs of 64-bit hashes within a Hamming distance, by bands: exact, and far from comparing all with all.

Two hashes that differ in at most d bits agree in at least one of d + 1 bands (pigeonhole), so only hashes with an
equal band are compared (Norouzi, Punjani and Fleet 2012, "Fast Search in Hamming Space with Multi-Index Hashing").
A pair is told in the first band it agrees in, and nowhere else: no pair is told twice.
"""

from __future__ import annotations

import numba
import numpy as np

from mixloom.pipeline.doc_ids import I64, U64, run_bounds, run_starts

BITS = 64


def band_widths(distance: int) -> I64:
    """Bits of each of the distance + 1 bands, int64; they differ by at most one.

    Raises:
        ValueError: the distance is not in 0..63.
    """
    if not 0 <= distance < BITS:
        raise ValueError(f"the distance is {distance}; it must lie in 0..{BITS - 1}")
    bands = distance + 1
    return np.full(bands, BITS // bands, np.int64) + (np.arange(bands) < BITS % bands)


def band_values(hashes: U64, distance: int) -> U64:
    """The bands of each hash: uint64 [n] -> uint64 [n, distance + 1], from the lowest bits up."""
    widths = band_widths(distance)
    starts = np.cumsum(widths) - widths
    masks = np.array([(1 << int(w)) - 1 for w in widths], dtype=np.uint64)
    return (hashes[:, None] >> starts.astype(np.uint64)[None, :]) & masks[None, :]


@numba.njit(cache=True, nogil=True, inline="always")
def _ones(x):  # type: ignore[no-untyped-def]
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@numba.njit(cache=True, nogil=True)
def _scan(hashes, bands, starts, stops, band_start, band_mask, distance, out, out_distance):  # type: ignore[no-untyped-def]
    """Count the pairs of every run; fill them in where `out` has room for all."""
    k = 0
    fill = len(out) > 0
    for run in range(len(starts)):
        band = bands[run]
        for i in range(starts[run], stops[run]):
            for j in range(i + 1, stops[run]):
                x = hashes[i] ^ hashes[j]
                d = _ones(x)
                if d > distance:
                    continue
                earlier = False
                for e in range(band):
                    if (x >> band_start[e]) & band_mask[e] == 0:
                        earlier = True
                        break
                if earlier:
                    continue
                if fill:
                    out[k, 0] = i
                    out[k, 1] = j
                    out_distance[k] = d
                k += 1
    return k


def pairs_in_runs(hashes: U64, band: I64, starts: I64, stops: I64, distance: int) -> tuple[I64, I64]:
    """Pairs within the distance inside runs of hashes that agree in a band.

    Args:
        hashes: uint64 [n].
        band: int64 [r], the band in which the hashes of each run are equal.
        starts, stops: int64 [r], bounds of the runs.

    Returns:
        int64 [m, 2], indices with the first below the second, and int64 [m], the distances; only pairs that
        agree in no earlier band.
    """
    widths = band_widths(distance)
    start = (np.cumsum(widths) - widths).astype(np.uint64)
    mask = np.array([(1 << int(w)) - 1 for w in widths], dtype=np.uint64)
    scan = (np.ascontiguousarray(hashes), band, starts, stops, start, mask, distance)
    count = _scan(*scan, np.empty((0, 2), np.int64), np.empty(0, np.int64))
    pairs, far = np.empty((count, 2), np.int64), np.empty(count, np.int64)
    if count:
        _scan(*scan, pairs, far)
    return pairs, far


@numba.njit(cache=True, nogil=True)
def _pair_up(starts, stops, cap, leaders, out):  # type: ignore[no-untyped-def]
    """Count the pairs of every run; fill them in where `out` has room for all."""
    k = 0
    fill = len(out) > 0
    for run in range(len(starts)):
        n = stops[run] - starts[run]
        first = n - 1 if n <= cap else leaders
        for i in range(first):
            for j in range(i + 1, n):
                if fill:
                    out[k, 0] = starts[run] + i
                    out[k, 1] = starts[run] + j
                k += 1
    return k


def run_pairs(starts: I64, stops: I64, cap: int, leaders: int) -> I64:
    """Pairs inside runs, int64 [m, 2]: all in runs of at most `cap`, else those of the first `leaders` with all."""
    pairs = np.empty((_pair_up(starts, stops, cap, leaders, np.empty((0, 2), np.int64)), 2), np.int64)
    if len(pairs):
        _pair_up(starts, stops, cap, leaders, pairs)
    return pairs


def pairs_within(hashes: U64, distance: int) -> tuple[I64, I64]:
    """All pairs of uint64 [n] that differ in at most `distance` bits.

    Returns:
        int64 [m, 2], indices with the first below the second, sorted; and int64 [m], how many bits differ.
    """
    values = band_values(hashes, distance)
    found: list[I64] = []
    far: list[I64] = []
    for band in range(values.shape[1]):
        order = np.argsort(values[:, band], kind="stable")
        starts, stops = run_bounds(run_starts(values[order, band][:, None]))
        several = stops - starts > 1
        which = np.full(int(several.sum()), band, np.int64)
        pairs, d = pairs_in_runs(hashes[order], which, starts[several], stops[several], distance)
        found.append(order[pairs])
        far.append(d)
    pairs = np.sort(np.concatenate(found), axis=1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], np.concatenate(far)[order]
