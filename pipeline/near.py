"""Near deduplication from end to end as Beam pipelines: edges, components, drops.

Usable in any Beam pipeline; `dedup_stage.NearDedupStage` puts it to work in a run. A corpus that fits one partition is
searched in one piece instead (see `near_alone`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.candidates import CAPPED, KeyBands, PairBuckets, all_capped
from mixloom.pipeline.components import ENDS, STARS, components_local, connected_components
from mixloom.pipeline.dedup_config import NearConfig
from mixloom.pipeline.doc_ids import U64, columns, concatenate, id_batch, partition_of, ranks, split
from mixloom.pipeline.exact import drops_at
from mixloom.pipeline.graph import Work
from mixloom.pipeline.near_pairs import AllPairs, PairSearch
from mixloom.pipeline.near_rows import ReadNearRows, RowsOf
from mixloom.pipeline.shuffle import (
    ARROW,
    DONE,
    Gather,
    GatherDoFn,
    Grouped,
    Keyed,
    ReadBatches,
    ReadSpilled,
    RunPipeline,
    SpillBatches,
    WriteBatches,
    by_schema,
    last,
    read_batch,
    read_batches,
    spill_batch,
)
from mixloom.pipeline.sieve import SiftPairs
from mixloom.pipeline.storage import Store
from mixloom.pipeline.survivors import component_keepers, greedy_keepers, incomplete, members_of
from mixloom.pipeline.verify import (
    EDGE_COLUMNS,
    EDGES,
    F64,
    SKETCHES,
    VERIFIED,
    ComparePairs,
    ReadLists,
    ReadPairs,
    ReadTexts,
    Sets,
    ShinglesOf,
)

ROOTED = pa.schema([*(pa.field(n, pa.uint64(), nullable=False) for n in ("root_hi", "root_lo")), *EDGES])
"""Edges and the components they are in."""


def _with_roots(stars: U64) -> U64:
    """Components with the smallest node of each as a member of its own."""
    return np.concatenate([stars, stars[:, [2, 3, 2, 3]]])


def roots_of(ids: U64, stars: U64) -> tuple[U64, Any]:
    """The component of each id: uint64 [n, 2], and bool [n], False where it is in none."""
    both, codes = ranks(np.concatenate([stars[:, :2], ids]))
    at = np.full(len(both), -1, dtype=np.int64)
    at[codes[: len(stars)]] = np.arange(len(stars))
    row = at[codes[len(stars) :]]
    return stars[row, 2:] if len(stars) else np.zeros_like(ids), row >= 0


def rooted(batch: pa.RecordBatch, ids: U64, stars: U64) -> tuple[pa.RecordBatch, U64]:
    """The rows of a batch whose ids, uint64 [n, 2], lie in components (`STARS`, uint64 [m, 4]); and those components."""
    root, found = roots_of(ids, stars)
    return batch.filter(pa.array(found)), root[found]


def rooted_edges(edges: pa.RecordBatch, stars: U64) -> tuple[pa.RecordBatch, U64]:
    """`EDGES` with their components (`ROOTED`, and uint64 [n, 2]), given the `STARS` of all their first documents."""
    inside, root = rooted(edges, columns(edges, ["a_hi", "a_lo"]), stars)
    if inside.num_rows != edges.num_rows:
        raise AssertionError(f"{edges.num_rows - inside.num_rows} edges lie in no component")
    arrays = [*id_batch(pa.schema(list(ROOTED)[:2]), root).columns, *edges.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=ROOTED), root


def root_edges(edges: pa.RecordBatch) -> tuple[pa.RecordBatch, U64]:
    """All `EDGES` there are -> `ROOTED`, and the components, uint64 [n, 2]."""
    ends = columns(edges, ENDS)
    stars = _with_roots(components_local(ends)) if len(ends) else np.empty((0, 4), dtype=np.uint64)
    return rooted_edges(edges, stars)


class _ByIdDoFn(GatherDoFn):
    """Sends components, edges and shingles to the partition of their (first) document."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def start_bundle(self) -> None:
        self._held = {
            "root_hi": Gather(),
            "a_hi": Gather(),
            "hi": Gather(),
        }  # by a column that tells the schema

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        kind = next(name for name in self._held if name in batch.schema.names)
        if kind == "root_hi":
            batch = id_batch(STARS, _with_roots(columns(batch, STARS.names)))
        ids = columns(batch, ["a_hi", "a_lo"] if kind == "a_hi" else ["hi", "lo"])
        yield from self._held[kind].add(batch, partition_of(ids, self._partitions))

    def finish_bundle(self) -> Iterator[Any]:
        for gathered in self._held.values():
            for element in gathered.rest():
                yield last(element)


