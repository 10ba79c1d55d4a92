"""Cells that turn out too large, cut by exact counts: how the bound on a cell holds for certain.

Centres are sized from a sample, so a cell may get more documents than it was meant for, and vectors that cannot be told
apart have nothing a centre could part them by. Every document therefore has a key inside its cell, a whole number
of 64 bits: 16 for its place along one direction of the cell, 48 from a hash of its id. A cell is cut into ranges of
that key. Ranges follow the content as far as there is any, equal vectors are parted by their ids, and a document
alone finds its range as it does in the corpus.

Where to cut is found by counting, a digit of the key at a time (a distributed selection by radix): `KeyRanges` says
which ranges must still be looked into, `range_counts` counts them in a part, `KeyRanges.counted` takes the sums, and `pieces` says
where to cut. No key and
no vector is ever gathered. Called by the stage `cluster` (pipeline/cluster_counts.py), and only where a cell is too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from mixloom.pipeline.embed import sample_keys

PLACE_BITS, KEY_BITS, DIGIT_BITS = 16, 64, 8
_SEED = 0  # of the hash of ids: part of every saved model


@dataclass(frozen=True, eq=False)
class CellAxes:
    """A direction for each of m cells, float32 [m, d] (zeros where its vectors are all alike), and the stretch of it
    its sampled vectors take, float32 [m, 2]: where it begins and how long it is."""

    directions: np.ndarray
    stretch: np.ndarray

    @classmethod
    def none(cls, cells: int, dim: int) -> CellAxes:
        """No direction for any cell: keys are hashes alone."""
        return cls(np.zeros((cells, dim), np.float32), np.zeros((cells, 2), np.float32))


def principal_direction(vectors: np.ndarray, rounds: int = 30) -> np.ndarray:
    """The direction float32 [d] along which float32 [n, d] spread most, of length 1; zeros where they do not spread.

    By power iteration in the order of the vectors, so that no library decides its last bits.
    """
    direction: np.ndarray = _principal(np.ascontiguousarray(vectors, np.float32), rounds)
    return direction


def fit_axes(vectors: np.ndarray, cell: np.ndarray, cells: int) -> CellAxes:
    """Axes of `cells` cells from sampled vectors float32 [n, d] and the cell int [n] of each."""
    axes = CellAxes.none(cells, vectors.shape[1])
    order = np.argsort(cell, kind="stable")
    bounds = np.searchsorted(cell[order], np.arange(cells + 1))
    for j in range(cells):
        inside = vectors[order[bounds[j] : bounds[j + 1]]]
        if len(inside) > 1:
            axes.directions[j] = principal_direction(inside)
            at = _places(inside, np.zeros(len(inside), np.int32), axes.directions[j : j + 1])
            axes.stretch[j] = at.min(), at.max() - at.min()
    return axes


def cell_keys(vectors: np.ndarray, cell: np.ndarray, axes: CellAxes, doc_ids: Sequence[str]) -> np.ndarray:
    """The key of each document in its cell, uint64 [n], from its vector float32 [n, d], cell int32 [n] and id.

    Cells beyond those of the axes (documents without text) have no direction. Bits do not depend on the batch.
    """
    places = np.zeros(len(vectors), np.uint64)
    known = cell < len(axes.directions)
    if known.any():
        at = _places(np.ascontiguousarray(vectors[known], np.float32), cell[known], axes.directions)
        low, length = axes.stretch[cell[known]].T.astype(np.float64)
        share = np.divide(at - low, length, out=np.zeros_like(at), where=length > 0)
        top = (1 << PLACE_BITS) - 1
        places[known] = np.clip(share * top, 0, top).astype(np.uint64)
    hashes = sample_keys(doc_ids, _SEED) >> np.uint64(PLACE_BITS)
    keys: np.ndarray = (places << np.uint64(KEY_BITS - PLACE_BITS)) | hashes
    return keys


@dataclass(frozen=True, eq=False)
class KeyRanges:
    """Ranges of keys that hold too many documents to stay whole, one digit of the key deeper each time they are counted.

    cell int64 [r] and first uint64 [r] name them, sorted; all share the same leading `bits`. `counts` are documents of
    the cells that are cut, by cell; `leaves` the ranges that are small enough: (cell, first key, documents).
    """

    cell: np.ndarray
    first: np.ndarray
    bits: int
    most: int
    counts: dict[int, int]
    leaves: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(cls, counts: np.ndarray, most: int) -> KeyRanges:
        """Whole cells with more than `most` documents, from counts int64 [cells]."""
        cell = np.flatnonzero(counts > most)
        total = {int(j): int(counts[j]) for j in cell}
        return cls(cell.astype(np.int64), np.zeros(len(cell), np.uint64), 0, most, total)

    @property
    def open(self) -> int:
        """Ranges that must be counted."""
        return len(self.cell)

    def counted(self, bins: np.ndarray, documents: np.ndarray) -> KeyRanges:
        """What is left to count when the bins of `range_counts` (int64 [b], sorted) hold so many documents (int64 [b]).

        Raises:
            RuntimeError: more documents than a cell may hold share all bits of their keys.
        """
        digits = 1 << DIGIT_BITS
        bits = self.bits + DIGIT_BITS
        of, digit = np.divmod(bins, digits)
        first = self.first[of] | (digit.astype(np.uint64) << np.uint64(KEY_BITS - bits))
        large = documents > self.most
        if bits == KEY_BITS and large.any():
            raise RuntimeError(
                f"{int(documents.max())} documents of one cell share their vector and the hash of their id"
            )
        small = zip(
            self.cell[of[~large]].tolist(), first[~large].tolist(), documents[~large].tolist(), strict=True
        )
        return KeyRanges(
            self.cell[of[large]], first[large], bits, self.most, self.counts, (*self.leaves, *small)
        )

    def pieces(self) -> dict[int, list[tuple[int, int]]]:
        """By cell, (first key, documents) of each piece it is cut into; none holds more than `most`.

        Pieces are as many as the bound asks, or a few more, and about equal.
        """
        out: dict[int, list[tuple[int, int]]] = {j: [] for j in self.counts}
        passed = dict.fromkeys(self.counts, 0)
        for cell, first, documents in sorted(self.leaves):
            pieces, total = out[cell], self.counts[cell]
            share = len(pieces) * total / -(-total // self.most)
            full = not pieces or pieces[-1][1] + documents > self.most
            if full or passed[cell] + documents / 2 > share:
                pieces.append((first if pieces else 0, 0))
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + documents)
            passed[cell] += documents
        return out


def range_counts(keys: np.ndarray, cell: np.ndarray, ranges: KeyRanges) -> tuple[np.ndarray, np.ndarray]:
    """How many of some documents (uint64 [n], int [n]) fall into each digit of each open range.

    Returns bins int64 [b], ascending (place of the range times 2^DIGIT_BITS + digit), and counts int64 [b] above 0.
    """
    head = _masked(keys, ranges.bits)
    place = _find(cell.astype(np.int64), head, ranges.cell, ranges.first)
    inside = place >= 0
    digit = (keys[inside] << np.uint64(ranges.bits)) >> np.uint64(KEY_BITS - DIGIT_BITS)
    bins, counts = np.unique((place[inside] << DIGIT_BITS) + digit.astype(np.int64), return_counts=True)
    return bins, counts.astype(np.int64)


def _masked(keys: np.ndarray, bits: int) -> np.ndarray:
    if bits == 0:
        return np.zeros_like(keys)
    rest = np.uint64(KEY_BITS - bits)
    masked: np.ndarray = (keys >> rest) << rest
    return masked


@njit("i8[::1](i8[::1],u8[::1],i8[::1],u8[::1])", cache=True, nogil=True)
def _find(cell: np.ndarray, head: np.ndarray, in_cell: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The range of each document by bisection, -1 where it is in none."""
    out = np.full(len(cell), -1)
    for i in range(len(cell)):
        low, high = 0, len(in_cell)
        while low < high:
            middle = (low + high) // 2
            before = in_cell[middle] < cell[i] or (in_cell[middle] == cell[i] and first[middle] < head[i])
            low, high = (middle + 1, high) if before else (low, middle)
        if low < len(in_cell) and in_cell[low] == cell[i] and first[low] == head[i]:
            out[i] = low
    return out


