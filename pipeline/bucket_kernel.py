"""The compiled kernels of LSH buckets: keys of bands, rows that share a bucket, pairs; `mixloom.pipeline.candidates` calls them."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from mixloom.pipeline.doc_ids import I64, U16, U64
from mixloom.pipeline.splitmix import mix


@numba.njit(cache=True, nogil=True)
def fold_bands(signatures: U16, bands: int, rows: int) -> U64:
    """A hash of each band of each signature, uint64 [n, bands]; those of different bands differ."""
    out = np.empty((signatures.shape[0], bands), dtype=np.uint64)
    for i in range(signatures.shape[0]):
        for b in range(bands):
            h = np.uint64(b + 1) * np.uint64(0x9E3779B97F4A7C15)
            for first in range(b * rows, (b + 1) * rows, 4):
                four = np.uint64(0)
                for r in range(first, min(first + 4, (b + 1) * rows)):
                    four = (four << np.uint64(16)) | np.uint64(signatures[i, r])
                h = mix(h ^ four)
            out[i, b] = h
    return out


@numba.njit(cache=True, nogil=True)
def with_media(keys: U64, media: U64) -> None:
    """Mix a number per document, uint64 [n], into keys uint64 [n, bands], and set the top byte to the band; in place."""
    for i in range(keys.shape[0]):
        other = mix(media[i])
        for b in range(keys.shape[1]):
            keys[i, b] = (mix(keys[i, b] ^ other) >> np.uint64(8)) | (np.uint64(b) << np.uint64(56))


@numba.njit(cache=True, nogil=True)
def repeated(keys: U64) -> npt.NDArray[np.bool_]:
    """bool [g, n]: which of the keys uint64 [g, n] stand more than once in their row of the table."""
    groups, n = keys.shape
    size = 4
    while size < 2 * n:
        size *= 2
    mask = np.uint64(size - 1)
    out = np.zeros((groups, n), dtype=np.bool_)
    first = np.empty(size, dtype=np.int32)
    for g in range(groups):
        first[:] = -1
        for i in range(n):
            key = keys[g, i]
            at = ((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
            while first[at] >= 0 and keys[g, first[at]] != key:
                at = (at + np.uint64(1)) & mask
            if first[at] < 0:
                first[at] = i
            else:
                out[g, first[at]] = out[g, i] = True
    return out


@numba.njit(cache=True, nogil=True)
def sort_small_runs(rows: U64, starts: I64, stops: I64, longest: int) -> None:
    """Sort the rows of each run of at most `longest` by all their columns, in place."""
    width = rows.shape[1]
    held = np.empty(width, dtype=np.uint64)
    for run in range(len(starts)):
        if stops[run] - starts[run] > longest:
            continue
        for i in range(starts[run] + 1, stops[run]):
            held[:] = rows[i]
            j = i
            while j > starts[run]:
                less = False
                for c in range(width):
                    if held[c] != rows[j - 1, c]:
                        less = held[c] < rows[j - 1, c]
                        break
                if not less:
                    break
                rows[j] = rows[j - 1]
                j -= 1
            rows[j] = held


@numba.njit(cache=True, nogil=True)
def _partners(at: int, size: int, cap: int, leaders: int, neighbours: int) -> int:
    """How many of the documents after it number `at` of a bucket of `size` is compared with."""
    rest = size - 1 - at
    return rest if size <= cap or at < leaders else min(neighbours, rest)


@numba.njit(cache=True, nogil=True)
def pairs_of_runs(starts: I64, stops: I64, cap: int, leaders: int, neighbours: int) -> I64:
    """Which rows of each run are compared, int64 [m, 2]; see `candidates.bucket_pairs`."""
    total = 0
    for i in range(len(starts)):
        size = stops[i] - starts[i]
        for at in range(size):
            total += _partners(at, size, cap, leaders, neighbours)
    out = np.empty((total, 2), dtype=np.int64)
    k = 0
    for i in range(len(starts)):
        size = stops[i] - starts[i]
        for at in range(size):
            a = starts[i] + at
            for b in range(a + 1, a + 1 + _partners(at, size, cap, leaders, neighbours)):
                out[k, 0] = a
                out[k, 1] = b
                k += 1
    return out


@numba.njit(cache=True, nogil=True)
def by_partition(keys: U64, documents: U64, partitions: int) -> tuple[U64, I64]:
    """Rows of schema `BUCKETS`, a partition after the other, uint64 [n * bands, 5], and where each begins."""
    n, bands = keys.shape
    bounds = np.zeros(partitions + 1, dtype=np.int64)
    for i in range(n):
        for b in range(bands):
            bounds[np.int64(keys[i, b] % np.uint64(partitions)) + 1] += 1
    for p in range(partitions):
        bounds[p + 1] += bounds[p]
    at = bounds[:-1].copy()
    out = np.empty((n * bands, 5), dtype=np.uint64)
    for i in range(n):
        for b in range(bands):
            q = np.int64(keys[i, b] % np.uint64(partitions))
            k = at[q]
            out[k, 0], out[k, 1], out[k, 2] = keys[i, b], documents[i, 0], documents[i, 1]
            out[k, 3], out[k, 4] = documents[i, 2], documents[i, 3]
            at[q] = k + 1
    return out, bounds
