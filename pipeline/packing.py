"""Documents in path order to contexts of a fixed length: concatenate and cut, or best fit inside a window.

Two plans are on offer, and the price of each is measured in docs/shards.md. `window=1` concatenates and cuts:
full contexts, the order of the path kept, and about one cut per context. `window=W` packs each W consecutive
documents by best-fit-decreasing (Ding et al., arXiv 2404.10830, section 3): only documents longer than a
context are cut, at the price of some padding and of neighbours being parted inside the window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from mixloom.pipeline.errors import UserError

Int64 = NDArray[np.int64]

# Where a document may be cut: sorted token positions (0 < position < length), or None for "anywhere".
Cuts = Callable[[int], "Int64 | None"] | Mapping[int, Int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which piece of which document goes into which context.

    Pieces are grouped by context and lie in path order inside it; contexts are ordered by their first piece.

    Attributes:
        seq_len: tokens a context holds.
        doc: int64 [pieces], index of the document in the input.
        start: int64 [pieces], first token of the piece inside its document.
        stop: int64 [pieces], one past its last token.
        offsets: int64 [contexts + 1]; context c owns the pieces offsets[c] to offsets[c + 1].
        forced_cuts: cuts made inside a block that may not be cut because it is longer than a context.
    """

    seq_len: int
    doc: Int64
    start: Int64
    stop: Int64
    offsets: Int64
    forced_cuts: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def fills(self) -> Int64:
        """Real tokens per context: int64 [contexts], each from 1 to seq_len."""
        total = np.concatenate([[0], np.cumsum(self.stop - self.start)]).astype(np.int64)
        return np.diff(total[self.offsets])

    @property
    def fill(self) -> float:
        """Share of all context slots that hold a real token (1.0 for an empty plan)."""
        return float(self.fills.mean() / self.seq_len) if len(self) else 1.0

    def pieces(self, context: int) -> list[tuple[int, int, int]]:
        """The pieces (document index, start, stop) of one context, in path order."""
        own = slice(int(self.offsets[context]), int(self.offsets[context + 1]))
        return list(zip(self.doc[own].tolist(), self.start[own].tolist(), self.stop[own].tolist()))


def pack(
    lengths: ArrayLike, seq_len: int, window: int, cuts: Cuts | None = None, *, carry: bool = True
) -> Plan:
    """Plan the contexts of documents given in path order; deterministic, every token placed exactly once.

    Args:
        lengths: integers [n], tokens per document with its boundary tokens; each at least 1.
        seq_len: tokens per context.
        window: 1 concatenates and cuts every seq_len tokens; W > 1 packs each W consecutive documents by
            best fit. Any W >= n packs all documents together.
        cuts: allowed cut positions of a document, asked only for documents that must be cut. None, or a
            document the mapping lacks, means anywhere. A piece then ends at the last allowed position that
            fits; a stretch longer than seq_len without one is cut at seq_len and counted in `forced_cuts`.
        carry: with window > 1, the emptiest context of a window stays open for the next one.

    Raises:
        UserError: seq_len or window under 1, a length under 1, or cut positions that are not sorted.
    """
    sizes = np.ascontiguousarray(np.asarray(lengths, dtype=np.int64))
    _check(sizes, seq_len, window)
    ask = _asker(cuts)
    if window == 1:
        if ask is None:
            return _concatenate(sizes, seq_len)
        return _concatenate_at_cuts(sizes, seq_len, ask)
    doc, start, stop, forced = _chop(sizes, seq_len, ask)
    if not len(doc):
        return Plan(seq_len, doc, start, stop, np.zeros(1, np.int64), 0)
    length = stop - start
    group = doc // window
    # One stable sort for all windows: by window, then longest first; equal lengths stay in (document, start) order.
    order = np.argsort(group * (seq_len + 1) + (seq_len - length), kind="stable")
    bounds = np.flatnonzero(np.diff(group[order], prepend=-1, append=-2)).astype(np.int64)
    packed = _best_fit(length[order], bounds, np.int64(seq_len), carry)
    context = np.empty(len(doc), np.int64)
    context[order] = packed
    return _group(seq_len, doc, start, stop, context, forced)


def cut_positions(length: int, blocks: ArrayLike) -> Int64:
    """Positions where a document may be cut without splitting a block: int64, sorted, 0 < position < length.

    Args:
        length: tokens in the document.
        blocks: integers [k, 2], (start, stop) token spans that must stay whole, such as an image with its sentinels.
    """
    spans = np.asarray(blocks, dtype=np.int64).reshape(-1, 2)
    inside = np.zeros(length + 1, np.int64)
    np.add.at(inside, np.minimum(spans[:, 0] + 1, length), 1)
    np.add.at(inside, np.minimum(np.maximum(spans[:, 1], spans[:, 0] + 1), length), -1)
    free = np.cumsum(inside) == 0
    free[0] = free[length] = False
    return np.flatnonzero(free).astype(np.int64)


