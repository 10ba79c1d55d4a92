"""The integer bookkeeping of a batch in compiled loops: what `data.make_batch` hands to the model.

Everything is filled in runs (of one document, of one modality), so that the inner loops are plain copies and counts.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.ascending import last_at_most

OK, ID_OUTSIDE, MODALITY_OUTSIDE, TOO_LONG, NEGATIVE = 0, 1, 2, 3, 4
IGNORE = -100
_TILE = 2048  # ids read twice while they are near
_BLOCK = 64  # ids compared at once; with fewer the loop is not made of vector instructions


@njit(cache=True, nogil=True)
def cut_pieces(lengths, length, pieces, padding):  # type: ignore[no-untyped-def]
    """The pieces that tile a batch: documents of each context, then its padding; empty ones are left out.

    Args:
        lengths: integers [B, M], lengths of the documents of each context.
        length: L.
        pieces, padding: int64 and bool, long enough for B * (M + 1); written.

    Returns:
        (code, number of pieces, or the context that is wrong, its tokens or the wrong length).
    """
    out = 0
    for row in range(lengths.shape[0]):
        rest = length
        for i in range(lengths.shape[1]):
            n = int(lengths[row, i])
            rest -= n
            if n < 0:
                return NEGATIVE, row, n
            if n > 0:
                pieces[out], padding[out] = n, False
                out += 1
        if rest < 0:
            return TOO_LONG, row, length - rest
        if rest > 0:
            pieces[out], padding[out] = rest, True
            out += 1
    return OK, out, 0


@njit(cache=True, nogil=True)
def join_pieces(pieces, padding, joined):  # type: ignore[no-untyped-def]
    """Pieces of a context as one, its padding apart: int64 [P] -> written to `joined`; returns their number.

    Args:
        pieces, padding: from `cut_pieces`, for contexts of equal length.
        joined: int64, as long as `pieces`; must hold L in its first element.
    """
    length, out, real, seen = joined[0], 0, 0, 0
    for i in range(pieces.shape[0]):
        if not padding[i]:
            real += pieces[i]
        seen += pieces[i]
        if seen == length:
            if real > 0:
                joined[out] = real
                out += 1
            if length > real:
                joined[out] = length - real
                out += 1
            real, seen = 0, 0
    return out


@njit(cache=True, nogil=True)
def _run_end(ids, begin, end, low, top):  # type: ignore[no-untyped-def]
    """The end of the run of ids from low to low + top, both as wide as an id, that begins at `begin`.

    Looks at whole blocks while it can, beyond `end` if need be: where a block holds the end of the run, its place is a
    smallest number, for a loop that stops there would be foretold wrongly each time.
    """
    i, cast = begin, ids.dtype.type
    while i < end and i + _BLOCK <= ids.shape[0]:
        block, furthest = ids[i : i + _BLOCK], cast(0)
        for j in range(_BLOCK):
            furthest = max(furthest, cast(block[j] - low))
        if furthest > top:
            first = cast(_BLOCK)
            for j in range(_BLOCK):
                first = min(first, cast(j) if cast(block[j] - low) > top else cast(_BLOCK))
            return min(i + int(first), end)
        i += _BLOCK
    while i < end and cast(ids[i] - low) <= top:
        i += 1
    return min(i, end)


@njit(cache=True, nogil=True)
def find_runs(ids, pieces, padding, modality, edges, runs, sizes, target_counts):  # type: ignore[no-untyped-def]
    """Cut the tokens into runs of one modality that lie in one piece, and count.

    Args:
        ids: uint16 or uint32 [T].
        pieces, padding: int64 and bool [P], from `cut_pieces`.
        modality: uint8 [V]; it is the same for all ids from one edge to the next.
        edges: int64 [E], ascending, from 0 to V.
        runs: int32 [2, T], written: end and modality of every run.
        sizes, target_counts: int64 [K], written: padding is of modality 0 and has no targets, nor has the last token
            of a piece.

    Returns:
        (code, number of runs, or the id or modality that is outside).
    """
    vocabulary, modalities, cast = modality.shape[0], sizes.shape[0], ids.dtype.type
    sizes[:] = 0
    target_counts[:] = 0
    at, found, edge = 0, 0, 0
    for p in range(pieces.shape[0]):
        begin, end = at, at + pieces[p]
        while at < end:
            one = int(ids[at])
            if one >= vocabulary:
                return ID_OUTSIDE, one
            if one < edges[edge] or one >= edges[edge + 1]:
                edge = last_at_most(edges, edges.shape[0], one)
            kind = 0 if padding[p] else int(modality[one])
            if kind >= modalities:
                return MODALITY_OUTSIDE, kind
            low, high = edges[edge], edges[edge + 1]
            stop = _run_end(ids, at, end, cast(low), cast(high - 1 - low))
            sizes[kind] += stop - at
            if not padding[p]:
                # Every token but the first of its piece is the target of the one before it.
                target_counts[kind] += stop - at - (at == begin)
            runs[0, found], runs[1, found] = stop, kind
            found += 1
            at = stop
    return OK, found


@njit(cache=True, nogil=True)
def fill(ids, pieces, padding, runs, found, none, sizes, out, target_modality):  # type: ignore[no-untyped-def]
    """Everything of a batch that is as long as its tokens and depends on ids.

    Args:
        ids: uint16 or uint32 [T].
        pieces, padding: from `cut_pieces`; runs, found, sizes: from `find_runs`.
        none: modality told of a token without target.
        out: int32 [4, T], written: input_ids, targets, perm, inverse.
        target_modality: uint8 [T], written.
    """
    input_ids, targets, perm, inverse = out[0], out[1], out[2], out[3]
    for start in range(0, ids.shape[0], _TILE):
        same, ahead = ids[start : start + _TILE], ids[start + 1 : start + 1 + _TILE]
        here, there = input_ids[start : start + _TILE], targets[start : start + _TILE]
        for i in range(same.shape[0]):
            here[i] = same[i]
        for i in range(ahead.shape[0]):
            there[i] = ahead[i]
    place = np.zeros(sizes.shape[0], np.int64)
    for m in range(1, sizes.shape[0]):
        place[m] = place[m - 1] + sizes[m - 1]
    begin = 0
    for r in range(found):
        end, kind = int(runs[0, r]), int(runs[1, r])
        n, first = end - begin, place[kind]
        # Slices first: what is counted from 0 needs no check for negative places, and becomes vector instructions.
        order, back = perm[first : first + n], inverse[begin:end]
        for j in range(n):
            order[j] = np.int32(begin) + np.int32(j)
        for j in range(n):
            back[j] = np.int32(first) + np.int32(j)
        target_modality[max(begin - 1, 0) : end - 1] = kind
        place[kind] += n
        begin = end
    at = 0
    for p in range(pieces.shape[0]):
        end = at + pieces[p]
        if padding[p]:
            targets[at:end] = IGNORE
            target_modality[at:end] = none
        targets[end - 1], target_modality[end - 1] = IGNORE, none
        at = end


@njit(cache=True, nogil=True)
def number_pieces(pieces, positions, documents):  # type: ignore[no-untyped-def]
    """Place inside its piece, and number of the piece, of every token: int64 [P] -> int32 [T], written, twice."""
    at = 0
    for p in range(pieces.shape[0]):
        n = pieces[p]
        place = positions[at : at + n]
        for i in range(n):
            place[i] = np.int32(i)
        documents[at : at + n] = p
        at += n
