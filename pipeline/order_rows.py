"""The rows of one cell put in order: the tables the stage `order` writes for it, and what it tells of them.

Called by `order_transform.OrderCells`, once per cell.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from mixloom.pipeline.long_copies import place_copies
from mixloom.pipeline.order import ORDER, CellOrder, adjacent_cosines, order_cell
from mixloom.pipeline.order_config import OrderConfig
from mixloom.pipeline.questions import place_questions, resolve


def order_rows(
    rows: pa.RecordBatch, cell: int, config: OrderConfig, threads: int = 1
) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Order the documents of one cell.

    Args:
        rows: doc_id, part, row, domain, vector (half precision) of all documents of the cell, sorted by doc_id; with
            `questions` also name and link (strings), with `upsample_long` also characters (integers).

    Returns:
        A table of `ORDER`, a table (doc_id, vector) beside it, row by row, and what is known of the order.
    """
    half = np.asarray(rows.column("vector").flatten()).reshape(rows.num_rows, -1)
    x = unit(half)
    info: dict[str, Any] = {}
    answers = np.full(rows.num_rows, -1)
    if config.questions is not None:
        links = rows.column("link").to_pylist()
        answers = resolve(rows.column("name").to_pylist(), links)
        told = sum(link is not None for link in links)
        info |= {
            "questions": int((answers >= 0).sum()),
            "questions_elsewhere": told - int((answers >= 0).sum()),
        }
    documents = np.flatnonzero(answers < 0)
    order = order_cell(
        x[documents], rows.column("doc_id").take(pa.array(documents)).to_pylist(), config, threads
    )
    path, groups = documents[order.path], np.full(rows.num_rows, -1, np.int32)
    groups[path] = order.near_duplicates
    info = {**asdict(order.stats), "bound_share": order.stats.bound_share, **info}
    if config.questions is not None:
        path = place_questions(path, answers, config.questions.place == "before")
    copies = np.zeros(len(path), np.int32)
    if (long := config.upsample_long) is not None:
        repeated = np.asarray(rows.column("characters")) >= long.min_characters
        # A question stays where it is, and so does what it asks about: neither is repeated.
        repeated[answers >= 0] = repeated[answers[answers >= 0]] = False
        near = config.near_duplicate
        closed = _inside_questions(path, answers, config)
        path, copies = place_copies(path, x, groups, near, repeated, long.factor, long.apart, closed)
        alone = repeated & (groups < 0)
        groups[alone] = rows.num_rows + np.flatnonzero(alone)
        placed, asked = int((copies > 0).sum()), int(repeated.sum()) * (long.factor - 1)
        info |= {"long_documents": int(repeated.sum()), "copies": placed, "copies_left_out": asked - placed}
    info["documents"] = rows.num_rows
    similarity = _similarity(x, path, order, documents, rows.num_rows)
    taken = rows.take(pa.array(path))
    n = len(path)
    table = pa.table(
        {
            **{name: taken.column(name) for name in ("doc_id", "part", "row", "domain")},
            "cell": pa.array(np.full(n, cell, np.int32)),
            "rank": pa.array(np.arange(n, dtype=np.int32)),
            "similarity": pa.array(similarity),
            "near_duplicates": pa.array(groups[path]),
            "copy": pa.array(copies),
        },
        schema=ORDER,
    )
    return table, pa.table({"doc_id": taken.column("doc_id"), "vector": taken.column("vector")}), info


def _inside_questions(path: np.ndarray, answers: np.ndarray, config: OrderConfig) -> np.ndarray:
    """Whether the next on the path belongs to this one as question or as document, bool [n]."""
    asks = answers[path] >= 0
    if config.questions is None or config.questions.place == "before":
        return np.asarray(asks)
    return np.append(asks[1:], np.zeros(min(len(path), 1), bool))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows (float16 [n, d]) scaled to length 1, float32; zero rows stay zero.

    Half precision leaves vectors a little off unit length, and a cosine above 1 would be a near-duplicate of anything.
    """
    x = vectors.astype(np.float32)
    norm = np.sqrt((x * x).sum(axis=1, dtype=np.float64))[:, None]
    return (x / np.where(norm > 0, norm, 1.0)).astype(np.float32)


def _similarity(
    x: np.ndarray, path: np.ndarray, order: CellOrder, documents: np.ndarray, n: int
) -> np.ndarray:
    """To the row before: as the order has it for neighbours on it, the plain cosine beside questions and copies."""
    before = np.full(n, -1)
    before[documents[order.path[1:]]] = documents[order.path[:-1]]
    reached = np.zeros(n, np.float32)
    reached[documents[order.path]] = order.similarity
    if len(path) == len(order.path):
        return reached[path]
    plain = np.concatenate([np.zeros(min(len(path), 1), np.float32), adjacent_cosines(x, path)])
    previous = np.concatenate([np.full(min(len(path), 1), -1), path[:-1]])
    return np.where((before[path] == previous) & (previous >= 0), reached[path], plain).astype(np.float32)
