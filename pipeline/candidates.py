"""Candidate pairs of near duplicates by MinHash LSH: documents that agree on all rows of a band.

Two documents of Jaccard similarity s share at least one band with probability 1 - (1 - s**rows)**bands
(Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.doc_ids import (
    I64,
    ROW_BITS,
    U64,
    columns,
    concatenate,
    distinct_rows,
    fixed_bytes,
    id_batch,
    mix,
    pack_ids,
    partition_of,
    run_bounds,
    run_starts,
    unpack_ids,
)
from mixloom.pipeline.engine import part_of
from mixloom.pipeline.shuffle import GatherDoFn, Grouped, Keyed
from mixloom.pipeline.storage import Store


def _uint64(*names: str) -> pa.Schema:
    return pa.schema([pa.field(n, pa.uint64(), nullable=False) for n in names])


ROWS = ("doc_id", "row", "preference", "media_key", "minhash")
"""Columns near deduplication reads of each part, whose name is in the schema metadata: string, int32, uint64
(see `preference.preference`), uint64 (only documents of one media key are compared; see
`near_rows.media_keys`), fixed-size binary or list<uint32> (null without shingles)."""

BAND_BITS = np.uint64(56)  # the number of its band stands in the top byte of a key
BUCKETS = _uint64("key", "preference", "hi", "lo", "place")
PAIRS = _uint64("a_hi", "a_lo", "a_place", "b_hi", "b_lo", "b_place")
"""Two documents each, the preferred one first, with where their text lies (see `places`)."""


NAMED = 20  # buckets told of, at most
CAPPED = ".capped.json"


@dataclass(frozen=True, slots=True)
class BucketBounds:
    """How much is compared in a bucket (see `bucket_pairs`), and from which size on it is told of."""

    cap: int
    leaders: int
    neighbours: int
    warn: int


def places(part: str, rows: npt.NDArray[np.int32], parts: Sequence[str]) -> U64:
    """Where documents lie, uint64 [n]: index of their part in the sorted `parts` << 32 | row.

    Raises:
        ValueError: the part is not among `parts`.
    """
    index = int(np.searchsorted(np.asarray(parts), part)) if len(parts) else 0
    if index >= len(parts) or parts[index] != part:
        raise ValueError(f"the part '{part}' is not among the {len(parts)} declared parts")
    return (np.uint64(index) << ROW_BITS) | rows.astype(np.uint64)


def signature_matrix(minhash: pa.Array) -> tuple[npt.NDArray[np.uint32], I64]:
    """The signatures that are not null, uint32 [k, num_perm], and the rows they belong to, int64 [k].

    Args:
        minhash: a list of any kind of uint32, or fixed-size binary (little-endian).

    Raises:
        ValueError: the signatures differ in length.
    """
    rows = np.flatnonzero(np.asarray(minhash.is_valid()))
    known = minhash.drop_null()
    if pa.types.is_fixed_size_binary(minhash.type):
        return fixed_bytes(known, minhash.type.byte_width).view("<u4").astype(np.uint32, copy=False), rows
    values = np.asarray(known.flatten(), dtype=np.uint32)
    lengths = np.unique(np.asarray(pc.list_value_length(known)))
    if len(lengths) > 1:
        raise ValueError(f"signatures of different lengths: {lengths.tolist()}")
    return values.reshape(len(rows), -1 if len(rows) else 0), rows


@numba.njit(cache=True, nogil=True)
def _fold_bands(signatures: npt.NDArray[np.uint32], bands: int, rows: int) -> U64:
    out = np.empty((signatures.shape[0], bands), dtype=np.uint64)
    for i in range(signatures.shape[0]):
        for b in range(bands):
            h = np.uint64(b + 1) * np.uint64(0x9E3779B97F4A7C15)
            for r in range(rows):
                h ^= np.uint64(signatures[i, b * rows + r])
                h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                h ^= h >> np.uint64(31)
            out[i, b] = h
    return out


def band_keys(signatures: npt.NDArray[np.uint32], bands: int, rows: int) -> U64:
    """Hash each band of `rows` values of each signature: uint32 [n, width] -> uint64 [n, bands].

    Keys of different bands differ. Two unequal bands share a key with probability about 2**-64, which only
    costs a comparison: pairs are verified.

    Raises:
        ValueError: bands * rows is greater than the width of the signatures.
    """
    if bands * rows > signatures.shape[1]:
        raise ValueError(
            f"{bands} bands of {rows} rows need {bands * rows} hash values, "
            f"the signatures have {signatures.shape[1]}"
        )
    return _fold_bands(np.ascontiguousarray(signatures), bands, rows)


@numba.njit(cache=True, nogil=True)
def _partners(at: int, size: int, cap: int, leaders: int, neighbours: int) -> int:
    """How many of the documents after it number `at` of a bucket of `size` is compared with."""
    rest = size - 1 - at
    return rest if size <= cap or at < leaders else min(neighbours, rest)


@numba.njit(cache=True, nogil=True)
def _pairs_of_runs(starts: I64, stops: I64, cap: int, leaders: int, neighbours: int) -> I64:
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


def bucket_pairs(rows: U64, cap: int, leaders: int, neighbours: int = 0) -> U64:
    """Compare the members of each bucket: rows uint64 [n, 5] from `sorted_buckets` -> pairs uint64 [m, 6].

    A bucket of at most `cap` documents gives all its pairs. In a larger one the `leaders` most preferred documents
    are paired with all the others, and each other with the `neighbours` that follow it in survivor order: those
    have about its length, and only documents of like length can be similar. So the number of pairs is linear
    and none of its documents is left out. Pairs (schema `PAIRS`) are distinct and sorted by their second, then
    their first document.
    """
    starts, stops = run_bounds(run_starts(rows[:, :1]))
    several = stops - starts > 1
    left_right = _pairs_of_runs(starts[several], stops[several], cap, min(leaders, cap), neighbours)
    a, b = rows[left_right[:, 0]], rows[left_right[:, 1]]
    other = (a[:, 2:4] != b[:, 2:4]).any(axis=1)  # a document read twice is not a duplicate of itself
    return distinct_pairs(np.concatenate([a[other, 2:], b[other, 2:]], axis=1))


def sorted_buckets(rows: U64) -> U64:
    """Rows of schema `BUCKETS`, uint64 [n, 5], by bucket, then from the most preferred document to the least.

    Rows that are alone in their bucket, which most are, are left out: they cost most of the sorting and give no pair.
    """
    order = np.argsort(rows[:, 0], kind="stable")
    keys = rows[order, 0]
    same = keys[1:] == keys[:-1]
    several = np.zeros(len(rows), dtype=np.bool_)
    several[1:] |= same
    several[:-1] |= same
    rows = rows[order[several]]
    return rows[np.lexsort((rows[:, 4], rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0]))]


def capped_buckets(rows: U64, cap: int, warn: int) -> dict[str, Any]:
    """What is told of the buckets in which not all pairs are compared: rows from `sorted_buckets`.

    Returns:
        capped: how many hold more than `cap` documents; largest: those of more than `warn`, by size, at most
        `NAMED` of them, each with its band (counted from 0), key (16 hex digits), size and most preferred document.
    """
    starts, stops = run_bounds(run_starts(rows[:, :1]))
    sizes = stops - starts
    order = np.lexsort((rows[starts, 0], -sizes))[:NAMED]
    largest = [
        {
            "band": int(rows[starts[i], 0] >> BAND_BITS),
            "key": f"{int(rows[starts[i], 0]):016x}",
            "documents": int(sizes[i]),
            "example": unpack_ids(rows[starts[i] : starts[i] + 1, 2:4])[0].as_py(),
        }
        for i in order
        if sizes[i] > warn
    ]
    return {"capped": int((sizes > cap).sum()), "largest": largest}


def all_capped(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The reports of `capped_buckets` of all partitions as one."""
    largest = sorted((b for r in reports for b in r["largest"]), key=lambda b: (-b["documents"], b["key"]))
    return {"capped": sum(r["capped"] for r in reports), "largest": largest[:NAMED]}


