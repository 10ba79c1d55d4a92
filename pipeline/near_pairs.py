"""Candidate pairs of documents whose signatures fit one process: what goes through files in two steps elsewhere, without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.candidates import (
    CAPPED,
    RANKED,
    BucketBounds,
    all_capped,
    banded_buckets,
    capped_buckets,
    met_pairs,
    ranked_documents,
    signed_rows,
)
from mixloom.pipeline.dedup_config import NearConfig
from mixloom.pipeline.doc_ids import U64, id_batch, partition_of, split
from mixloom.pipeline.graph import Work
from mixloom.pipeline.near_rows import RowsOf
from mixloom.pipeline.shuffle import Keyed
from mixloom.pipeline.sieve import likely_pairs, sketched, words_of
from mixloom.pipeline.storage import Store

_AT_ONCE = 1 << 20  # keys whose buckets are held at a time
_LOW = np.uint64(0xFFFFFFFF)


class Signed(NamedTuple):
    """Documents of a part that have a signature.

    Attributes:
        keys: uint64 [n, bands], their buckets.
        documents: uint64 [n, 4], the columns of `candidates.BUCKETS` but the first.
        sketches: uint64 [n, width], see `sieve.sketched`.
    """

    keys: U64
    documents: U64
    sketches: U64


@dataclass(frozen=True)
class PairSearch:
    """A search for candidate pairs in one process.

    Attributes:
        parts: names of all the parts, sorted.
        threshold: Jaccard similarity of duplicates.
        num_perm: values of a signature.
        bands, rows: how the signatures are cut (see `NearConfig.banding`).
        bounds: how much is compared in a bucket.
        documents: how many there are, at most.
    """

    parts: tuple[str, ...]
    threshold: float
    num_perm: int
    bands: int
    rows: int
    bounds: BucketBounds
    documents: int

    @classmethod
    def of(
        cls, parts: Sequence[str], config: NearConfig, num_perm: int, banding: tuple[int, int], documents: int
    ) -> PairSearch:
        """A search as configured, with (bands, rows)."""
        bounds = BucketBounds(config.bucket_cap, config.leaders, config.neighbours, config.bucket_warn)
        return cls(tuple(parts), config.threshold, num_perm, *banding, bounds, documents)

    def signed(self, batch: pa.RecordBatch) -> Signed:
        """What `pairs` asks of a `candidates.ROWS` batch."""
        keys, documents, signatures = signed_rows(batch, self.parts, self.bands, self.rows)
        return Signed(keys, documents, sketched(signatures))

    def pairs(self, signed: Iterable[Signed]) -> tuple[U64, dict[str, Any]]:
        """Pairs that may be duplicates of all the parts, uint64 [m, 8] of schema `RANKED`, sorted; what `capped_buckets` tells."""
        b = self.bounds
        keys, documents, sketches = self._gathered(signed)
        place, documents[:, 3] = documents[:, 3].copy(), np.arange(len(documents))  # numbers that fit 32 bits
        both, told = np.empty(0, np.uint64), []
        step = max(1, _AT_ONCE // max(1, len(documents)))
        for first in range(0, self.bands, step):
            buckets = banded_buckets(np.ascontiguousarray(keys[first : first + step]), documents)
            left, right = met_pairs(buckets, b.cap, b.leaders, b.neighbours)
            left, right = buckets[left, 4], buckets[right, 4]
            likely = likely_pairs(sketches, self.num_perm, left, right, self.threshold)
            both = np.union1d(both, (left[likely] << np.uint64(32)) | right[likely])
            told.append(capped_buckets(buckets, b.cap, b.warn))
        documents[:, 3] = place
        better, worse = documents[both >> np.uint64(32)], documents[both & _LOW]
        return ranked_documents(better, worse), all_capped(told)

    def _gathered(self, signed: Iterable[Signed]) -> tuple[U64, U64, U64]:
        """Keys, uint64 [bands, n], documents and sketches of all parts: written where they stay, and never held twice."""
        keys, documents = (
            np.empty(shape, np.uint64) for shape in ((self.bands, self.documents), (self.documents, 4))
        )
        sketches = np.empty((self.documents, words_of(self.num_perm)), np.uint64)
        n = 0
        for part in signed:
            at = slice(n, n + len(part.documents))
            keys[:, at], documents[at], sketches[at] = part.keys.T, part.documents, part.sketches
            n = at.stop
        return keys[:, :n], documents[:n], sketches[:n]


class _PairDoFn(Work):
    def __init__(self, search: PairSearch, rows_of: RowsOf, partitions: int, told: Store | None) -> None:
        self._search, self._rows_of = search, rows_of
        self._partitions, self._told = partitions, told

    def process(self, impulse: bytes) -> Iterator[Keyed]:
        search = self._search
        pairs, capped = search.pairs(search.signed(self._rows_of(part)) for part in search.parts)
        if self._told is not None:
            self._told.write_json(f"0{CAPPED}", capped)
        yield from split(id_batch(RANKED, pairs), partition_of(pairs[:, 3:5], self._partitions))


class AllPairs(beam.PTransform):
    """Pipeline root -> (partition, `RANKED` batch): pairs that may be duplicates, once each, by their less preferred document.

    Args:
        search: what is searched for.
        rows_of: reads a part.
        partitions: of pairs; the pairs do not depend on it.
        told: a folder for what `candidates.capped_buckets` tells; None: nothing is told.
    """

    def __init__(
        self, search: PairSearch, rows_of: RowsOf, partitions: int, told: Store | None = None
    ) -> None:
        super().__init__()
        self._pair = _PairDoFn(search, rows_of, partitions, told)

    def expand(self, root: Any) -> Any:
        return root | beam.Impulse() | "Pair" >> beam.ParDo(self._pair).with_output_types(Keyed)