def _check(sizes: Int64, seq_len: int, window: int) -> None:
    if seq_len < 1:
        raise UserError(
            f"seq_len is {seq_len}; it must be at least 1", fix="set it to the trainer's context length"
        )
    if window < 1:
        raise UserError(
            f"window is {window}; it must be at least 1",
            fix="use 1 to concatenate and cut, 64 to 256 for ordered corpora, a large number for unordered ones",
        )
    if sizes.ndim != 1:
        raise UserError(
            f"document lengths have {sizes.ndim} dimensions; expected one", fix="pass one length each"
        )
    if len(sizes) and sizes.min() < 1:
        where = int(np.argmin(sizes))
        raise UserError(
            f"document {where} has {int(sizes[where])} tokens; every document has at least 1",
            fix="drop empty documents before packing; a tokenized document holds at least its two boundary tokens",
        )


def _asker(cuts: Cuts | None) -> Callable[[int], Int64 | None] | None:
    if cuts is None:
        return None
    lookup: Callable[[int], Int64 | None] = cuts.get if isinstance(cuts, Mapping) else cuts

    def ask(doc: int) -> Int64 | None:
        found = lookup(doc)
        if found is None:
            return None
        positions = np.asarray(found, dtype=np.int64)
        if positions.ndim != 1 or bool(np.any(np.diff(positions) < 0)):
            raise UserError(
                f"cut positions of document {doc} are not sorted",
                fix="give one ascending list of token positions (see cut_positions)",
            )
        return positions

    return ask


def _last_cut(allowed: Int64 | None, start: int, limit: int) -> int:
    """The last allowed position in (start, limit], or -1."""
    if allowed is None:
        return limit
    i = int(np.searchsorted(allowed, limit, side="right")) - 1
    return int(allowed[i]) if i >= 0 and allowed[i] > start else -1


def _concatenate(sizes: Int64, seq_len: int) -> Plan:
    ends = np.cumsum(sizes)
    begins = ends - sizes
    total = int(ends[-1]) if len(ends) else 0
    grid = np.arange(0, total, seq_len, dtype=np.int64)
    edges = np.unique(np.concatenate([begins, grid]))
    doc = (np.searchsorted(begins, edges, side="right") - 1).astype(np.int64)
    after = np.append(edges[1:], total)
    offsets = np.append(np.searchsorted(edges, grid), len(edges)).astype(np.int64)
    return Plan(seq_len, doc, edges - begins[doc], after - begins[doc], offsets, 0)


def _concatenate_at_cuts(sizes: Int64, seq_len: int, ask: Callable[[int], Int64 | None]) -> Plan:
    doc: list[int] = []
    bounds: list[tuple[int, int]] = []
    offsets = [0]
    room, forced = seq_len, 0

    def close() -> None:
        nonlocal room
        offsets.append(len(doc))
        room = seq_len

    for d, size in enumerate(sizes.tolist()):
        start = 0
        allowed = ask(d) if size > room else None
        while start < size:
            stop = size if size - start <= room else _last_cut(allowed, start, start + room)
            if (
                stop < 0 and room < seq_len
            ):  # nothing of the rest fits here uncut: it opens a context of its own
                close()
                continue
            if stop < 0:
                stop, forced = start + seq_len, forced + 1
            doc.append(d)
            bounds.append((start, stop))
            room -= stop - start
            start = stop
            if room == 0 or start < size:
                close()
    if offsets[-1] != len(doc):
        offsets.append(len(doc))
    spans = np.asarray(bounds, dtype=np.int64).reshape(-1, 2)
    arrays = (np.asarray(doc, dtype=np.int64), spans[:, 0].copy(), spans[:, 1].copy())
    return Plan(seq_len, *arrays, np.asarray(offsets, dtype=np.int64), forced)


