"""Which documents of a new crawl an earlier run has kept already: the judgement on ids, hashes and sketches.

Exact duplicates meet by their content hash, near ones in LSH buckets, as in `near`. A pair is verified without the
text of the earlier document: by its sketch where its run left an index (see `dedup_index`), else by the share of equal
values of the two signatures (Broder 1997), standard error sqrt(J (1 - J) / values). What is estimated must exceed the
threshold by a margin in standard errors at the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.candidates import distinct_pairs
from mixloom.pipeline.doc_ids import I64, U64, columns, id_batch, mix, run_bounds, run_starts
from mixloom.pipeline.verify import F64, Sets, set_similarity

NEW = np.uint64(1) << np.uint64(63)  # in the place of a preference: a document of this run
"""Documents of earlier runs come before those of this one in a bucket."""

RUN_BITS = np.uint64(56)  # a place is run << 56 | part << 32 | row; this run is number 0
MOST_RUNS = 255

EXACT, NEAR = "exact_duplicate_of_earlier_run", "near_duplicate_of_earlier_run"

MATCHES = pa.schema(
    [
        *(pa.field(n, pa.uint64(), nullable=False) for n in ("hi", "lo", "place", "exact")),
        *(pa.field(n, pa.uint64(), nullable=False) for n in ("earlier_hi", "earlier_lo", "earlier_place")),
        pa.field("similarity", pa.float64(), nullable=False),
        pa.field("limit", pa.float64(), nullable=False),
    ]
)
"""A document of this run, one of an earlier run that it duplicates, and by how much."""
HASHED = pa.schema(
    [pa.field(n, pa.uint64(), nullable=False) for n in ("hash_hi", "hash_lo", "new", "hi", "lo", "place")]
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How documents of two runs are compared: see `NearConfig` and `DedupConfig.against_margin`."""

    ngram: int
    bands: int
    rows: int
    threshold: float
    margin: float
    bucket_cap: int
    max_shingles: int
    media: bool


def required(threshold: float, margin: float, k: I64) -> F64:
    """What a similarity estimated from k values must reach, float64 [n]; k = 0 says that it is exact."""
    error = np.sqrt(threshold * (1.0 - threshold) / np.maximum(k, 1))
    return np.minimum(1.0, threshold + np.where(k > 0, margin * error, 0.0))


@numba.njit(cache=True, nogil=True)
def mark(bitmap: npt.NDArray[np.uint8], keys: U64) -> None:
    """Set the bit of each key uint64 [n] in a bitmap whose length is a power of two."""
    mask = np.uint64(len(bitmap) * 8 - 1)
    for i in range(len(keys)):
        at = (keys[i] * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(17)) & mask
        bitmap[at >> np.uint64(3)] |= np.uint8(1) << np.uint8(at & np.uint64(7))


@numba.njit(cache=True, nogil=True)
def marked(bitmap: npt.NDArray[np.uint8], keys: U64) -> npt.NDArray[np.bool_]:
    """Whether the bit of each key uint64 [n] is set: always where it was marked, sometimes where it was not."""
    mask = np.uint64(len(bitmap) * 8 - 1)
    out = np.empty(len(keys), dtype=np.bool_)
    for i in range(len(keys)):
        at = (keys[i] * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(17)) & mask
        out[i] = (bitmap[at >> np.uint64(3)] >> np.uint8(at & np.uint64(7))) & np.uint8(1)
    return out


def bitmap_bytes(keys: int) -> int:
    """Bytes of a bitmap for so many keys: a power of two with at least 8 bits a key, from 1 kB to 256 MB."""
    return 1 << min(28, max(10, (keys - 1).bit_length()))


@numba.njit(cache=True, nogil=True)
def _cross(starts: I64, middles: I64, stops: I64, cap: int) -> I64:
    total = 0
    for i in range(len(starts)):
        total += min(cap, middles[i] - starts[i]) * (stops[i] - middles[i])
    out = np.empty((total, 2), dtype=np.int64)
    k = 0
    for i in range(len(starts)):
        for a in range(starts[i], min(starts[i] + cap, middles[i])):
            for b in range(middles[i], stops[i]):
                out[k, 0] = a
                out[k, 1] = b
                k += 1
    return out


def cross_pairs(rows: U64, cap: int) -> U64:
    """Pairs of an earlier and a new document that share a bucket: `BUCKETS` rows uint64 [n, 5] -> `PAIRS` uint64 [m, 6].

    Where more than `cap` earlier documents are in a bucket, `cap` of them are compared, chosen by their preference
    (which `earlier_rank` draws anew for each bucket, so that different bands try different ones).
    """
    rows = rows[np.lexsort((rows[:, 4], rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0]))]
    starts, stops = run_bounds(run_starts(rows[:, :1]))
    new = np.concatenate([[0], np.cumsum(rows[:, 1] >= NEW)])
    middles = stops - (new[stops] - new[starts])
    left_right = _cross(starts, middles, stops, cap)
    return distinct_pairs(np.concatenate([rows[left_right[:, 0], 2:], rows[left_right[:, 1], 2:]], axis=1))


