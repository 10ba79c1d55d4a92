"""Near duplicates of a corpus that fits one partition, found in one piece: what `near.Search` does in half a dozen steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.candidates import (
    CAPPED,
    BucketBounds,
    banded_buckets,
    bucket_pairs,
    capped_buckets,
    signed_rows,
)
from mixloom.pipeline.dedup_config import NearConfig
from mixloom.pipeline.doc_ids import U64, concatenate, id_batch, packed_rows, unpacked_rows
from mixloom.pipeline.exact import DROPS
from mixloom.pipeline.graph import Spread, Work
from mixloom.pipeline.near import Search, choose_survivors, root_edges
from mixloom.pipeline.settle import PartDrops, drops_by_part
from mixloom.pipeline.shuffle import Grouped, Keyed
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

    def signed(self, batch: pa.RecordBatch) -> U64:
        """What `drops` asks of a `candidates.ROWS` batch: uint64 [n, 4 + bands]."""
        keys, documents = signed_rows(batch, self.parts, self.bands, self.rows)
        return np.concatenate([documents, keys], axis=1)

    def drops(self, rows: U64) -> pa.RecordBatch:
        """The rows of all parts -> `DROPS`."""
        b, c = self.bounds, self.config
        buckets = banded_buckets(rows[:, 4:], rows[:, :4])
        pairs = bucket_pairs(buckets, b.cap, b.leaders, b.neighbours)
        sets = Sets(self._sketches(pairs))
        found, similarity = verified_edges(pairs[:, [0, 1, 3, 4, 2, 5, 6, 7]], sets, c.threshold)
        if self.told is not None:
            self.told.write_json(f"0{CAPPED}", capped_buckets(buckets, b.cap, b.warn))
            self.told.write_json(f"0{VERIFIED}", {"pairs": len(pairs), "edges": len(found)})
        if not len(found):
            return concatenate([], DROPS)
        edges, _ = root_edges(id_batch(EDGES, found, similarity))
        return choose_survivors(edges, sets, c, self.parts)

    def _sketches(self, pairs: U64) -> pa.RecordBatch:
        how = self.read_texts, self.parts, self.ngram, self.config.max_shingles
        return concatenate(read_sketches(wanted_of(pairs, 0), *how), SKETCHES)


class _SignDoFn(Work):
    def __init__(self, search: Alone) -> None:
        self._search = search

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        yield 0, packed_rows(self._search.signed(batch))


class _DropDoFn(Work):
    def __init__(self, search: Alone) -> None:
        self._search = search

    def process(self, element: Grouped) -> Iterator[PartDrops]:
        rows = unpacked_rows(element[1], 4 + self._search.bands)
        yield from drops_by_part(self._search.drops(rows), self._search.parts)


class AloneDuplicates(beam.PTransform):
    """One `candidates.ROWS` batch per part -> (part, `DROPS` of it), every part once."""

    def __init__(self, search: Alone) -> None:
        super().__init__()
        self._search = search

    def expand(self, pcoll: Any) -> Any:
        return (
            pcoll
            | "Sign" >> beam.ParDo(_SignDoFn(self._search)).with_output_types(Keyed)
            | "Together" >> beam.GroupByKey()
            | "Drop" >> beam.ParDo(_DropDoFn(self._search)).with_output_types(PartDrops)
            | Spread()
        )
