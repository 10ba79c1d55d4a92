"""What an order of documents is worth after packing: how alike the documents are that share a context.

In-context pretraining (Shi et al., arXiv 2310.10638) wants related documents in one context, and packing parts some
of them again: the wider its window, the fuller the contexts and the less alike their documents. `window_table` measures
both for one cell, beside the same documents in random order and merely grouped by cluster. Called once per cell, by
the stage that packs; `order_facts.merged` makes one table of those of all cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from mixloom.pipeline.order_facts import ORDERS, SUMMED, Row
from mixloom.pipeline.packing import Blocks, Cuts, Plan, pack

Int64 = NDArray[np.int64]

WINDOWS = (1, 64, 256, 1024)
CLUSTER_SIZE = 50  # documents in a cluster of the control, about
_CLUSTER_ROUNDS = 5


def within_context_cosine(doc: Int64, offsets: Int64, vectors: np.ndarray) -> tuple[float, int]:
    """Sum of the cosines of all pairs of different documents that share a context, and the number of those pairs.

    Several pieces of a document in one context count once; a pair that shares two contexts counts twice. A zero vector
    has cosine 0 with every other. Linear in the pieces, however many a context holds: the sum over its pairs is half
    of what the squared length of the sum of its unit vectors exceeds the sum of their squared lengths by.

    Args:
        doc: int64 [pieces], the document of each piece, a row of `vectors`.
        offsets: int64 [contexts + 1]; context c owns the pieces offsets[c] to offsets[c + 1].
        vectors: float16 or float32 [documents, d], of any length.
    """
    return _summed(doc, offsets, _unit(vectors))


def window_table(
    lengths: ArrayLike,
    vectors: np.ndarray,
    seq_len: int,
    windows: Sequence[int] = WINDOWS,
    seed: int = 0,
    cuts: Cuts | None = None,
    groups: ArrayLike | None = None,
    *,
    cluster_size: int = CLUSTER_SIZE,
) -> list[Row]:
    """Pack the documents of one cell with each window, in path order and in that of two controls, and measure.

    Args:
        lengths: integers [n], tokens of each document, in path order.
        vectors: float16 or float32 [n, d], their vectors, in path order.
        windows: windows of `packing.pack`, each 1 or more.
        seed: of the controls, which are functions of it and of the place on the path.
        cuts, groups: as in `packing.pack`, by place on the path. Where cuts are a function, it is asked for every
            document that a window of the table may cut: with window 1, all of them.
        cluster_size: documents in a cluster of the control "cluster", about.

    Returns:
        One row per window and order ("path"; "cluster": grouped, in random order inside; "random"), of sums that
        add up over cells: contexts, slots (contexts * seq_len), tokens, extra (contexts over the fewest that could
        hold the tokens), documents, cut_documents (in more than one piece), long_documents (longer than a context,
        so cut by any plan), cosine and pairs (see `within_context_cosine`).

    Raises:
        UserError: as `packing.pack`. ValueError: not one vector per length.
    """
    sizes = np.ascontiguousarray(np.asarray(lengths, dtype=np.int64))
    if len(sizes) != len(vectors):
        raise ValueError(f"{len(vectors)} vectors for {len(sizes)} documents")
    unit = _unit(vectors)
    group = None if groups is None else np.asarray(groups, dtype=np.int64)
    shuffled = np.argsort(_keys(seed, len(sizes)), kind="stable").astype(np.int64)
    orders: dict[str, Int64] = {
        "path": np.arange(len(sizes), dtype=np.int64),
        "cluster": cluster_order(unit, shuffled, cluster_size),
        "random": shuffled,
    }
    rows: list[Row] = []
    for window in windows:
        # Windows that hold all documents give one plan; it is made once, under the least of them.
        same = min(window, max(2, len(sizes))) if window > 1 else window
        for name in ORDERS:
            known = next((r for r in rows if r["order"] == name and r["_same"] == same), None)
            measured = known or _measured(sizes, unit, orders[name], seq_len, same, cuts, group)
            rows.append({**measured, "window": int(window), "order": name, "_same": same})
    return [{"window": r["window"], "order": r["order"], **_sums(r)} for r in rows]


def cluster_order(vectors: np.ndarray, shuffled: Int64, size: int = CLUSTER_SIZE) -> Int64:
    """Documents grouped by k-means clusters of about `size`, in the order of `shuffled` inside each: int64 [n].

    Args:
        vectors: float32 [n, d]; documents with a zero vector come first.
        shuffled: int64 [n], a random order of the documents; the first of them are the first centres.
    """
    from mixloom.pipeline.distances import nearest
    from mixloom.pipeline.kmeans import plain_rounds

    label = np.full(len(vectors), -1)
    known = np.asarray(vectors.any(axis=1))
    if known.any():
        x = np.ascontiguousarray(vectors[known], np.float32)
        first = np.ascontiguousarray(vectors[shuffled[known[shuffled]][: max(1, round(len(x) / size))]])
        label[known] = nearest(x, plain_rounds(x, first, iterations=_CLUSTER_ROUNDS, tolerance=0.0))[0]
    return shuffled[np.argsort(label[shuffled], kind="stable")]


def _sums(row: Mapping[str, Any]) -> Row:
    return {key: row[key] for key in SUMMED}


def _measured(
    sizes: Int64,
    unit: np.ndarray,
    order: Int64,
    seq_len: int,
    window: int,
    cuts: Cuts | None,
    group: Int64 | None,
) -> Row:
    """The sums of one plan; `order` int64 [n] is the place on the path of each document that is packed."""
    plan = pack(
        sizes[order], seq_len, window, _reordered(cuts, order), None if group is None else group[order]
    )
    cosine, pairs = _summed(order[plan.doc], plan.offsets, unit)
    tokens = int(sizes.sum())
    return {
        "contexts": len(plan),
        "slots": len(plan) * seq_len,
        "tokens": tokens,
        "extra": len(plan) - -(-tokens // seq_len),
        "documents": len(sizes),
        "cut_documents": _cut(plan, len(sizes)),
        "long_documents": int((sizes > seq_len).sum()),
        "cosine": cosine,
        "pairs": pairs,
    }


def _cut(plan: Plan, documents: int) -> int:
    return int((np.bincount(plan.doc, minlength=documents) > 1).sum())


def _reordered(cuts: Cuts | None, order: Int64) -> Cuts | None:
    """What may not be cut of documents that stand in another order: of place i, that of document order[i]."""
    if cuts is None:
        return None
    if isinstance(cuts, Blocks):
        counts = np.diff(cuts.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(cuts.offsets[order] - offsets[:-1], counts)
        return Blocks(offsets, cuts.spans[places])
    ask = cuts.get if isinstance(cuts, Mapping) else cuts
    return lambda i: ask(int(order[i]))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32 [n, d], zero rows left alone."""
    x = np.asarray(vectors).astype(np.float64)
    norm = np.sqrt((x * x).sum(axis=1, keepdims=True))
    return np.ascontiguousarray(x / np.where(norm > 0, norm, 1.0), np.float32)


