"""Candidate pairs of near duplicates by MinHash LSH: documents that agree on all rows of a band.

Two documents of Jaccard similarity s share at least one band with probability 1 - (1 - s**rows)**bands
(Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.bucket_kernel import (
    by_partition,
    fold_bands,
    pairs_of_runs,
    repeated,
    sort_small_runs,
    with_media,
)
from mixloom.pipeline.doc_ids import (
    I64,
    U16,
    U64,
    columns,
    distinct_rows,
    fixed_bytes,
    id_batch,
    pack_ids,
    packed_rows,
    partition_of,
    places,
    run_bounds,
    run_starts,
    unpack_ids,
    unpacked_rows,
)
from mixloom.pipeline.engine import part_of
from mixloom.pipeline.graph import Work
from mixloom.pipeline.shuffle import GATHERED, GatherDoFn, Grouped, Keyed, last
from mixloom.pipeline.storage import Store


def _uint64(*names: str) -> pa.Schema:
    return pa.schema([pa.field(n, pa.uint64(), nullable=False) for n in names])


ROWS = ("doc_id", "row", "preference", "media_key", "minhash")
"""Columns near deduplication reads of each part, whose name is in the schema metadata: string, int32, uint64
(see `preference.preference`), uint64 (only documents of one media key are compared; see
`near_rows.media_keys`), fixed-size binary (see `signature_matrix`; null without shingles)."""

BAND_BITS = np.uint64(56)  # the number of its band stands in the top byte of a key
BUCKETS = _uint64("key", "preference", "hi", "lo", "place")
PAIRS = _uint64("a_hi", "a_lo", "a_place", "b_hi", "b_lo", "b_place")
"""Two documents each, the preferred one first, with where their text lies (see `doc_ids.places`)."""
RANKED = _uint64(*PAIRS.names, "a_preference", "b_preference")
"""The same, with their places in survivor order."""

NAMED = 20  # buckets told of, at most
CAPPED = ".capped.json"


@dataclass(frozen=True, slots=True)
class BucketBounds:
    """How much is compared in a bucket (see `bucket_pairs`), and from which size on it is told of."""

    cap: int
    leaders: int
    neighbours: int
    warn: int


def signature_matrix(minhash: pa.FixedSizeBinaryArray) -> tuple[U16, I64]:
    """The signatures that are not null, uint16 [k, num_perm], and the rows they belong to, int64 [k].

    Args:
        minhash: little-endian uint16 values of each document, as annotate writes them.
    """
    rows = np.flatnonzero(np.asarray(minhash.is_valid()))
    values = fixed_bytes(minhash.drop_null(), minhash.type.byte_width).view("<u2")
    return values.astype(np.uint16, copy=False), rows


def band_keys(signatures: U16, bands: int, rows: int) -> U64:
    """Hash each band of `rows` values of each signature: uint16 [n, width] -> uint64 [n, bands].

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
    return fold_bands(np.require(signatures, requirements=("C", "A", "W")), bands, rows)


def bucket_keys(signatures: U16, media: U64, bands: int, rows: int) -> U64:
    """The bucket of each band, uint64 [n, bands]: equal for equal bands of documents of one media key uint64 [n].

    The number of the band stands in the top byte.
    """
    keys = band_keys(signatures, bands, rows)
    with_media(keys, media)
    return keys


def bucket_pairs(rows: U64, cap: int, leaders: int, neighbours: int = 0) -> U64:
    """Compare the members of each bucket: rows uint64 [n, 5] from `sorted_buckets` -> pairs uint64 [m, 8].

    A bucket of at most `cap` documents gives all its pairs. In a larger one the `leaders` most preferred documents
    are paired with all the others, and each other with the `neighbours` that follow it in survivor order: those
    have about its length, and only documents of like length can be similar. So the number of pairs is linear
    and none of its documents is left out. Pairs (schema `RANKED`) are distinct and sorted by their second, then
    their first document.
    """
    return ranked_pairs(rows, *met_pairs(rows, cap, leaders, neighbours))


def met_pairs(rows: U64, cap: int, leaders: int, neighbours: int) -> tuple[I64, I64]:
    """The pairs of `bucket_pairs`, as numbers of rows: the preferred documents and the others, int64 [m] each."""
    starts, stops = run_bounds(run_starts(rows[:, :1]))
    several = stops - starts > 1
    left_right = pairs_of_runs(starts[several], stops[several], cap, min(leaders, cap), neighbours)
    a, b = left_right[:, 0], left_right[:, 1]
    # Documents that are alike meet in most of their bands: every pair once, by place, which is a number.
    place = rows[:, 4]
    if int(place.max(initial=0)) >> 32:
        order = np.lexsort((place[a], place[b]))
        once = run_starts(np.stack([place[b[order]], place[a[order]]], axis=1))
    else:  # one number for both: sorted in a tenth of the time
        both = (place[b] << np.uint64(32)) | place[a]
        order = np.argsort(both)
        once = run_starts(both[order][:, None])
    a, b = a[order[once]], b[order[once]]
    other = (rows[a, 2:4] != rows[b, 2:4]).any(axis=1)  # a document read twice is no duplicate of itself
    return a[other], b[other]


