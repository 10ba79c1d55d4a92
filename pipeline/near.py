"""Near deduplication from end to end as Beam pipelines: edges, components, drops.

Usable in any Beam pipeline; `dedup_stage.NearDedupStage` puts it to work in a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.candidates import (
    CAPPED,
    BucketBounds,
    CandidatePairs,
    ReadPairs,
    all_capped,
    places,
)
from mixloom.pipeline.components import ENDS, STARS, components_local, connected_components
from mixloom.pipeline.dedup_config import NearConfig
from mixloom.pipeline.doc_ids import (
    ROW_BITS,
    U64,
    columns,
    id_batch,
    pack_ids,
    partition_of,
    ranks,
)
from mixloom.pipeline.engine import part_of
from mixloom.pipeline.exact import drops_at
from mixloom.pipeline.shuffle import (
    ARROW,
    DONE,
    GatherDoFn,
    Keyed,
    ReadBatches,
    RunPipeline,
    WriteBatches,
    by_schema,
    keyed,
    last,
    read_batches,
    write_batch,
)
from mixloom.pipeline.storage import Store
from mixloom.pipeline.survivors import (
    MEMBERS,
    component_keepers,
    greedy_keepers,
    incomplete,
    sorted_members,
)
from mixloom.pipeline.verify import (
    EDGES,
    F64,
    SKETCHES,
    VERIFIED,
    WANTED,
    ReadShingles,
    ReadTexts,
    Sets,
    VerifyPairs,
)

_DOCUMENTS = pa.schema(
    [pa.field(n, pa.uint64(), nullable=False) for n in ("preference", "hi", "lo", "place")]
)
_ROOTED_EDGES = pa.schema(
    [*(pa.field(n, pa.uint64(), nullable=False) for n in ("root_hi", "root_lo")), *EDGES]
)
_WANTED = "wanted"
_KEY_BYTES = 40  # of a row of `BUCKETS`
_PAIR_BYTES = 48  # of a row of `PAIRS`
_SETS_BYTES = 8192  # of the shingles of two documents of 500 words


class _DocumentsDoFn(GatherDoFn):
    def __init__(self, parts: tuple[str, ...], partitions: int) -> None:
        self._parts, self._partitions = parts, partitions

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        ids = pack_ids(batch.column("doc_id"))
        place = places(part_of(batch), np.asarray(batch.column("row")), self._parts)
        rows = id_batch(_DOCUMENTS, columns(batch, ["preference"]), ids, place)
        yield from self.gathered.add(rows, partition_of(ids, self._partitions))


class _StarsDoFn(GatherDoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        stars = columns(batch, STARS.names)
        rooted = np.concatenate([stars, stars[:, [2, 3, 2, 3]]])  # the smallest node belongs to it too
        yield from self.gathered.add(id_batch(STARS, rooted), partition_of(rooted[:, :2], self._partitions))


class _EdgesDoFn(GatherDoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        ends = columns(batch, ["a_hi", "a_lo"])
        yield from self.gathered.add(batch, partition_of(ends, self._partitions))


def roots_of(ids: U64, stars: U64) -> tuple[U64, Any]:
    """The component of each id: uint64 [n, 2], and bool [n], False where it is in none."""
    both, codes = ranks(np.concatenate([stars[:, :2], ids]))
    at = np.full(len(both), -1, dtype=np.int64)
    at[codes[: len(stars)]] = np.arange(len(stars))
    row = at[codes[len(stars) :]]
    return stars[row, 2:] if len(stars) else np.zeros_like(ids), row >= 0


class _JoinDoFn(beam.DoFn):
    """Gives documents and edges their component, and sends them there."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        documents, stars, edges = by_schema(element[1], _DOCUMENTS, STARS, EDGES)
        known = columns(stars, STARS.names)
        rows = columns(documents, _DOCUMENTS.names)
        root, found = roots_of(rows[:, 1:3], known)
        members = id_batch(MEMBERS, root[found], rows[found])
        yield from keyed(members, partition_of(root[found], self._partitions))
        root, found = roots_of(columns(edges, ["a_hi", "a_lo"]), known)
        similarity = np.asarray(edges.column("jaccard"))
        rooted = id_batch(_ROOTED_EDGES, root[found], columns(edges, ENDS)[found], similarity[found])
        yield from keyed(rooted, partition_of(root[found], self._partitions))


def _members_and_edges(members: pa.RecordBatch, edges: pa.RecordBatch) -> tuple[U64, U64, F64]:
    rows = sorted_members(columns(members, MEMBERS.names))
    return rows, columns(edges, ENDS), np.asarray(edges.column("jaccard"))


