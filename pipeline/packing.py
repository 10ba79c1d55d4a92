"""Documents in path order to contexts of a fixed length: concatenate and cut, or best fit inside a window.

Two plans are on offer, and the price of each is measured in docs/shards.md. `window=1` concatenates and cuts:
full contexts, the order of the path kept, and about one cut per context. `window=W` packs each W consecutive
documents by best-fit-decreasing (Ding et al., arXiv 2404.10830, section 3): only documents longer than a
context are cut, at the price of some padding and of neighbours being parted inside the window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.packing_kernel import best_fit, chop, concatenate, separate

Int64 = NDArray[np.int64]

CARRIED = 8  # contexts of a window that stay open for the next one (docs/shards.md has the price of more)


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Token spans that must stay whole, such as an image with its sentinels.

    Attributes:
        offsets: int64 [documents + 1]; document d owns the spans offsets[d] to offsets[d + 1].
        spans: int64 [k, 2], (start, stop) inside the document; ascending and disjoint within a document.
    """

    offsets: Int64
    spans: Int64

    @classmethod
    def of(cls, documents: Sequence[ArrayLike]) -> Blocks:
        """From the spans of each document, integers [k, 2] in any order; spans that overlap become one."""
        found = [_disjoint(np.asarray(d, dtype=np.int64).reshape(-1, 2)) for d in documents]
        offsets = np.concatenate([[0], np.cumsum([len(f) for f in found])]).astype(np.int64)
        return cls(offsets, np.concatenate([*found, np.zeros((0, 2), np.int64)]))

    def within(self, document: int, start: int, stop: int) -> Int64:
        """The spans of a piece of a document that no plan has cut inside one: int64 [k, 2], counted from its start."""
        own = self.spans[self.offsets[document] : self.offsets[document + 1]]
        clipped = np.clip(own, start, stop) - start
        return clipped[clipped[:, 1] > clipped[:, 0]]


def _disjoint(spans: Int64) -> Int64:
    spans = spans[spans[:, 1] - spans[:, 0] > 1]  # one token cannot be cut
    spans = spans[np.lexsort((spans[:, 1], spans[:, 0]))]
    if len(spans) < 2:
        return spans
    reach = np.maximum.accumulate(spans[:, 1])
    first = np.r_[True, spans[1:, 0] >= reach[:-1]]
    return np.stack([spans[first, 0], reach[np.r_[first[1:], True]]], axis=1)


# Where a document may be cut: its blocks; or sorted token positions (0 < position < length), or None for "anywhere".
Cuts = Blocks | Callable[[int], "Int64 | None"] | Mapping[int, Int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which piece of which document goes into which context.

    Pieces are grouped by context and lie in path order inside it, except where near duplicates are kept apart; contexts
    are ordered by the piece that comes first on the path.

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
    lengths: ArrayLike,
    seq_len: int,
    window: int,
    cuts: Cuts | None = None,
    groups: ArrayLike | None = None,
    *,
    carry: int = CARRIED,
) -> Plan:
    """Plan the contexts of documents given in path order; deterministic, every token placed exactly once.

    Args:
        lengths: integers [n], tokens per document with its boundary tokens; each at least 1.
        seq_len: tokens per context.
        window: 1 concatenates and cuts every seq_len tokens; W > 1 packs each W consecutive documents by
            best fit. Any W >= n packs all documents together.
        cuts: what may not be cut, as `Blocks`; or the allowed positions of a document, asked only for documents that
            may have to be cut. None, or a document the mapping lacks, means anywhere. A piece then ends at the last
            allowed position that fits; a stretch longer than seq_len without one is cut at seq_len and counted in
            `forced_cuts`.
        groups: integers [n], documents of one number (from 0) are near duplicates, -1 is none. No two of a group are
            neighbours in a context. With window 1 the context ends between them. Otherwise best fit prefers contexts
            without the group, then contexts in which others can stand between them, and then opens a new one.
        carry: with window > 1, so many of the emptiest contexts of a window stay open for the next one.

    Raises:
        UserError: seq_len or window under 1, a length under 1, not one group per document, or cut positions that are
            not sorted.
    """
    sizes = np.ascontiguousarray(np.asarray(lengths, dtype=np.int64))
    _check(sizes, seq_len, window)
    group = _groups(groups, len(sizes))
    longest = 1 if window == 1 else seq_len  # what is not longer is never cut
    blocks = _blocks(cuts, sizes, longest)
    if window == 1:
        uncounted = np.empty((0, 4), np.int64)
        count, contexts, forced = concatenate(sizes, seq_len, blocks.offsets, blocks.spans, group, uncounted)
        pieces = np.empty((count, 4), np.int64)
        if count:
            concatenate(sizes, seq_len, blocks.offsets, blocks.spans, group, pieces)
        offsets = np.searchsorted(pieces[:, 3], np.arange(contexts + 1)).astype(np.int64)
        doc, start, stop, _ = (np.ascontiguousarray(column) for column in pieces.T)
        return Plan(seq_len, doc, start, stop, offsets, forced)
    count, forced = chop(sizes, seq_len, blocks.offsets, blocks.spans, np.empty((0, 3), np.int64))
    pieces = np.empty((count, 3), np.int64)
    if not count:
        none = np.zeros(0, np.int64)
        return Plan(seq_len, none, none, none, np.zeros(1, np.int64), 0)
    chop(sizes, seq_len, blocks.offsets, blocks.spans, pieces)
    doc, start, stop = (np.ascontiguousarray(column) for column in pieces.T)
    length, of_window = stop - start, doc // window
    # One stable sort for all windows: by window, then longest first; equal lengths stay in (document, start) order.
    order = np.argsort(of_window * (seq_len + 1) + (seq_len - length), kind="stable")
    bounds = np.flatnonzero(np.diff(of_window[order], prepend=-1, append=-2)).astype(np.int64)
    packed = best_fit(length[order], group[doc[order]], bounds, np.int64(seq_len), int(carry))
    context = np.empty(count, np.int64)
    context[order] = packed
    return _apart(_group(seq_len, doc, start, stop, context, forced), group)


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


