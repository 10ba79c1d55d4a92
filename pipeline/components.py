"""Connected components of the graph of verified pairs, in Beam rounds or in one process.

The rounds alternate large-star and small-star until nothing changes (Kiveris, Lattanzi, Mirrokni, Rastogi and
Vassilvitskii 2014, "Connected Components in MapReduce and Beyond", section 3): every node then points to the
smallest id of its component. Each round is its own Beam pipeline with files of edges between, so memory is
bounded by a partition, and the result depends neither on the number of partitions nor on the order of edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.doc_ids import (
    I64,
    U64,
    columns,
    concatenate,
    distinct_rows,
    id_batch,
    mix,
    partition_of,
    ranks,
    run_bounds,
    run_starts,
)
from mixloom.pipeline.graph import Work
from mixloom.pipeline.shuffle import (
    DONE,
    GatherDoFn,
    Keyed,
    ReadBatches,
    RunPipeline,
    WriteBatches,
    has_batches,
)
from mixloom.pipeline.storage import Store

ENDS = ("a_hi", "a_lo", "b_hi", "b_lo")
STARS = pa.schema([pa.field(n, pa.uint64(), nullable=False) for n in ("hi", "lo", "root_hi", "root_lo")])
"""A node and a smaller node of its component: when components are final, the smallest one."""

_DIGEST = ".digest.json"


def _star_codes(adjacency: U64) -> tuple[U64, I64, I64, I64]:
    """(ids in order, node, neighbour, per row the smallest of the node and its neighbours), as codes."""
    rows = distinct_rows(adjacency)
    ids, codes = ranks(rows.reshape(-1, 2))
    node, neighbour = codes[0::2], codes[1::2]
    starts, stops = run_bounds(run_starts(node[:, None]))
    least = np.minimum.reduceat(neighbour, starts) if len(rows) else neighbour
    least = np.minimum(least, node[starts])
    return ids, node, neighbour, np.repeat(least, stops - starts)


def _edges_of(ids: U64, larger: I64, smaller: I64) -> U64:
    return distinct_rows(np.concatenate([ids[larger], ids[smaller]], axis=1))


def large_star(adjacency: U64) -> U64:
    """Connect every larger neighbour of a node to the smallest of the node and its neighbours.

    Args:
        adjacency: uint64 [n, 4], rows (node, neighbour) with both directions of each edge and every row of
            each node present; rows may repeat.

    Returns:
        Distinct sorted edges (larger, smaller), uint64 [m, 4].
    """
    ids, node, neighbour, least = _star_codes(adjacency)
    up = neighbour > node
    return _edges_of(ids, neighbour[up], least[up])


def small_star(adjacency: U64) -> U64:
    """Connect a node and its smaller neighbours to the smallest of them.

    Args:
        adjacency: uint64 [n, 4], rows (node, smaller neighbour), every such row of each node present.

    Returns:
        Distinct sorted edges (larger, smaller), uint64 [m, 4].
    """
    ids, node, neighbour, least = _star_codes(adjacency)
    larger = np.concatenate([node, neighbour])
    smaller = np.concatenate([least, least])
    proper = larger != smaller
    return _edges_of(ids, larger[proper], smaller[proper])


def edge_digest(edges: U64) -> tuple[int, int, int]:
    """(number, two 64-bit sums of hashes) of a set of edges: equal sets have equal digests, and digests of
    disjoint sets add up."""
    h = edges[:, 0].copy()
    for i in range(1, edges.shape[1]):
        h = mix(h) ^ edges[:, i]
    h = mix(h)
    other = mix(h ^ np.uint64(0x9E3779B97F4A7C15))
    return len(edges), int(h.sum(dtype=np.uint64)), int(other.sum(dtype=np.uint64))


def components_local(edges: U64) -> U64:
    """Connected components in one process.

    Args:
        edges: uint64 [n, 4], (a_hi, a_lo, b_hi, b_lo), in any order and direction.

    Returns:
        uint64 [m, 4], schema `STARS`: every node but the smallest of each component with that smallest,
        sorted by node.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ids, codes = ranks(np.ascontiguousarray(edges).reshape(-1, 2))
    shape = (len(ids), len(ids))
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (codes[0::2], codes[1::2])), shape=shape)
    _, label = connected_components(graph, directed=False)
    root = np.full(len(ids), len(ids), dtype=np.int64)
    np.minimum.at(root, label, np.arange(len(ids)))
    smallest = root[label]
    other = smallest != np.arange(len(ids))
    return np.concatenate([ids[other], ids[smallest[other]]], axis=1)


