"""Candidate pairs verified by the Jaccard similarity of their shingle sets.

A set of at most `max_shingles` hashes is compared exactly. A larger one is represented by its `max_shingles`
smallest hashes, and the similarity is the share of the k smallest hashes of the union that both sets have:
the unbiased bottom-k estimate, standard error sqrt(J (1 - J) / k), 0.003 at k = 20,000 (Broder 1997, "On the
resemblance and containment of documents"; Cohen and Kaplan 2007, "Summarizing data using bottom-k sketches").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.candidates import RANKED, distinct_pairs
from mixloom.pipeline.doc_ids import (
    I64,
    ROW_BITS,
    U64,
    columns,
    concatenate,
    distinct_rows,
    id_batch,
    ranks,
    run_bounds,
    run_starts,
)
from mixloom.pipeline.graph import Work
from mixloom.pipeline.shuffle import GatherDoFn, Grouped, Keyed, Typed, by_schema, last
from mixloom.pipeline.storage import Store

F64 = npt.NDArray[np.float64]

ReadTexts = Callable[[str, npt.NDArray[np.int32]], pa.LargeStringArray]
"""(part, sorted rows) -> the text of those documents, in that order. Must be picklable."""

ReadLists = Callable[[str, npt.NDArray[np.int32]], tuple[pa.LargeListArray, I64]]
"""(part, sorted rows) -> a large_list<uint64> for each of those documents, and a size, int64 [n]: shingles or signatures.
Must be picklable."""


def _fields(*names: str) -> list[pa.Field]:
    return [pa.field(n, pa.uint64(), nullable=False) for n in names]


EDGE_COLUMNS = ("a_hi", "a_lo", "b_hi", "b_lo", "a_place", "b_place", "a_preference", "b_preference")
EDGES = pa.schema([*_fields(*EDGE_COLUMNS), pa.field("jaccard", pa.float64(), nullable=False)])
"""Verified pairs: both documents, where they lie, their places in survivor order, and their similarity, at least the
threshold."""

WANTED = pa.schema(_fields("place", "hi", "lo", "partition"))
"""Documents whose shingles are wanted, and by which partition."""

SKETCHES = pa.schema(
    [
        *_fields("hi", "lo"),
        pa.field("size", pa.int64(), nullable=False),  # of the whole set; more than len(hashes): a sketch
        pa.field("hashes", pa.large_list(pa.uint64()), nullable=False),
    ]
)
"""Shingle sets: sorted distinct hashes, or the smallest of a larger set."""

VERIFIED = ".verified.json"
_WANTED, _SETS = "wanted", "sets"
_BLOB_HASHES = 1 << 18  # 2 MiB: some runners refuse or spill badly on larger elements


class Sets:
    """Shingle sets (or signatures) of a partition, found by document id.

    Args:
        sketches: rows of schema `SKETCHES`; of two rows for one document either serves, they are equal.
    """

    def __init__(self, sketches: pa.RecordBatch) -> None:
        hashes = sketches.column("hashes")
        offsets = hashes.offsets.to_numpy()
        self.values: U64 = hashes.values.to_numpy(zero_copy_only=False)
        self.ids, codes = ranks(columns(sketches, ["hi", "lo"]))
        row = np.zeros(len(self.ids), dtype=np.int64)
        row[codes] = np.arange(len(codes))
        self.starts: I64 = offsets[:-1][row].astype(np.int64)
        self.stops: I64 = offsets[1:][row].astype(np.int64)
        self.sizes: I64 = np.asarray(sketches.column("size"))[row]

    def find(self, ids: U64) -> I64:
        """Index of the set of each document, int64 [n]; -1 where there is none."""
        both, codes = ranks(np.concatenate([self.ids, ids]))
        at = np.full(len(both), -1, dtype=np.int64)
        at[codes[: len(self.ids)]] = np.arange(len(self.ids))
        return at[codes[len(self.ids) :]]


def sketch(sets: pa.LargeListArray, max_shingles: int) -> tuple[pa.LargeListArray, I64]:
    """Cut sets of more than `max_shingles` hashes down to their smallest ones.

    Args:
        sets: sorted distinct hashes of each document, large_list<uint64>; they must be uniform, as those of
            `signatures.shingle_sets` are.

    Returns:
        The sets to compare, and the sizes of the whole sets, int64 [n].
    """
    offsets = sets.offsets.to_numpy()
    sizes = np.diff(offsets)
    if sizes.max(initial=0) <= max_shingles:
        return sets, sizes
    lengths = np.minimum(sizes, max_shingles)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    at = np.arange(bounds[-1]) + np.repeat(offsets[:-1] - bounds[:-1], lengths)
    return pa.LargeListArray.from_arrays(bounds, sets.values.take(pa.array(at))), sizes


@numba.njit(cache=True, nogil=True)
def set_similarity(a: U64, size_a: int, b: U64, size_b: int) -> float:
    """Jaccard similarity of two sets as `sketch` gives them; 0.0 when either is empty.

    Exact when both are whole, else the bottom-k estimate with k the length of the shorter sketch.
    """
    if len(a) == 0 or len(b) == 0:
        return 0.0
    limit = len(a) + len(b)
    if size_a > len(a):
        limit = len(a)
    if size_b > len(b):
        limit = min(limit, len(b))
    i = j = both = union = 0
    while i < len(a) and j < len(b) and union < limit:
        x, y = a[i], b[j]
        if x == y:
            both += 1
        i += x <= y
        j += y <= x
        union += 1
    union = min(limit, union + len(a) - i + len(b) - j)
    return both / union


@numba.njit(cache=True, nogil=True)
def _pair_similarity(
    values: U64, starts: I64, stops: I64, sizes: I64, left: I64, right: I64, threshold: float
) -> F64:
    out = np.zeros(len(left), dtype=np.float64)
    for k in range(len(left)):
        i, j = left[k], right[k]
        if i < 0 or j < 0:
            continue
        # J <= min / max of the sizes; a sketch's estimate may lie above its true J, hence only whole sets.
        whole = sizes[i] == stops[i] - starts[i] and sizes[j] == stops[j] - starts[j]
        if whole and min(sizes[i], sizes[j]) < threshold * max(sizes[i], sizes[j]) * (1.0 - 1e-12):
            continue
        a, b = values[starts[i] : stops[i]], values[starts[j] : stops[j]]
        out[k] = set_similarity(a, sizes[i], b, sizes[j])
    return out


def verified_edges(pairs: U64, sets: Sets, threshold: float) -> tuple[U64, F64]:
    """The pairs whose similarity is at least the threshold.

    Args:
        pairs: uint64 [n, 4 or more], (a_hi, a_lo, b_hi, b_lo) and what else is told of them.
        sets: the shingle sets of their documents; a pair with a document not among them is no duplicate.

    Returns:
        Those pairs, uint64 [m, as many], and their similarities, float64 [m].
    """
    left, right = sets.find(pairs[:, :2]), sets.find(pairs[:, 2:4])
    found = _pair_similarity(sets.values, sets.starts, sets.stops, sets.sizes, left, right, threshold)
    passed = found >= threshold
    return pairs[passed], found[passed]


def wanted_of(pairs: U64, partition: int) -> pa.RecordBatch:
    """The documents of pairs (schema `PAIRS` or `RANKED`, uint64 [n, 6 or 8]), once each, as wanted by a partition."""
    both = distinct_rows(np.concatenate([pairs[:, [2, 0, 1]], pairs[:, [5, 3, 4]]]))
    return id_batch(WANTED, both, np.full(len(both), partition, dtype=np.uint64))


@dataclass(frozen=True, slots=True)
class ShinglesOf:
    """Reads the shingles of documents (`ReadLists`).

    Attributes:
        read_texts: see `ReadTexts`.
        ngram: words per shingle.
        max_shingles: larger sets are cut to this many hashes.
    """

    read_texts: ReadTexts
    ngram: int
    max_shingles: int

    def __call__(self, part: str, rows: npt.NDArray[np.int32]) -> tuple[pa.LargeListArray, I64]:
        from mixloom.pipeline.signatures import shingle_sets

        return sketch(shingle_sets(self.read_texts(part, rows), self.ngram), self.max_shingles)


def part_sketches(wanted: U64, read: ReadLists, part: str) -> pa.RecordBatch:
    """`SKETCHES` of the wanted documents of a part: uint64 [n, 4], distinct rows of schema `WANTED`, sorted."""
    first = run_starts(wanted[:, :1])
    lists, sizes = read(part, (wanted[first, 0] & np.uint64(0xFFFFFFFF)).astype(np.int32))
    ids = id_batch(pa.schema(_fields("hi", "lo")), wanted[:, 1:3])
    if not first.all():  # a document that several partitions want
        document = np.cumsum(first) - 1
        sizes, lists = sizes[document], lists.take(pa.array(document))
    arrays = [*ids.columns, pa.array(sizes), lists]
    return pa.RecordBatch.from_arrays(arrays, schema=SKETCHES)


def read_sketches(wanted: pa.RecordBatch, read: ReadLists, parts: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """`SKETCHES` of wanted documents (distinct, sorted) of any parts, one part after the other."""
    rows = columns(wanted, WANTED.names)
    for start, stop in zip(*run_bounds(run_starts(rows[:, :1] >> ROW_BITS)), strict=True):
        yield part_sketches(rows[start:stop], read, parts[int(rows[start, 0] >> ROW_BITS)])


class _WantDoFn(GatherDoFn):
    def process(self, element: Grouped) -> Iterator[Any]:
        pairs = distinct_pairs(columns(concatenate(element[1], RANKED), RANKED.names))
        yield element[0], id_batch(RANKED, pairs)
        wanted = wanted_of(pairs, element[0])
        place = np.asarray(wanted.column("place"))
        for want in self.gathered.add(wanted, (place >> ROW_BITS).astype(np.int64)):
            yield beam.pvalue.TaggedOutput(_WANTED, want)

    def finish_bundle(self) -> Iterator[Any]:
        for want in self.gathered.rest():
            yield last(want, _WANTED)


class _ReadDoFn(GatherDoFn):
    """Reads what is wanted of one part once and sends it to whom it concerns; texts stay here."""

    def __init__(self, read: ReadLists, parts: tuple[str, ...]) -> None:
        self._read, self._parts = read, parts

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        wanted = distinct_rows(columns(concatenate(element[1], WANTED), WANTED.names))
        sets = part_sketches(wanted, self._read, self._parts[element[0]])
        for found in self.gathered.add(sets, wanted[:, 3].astype(np.int64)):
            yield from blobs_of(found)

    def finish_bundle(self) -> Iterator[Any]:
        for found in self.gathered.rest():
            for blob in blobs_of(found):
                yield last(blob)


def blobs_of(element: Keyed) -> Iterator[Keyed]:
    """Sets for a partition as elements of bounded size."""
    for blob in in_blobs(element[1]):
        yield element[0], blob


def in_blobs(sets: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Slices of a batch of sets, each of about `_BLOB_HASHES` hashes at most (but at least one set)."""
    ends = sets.column("hashes").offsets.to_numpy()
    block = (ends[:-1] - ends[0]) // _BLOB_HASHES
    for start, stop in zip(*run_bounds(run_starts(block[:, None])), strict=True):
        yield sets.slice(int(start), int(stop - start))


