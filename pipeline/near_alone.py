"""Near duplicates of a corpus that fits one partition, found in one piece: what `near.Search` does in half a dozen steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from mixloom.pipeline.candidates import CAPPED, RANKED
from mixloom.pipeline.dedup_config import NearConfig
from mixloom.pipeline.doc_ids import U64, concatenate, id_batch
from mixloom.pipeline.exact import DROPS
from mixloom.pipeline.graph import Spread, Work
from mixloom.pipeline.near import Search, choose_survivors, root_edges
from mixloom.pipeline.near_pairs import PairSearch, Signed
from mixloom.pipeline.near_rows import RowsOf
from mixloom.pipeline.settle import PartDrops, drops_by_part
from mixloom.pipeline.storage import Store
from mixloom.pipeline.verify import (
    EDGE_COLUMNS,
    EDGES,
    SKETCHES,
    VERIFIED,
    ReadTexts,
    Sets,
    ShinglesOf,
    read_sketches,
    verified_edges,
    wanted_of,
)

_EDGE = [RANKED.names.index(n) for n in EDGE_COLUMNS]


@dataclass(frozen=True)
class Alone:
    """A search for near duplicates in one process.

    Attributes:
        pairs: finds what is to be compared.
        read_texts: reads the texts of some rows of a part; must be picklable.
        config: thresholds and knobs; components are always joined here.
        ngram: words per shingle.
        told: a folder for what `near.Search.told` tells; None: nothing is told.
    """

    pairs: PairSearch
    read_texts: ReadTexts
    config: NearConfig
    ngram: int
    told: Store | None = None

    @classmethod
    def of(cls, search: Search) -> Alone:
        """The same search, in one piece."""
        return cls(search.pairs, search.read_texts, search.config, search.ngram, search.told_in)

    def drops(self, signed: Iterable[Signed]) -> pa.RecordBatch:
        """The documents of all parts, in the order of these -> `DROPS`."""
        pairs, capped = self.pairs.pairs(signed)
        sets = Sets(self._sketches(pairs))
        found, similarity = verified_edges(pairs[:, _EDGE], sets, self.config.threshold)
        if self.told is not None:
            self.told.write_json(f"0{CAPPED}", capped)
            self.told.write_json(f"0{VERIFIED}", {"pairs": len(pairs), "edges": len(found)})
        if not len(found):
            return concatenate([], DROPS)
        edges, _ = root_edges(id_batch(EDGES, found, similarity))
        return choose_survivors(edges, sets, self.config, self.pairs.parts)

    def _sketches(self, pairs: U64) -> pa.RecordBatch:
        shingles = ShinglesOf(self.read_texts, self.ngram, self.config.max_shingles)
        return concatenate(read_sketches(wanted_of(pairs, 0), shingles, self.pairs.parts), SKETCHES)


class _DropDoFn(Work):
    def __init__(self, search: Alone, rows_of: RowsOf) -> None:
        self._search, self._rows_of = search, rows_of

    def process(self, impulse: bytes) -> Iterator[PartDrops]:
        pairs = self._search.pairs
        signed = (pairs.signed(self._rows_of(part)) for part in pairs.parts)
        yield from drops_by_part(self._search.drops(signed), pairs.parts)


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