def _chop(
    sizes: Int64, seq_len: int, ask: Callable[[int], Int64 | None] | None
) -> tuple[Int64, Int64, Int64, int]:
    """Whole documents, and the pieces of those longer than a context: (doc, start, stop, forced cuts)."""
    forced = 0
    stops: dict[int, list[int]] = {}
    counts = -(-sizes // seq_len)
    if ask is not None:
        for d in np.flatnonzero(sizes > seq_len).tolist():
            allowed, size, start, ends = ask(d), int(sizes[d]), 0, []
            while size - start > seq_len:
                stop = _last_cut(allowed, start, start + seq_len)
                if stop < 0:
                    stop, forced = start + seq_len, forced + 1
                ends.append(stop)
                start = stop
            stops[d] = [*ends, size]
            counts[d] = len(stops[d])
    doc = np.repeat(np.arange(len(sizes), dtype=np.int64), counts)
    first = np.cumsum(counts) - counts
    nth = np.arange(len(doc), dtype=np.int64) - first[doc]
    start_of, stop_of = nth * seq_len, np.minimum((nth + 1) * seq_len, sizes[doc])
    for d, ends in stops.items():
        own = slice(int(first[d]), int(first[d]) + len(ends))
        stop_of[own] = ends
        start_of[own] = [0, *ends[:-1]]
    return doc, start_of, stop_of, forced


def _group(seq_len: int, doc: Int64, start: Int64, stop: Int64, context: Int64, forced: int) -> Plan:
    """Pieces given in (doc, start) order and their contexts, as a plan with contexts in order of first piece."""
    _, first, inverse = np.unique(context, return_index=True, return_inverse=True)
    position = np.empty(len(first), np.int64)
    position[np.argsort(first, kind="stable")] = np.arange(len(first))
    context = position[inverse]
    order = np.argsort(context, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(context))]).astype(np.int64)
    return Plan(seq_len, doc[order], start[order], stop[order], offsets, forced)


@njit(cache=True, nogil=True)
def _mark(tree, leaf):  # type: ignore[no-untyped-def]
    """Note a capacity as occupied, up to the root."""
    node = tree.shape[0] // 2 + leaf
    while node >= 1 and tree[node] == 0:
        tree[node] = 1
        node //= 2


@njit(cache=True, nogil=True)
def _unmark(tree, leaf):  # type: ignore[no-untyped-def]
    """Note a capacity as empty; a parent stays occupied while its other child is."""
    node = tree.shape[0] // 2 + leaf
    tree[node] = 0
    while node > 1 and tree[node ^ 1] == 0:
        node //= 2
        tree[node] = 0


@njit(cache=True, nogil=True)
def _at_least(tree, leaf):  # type: ignore[no-untyped-def]
    """The smallest occupied capacity >= leaf, or -1: climb until a right sibling is occupied, then go down left."""
    half = tree.shape[0] // 2
    node = half + leaf
    if tree[node] == 1:
        return leaf
    while node > 1 and (node & 1 == 1 or tree[node + 1] == 0):
        node //= 2
    if node <= 1:
        return -1
    node += 1
    while node < half:
        node = 2 * node if tree[2 * node] == 1 else 2 * node + 1
    return node - half


@njit(cache=True, nogil=True)
def _best_fit(length, bounds, seq_len, carry):  # type: ignore[no-untyped-def]
    """Best-fit-decreasing per window: int64 lengths [p] (longest first per window), bounds [w + 1] -> bins [p]."""
    leaves = 1
    while leaves < seq_len + 1:
        leaves *= 2
    tree = np.zeros(2 * leaves, np.uint8)
    head = np.full(seq_len + 1, -1, np.int64)  # capacity -> the bin opened or filled last among those with it
    below = np.full(length.shape[0], -1, np.int64)  # the next bin of the same capacity
    room = np.zeros(length.shape[0], np.int64)
    bins = np.empty(length.shape[0], np.int64)
    opened, kept = 0, -1
    for w in range(bounds.shape[0] - 1):
        first = opened
        for i in range(bounds[w], bounds[w + 1]):
            space = _at_least(tree, length[i])
            if space < 0:
                b, space = opened, seq_len
                opened += 1
            else:
                b = head[space]
                head[space] = below[b]
                if head[space] < 0:
                    _unmark(tree, space)
            bins[i] = b
            room[b] = space - length[i]
            if room[b] > 0:
                below[b] = head[room[b]]
                head[room[b]] = b
                _mark(tree, room[b])
        emptiest = kept
        for b in range(first, opened):
            if emptiest < 0 or room[b] > room[emptiest]:
                emptiest = b
        for b in range(first - 1, opened):
            j = kept if b < first else b
            if j >= 0 and room[j] > 0 and head[room[j]] >= 0:
                head[room[j]] = -1
                _unmark(tree, room[j])
        kept = -1
        if carry and emptiest >= 0 and room[emptiest] > 0:
            kept = emptiest
            below[kept] = -1
            head[room[kept]] = kept
            _mark(tree, room[kept])
    return bins