def _groups(groups: ArrayLike | None, n: int) -> Int64:
    """One number from 0 per group of two or more, -1 elsewhere: int64 [n]."""
    if groups is None:
        return np.full(n, -1, np.int64)
    given = np.asarray(groups, dtype=np.int64)
    if given.shape != (n,):
        raise UserError(
            f"groups of near duplicates have shape {given.shape}, and there are {n} documents",
            fix="give one number per document, -1 for a document without near duplicates",
        )
    _, inverse, counts = np.unique(given, return_inverse=True, return_counts=True)
    return np.where((given >= 0) & (counts[inverse] > 1), inverse, -1).astype(np.int64)


def _blocks(cuts: Cuts | None, sizes: Int64, longest: int) -> Blocks:
    """What may not be cut, asked only for documents longer than `longest`."""
    if isinstance(cuts, Blocks):
        if len(cuts.offsets) != len(sizes) + 1:
            raise UserError(
                f"blocks are given for {len(cuts.offsets) - 1} documents, and there are {len(sizes)}",
                fix="give the spans of every document, none for one that may be cut anywhere",
            )
        return cuts
    counts = np.zeros(len(sizes), np.int64)
    spans: list[Int64] = []
    if cuts is not None:
        lookup: Callable[[int], Int64 | None] = cuts.get if isinstance(cuts, Mapping) else cuts
        for d in np.flatnonzero(sizes > longest).tolist():
            own = _spans_between(d, lookup(d), int(sizes[d]))
            counts[d] = len(own)
            spans.append(own)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Blocks(offsets, np.concatenate([*spans, np.zeros((0, 2), np.int64)]))


def _spans_between(doc: int, found: Int64 | None, size: int) -> Int64:
    """The stretches of a document between its allowed positions: int64 [k, 2]."""
    if found is None:
        return np.zeros((0, 2), np.int64)
    positions = np.asarray(found, dtype=np.int64)
    if positions.ndim != 1 or bool(np.any(np.diff(positions) < 0)):
        raise UserError(
            f"cut positions of document {doc} are not sorted",
            fix="give one ascending list of token positions (see cut_positions)",
        )
    edges = np.concatenate([[0], positions[(positions > 0) & (positions < size)], [size]])
    wide = np.flatnonzero(np.diff(edges) > 1)
    return np.stack([edges[wide], edges[wide + 1]], axis=1)


def _group(seq_len: int, doc: Int64, start: Int64, stop: Int64, context: Int64, forced: int) -> Plan:
    """Pieces given in (doc, start) order and their contexts, as a plan with contexts in order of first piece."""
    _, first, inverse = np.unique(context, return_index=True, return_inverse=True)
    position = np.empty(len(first), np.int64)
    position[np.argsort(first, kind="stable")] = np.arange(len(first))
    context = position[inverse]
    order = np.argsort(context, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(context))]).astype(np.int64)
    return Plan(seq_len, doc[order], start[order], stop[order], offsets, forced)


def _apart(plan: Plan, group: Int64) -> Plan:
    """The plan with near duplicates parted inside their contexts."""
    if not bool((group >= 0).any()):
        return plan
    order = np.arange(len(plan.doc), dtype=np.int64)
    separate(group[plan.doc], plan.offsets, order)
    return replace(plan, doc=plan.doc[order], start=plan.start[order], stop=plan.stop[order])