@njit("f8[::1](f4[:,::1],i4[::1],f4[:,::1])", cache=True, nogil=True)
def _places(vectors: np.ndarray, cell: np.ndarray, directions: np.ndarray) -> np.ndarray:
    out = np.zeros(len(vectors))
    for i in range(len(vectors)):
        for d in range(vectors.shape[1]):
            out[i] += np.float64(vectors[i, d]) * np.float64(directions[cell[i], d])
    return out


@njit("f4[::1](f4[:,::1],i8)", cache=True, nogil=True)
def _principal(vectors: np.ndarray, rounds: int) -> np.ndarray:
    n, dim = vectors.shape
    mean, best, far = np.zeros(dim), 0, -1.0
    for i in range(n):
        for d in range(dim):
            mean[d] += vectors[i, d] / n
    for i in range(n):  # the farthest from the mean is a start that spreads
        gap = 0.0
        for d in range(dim):
            gap += (vectors[i, d] - mean[d]) ** 2
        if gap > far:
            best, far = i, gap
    out = np.zeros(dim, np.float32)
    if far <= 1e-12:
        return out
    axis = (vectors[best] - mean) / np.sqrt(far)
    for _ in range(rounds):
        moved = np.zeros(dim)
        for i in range(n):
            along = 0.0
            for d in range(dim):
                along += (vectors[i, d] - mean[d]) * axis[d]
            for d in range(dim):
                moved[d] += along * (vectors[i, d] - mean[d])
        length = np.sqrt((moved * moved).sum())
        if length <= 1e-30:
            break
        axis = moved / length
    for d in range(dim):
        out[d] = axis[d]
    return out