class _WantDoFn(GatherDoFn):
    """Asks for the shingles of components in which some two documents have not been compared."""

    def __init__(self, compare_cap: int) -> None:
        self._compare_cap = compare_cap

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Any]:
        both = by_schema(element[1], MEMBERS, _ROOTED_EDGES)
        for batch in both:
            yield element[0], batch
        members, edges, similarity = _members_and_edges(*both)
        lacking = members[incomplete(members, edges, similarity, self._compare_cap)]
        key = np.full(len(lacking), element[0], dtype=np.uint64)
        wanted = id_batch(WANTED, lacking[:, 5], lacking[:, 3:5], key)
        for want in self.gathered.add(wanted, (lacking[:, 5] >> ROW_BITS).astype(np.int64)):
            yield beam.pvalue.TaggedOutput(_WANTED, want)

    def finish_bundle(self) -> Iterator[Any]:
        for want in self.gathered.rest():
            yield last(want, _WANTED)


class _ChooseDoFn(beam.DoFn):
    def __init__(self, parts: tuple[str, ...], config: NearConfig) -> None:
        self._parts, self._config = parts, config

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
        config = self._config
        *both, sketches = by_schema(element[1], MEMBERS, _ROOTED_EDGES, SKETCHES)
        members, edges, similarity = _members_and_edges(*both)
        if config.merge == "components":
            keeper, near = component_keepers(members, edges, similarity)
        else:
            sets = Sets(sketches)
            keeper, near = greedy_keepers(
                members, edges, similarity, sets, config.compare_cap, config.threshold
            )
        gone = np.flatnonzero(keeper != np.arange(len(keeper)))
        if len(gone):
            dropped, kept = members[gone], members[keeper[gone]]
            yield drops_at(self._parts, dropped[:, 5], dropped[:, 3:5], kept[:, 3:5], near[gone])


class NearDuplicates(beam.PTransform):
    """One batch per part (columns `candidates.ROWS`, of which doc_id, row and preference are used) -> `DROPS` batches.

    Args:
        edges: folder of verified edges (`EDGES`).
        stars: folder of final components (`STARS`).
        read_texts, parts: as for `VerifyPairs`.
        config: threshold, max_shingles, compare_cap and merge are used.
        ngram: words per shingle.
        partitions: keys of each shuffle; the drops do not depend on it.
    """

    def __init__(
        self,
        edges: Store,
        stars: Store,
        read_texts: ReadTexts,
        parts: Sequence[str],
        config: NearConfig,
        ngram: int,
        partitions: int,
    ) -> None:
        super().__init__()
        self._edges, self._stars, self._partitions = edges, stars, partitions
        self._parts, self._config = tuple(parts), config
        self._shingles = ReadShingles(read_texts, parts, ngram, config.max_shingles)

    def expand(self, pcoll: Any) -> Any:
        n, config, root = self._partitions, self._config, pcoll.pipeline
        documents = pcoll | "Documents" >> beam.ParDo(_DocumentsDoFn(self._parts, n)).with_output_types(Keyed)
        stars = (
            root
            | "ReadStars" >> ReadBatches(self._stars)
            | "Stars" >> beam.ParDo(_StarsDoFn(n)).with_output_types(Keyed)
        )
        edges = (
            root
            | "ReadEdges" >> ReadBatches(self._edges)
            | "Edges" >> beam.ParDo(_EdgesDoFn(n)).with_output_types(Keyed)
        )
        rooted = (
            (documents, stars, edges)
            | "ByDocument" >> beam.Flatten()
            | "Join" >> beam.GroupByKey()
            | "Root" >> beam.ParDo(_JoinDoFn(n)).with_output_types(Keyed)
            | "ByComponent" >> beam.GroupByKey()
        )
        if config.merge == "greedy":
            want = beam.ParDo(_WantDoFn(config.compare_cap)).with_output_types(Keyed)
            tagged = rooted | "Want" >> want.with_outputs(_WANTED, main="rows")
            sets = tagged[_WANTED] | "Shingles" >> self._shingles
            rooted = (tagged["rows"], sets) | "Meet" >> beam.Flatten() | "Again" >> beam.GroupByKey()
        choose = beam.ParDo(_ChooseDoFn(self._parts, config)).with_output_types(pa.RecordBatch)
        return rooted | "Choose" >> choose


