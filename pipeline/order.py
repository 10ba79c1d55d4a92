"""Stage `order`: related documents one after another, inside one cell.

In-context pretraining (Shi et al., arXiv 2310.10638): nearest neighbours, near-duplicate pairs cut, greedy
maximum-weight path over all documents of the cell. Called once per cell by the stage, on all vectors of the cell; the
result is a function of the set of documents, not of the order they arrive in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mixloom.pipeline.apart import keep_apart
from mixloom.pipeline.distances import nearest
from mixloom.pipeline.joining import join
from mixloom.pipeline.kmeans import plain_rounds
from mixloom.pipeline.linking import Fragments, link, walk_fragments
from mixloom.pipeline.neighbor_graph import Graph, graph_from_edges, pair_products
from mixloom.pipeline.neighbors import nearest_neighbours
from mixloom.pipeline.order_config import OrderConfig
from mixloom.pipeline.path import greedy_path, upper_bound, walked_weights
from mixloom.pipeline.relocation import relocate

ORDER = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),  # ingest part the document lies in
        pa.field("row", pa.int32(), nullable=False),
        pa.field("domain", pa.int32(), nullable=False),
        pa.field("cell", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # place on the path of the cell
        pa.field(
            "similarity", pa.float32(), nullable=False
        ),  # to the previous document; 0.0 at the first and after a jump
        pa.field(
            "near_duplicates", pa.int32(), nullable=False
        ),  # group in the cell, none of which may stand side by side; -1: none
        pa.field("copy", pa.int32(), nullable=False),  # 0; from 1 on for a repetition of a long document
    ]
)

VECTORS_FOLDER = (
    "vectors"  # parts vectors/<cell>: doc_id, vector (half precision), in the rows of the cell's part
)


@dataclass(frozen=True, slots=True)
class OrderStats:
    """What one cell's order is worth. Cosines are means over adjacent documents, jumps counted as they are."""

    documents: int
    edges: int
    near_duplicate_pairs: int  # met in the search, and not linked
    near_duplicate_documents: int  # documents in groups of near-duplicates
    near_duplicate_neighbours: int  # adjacent all the same, because nothing else was left
    jumps: int
    path_weight: float  # sum of the weights of the edges walked; cosines without an edge count nothing
    bound: float  # no path on this graph weighs more
    mean_cosine: float
    random_cosine: float  # of a seeded random order of the same documents

    @property
    def bound_share(self) -> float:
        """path_weight / bound, 1.0 where there is no edge; at least 1/2 for path and linking before repairs."""
        return self.path_weight / self.bound if self.bound > 0 else 1.0


@dataclass(frozen=True, slots=True)
class CellOrder:
    """path int64 [n]: input rows in their new order; similarity float32 [n] along the path; jumps: its restarts.

    The similarity is 0.0 at the first document and after a jump. Controls know no jumps: theirs is the plain cosine.
    near_duplicates int32 [n], along the path: numbers of groups whose members are not to stand next to each other,
    -1 for none.
    """

    path: np.ndarray
    similarity: np.ndarray
    near_duplicates: np.ndarray
    jumps: int
    stats: OrderStats