def of_edges(sketches: pa.RecordBatch, edges: U64) -> pa.RecordBatch:
    """The sketches of the documents of edges, uint64 [n, 4 or more], once each."""
    _, codes = ranks(np.concatenate([columns(sketches, ["hi", "lo"]), edges[:, :2], edges[:, 2:4]]))
    row = np.full(len(codes), -1, dtype=np.int64)
    row[codes[: sketches.num_rows]] = np.arange(sketches.num_rows)
    return sketches.take(pa.array(np.unique(row[codes[sketches.num_rows :]])))


class _CompareDoFn(Work):
    def __init__(self, threshold: float, told: Store | None) -> None:
        self._threshold, self._told = threshold, told

    def process(self, element: Grouped) -> Iterator[Any]:
        pairs, sketches = by_schema(element[1], RANKED, SKETCHES)
        ends = columns(pairs, EDGE_COLUMNS)
        edges, similarity = verified_edges(ends, Sets(sketches), self._threshold)
        if self._told is not None:
            self._told.write_json(f"{element[0]:07d}{VERIFIED}", {"pairs": len(ends), "edges": len(edges)})
        if len(edges):
            order = np.lexsort(edges.T[::-1])
            yield element[0], id_batch(EDGES, edges[order], similarity[order])
            for sets in in_blobs(of_edges(sketches, edges)):
                yield beam.pvalue.TaggedOutput(_SETS, (element[0], sets))