def earlier_rank(keys: U64, ids: U64) -> U64:
    """A pseudo-random order of earlier documents in each bucket: uint64 [n, bands], less than `NEW`."""
    return mix(keys ^ mix(ids[:, 0] ^ mix(ids[:, 1]))[:, None]) >> np.uint64(1)


@numba.njit(cache=True, nogil=True)
def _agreement(values: U64, starts: I64, stops: I64, left: I64, right: I64) -> F64:
    out = np.zeros(len(left), dtype=np.float64)
    for k in range(len(left)):
        i, j = left[k], right[k]
        width = min(stops[i] - starts[i], stops[j] - starts[j])
        if i < 0 or j < 0 or width == 0:
            continue
        same = 0
        for p in range(width):
            same += values[starts[i] + p] == values[starts[j] + p]
        out[k] = same / width
    return out


@numba.njit(cache=True, nogil=True)
def _sketch_similarity(
    values: U64, starts: I64, stops: I64, sizes: I64, left: I64, right: I64
) -> tuple[F64, I64]:
    out, estimated = np.zeros(len(left), dtype=np.float64), np.zeros(len(left), dtype=np.int64)
    for n in range(len(left)):
        i, j = left[n], right[n]
        if i < 0 or j < 0:
            continue
        a, b = values[starts[i] : stops[i]], values[starts[j] : stops[j]]
        out[n] = set_similarity(a, sizes[i], b, sizes[j])
        if sizes[i] > len(a):
            estimated[n] = len(a)
        if sizes[j] > len(b):
            estimated[n] = min(estimated[n], len(b)) if estimated[n] else len(b)
    return out, estimated


def matches_of(pairs: U64, sets: Sets, comparison: Comparison, by_signature: bool) -> pa.RecordBatch:
    """Candidate pairs (schema `PAIRS`, uint64 [n, 6], the earlier one first) -> `MATCHES`, the pairs that hold.

    Args:
        sets: sketches of their documents under (0, place) as id, for one document may stand in two runs; or with
            `by_signature` their signatures, in order.
    """
    left, right = (sets.find(np.stack([np.zeros_like(place), place], axis=1)) for place in pairs[:, [2, 5]].T)
    if by_signature:
        similarity = _agreement(sets.values, sets.starts, sets.stops, left, right)
        k = (sets.stops - sets.starts)[left]
    else:
        tables = (sets.values, sets.starts, sets.stops, sets.sizes)
        similarity, k = _sketch_similarity(*tables, left, right)
    limit = required(comparison.threshold, comparison.margin, k)
    held = (similarity >= limit) & (left >= 0) & (right >= 0)
    near = np.zeros(int(held.sum()), dtype=np.uint64)
    mine, theirs = pairs[held, 3:], pairs[held, :3]
    return id_batch(MATCHES, mine, near, theirs, similarity[held], limit[held])


def exact_matches(rows: U64) -> pa.RecordBatch:
    """Documents with their content hashes (uint64 [n, 6]: hash, whether new, id, place) -> `MATCHES`.

    Of several earlier documents the one of the first run is named, then the one with the smallest id.
    """
    order = (rows[:, 4], rows[:, 3], rows[:, 5] >> RUN_BITS, rows[:, 2], rows[:, 1], rows[:, 0])
    rows = rows[np.lexsort(order)]
    first = run_starts(rows[:, :2])
    best = rows[np.flatnonzero(first)[np.cumsum(first) - 1]]
    found = (rows[:, 2] == 1) & (best[:, 2] == 0)
    ones = np.ones(int(found.sum()))
    return id_batch(MATCHES, rows[found, 3:], ones.astype(np.uint64), best[found, 3:], ones, ones)


def best_matches(matches: pa.RecordBatch) -> pa.RecordBatch:
    """One match per new document: an exact one, else the most similar; of equals the first run, then the smallest id."""
    rows = columns(matches, ["hi", "lo", "exact", "earlier_place", "earlier_hi", "earlier_lo"])
    similarity = np.asarray(matches.column("similarity"))
    run, near = rows[:, 3] >> RUN_BITS, rows[:, 2] == 0
    order = np.lexsort((rows[:, 5], rows[:, 4], run, -similarity, near, rows[:, 1], rows[:, 0]))
    return matches.take(pa.array(order[run_starts(rows[order, :2])]))