class _BothWaysDoFn(GatherDoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        names = STARS.names if "root_hi" in batch.schema.names else list(ENDS)
        ends = columns(batch, names)
        both = np.concatenate([ends, ends[:, [2, 3, 0, 1]]])
        yield from self.gathered.add(id_batch(STARS, both), partition_of(both[:, :2], self._partitions))


class _LargeStarDoFn(GatherDoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        edges = large_star(columns(concatenate(element[1], STARS), STARS.names))
        yield from self.gathered.add(id_batch(STARS, edges), partition_of(edges[:, :2], self._partitions))


class _SmallStarDoFn(Work):
    """Small-star, and the digest of what it was given: all of a node's edges to smaller ones are here."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        adjacency = distinct_rows(columns(concatenate(element[1], STARS), STARS.names))
        self._store.write_json(f"{element[0]:07d}{_DIGEST}", list(edge_digest(adjacency)))
        yield element[0], id_batch(STARS, small_star(adjacency))


class StarRound(beam.PTransform):
    """Batches of edges (schema `EDGES` or `STARS`) -> (partition, `STARS` batch): one large-star and one
    small-star. Digests of the edges in between are written to `digests`, one file per partition."""

    def __init__(self, partitions: int, digests: Store) -> None:
        super().__init__()
        self._partitions, self._digests = partitions, digests

    def expand(self, pcoll: Any) -> Any:
        return (
            pcoll
            | "BothWays" >> beam.ParDo(_BothWaysDoFn(self._partitions)).with_output_types(Keyed)
            | "ByNode" >> beam.GroupByKey()
            | "LargeStar" >> beam.ParDo(_LargeStarDoFn(self._partitions)).with_output_types(Keyed)
            | "ByLarger" >> beam.GroupByKey()
            | "SmallStar" >> beam.ParDo(_SmallStarDoFn(self._digests)).with_output_types(Keyed)
        )


def read_digest(store: Store) -> tuple[int, int, int]:
    """The digest of a round: the sum over its partitions."""
    parts = [store.read_json(n) for n in store.names() if n.endswith(_DIGEST)]
    count, first, second = (sum(p[i] for p in parts) for i in range(3))
    return count, first % 2**64, second % 2**64


def connected_components(
    edges: Store, work: Store, run: RunPipeline, partitions: int, max_rounds: int = 50
) -> Store:
    """Run star rounds until the edges do not change.

    Args:
        edges: folder of Arrow files (see `WriteBatches`) of schema `EDGES`.
        work: folder for the rounds, one sub-folder each; rounds found finished in it are not run again.
        run: runs a Beam pipeline.
        partitions: keys of each shuffle.
        max_rounds: a bound for safety; the number of rounds grows like the logarithm of the longest path.

    Returns:
        The folder of the last round: files of schema `STARS`, each node but the smallest of each component
        with that smallest; a row may stand in several files.

    Raises:
        RuntimeError: not converged after `max_rounds`.
    """
    source, before = edges, (0, 0, 0)
    if not has_batches(edges):
        return edges
    for number in range(max_rounds):
        folder = work.child(f"round-{number:03d}")
        if not folder.exists(DONE):
            _run_round(run, source, folder, partitions)
            folder.write_json(DONE, {})
        digest = read_digest(folder)
        if digest == before:
            return folder
        source, before = folder, digest
    raise RuntimeError(f"connected components have not converged after {max_rounds} rounds")


def _run_round(run: RunPipeline, source: Store, folder: Store, partitions: int) -> None:
    def build(p: beam.Pipeline) -> None:
        stars = p | ReadBatches(source) | StarRound(partitions, folder)
        _ = stars | WriteBatches(folder)

    run(build)
