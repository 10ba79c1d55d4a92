"""Candidate pairs sifted by their signatures before any text is read.

Most pairs that meet in a bucket share a passage, and no more: of a hundred, two to thirty are duplicates. Their signatures
tell so at a hundredth of what their texts cost, even if little is kept of each value (Li and Koenig 2010, "b-Bit minwise
hashing").
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.candidates import RANKED
from mixloom.pipeline.doc_ids import I64, U16, U64, columns, id_batch
from mixloom.pipeline.graph import Work
from mixloom.pipeline.shuffle import Grouped, Keyed, by_schema
from mixloom.pipeline.verify import SKETCHES, Sets

MISSED = (
    1e-9  # the chance that a pair at the threshold is left out because its signatures agree in too few values
)
_BITS = 4  # kept of each value: of unlike values one in 16 seems alike, of like ones all do
_TO_A_WORD = 64 // _BITS


def least_agreement(values: int, threshold: float, missed: float = MISSED) -> int:
    """In how many of so many MinHash values two documents agree at least, if their Jaccard similarity is the threshold.

    The number is binomial (Broder 1997); documents of this or a greater similarity agree in fewer values than are returned
    with a probability of at most `missed`.
    """
    below = 0.0
    for k in range(values + 1):
        below += math.comb(values, k) * threshold**k * (1.0 - threshold) ** (values - k)
        if below > missed:
            return k
    return values


@numba.njit(cache=True, nogil=True)
def _sketched(signatures: U16, out: U64) -> None:
    for i in range(signatures.shape[0]):
        for w in range(out.shape[1]):
            word = np.uint64(0)
            for p in range(w * 16, min((w + 1) * 16, signatures.shape[1])):
                word = (word << np.uint64(4)) | np.uint64(signatures[i, p] >> np.uint16(12))
            out[i, w] = word


def words_of(num_perm: int) -> int:
    """Words of a sketch of so many values."""
    return -(-num_perm // _TO_A_WORD)


def sketched(signatures: U16) -> U64:
    """The first four bits of each value of signatures uint16 [n, num_perm], sixteen in a word: uint64 [n, num_perm / 16]."""
    out = np.empty((len(signatures), words_of(signatures.shape[1])), dtype=np.uint64)
    _sketched(signatures, out)
    return out


@numba.njit(cache=True, nogil=True)
def _agreeing(sketches: U64, left: I64, right: I64, most: int) -> npt.NDArray[np.bool_]:
    """bool [m]: which of the pairs of rows differ in at most so many values."""
    out = np.empty(len(left), dtype=np.bool_)
    for k in range(len(left)):
        differ = np.uint64(0)
        for w in range(sketches.shape[1]):
            x = sketches[left[k], w] ^ sketches[right[k], w]
            x |= x >> np.uint64(2)
            x = (x | (x >> np.uint64(1))) & np.uint64(0x1111111111111111)  # a one for each value that differs
            x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
            differ += (x * np.uint64(0x0101010101010101)) >> np.uint64(56)
        out[k] = differ <= np.uint64(most)
    return out


def likely_pairs(
    sketches: U64, num_perm: int, left: U64, right: U64, threshold: float
) -> npt.NDArray[np.bool_]:
    """bool [m]: the pairs that may be duplicates for all that their signatures tell.

    Args:
        sketches: uint64 [n, width], see `sketched`.
        num_perm: values of a signature.
        left, right: uint64 [m], the rows of each pair.
        threshold: Jaccard similarity of duplicates.
    """
    most = num_perm - least_agreement(num_perm, threshold)
    return _agreeing(sketches, left.astype(np.int64), right.astype(np.int64), most)


def listed(signatures: U16) -> tuple[pa.LargeListArray, I64]:
    """`sketched` signatures uint16 [n, num_perm] as lists that travel as shingles do (see `verify.ReadLists`).

    Returns:
        A large_list<uint64> for each, and its number of values, int64 [n].
    """
    sketches = sketched(signatures)
    bounds = pa.array(np.arange(len(sketches) + 1, dtype=np.int64) * sketches.shape[1])
    lists = pa.LargeListArray.from_arrays(bounds, pa.array(sketches.ravel()))
    return lists, np.full(len(sketches), signatures.shape[1], dtype=np.int64)


def sifted_pairs(pairs: U64, sets: Sets, threshold: float) -> U64:
    """The `RANKED` pairs, uint64 [n, 8], that may be duplicates, by the signatures (`listed`) of all their documents."""
    if not len(pairs):
        return pairs
    width = int(sets.stops[0] - sets.starts[0])
    rows = (sets.starts // width).astype(np.uint64)
    left, right = rows[sets.find(pairs[:, :2])], rows[sets.find(pairs[:, 3:5])]
    sketches = sets.values.reshape(-1, width)
    return pairs[likely_pairs(sketches, int(sets.sizes[0]), left, right, threshold)]


class _SiftDoFn(Work):
    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def process(self, element: Grouped) -> Iterator[Keyed]:
        pairs, signatures = by_schema(element[1], RANKED, SKETCHES)
        sifted = sifted_pairs(columns(pairs, RANKED.names), Sets(signatures), self._threshold)
        if len(sifted):
            yield element[0], id_batch(RANKED, sifted)


class SiftPairs(beam.PTransform):
    """(partition, what `verify.ReadPairs` gives of signatures), each partition once -> (partition, `RANKED` batch).

    Args:
        threshold: Jaccard similarity of duplicates.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self._sift = _SiftDoFn(threshold)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(self._sift).with_output_types(Keyed)