def distinct_pairs(pairs: U64) -> U64:
    """The distinct pairs of uint64 [n, 6], sorted by their second, then their first document."""
    flipped = pairs[:, [3, 4, 5, 0, 1, 2]]
    return distinct_rows(flipped)[:, [3, 4, 5, 0, 1, 2]]


def bucket_keys(signatures: npt.NDArray[np.uint32], media: U64, bands: int, rows: int) -> U64:
    """The bucket of each band, uint64 [n, bands]: equal for equal bands of documents of one media key uint64 [n]."""
    keys = mix(band_keys(signatures, bands, rows) ^ mix(media)[:, None])
    return (keys >> np.uint64(8)) | (np.arange(bands, dtype=np.uint64) << BAND_BITS)


class _KeyByBandDoFn(GatherDoFn):
    def __init__(self, parts: tuple[str, ...], bands: int, rows: int, partitions: int) -> None:
        self._parts, self._bands, self._rows, self._partitions = parts, bands, rows, partitions

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        signatures, alive = signature_matrix(batch.column("minhash"))
        if not len(alive):
            return
        media = columns(batch, ["media_key"])[alive, 0]
        place = places(part_of(batch), np.asarray(batch.column("row")), self._parts)
        preferred = columns(batch, ["preference"])
        rows = np.empty((len(alive), self._bands, 5), dtype=np.uint64)
        rows[:, :, 0] = bucket_keys(signatures, media, self._bands, self._rows)
        rows[:, :, 1] = preferred[alive]
        rows[:, :, 2:4] = pack_ids(batch.column("doc_id"))[alive, None, :]
        rows[:, :, 4] = place[alive, None]
        flat = rows.reshape(-1, 5)
        partition = (flat[:, 0] % np.uint64(self._partitions)).astype(np.int64)
        yield from self.gathered.add(id_batch(BUCKETS, flat), partition)