@dataclass(frozen=True)
class Search:
    """One search for near duplicates: what is compared, how, and where intermediate files are kept.

    Attributes:
        documents: applied to a pipeline, gives one batch per part with the columns `candidates.ROWS`.
        ranked: the same without signatures and media keys, which only candidates need.
        read_texts: reads the texts of some rows of a part; must be picklable.
        parts: names of all the parts, sorted.
        config: thresholds and knobs.
        ngram: words per shingle.
        bands, rows: how the signatures are cut (see `NearConfig.banding`).
        partitions: keys of each shuffle; nothing depends on it but memory and the number of files.
        count: how many documents there are, about.
        shuffle_bytes: bytes of keys or shingles in one shuffle, about; more takes several passes. Changes
            memory and time, never the result.
        work: a folder for intermediate files; what is finished in it is not done again.
    """

    documents: Callable[[beam.Pipeline], Any]
    ranked: Callable[[beam.Pipeline], Any]
    read_texts: ReadTexts
    parts: Sequence[str]
    config: NearConfig
    ngram: int
    bands: int
    rows: int
    partitions: int
    count: int
    shuffle_bytes: int
    work: Store

    def run(self, run: RunPipeline) -> Callable[[beam.Pipeline], Any]:
        """Run the pipelines for edges and components; the last one is left to the caller.

        Args:
            run: runs a Beam pipeline built by the function it is given.

        Returns:
            A function that, applied to a pipeline, gives `DROPS` batches.
        """
        edges, stars = self.work.child("edges"), self.work.child("components")
        if not edges.exists(DONE):
            for number in range(self.passes):
                self._pairs_of_share(run, number)
            for number, partitions in enumerate(self._groups()):
                self._edges_of_group(run, number, partitions, edges)
            edges.write_json(DONE, {})
        if self.config.components == "distributed":
            stars = connected_components(edges, stars, run, self.partitions, self.config.max_rounds)
        elif not stars.exists(DONE):
            _components_here(edges, stars)
            stars.write_json(DONE, {})

        def drops(pipeline: beam.Pipeline) -> Any:
            args = (self.read_texts, self.parts, self.config, self.ngram, self.partitions)
            return self.ranked(pipeline) | NearDuplicates(edges, stars, *args)

        return drops

    @property
    def passes(self) -> int:
        """Passes over the signatures, so that the keys of one fit into a shuffle."""
        keys = self.count * self.bands * _KEY_BYTES
        return max(1, -(-keys // self.shuffle_bytes))

    def _pairs_of_share(self, run: RunPipeline, number: int) -> None:
        """Candidate pairs of one share of the buckets, as files, one per partition."""
        folder = self._pairs.child(f"{number:04d}")
        if folder.exists(DONE):
            return
        c = self.config
        bounds = BucketBounds(c.bucket_cap, c.leaders, c.neighbours, c.bucket_warn)
        share = (number, self.passes)
        candidates = CandidatePairs(
            self.parts, self.bands, self.rows, bounds, self.partitions, share, folder.child("told")
        )
        run(lambda p: self.documents(p) | candidates | WriteBatches(folder))
        folder.write_json(DONE, {})

    def _groups(self) -> list[list[int]]:
        """Partitions of pairs that are verified together, so that their shingles fit into a shuffle."""
        sizes: Counter[int] = Counter()
        for share in self._shares():
            for name in share.names():
                if name.endswith(ARROW):
                    sizes[int(name.removesuffix(ARROW))] += share.size(name)
        groups: list[list[int]] = []
        room = 0.0
        for partition, size in sorted(sizes.items()):
            needed = size / _PAIR_BYTES * _SETS_BYTES
            if not groups or needed > room:
                groups.append([])
                room = float(self.shuffle_bytes)
            groups[-1].append(partition)
            room -= needed
        return groups

    def _edges_of_group(self, run: RunPipeline, number: int, partitions: list[int], edges: Store) -> None:
        done = self.work.child("groups")
        if done.exists(f"{number:04d}.json"):
            return
        c = self.config
        verify = VerifyPairs(
            self.read_texts, self.parts, c.threshold, self.ngram, c.max_shingles, done.child("told")
        )
        pairs = ReadPairs(self._shares(), partitions)
        run(lambda p: p | pairs | verify | WriteBatches(edges))
        done.write_json(f"{number:04d}.json", {})

    @property
    def _pairs(self) -> Store:
        return self.work.child("pairs")

    def _shares(self) -> list[Store]:
        return [self._pairs.child(f"{number:04d}") for number in range(self.passes)]

    def told(self) -> dict[str, Any]:
        """What the search for edges tells: the banding, `candidates`, `edges`, and of buckets `capped` and `largest`."""
        verified = _told(self.work.child("groups/told"), VERIFIED)
        buckets = [told for share in self._shares() for told in _told(share.child("told"), CAPPED)]
        return {
            "bands": self.bands,
            "rows": self.rows,
            "candidates": sum(v["pairs"] for v in verified),
            "edges": sum(v["edges"] for v in verified),
            **all_capped(buckets),
        }


def _told(store: Store, suffix: str) -> list[dict[str, Any]]:
    return [store.read_json(n) for n in store.names() if n.endswith(suffix)]


def _components_here(edges: Store, stars: Store) -> None:
    batches = read_batches(edges)
    if batches:
        all_edges = np.concatenate([columns(b, ENDS) for b in batches])
        labels = id_batch(STARS, components_local(all_edges))
        write_batch(stars, 0, labels)