class ReadPairs(beam.PTransform):
    """(partition, `RANKED` batches), each partition once -> its distinct pairs, and the shingles of their documents.

    Two collections of (partition, batch), of schema `RANKED` and `SKETCHES`. Not one: flattening them would make
    a runner hold them all. Every part with a wanted document is read once.

    Args:
        read: reads the shingles, or signatures, of documents of a part.
        parts: names of all the parts, sorted, as given to `candidates.KeyBands`.
    """

    def __init__(self, read: ReadLists, parts: Sequence[str]) -> None:
        super().__init__()
        self._read = _ReadDoFn(read, tuple(parts))

    def expand(self, pcoll: Any) -> Any:
        want = beam.ParDo(_WantDoFn()).with_output_types(Keyed)
        tagged = pcoll | "Want" >> want.with_outputs(_WANTED, main="pairs")
        wanted = tagged[_WANTED] | "Wanted" >> Typed() | "ByPart" >> beam.GroupByKey()
        return tagged["pairs"] | "Pairs" >> Typed(), wanted | "Read" >> beam.ParDo(
            self._read
        ).with_output_types(Keyed)


class ComparePairs(beam.PTransform):
    """(partition, what `ReadPairs` gives), each partition once -> pairs that really are near, and the shingles of those.

    Two collections of (partition, batch), of schema `EDGES` and `SKETCHES`.

    Args:
        threshold: Jaccard similarity of the sets of shingles from which a pair is an edge.
        told: a folder for the numbers of pairs and edges, one file `*VERIFIED` per partition; None: nothing is told.
    """

    def __init__(self, threshold: float, told: Store | None = None) -> None:
        super().__init__()
        self._compare = _CompareDoFn(threshold, told)

    def expand(self, pcoll: Any) -> Any:
        compare = beam.ParDo(self._compare).with_output_types(Keyed)
        tagged = pcoll | "Compare" >> compare.with_outputs(_SETS, main="edges")
        return tagged["edges"] | "Edges" >> Typed(), tagged[_SETS] | "Sets" >> Typed()