class _RootDoFn(Work):
    """Gives edges and shingles their component, and sends them there."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def start_bundle(self) -> None:
        self._edges, self._sets = Gather(), Gather()

    def process(self, element: Grouped) -> Iterator[Keyed]:
        stars, edges, sets = by_schema(element[1], STARS, EDGES, SKETCHES)
        known = columns(stars, STARS.names)
        found, root = rooted_edges(edges, known)
        yield from self._edges.add(found, partition_of(root, self._partitions))
        inside, root = rooted(sets, columns(sets, ["hi", "lo"]), known)
        yield from self._sets.add(inside, partition_of(root, self._partitions))

    def finish_bundle(self) -> Iterator[Any]:
        for gathered in (self._edges, self._sets):
            for element in gathered.rest():
                yield last(element)


def components_of(edges: pa.RecordBatch) -> tuple[U64, U64, F64]:
    """Members of whole components (`ROOTED`), as `sorted_members` gives them; their edges, uint64 [m, 8]; similarities."""
    ends = columns(edges, EDGE_COLUMNS)
    members = members_of(columns(edges, ["root_hi", "root_lo"]), ends)
    return members, ends, np.asarray(edges.column("jaccard"))


def lacking_members(edges: pa.RecordBatch, config: NearConfig) -> U64:
    """Members of components (`ROOTED`) in which some two have not been compared and should be."""
    members, ends, similarity = components_of(edges)
    compared = config.compare_cap if config.merge == "greedy" else 0
    return members[incomplete(members, ends, similarity, compared)]


def choose_survivors(
    edges: pa.RecordBatch, sets: Sets, config: NearConfig, parts: Sequence[str]
) -> pa.RecordBatch:
    """Whole components (`ROOTED`) -> `DROPS`; sets: shingles of at least the `lacking_members`."""
    members, ends, similarity = components_of(edges)
    if config.merge == "components":
        keeper, near = component_keepers(members, ends, similarity)
    else:
        keeper, near = greedy_keepers(members, ends, similarity, sets, config.compare_cap, config.threshold)
    gone = np.flatnonzero(keeper != np.arange(len(keeper)))
    dropped, kept = members[gone], members[keeper[gone]]
    return drops_at(parts, dropped[:, 5], dropped[:, 3:5], kept[:, 3:5], near[gone])


class _ChooseDoFn(Work):
    def __init__(self, parts: tuple[str, ...], config: NearConfig) -> None:
        self._parts, self._config = parts, config

    def process(self, element: Grouped) -> Iterator[pa.RecordBatch]:
        edges, sketches = by_schema(element[1], ROOTED, SKETCHES)
        drops = choose_survivors(edges, Sets(sketches), self._config, self._parts)
        if drops.num_rows:
            yield drops


class ChooseSurvivors(beam.PTransform):
    """(partition, `ROOTED` and `SKETCHES` of whole components), each partition once -> `DROPS` batches.

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
        rows_of: reads a part; see `near_rows.RowsOf`.
        read_texts: reads the texts of some rows of a part; must be picklable.
        read_signatures: reads their signatures, as `sieve.listed` gives them; must be picklable.
        pairs: how candidates are found, and in which parts.
        config: thresholds and knobs.
        ngram: words per shingle.
        at_once: one process finds all the pairs, which holds what `near_pairs.Signed` tells of all documents. The pairs do
            not depend on it.
        partitions: of ids, buckets and pairs; nothing depends on it but memory and the number of files.
        work: a folder for intermediate files; what is finished in it is not done again.
    """

    rows_of: RowsOf
    read_texts: ReadTexts
    read_signatures: ReadLists
    pairs: PairSearch
    config: NearConfig
    ngram: int
    at_once: bool
    partitions: int
    work: Store

    def run(self, run: RunPipeline) -> Callable[[beam.Pipeline], Any]:
        """Run all the pipelines but the last one, which is left to the caller.

        Args:
            run: runs a Beam pipeline built by the function it is given.

        Returns:
            A function that, applied to a pipeline, gives `DROPS` batches.
        """
        c, parts = self.config, self.pairs.parts
        pairs, sets, edges, sketches = (self.work.child(x) for x in ("pairs", "sets", "edges", "sketches"))
        read = "Read" >> ReadPairs(ShinglesOf(self.read_texts, self.ngram, c.max_shingles), parts)
        compare = ComparePairs(c.threshold, self.told_in)
        search: list[Step] = [
            *(self._pairs_at_once(pairs) if self.at_once else self._pairs_in_steps(pairs)),
            (sets, lambda p: _spilled(p | ReadSpilled(pairs) | read, sets)),
            (edges, lambda p: _compared(p | ReadSpilled(sets) | compare, edges, sketches)),
        ]
        _run_steps(search, run)
        whole = self._whole(run, edges, sketches)
        return lambda p: p | ReadSpilled(whole) | ChooseSurvivors(parts, c)

    def _pairs_at_once(self, pairs: Store) -> list[Step]:
        """What fills a folder with pairs that may be duplicates."""
        find = AllPairs(self.pairs, self.rows_of, self.partitions, self.told_in)
        return [(pairs, lambda p: p | find | SpillBatches(pairs))]

    def _pairs_in_steps(self, pairs: Store) -> list[Step]:
        """The same with files between, each of a partition."""
        by, n = self.pairs, self.partitions
        keys, met, signed = (self.work.child(x) for x in ("keys", "met", "signed"))
        read, key = ReadNearRows(by.parts, self.rows_of), KeyBands(by.parts, by.bands, by.rows, n)
        pair, sift = PairBuckets(by.bounds, n, self.told_in), SiftPairs(by.threshold)
        sign = "Sign" >> ReadPairs(self.read_signatures, by.parts)
        return [
            (keys, lambda p: p | read | key | SpillBatches(keys)),
            (met, lambda p: p | ReadSpilled(keys) | pair | SpillBatches(met)),
            (signed, lambda p: _spilled(p | ReadSpilled(met) | sign, signed)),
            (pairs, lambda p: p | ReadSpilled(signed) | sift | SpillBatches(pairs)),
        ]

    def _whole(self, run: RunPipeline, edges: Store, sketches: Store) -> Store:
        """The folder of whole components: their edges, and the shingles of `lacking_members` or of more."""
        ids, whole = self.work.child("ids"), self.work.child("whole")
        n = self.partitions
        if whole.exists(DONE):
            return whole
        if self.config.components == "local" or self.told()["edges"] <= self.config.local_edges:
            whole.remove("")
            _join_here(edges, sketches, whole, self.config, n)
            whole.write_json(DONE, {})
            return whole
        stars = connected_components(edges, self.work.child("components"), run, n, self.config.max_rounds)
        join = beam.ParDo(_RootDoFn(n)).with_output_types(Keyed)
        steps: list[Step] = [
            (ids, lambda p: _by_id(p, (edges, stars, sketches), n) | SpillBatches(ids)),
            (whole, lambda p: p | ReadSpilled(ids) | "Root" >> join | SpillBatches(whole)),
        ]
        _run_steps(steps, run)
        return whole

    def told(self) -> dict[str, Any]:
        """What the search for edges tells: the banding, `candidates`, `edges`, and of buckets `capped` and `largest`."""
        read = [(n, self.told_in.read_json(n)) for n in self.told_in.names()]
        verified = [told for name, told in read if name.endswith(VERIFIED)]
        return {
            "bands": self.pairs.bands,
            "rows": self.pairs.rows,
            "candidates": sum(v["pairs"] for v in verified),
            "edges": sum(v["edges"] for v in verified),
            **all_capped([told for name, told in read if name.endswith(CAPPED)]),
        }

    @property
    def told_in(self) -> Store:
        """The folder in which the steps leave what `told` tells."""
        return self.work.child("told")


Step = tuple[Store, Callable[[beam.Pipeline], Any]]
"""A folder, and what fills it."""


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


def _spilled(collections: Sequence[Any], folder: Store) -> None:
    for i, collection in enumerate(collections):
        _ = collection | f"Spill {i}" >> SpillBatches(folder)


def _compared(collections: Sequence[Any], edges: Store, sketches: Store) -> None:
    _ = collections[0] | "Write edges" >> WriteBatches(edges)
    _ = collections[1] | "Spill sets" >> SpillBatches(sketches)


def _by_id(pipeline: beam.Pipeline, folders: Sequence[Store], partitions: int) -> Any:
    """Edges, components and shingles, each with the partition of its (first) document."""
    read = [pipeline | f"Read {i}" >> ReadBatches(folder) for i, folder in enumerate(folders)]
    send = beam.ParDo(_ByIdDoFn(partitions)).with_output_types(Keyed)
    return read | beam.Flatten() | "ById" >> send


def _join_here(edges: Store, sketches: Store, whole: Store, config: NearConfig, partitions: int) -> None:
    """Join all edges in this process, and write them, and the shingles that are lacking, by component."""
    found, root = root_edges(concatenate(read_batches(edges), EDGES))
    for partition, mine in split(found, partition_of(root, partitions)):
        spill_batch(whole, partition, mine)
    stars = lacking_members(found, config)[:, [3, 4, 0, 1]]
    for name in (n for n in sketches.files() if len(stars) and n.endswith(ARROW)):
        batch = read_batch(sketches, name)
        sets, root = rooted(batch, columns(batch, ["hi", "lo"]), stars)
        for partition, mine in split(sets, partition_of(root, partitions)):
            spill_batch(whole, partition, mine)