def _keys(seed: int, count: int) -> NDArray[np.uint64]:
    """A uniform key per place, uint64 [count]: splitmix64 (Steele et al. 2014) over seed and place."""
    with np.errstate(over="ignore"):
        x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(seed & 0xFFFFFFFFFFFFFFFF) * np.uint64(0xD1342543DE82EF95)
        for _ in range(2):  # two rounds: neighbouring places share most of their bits
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return x


def _summed(doc: Int64, offsets: Int64, unit: np.ndarray) -> tuple[float, int]:
    cosine, pairs = _pair_sums(
        np.ascontiguousarray(doc, np.int64), np.ascontiguousarray(offsets, np.int64), unit
    )
    return float(cosine), int(pairs)


@njit("Tuple((f8,i8))(i8[::1],i8[::1],f4[:,::1])", cache=True, nogil=True)
def _pair_sums(doc: np.ndarray, offsets: np.ndarray, unit: np.ndarray) -> tuple[float, int]:
    documents, dim = unit.shape
    seen = np.full(documents, -1, np.int64)  # the last context a document was counted in
    total, own = np.zeros(dim, np.float64), 0.0
    cosine, pairs = 0.0, 0
    for c in range(offsets.shape[0] - 1):
        total[:] = 0.0
        own = 0.0
        different = 0
        for p in range(offsets[c], offsets[c + 1]):
            d = doc[p]
            if seen[d] == c:
                continue
            seen[d] = c
            different += 1
            for j in range(dim):
                x = np.float64(unit[d, j])
                total[j] += x
                own += x * x
        if different < 2:
            continue
        length = 0.0
        for j in range(dim):
            length += total[j] * total[j]
        cosine += (length - own) / 2.0
        pairs += different * (different - 1) // 2
    return cosine, pairs