def ranked_pairs(rows: U64, a: I64, b: I64) -> U64:
    """Pairs of rows (uint64 [n, 5], see `bucket_pairs`) as uint64 [m, 8] of schema `RANKED`, sorted."""
    return ranked_documents(rows[a, 1:], rows[b, 1:])


def ranked_documents(better: U64, worse: U64) -> U64:
    """Preferred documents and others, uint64 [m, 4] (columns of `BUCKETS` but the first), as `RANKED`, uint64 [m, 8], sorted."""
    return distinct_pairs(np.concatenate([better[:, 1:], worse[:, 1:], better[:, :1], worse[:, :1]], axis=1))


_FEW = 64  # rows of a bucket that are sorted by insertion


def sorted_buckets(rows: U64) -> U64:
    """Rows of schema `BUCKETS`, uint64 [n, 5], by bucket, then from the most preferred document to the least.

    Rows that are alone in their bucket, which most are, are left out: they cost most of the sorting and give no pair.
    """
    return _sorted(rows[repeated(np.ascontiguousarray(rows[:, 0])[None])[0]])


def banded_buckets(keys: U64, documents: U64) -> U64:
    """`sorted_buckets` of whole documents: their keys uint64 [bands, n] and the other columns of `BUCKETS`, uint64 [n, 4]."""
    band, at = np.nonzero(repeated(keys))
    return _sorted(np.concatenate([keys[band, at][:, None], documents[at]], axis=1))


def _sorted(rows: U64) -> U64:
    rows = np.ascontiguousarray(rows[np.argsort(rows[:, 0])])
    starts, stops = run_bounds(run_starts(rows[:, :1]))
    sort_small_runs(rows, starts, stops, _FEW)
    for at in np.flatnonzero(stops - starts > _FEW):
        run = rows[starts[at] : stops[at]]
        run[:] = run[np.lexsort(run.T[::-1])]
    return rows[run_starts(rows)]  # a row that was sent twice counts once


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
    """The distinct rows of schema `PAIRS` or `RANKED`, uint64 [n, 6 or 8], by their second, then their first document."""
    rest = list(range(6, pairs.shape[1]))
    flipped = pairs[:, [3, 4, 5, 0, 1, 2, *rest]]
    return distinct_rows(flipped)[:, [3, 4, 5, 0, 1, 2, *rest]]


def signed_rows(batch: pa.RecordBatch, parts: Sequence[str], bands: int, rows: int) -> tuple[U64, U64, U16]:
    """Of a `ROWS` batch the bucket keys, uint64 [n, bands], the other columns of `BUCKETS`, uint64 [n, 4], and the
    signatures, uint16 [n, num_perm].

    Documents without a signature are left out.
    """
    signatures, alive = signature_matrix(batch.column("minhash"))
    keys = bucket_keys(signatures, columns(batch, ["media_key"])[alive, 0], bands, rows)
    documents = np.empty((len(alive), 4), dtype=np.uint64)
    documents[:, 0] = columns(batch, ["preference"])[alive, 0]
    documents[:, 1:3] = pack_ids(batch.column("doc_id"))[alive]
    documents[:, 3] = places(part_of(batch), np.asarray(batch.column("row")), parts)[alive]
    return keys, documents, signatures


class _KeyByBandDoFn(Work):
    def __init__(self, parts: tuple[str, ...], bands: int, rows: int, partitions: int) -> None:
        self._parts, self._bands, self._rows, self._partitions = parts, bands, rows, partitions

    def start_bundle(self) -> None:
        self._held: list[tuple[U64, U64]] = []
        self._bytes = 0

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        keys, documents, _ = signed_rows(batch, self._parts, self._bands, self._rows)
        if len(keys):
            self._held.append((keys, documents))
            self._bytes += 40 * keys.size
        if self._bytes > GATHERED:
            yield from self._rest()

    def finish_bundle(self) -> Iterator[Any]:
        for element in self._rest():
            yield last(element)

    def _rest(self) -> Iterator[Keyed]:
        if not self._held:
            return
        keys, documents = (np.concatenate(x) for x in zip(*self._held, strict=True))
        self._held, self._bytes = [], 0
        rows, bounds = by_partition(keys, documents, self._partitions)
        for p in range(self._partitions):
            if bounds[p + 1] > bounds[p]:
                yield p, packed_rows(rows[bounds[p] : bounds[p + 1]])


class KeyBands(beam.PTransform):
    """One `ROWS` batch per part -> (partition, packed rows of `BUCKETS`): every document once for each of its bands.

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
        rows = sorted_buckets(unpacked_rows(element[1], len(BUCKETS)))
        b = self._bounds
        pairs = bucket_pairs(rows, b.cap, b.leaders, b.neighbours)
        if self._told is not None:
            self._told.write_json(f"{element[0]:07d}{CAPPED}", capped_buckets(rows, b.cap, b.warn))
        # By the less preferred document: the leader of a huge cluster would make one partition huge.
        yield from self.gathered.add(id_batch(RANKED, pairs), partition_of(pairs[:, 3:5], self._partitions))


class PairBuckets(beam.PTransform):
    """(partition, what `KeyBands` gives), each partition once -> (partition, `RANKED` batch): pairs that share a bucket.

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
