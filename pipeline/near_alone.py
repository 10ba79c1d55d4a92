"""Near duplicates of a corpus that fits one partition, found in one piece: what `near.Search` does in half a dozen steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.candidates import (
    CAPPED,
    BucketBounds,
    banded_buckets,
    capped_buckets,
    met_pairs,
    ranked_pairs,
    signed_rows,
)
from mixloom.pipeline.dedup_config import NearConfig
from mixloom.pipeline.doc_ids import I64, U16, U64, concatenate, id_batch
from mixloom.pipeline.exact import DROPS
from mixloom.pipeline.graph import Spread, Work
from mixloom.pipeline.near import Search, choose_survivors, root_edges
from mixloom.pipeline.near_rows import RowsOf
from mixloom.pipeline.settle import PartDrops, drops_by_part
from mixloom.pipeline.storage import Store
from mixloom.pipeline.verify import (
    EDGES,
    SKETCHES,
    VERIFIED,
    ReadTexts,
    Sets,
    read_sketches,
    verified_edges,
    wanted_of,
)

MISSED = (
    1e-9  # the chance that a pair at the threshold is left out because its signatures agree in too few values
)


class Signed(NamedTuple):
    """Documents of a part that have a signature.

    Attributes:
        documents: uint64 [n, 4], the columns of `candidates.BUCKETS` but the first.
        keys: uint64 [bands, n], their buckets.
        values: uint16 [n, num_perm], their signatures.
    """

    documents: U64
    keys: U64
    values: U16


def least_agreement(values: int, threshold: float, missed: float = MISSED) -> int:
    """In how many of so many MinHash values two documents agree at least, if their Jaccard similarity is the threshold.

    The number is binomial (Broder 1997); documents of this or a greater similarity agree in fewer values than are returned
    with a probability of at most `missed`.
    """
    below = 0.0
    for k in range(values + 1):
        below += math.comb(values, k) * threshold**k * (1.0 - threshold) ** (values - k)
        if below > missed:
            return k
    return values


@numba.njit(cache=True, nogil=True)
def _agreeing(values: U16, left: I64, right: I64, least: int) -> npt.NDArray[np.bool_]:
    """bool [m]: which of the pairs of documents agree in at least so many of their values."""
    out = np.empty(len(left), dtype=np.bool_)
    for k in range(len(left)):
        a, b = values[left[k]], values[right[k]]
        same = 0
        for p in range(values.shape[1]):
            same += a[p] == b[p]
        out[k] = same >= least
    return out


@dataclass(frozen=True)
class Alone:
    """A search for near duplicates in one process.

    Attributes:
        read_texts: reads the texts of some rows of a part; must be picklable.
        parts: names of all the parts, sorted.
        config: thresholds and knobs; components are always joined here.
        ngram: words per shingle.
        bands, rows: how the signatures are cut (see `NearConfig.banding`).
        bounds: how much is compared in a bucket.
        told: a folder for what `near.Search.told` tells; None: nothing is told.
    """

    read_texts: ReadTexts
    parts: tuple[str, ...]
    config: NearConfig
    ngram: int
    bands: int
    rows: int
    bounds: BucketBounds
    told: Store | None = None

    @classmethod
    def of(cls, search: Search) -> Alone:
        """The same search, in one piece."""
        how = search.ngram, search.bands, search.rows
        return cls(search.read_texts, tuple(search.parts), search.config, *how, search.bounds, search.told_in)

    def signed(self, batch: pa.RecordBatch) -> Signed:
        """What `drops` asks of a `candidates.ROWS` batch."""
        keys, documents, signatures = signed_rows(batch, self.parts, self.bands, self.rows)
        return Signed(documents, np.ascontiguousarray(keys.T), signatures)

    def drops(self, signed: Sequence[Signed]) -> pa.RecordBatch:
        """The documents of all parts, in the order of these -> `DROPS`."""
        b, c = self.bounds, self.config
        if not signed:
            return concatenate([], DROPS)
        documents = np.concatenate([s.documents for s in signed])
        place, documents[:, 3] = documents[:, 3].copy(), np.arange(len(documents))  # numbers that fit 32 bits
        buckets = banded_buckets(np.concatenate([s.keys for s in signed], axis=1), documents)
        left, right = met_pairs(buckets, b.cap, b.leaders, b.neighbours)
        likely = self._likely(np.concatenate([s.values for s in signed]), buckets[left, 4], buckets[right, 4])
        pairs = ranked_pairs(buckets, left[likely], right[likely])
        pairs[:, [2, 5]] = place[pairs[:, [2, 5]].astype(np.int64)]
        sets = Sets(self._sketches(pairs))
        found, similarity = verified_edges(pairs[:, [0, 1, 3, 4, 2, 5, 6, 7]], sets, c.threshold)
        if self.told is not None:
            self.told.write_json(f"0{CAPPED}", capped_buckets(buckets, b.cap, b.warn))
            self.told.write_json(f"0{VERIFIED}", {"pairs": len(left), "edges": len(found)})
        if not len(found):
            return concatenate([], DROPS)
        edges, _ = root_edges(id_batch(EDGES, found, similarity))
        return choose_survivors(edges, sets, c, self.parts)

    def _likely(self, values: U16, left: U64, right: U64) -> npt.NDArray[np.bool_]:
        """bool [m]: the pairs of documents, by number, that may be duplicates for all that their signatures tell.

        Most pairs of a bucket share a passage, and no more.
        """
        least = least_agreement(values.shape[1], self.config.threshold)
        return _agreeing(values, left.astype(np.int64), right.astype(np.int64), least)

    def _sketches(self, pairs: U64) -> pa.RecordBatch:
        how = self.read_texts, self.parts, self.ngram, self.config.max_shingles
        return concatenate(read_sketches(wanted_of(pairs, 0), *how), SKETCHES)


class _DropDoFn(Work):
    def __init__(self, search: Alone, rows_of: RowsOf) -> None:
        self._search, self._rows_of = search, rows_of

    def process(self, impulse: bytes) -> Iterator[PartDrops]:
        parts = self._search.parts
        signed = [self._search.signed(self._rows_of(part)) for part in parts]
        yield from drops_by_part(self._search.drops(signed), parts)


class AloneDuplicates(beam.PTransform):
    """Pipeline root -> (part, `DROPS` of it), every part once.

    Nothing is shuffled: a runner copies what goes through a shuffle ten times, which took longer than the search.
    """

    def __init__(self, search: Alone, rows_of: RowsOf) -> None:
        super().__init__()
        self._drop = _DropDoFn(search, rows_of)

    def expand(self, root: Any) -> Any:
        drops = "Drop" >> beam.ParDo(self._drop).with_output_types(PartDrops)
        return root | beam.Impulse() | drops | Spread()
