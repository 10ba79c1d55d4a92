"""Stage `order`: related documents one after another, inside one cell.

In-context pretraining (Shi et al., arXiv 2310.10638): nearest neighbours, near-duplicate pairs cut, greedy
maximum-weight path over all documents of the cell. Called once per cell by the stage, on all vectors of the cell; the
result is a function of the set of documents, not of the order they arrive in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from mixloom.pipeline.distances import nearest
from mixloom.pipeline.embed import sample_keys
from mixloom.pipeline.kmeans import plain_rounds
from mixloom.pipeline.neighbors import graph_from_edges, nearest_neighbours, pair_products
from mixloom.pipeline.path import greedy_path, upper_bound

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
    ]
)


class OrderConfig(BaseModel):
    """Settings of the document order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["path", "cluster_sorted", "random"] = Field(
        "path",
        description="path: related documents in a row; cluster_sorted and random: controls to compare with",
    )
    neighbours: int = Field(10, ge=1, le=1000, description="nearest neighbours a document is linked to")
    near_duplicate: float = Field(
        0.95, gt=0, le=1.01, description="pairs with a higher cosine are not linked; above 1 links all"
    )
    cluster_size: int = Field(50, ge=1, description="documents in a cluster of the control cluster_sorted")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the controls")


@dataclass(frozen=True, slots=True)
class OrderStats:
    """What one cell's order is worth. Cosines are means over adjacent documents, jumps counted as they are."""

    documents: int
    edges: int
    near_duplicate_pairs: int  # cut among the neighbours found
    jumps: int
    path_weight: float  # sum of the edge weights walked
    bound: float  # no path on this graph weighs more
    mean_cosine: float
    random_cosine: float  # of a seeded random order of the same documents

    @property
    def bound_share(self) -> float:
        """path_weight / bound, 1.0 where there is no edge; at least 1/2 for the method path."""
        return self.path_weight / self.bound if self.bound > 0 else 1.0


@dataclass(frozen=True, slots=True)
class CellOrder:
    """path int64 [n]: input rows in their new order; similarity float32 [n] along the path; jumps: its restarts.

    The similarity is 0.0 at the first document and after a jump. Controls know no jumps: theirs is the plain cosine.
    """

    path: np.ndarray
    similarity: np.ndarray
    jumps: int
    stats: OrderStats


def order_cell(vectors: np.ndarray, doc_ids: Sequence[str] | np.ndarray, config: OrderConfig) -> CellOrder:
    """Order the documents of one cell.

    Args:
        vectors: float32 [n, d], unit rows; a zero row (no text) has no neighbour.
        doc_ids: n different ids; ties are broken by them.

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
    n = len(x)
    shuffled = np.lexsort((np.arange(n), sample_keys(ids.tolist(), config.seed)))
    left, right, weights, cut = nearest_neighbours(x, config.neighbours, config.near_duplicate)
    graph = graph_from_edges(n, left, right, weights)
    path, reached = greedy_path(graph)
    if config.method != "path":
        path = shuffled if config.method == "random" else _by_cluster(x, shuffled, config)
        reached = np.r_[np.float32(0), adjacent_cosines(x, path)][:n].astype(np.float32)
    jumps = int((reached[1:] == 0).sum()) if config.method == "path" else 0
    stats = OrderStats(
        documents=n,
        edges=graph.edges,
        near_duplicate_pairs=cut,
        jumps=jumps,
        path_weight=float(reached.sum(dtype=np.float64)),
        bound=upper_bound(graph),
        mean_cosine=mean_cosine(x, path),
        random_cosine=mean_cosine(x, shuffled),
    )
    return CellOrder(by_id[path], reached, jumps, stats)


def adjacent_cosines(vectors: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Inner products float32 [n-1] of neighbours on a path (int [n]) over unit vectors float32 [n, d]."""
    return pair_products(vectors, path[:-1], path[1:])


def mean_cosine(vectors: np.ndarray, path: np.ndarray) -> float:
    """Mean of `adjacent_cosines`; 0.0 for fewer than two documents."""
    return float(adjacent_cosines(vectors, path).mean(dtype=np.float64)) if len(path) > 1 else 0.0


def _by_cluster(x: np.ndarray, shuffled: np.ndarray, config: OrderConfig) -> np.ndarray:
    """The control that only groups: clusters of about `cluster_size` documents, in random order inside."""
    label = np.full(len(x), -1)
    text = np.asarray(x.any(axis=1))
    if text.any():
        k = max(1, round(int(text.sum()) / config.cluster_size))
        seeds = x[shuffled[text[shuffled]][:k]]
        label[text] = nearest(x[text], plain_rounds(x[text], seeds, iterations=5, tolerance=0.0))[0]
    return shuffled[np.argsort(label[shuffled], kind="stable")]