def order_cell(
    vectors: np.ndarray, doc_ids: Sequence[str] | np.ndarray, config: OrderConfig, threads: int = 1
) -> CellOrder:
    """Order the documents of one cell.

    Args:
        vectors: float32 [n, d], unit rows; a zero row (no text) has no neighbour.
        doc_ids: n different ids; ties are broken by them.
        threads: of the search; they change no bit.

    Raises:
        ValueError: an id occurs twice, or the lengths differ.
    """
    ids = np.asarray(doc_ids, dtype=np.str_)
    if len(ids) != len(vectors):
        raise ValueError(f"{len(vectors)} vectors for {len(ids)} doc_ids")
    by_id = np.argsort(ids, kind="stable")
    ids = ids[by_id]
    if np.any(ids[1:] == ids[:-1]):
        raise ValueError(f"doc_id {ids[1:][ids[1:] == ids[:-1]][0]} occurs twice in one cell")
    x = np.ascontiguousarray(np.asarray(vectors, np.float32)[by_id])
    n, near = len(x), config.near_duplicate
    shuffled = np.lexsort((np.arange(n), _keys(ids, config.seed)))
    found = nearest_neighbours(x, config.neighbours, near, threads)
    graph = graph_from_edges(n, found.left, found.right, found.weights)
    control = config.method not in ("path", "linking")
    if control:
        path = shuffled if config.method == "random" else _by_cluster(x, shuffled, config)
    else:
        fragments = _walked(graph) if config.method == "path" else _linked(graph)
        path, _ = walk_fragments(fragments)
        if config.join:
            path = join(x, fragments, found.groups, near, threads)
        path, _ = relocate(path, graph, x, found.groups, near, config.neighbours, config.relocate)
    path, _, close = keep_apart(path, x, found.groups, near)
    cosines = adjacent_cosines(x, path)
    steps = walked_weights(graph, path)
    reached = np.concatenate([np.zeros(min(n, 1), np.float32), cosines if control else steps])
    stats = OrderStats(
        documents=n,
        edges=graph.edges,
        near_duplicate_pairs=found.pairs,
        near_duplicate_documents=int((found.groups >= 0).sum()),
        near_duplicate_neighbours=close,
        jumps=0 if control else int((steps == 0).sum()),
        path_weight=float(steps.sum(dtype=np.float64)),
        bound=upper_bound(graph),
        mean_cosine=float(cosines.mean(dtype=np.float64)) if len(cosines) else 0.0,
        random_cosine=mean_cosine(x, shuffled),
    )
    return CellOrder(by_id[path], reached, found.groups[path], stats.jumps, stats)


def adjacent_cosines(vectors: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Inner products float32 [n-1] of neighbours on a path (int [n]) over unit vectors float32 [n, d]."""
    return pair_products(vectors, path[:-1], path[1:])


def mean_cosine(vectors: np.ndarray, path: np.ndarray) -> float:
    """Mean of `adjacent_cosines`; 0.0 for fewer than two documents."""
    return float(adjacent_cosines(vectors, path).mean(dtype=np.float64)) if len(path) > 1 else 0.0


def _walked(graph: Graph) -> Fragments:
    path, reached = greedy_path(graph)
    return Fragments.of_path(path, reached == 0)


def _linked(graph: Graph) -> Fragments:
    left = np.repeat(np.arange(graph.nodes), np.diff(graph.starts))
    once = left < graph.neighbours
    return link(Fragments.single(graph.nodes), left[once], graph.neighbours[once], graph.weights[once])[0]


def _keys(ids: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random key per id (str [n]), uint64, from its characters alone (rounds of splitmix64, Steele et al. 2014)."""
    codes = ids.view(np.uint32).reshape(len(ids), ids.itemsize // 4)
    h = np.full(len(ids), seed + 1, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for c in range(codes.shape[1]):
        code = codes[:, c].astype(np.uint64)  # 0 beyond the end of an id
        x = (h ^ code) * np.uint64(0xBF58476D1CE4E5B9)
        h = np.where(code > 0, x ^ (x >> np.uint64(29)), h)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def _by_cluster(x: np.ndarray, shuffled: np.ndarray, config: OrderConfig) -> np.ndarray:
    """The control that only groups: clusters of about `cluster_size` documents, in random order inside."""
    label = np.full(len(x), -1)
    text = np.asarray(x.any(axis=1))
    if text.any():
        k = max(1, round(int(text.sum()) / config.cluster_size))
        seeds = x[shuffled[text[shuffled]][:k]]
        label[text] = nearest(x[text], plain_rounds(x[text], seeds, iterations=5, tolerance=0.0))[0]
    return shuffled[np.argsort(label[shuffled], kind="stable")]
