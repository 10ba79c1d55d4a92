"""Near deduplication from end to end as Beam pipelines: edges, components, drops.

Usable in any Beam pipeline; `dedup_stage.NearDedupStage` puts it to work in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.candidates import CAPPED, BucketBounds, KeyBands, PairBuckets, all_capped, places
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
    DONE,
    Gather,
    GatherDoFn,
    Grouped,
    Keyed,
    ReadBatches,
    ReadSpilled,
    RunPipeline,
    SpillBatches,
    Typed,
    WriteBatches,
    by_schema,
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
    ComparePairs,
    ReadPairs,
    ReadShingles,
    ReadTexts,
    Sets,
)

_DOCUMENTS = pa.schema(
    [pa.field(n, pa.uint64(), nullable=False) for n in ("preference", "hi", "lo", "place")]
)
_ROOTED_EDGES = pa.schema(
    [*(pa.field(n, pa.uint64(), nullable=False) for n in ("root_hi", "root_lo")), *EDGES]
)
_WANTED = "wanted"


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

    def start_bundle(self) -> None:
        self._members, self._edges = Gather(), Gather()

    def process(self, element: Grouped) -> Iterator[Keyed]:
        documents, stars, edges = by_schema(element[1], _DOCUMENTS, STARS, EDGES)
        known = columns(stars, STARS.names)
        rows = columns(documents, _DOCUMENTS.names)
        root, found = roots_of(rows[:, 1:3], known)
        members = id_batch(MEMBERS, root[found], rows[found])
        yield from self._members.add(members, partition_of(root[found], self._partitions))
        root, found = roots_of(columns(edges, ["a_hi", "a_lo"]), known)
        similarity = np.asarray(edges.column("jaccard"))
        rooted = id_batch(_ROOTED_EDGES, root[found], columns(edges, ENDS)[found], similarity[found])
        yield from self._edges.add(rooted, partition_of(root[found], self._partitions))

    def finish_bundle(self) -> Iterator[Any]:
        for gathered in (self._members, self._edges):
            for element in gathered.rest():
                yield last(element)


def _members_and_edges(members: pa.RecordBatch, edges: pa.RecordBatch) -> tuple[U64, U64, F64]:
    rows = sorted_members(columns(members, MEMBERS.names))
    return rows, columns(edges, ENDS), np.asarray(edges.column("jaccard"))


class _WantDoFn(GatherDoFn):
    """Asks for the shingles of components in which some two documents have not been compared."""

    def __init__(self, compare_cap: int) -> None:
        self._compare_cap = compare_cap

    def process(self, element: Grouped) -> Iterator[Any]:
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

    def process(self, element: Grouped) -> Iterator[pa.RecordBatch]:
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


class JoinComponents(beam.PTransform):
    """(partition, batches of `_DOCUMENTS`, `STARS` and `EDGES`) -> components, and shingles they lack.

    Documents in no component fall away. The result is two collections of (partition, batch): `MEMBERS` and edges of
    whole components and, with `merge: greedy`, `SKETCHES` where some two of a component have not been compared.

    Args:
        read_texts, parts: as for `verify.ReadPairs`.
        config: compare_cap, max_shingles and merge are used.
        ngram: words per shingle.
        partitions: of the result.
    """

    def __init__(
        self, read_texts: ReadTexts, parts: Sequence[str], config: NearConfig, ngram: int, partitions: int
    ) -> None:
        super().__init__()
        self._config, self._partitions = config, partitions
        self._shingles = ReadShingles(read_texts, parts, ngram, config.max_shingles)

    def expand(self, pcoll: Any) -> Any:
        rooted = (
            pcoll
            | "Root" >> beam.ParDo(_JoinDoFn(self._partitions)).with_output_types(Keyed)
            | "ByComponent" >> beam.GroupByKey()
        )
        compared = self._config.compare_cap if self._config.merge == "greedy" else 0
        want = beam.ParDo(_WantDoFn(compared)).with_output_types(Keyed)
        tagged = rooted | "Want" >> want.with_outputs(_WANTED, main="rows")
        wanted = tagged[_WANTED] | "Wanted" >> Typed()
        return tagged["rows"] | "Rows" >> Typed(), wanted | "Shingles" >> self._shingles


class ChooseSurvivors(beam.PTransform):
    """(partition, what `JoinComponents` gives), each partition once -> `DROPS` batches.

    Args:
        parts: names of all the parts, sorted.
        config: threshold, compare_cap and merge are used.
    """

    def __init__(self, parts: Sequence[str], config: NearConfig) -> None:
        super().__init__()
        self._choose = _ChooseDoFn(tuple(parts), config)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(self._choose).with_output_types(pa.RecordBatch)


@dataclass(frozen=True)
class Search:
    """One search for near duplicates: what is compared, how, and where intermediate files are kept.

    Every step is a pipeline of its own with files between, so that memory is bounded by a partition.

    Attributes:
        documents: applied to a pipeline, gives one batch per part with the columns `candidates.ROWS`.
        ranked: the same without signatures and media keys, which only candidates need.
        read_texts: reads the texts of some rows of a part; must be picklable.
        parts: names of all the parts, sorted.
        config: thresholds and knobs.
        ngram: words per shingle.
        bands, rows: how the signatures are cut (see `NearConfig.banding`).
        partitions: of ids, buckets and pairs; nothing depends on it but memory and the number of files.
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
    work: Store

    def run(self, run: RunPipeline) -> Callable[[beam.Pipeline], Any]:
        """Run all the pipelines but the last one, which is left to the caller.

        Args:
            run: runs a Beam pipeline built by the function it is given.

        Returns:
            A function that, applied to a pipeline, gives `DROPS` batches.
        """
        c, n = self.config, self.partitions
        keys, pairs, sets, edges = (self.work.child(x) for x in ("keys", "pairs", "sets", "edges"))
        bounds = BucketBounds(c.bucket_cap, c.leaders, c.neighbours, c.bucket_warn)
        shingles = (self.read_texts, self.parts, self.ngram, c.max_shingles)
        keyed_by_band = KeyBands(self.parts, self.bands, self.rows, n)
        search: list[Step] = [
            (keys, lambda p: self.documents(p) | keyed_by_band | SpillBatches(keys)),
            (
                pairs,
                lambda p: p | ReadSpilled(keys) | PairBuckets(bounds, n, self._told) | SpillBatches(pairs),
            ),
            (sets, lambda p: _spilled(p | ReadSpilled(pairs) | ReadPairs(*shingles), sets)),
            (
                edges,
                lambda p: p | ReadSpilled(sets) | ComparePairs(c.threshold, self._told) | WriteBatches(edges),
            ),
        ]
        _run_steps(search, run)
        stars = self._stars(run, edges)
        ids, members = self.work.child("ids"), self.work.child("members")
        join = JoinComponents(self.read_texts, self.parts, c, self.ngram, n)
        choice: list[Step] = [
            (ids, lambda p: _spilled(self._by_id(p, edges, stars), ids)),
            (members, lambda p: _spilled(p | ReadSpilled(ids) | join, members)),
        ]
        _run_steps(choice, run)
        return lambda p: p | ReadSpilled(members) | ChooseSurvivors(self.parts, c)

    def _stars(self, run: RunPipeline, edges: Store) -> Store:
        stars = self.work.child("components")
        if self.config.components == "distributed" and self.told()["edges"] > self.config.local_edges:
            return connected_components(edges, stars, run, self.partitions, self.config.max_rounds)
        if not stars.exists(DONE):
            _components_here(edges, stars)
            stars.write_json(DONE, {})
        return stars

    def _by_id(self, pipeline: beam.Pipeline, edges: Store, stars: Store) -> tuple[Any, Any, Any]:
        """Documents, components and edges, each with the partition of its (first) document."""
        n = self.partitions
        return (
            self.ranked(pipeline)
            | "Documents" >> beam.ParDo(_DocumentsDoFn(tuple(self.parts), n)).with_output_types(Keyed),
            pipeline
            | "ReadStars" >> ReadBatches(stars)
            | "Stars" >> beam.ParDo(_StarsDoFn(n)).with_output_types(Keyed),
            pipeline
            | "ReadEdges" >> ReadBatches(edges)
            | "Edges" >> beam.ParDo(_EdgesDoFn(n)).with_output_types(Keyed),
        )

    def told(self) -> dict[str, Any]:
        """What the search for edges tells: the banding, `candidates`, `edges`, and of buckets `capped` and `largest`."""
        read = [(n, self._told.read_json(n)) for n in self._told.names()]
        verified = [told for name, told in read if name.endswith(VERIFIED)]
        return {
            "bands": self.bands,
            "rows": self.rows,
            "candidates": sum(v["pairs"] for v in verified),
            "edges": sum(v["edges"] for v in verified),
            **all_capped([told for name, told in read if name.endswith(CAPPED)]),
        }

    @property
    def _told(self) -> Store:
        return self.work.child("told")


Step = tuple[Store, Callable[[beam.Pipeline], Any]]
"""A folder, and what fills it."""


def _spilled(collections: Sequence[Any], folder: Store) -> None:
    for i, collection in enumerate(collections):
        _ = collection | f"Spill {i}" >> SpillBatches(folder)


def _run_steps(steps: Sequence[Step], run: RunPipeline) -> None:
    """Run steps that each read what the one before has written; what is finished is not done again."""
    finished = [i for i, (folder, _) in enumerate(steps) if folder.exists(DONE)]
    for i in range(finished[-1] + 1 if finished else 0, len(steps)):
        folder, build = steps[i]
        folder.remove("")  # of an interrupted attempt
        run(build)
        folder.write_json(DONE, {})
        if i:
            steps[i - 1][0].remove("")


def _components_here(edges: Store, stars: Store) -> None:
    batches = read_batches(edges)
    if batches:
        all_edges = np.concatenate([columns(b, ENDS) for b in batches])
        labels = id_batch(STARS, components_local(all_edges))
        write_batch(stars, 0, labels)