class KeyBands(beam.PTransform):
    """One `ROWS` batch per part -> (partition, `BUCKETS` batch): every document once for each of its bands.

    Args:
        parts: names of all the parts, sorted; a place refers to a part by its index here.
        bands, rows: the banding; the first bands * rows values of each signature are used.
        partitions: of buckets; the pairs do not depend on it.
    """

    def __init__(self, parts: Sequence[str], bands: int, rows: int, partitions: int) -> None:
        super().__init__()
        self._keys = _KeyByBandDoFn(tuple(parts), bands, rows, partitions)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(self._keys).with_output_types(Keyed)


class _BucketsDoFn(GatherDoFn):
    def __init__(self, bounds: BucketBounds, partitions: int, told: Store | None) -> None:
        self._bounds, self._partitions, self._told = bounds, partitions, told

    def process(self, element: Grouped) -> Iterator[Keyed]:
        rows = sorted_buckets(columns(concatenate(element[1], BUCKETS), BUCKETS.names))
        b = self._bounds
        pairs = bucket_pairs(rows, b.cap, b.leaders, b.neighbours)
        if self._told is not None:
            self._told.write_json(f"{element[0]:07d}{CAPPED}", capped_buckets(rows, b.cap, b.warn))
        # By the less preferred document: the leader of a huge cluster would make one partition huge.
        yield from self.gathered.add(id_batch(PAIRS, pairs), partition_of(pairs[:, 3:5], self._partitions))


class PairBuckets(beam.PTransform):
    """(partition, `BUCKETS` batches), each partition once -> (partition, `PAIRS` batch): pairs that share a bucket.

    A pair stands in the partition of its less preferred document, there once for each bucket it shares.

    Args:
        bounds: how much is compared in a bucket.
        partitions: of pairs; the pairs do not depend on it.
        told: a folder for what `capped_buckets` tells, one file `*CAPPED` per partition; None: nothing is told.
    """

    def __init__(self, bounds: BucketBounds, partitions: int, told: Store | None = None) -> None:
        super().__init__()
        self._buckets = _BucketsDoFn(bounds, partitions, told)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(self._buckets).with_output_types(Keyed)
