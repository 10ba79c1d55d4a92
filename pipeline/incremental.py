"""Incremental deduplication as a Beam pipeline: a new crawl against earlier runs.

Documents of earlier runs are never dropped, so no components are needed: each new document is judged alone, by the
functions of `earlier_matches`. Text of earlier runs is not read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.candidates import BUCKETS, PAIRS, bucket_keys, distinct_pairs, signature_matrix
from mixloom.pipeline.dedup_index import SIGNED, index_rows, shingle_keys
from mixloom.pipeline.doc_ids import (
    I64,
    ROW_BITS,
    U64,
    columns,
    concatenate,
    distinct_rows,
    hash_columns,
    id_batch,
    pack_ids,
    partition_of,
    run_starts,
    unpack_ids,
)
from mixloom.pipeline.earlier_matches import (
    EXACT,
    HASHED,
    MATCHES,
    MOST_RUNS,
    NEAR,
    NEW,
    RUN_BITS,
    Comparison,
    best_matches,
    bitmap_bytes,
    cross_pairs,
    earlier_rank,
    exact_matches,
    mark,
    marked,
    matches_of,
)
from mixloom.pipeline.earlier_runs import Corpus
from mixloom.pipeline.engine import one_batch, read_part
from mixloom.pipeline.exact import JUDGED
from mixloom.pipeline.graph import Given, Work, each
from mixloom.pipeline.near_rows import ReadTextsOf, part_media_keys
from mixloom.pipeline.shuffle import Gather, GatherDoFn, Keyed, Typed, by_schema, keyed, last
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.pipeline.verify import SKETCHES, WANTED, Sets, blobs_of, wanted_of


def signed_rows(corpus: Corpus, part: str, media: bool) -> pa.RecordBatch:
    """The kept documents of a part: `SIGNED` and minhash; media keys are 0 unless `media`."""
    if corpus.index is not None:
        rows = one_batch(corpus.index.read(part, [*SIGNED.names, "minhash"]))
        keys = np.asarray(rows.column("media_key")) if media else np.zeros(rows.num_rows, dtype=np.uint64)
    else:
        assert corpus.annotations is not None
        names = ["doc_id", "content_hash", "minhash", "images", "speech_clips"]
        rows = read_part(part, corpus.annotations, names, corpus.survivors)
        keys = np.zeros(rows.num_rows, dtype=np.uint64)
        if media and corpus.documents is not None:
            keys = part_media_keys(part, rows, corpus.documents)
    arrays = [rows.column("doc_id"), rows.column("row"), rows.column("content_hash"), pa.array(keys)]
    schema = pa.schema([*SIGNED, rows.schema.field("minhash")])
    return pa.RecordBatch.from_arrays([*arrays, rows.column("minhash")], schema=schema)


@dataclass(frozen=True, slots=True)
class Corpora:
    """This run (number 0) and the earlier ones (1, 2, ...), and how their documents are compared."""

    runs: tuple[Corpus, ...]
    comparison: Comparison

    def parts(self) -> list[int]:
        """Every part of every run, as run << 24 | index."""
        shift = int(RUN_BITS - ROW_BITS)
        return [(r << shift) | p for r, c in enumerate(self.runs) for p in range(len(c.parts))]

    def at(self, part: int) -> tuple[int, Corpus, str]:
        """(number of its run, its run, its name) of a part."""
        number, index = divmod(part, 1 << int(RUN_BITS - ROW_BITS))
        return number, self.runs[number], self.runs[number].parts[index]

    def kinds(self) -> list[str]:
        """The kinds of earlier runs there are."""
        return sorted({c.kind for c in self.runs[1:]})


_KEYS = pa.schema([pa.field("key", pa.uint64(), nullable=False)])


@dataclass(frozen=True, slots=True)
class _Keys:
    """The documents of a part as rows of the two shuffles: by content hash, and by bucket."""

    hashed: U64
    buckets: U64

    def filtered(self, bitmap: npt.NDArray[np.uint8]) -> _Keys:
        """Only the rows that some document of this run may meet."""
        hashed = self.hashed[marked(bitmap, np.ascontiguousarray(self.hashed[:, 1]))]
        return _Keys(hashed, self.buckets[marked(bitmap, np.ascontiguousarray(self.buckets[:, 0]))])


def _keys(corpora: Corpora, number: int, near: bool) -> _Keys:
    run, corpus, part = corpora.at(number)
    c = corpora.comparison
    rows = signed_rows(corpus, part, c.media)
    ids = pack_ids(rows.column("doc_id"))
    place = (np.uint64(number) << ROW_BITS) | np.asarray(rows.column("row")).astype(np.uint64)
    hashed = np.empty((len(ids), 6), dtype=np.uint64)
    hashed[:, :2], hashed[:, 2] = hash_columns(rows.column("content_hash")), run == 0
    hashed[:, 3:5], hashed[:, 5] = ids, place
    signatures, alive = signature_matrix(rows.column("minhash"))
    if not near or not len(alive):
        return _Keys(hashed, np.empty((0, 5), dtype=np.uint64))
    keys = bucket_keys(signatures, columns(rows, ["media_key"])[alive, 0], c.bands, c.rows)
    buckets = np.empty((len(alive), c.bands, 5), dtype=np.uint64)
    buckets[:, :, 0] = keys
    buckets[:, :, 1] = NEW if run == 0 else earlier_rank(keys, ids[alive])
    buckets[:, :, 2:4] = ids[alive, None, :]
    buckets[:, :, 4] = place[alive, None]
    return _Keys(hashed, buckets.reshape(-1, 5))


class _KeyDoFn(Work):
    """Reads a part and sends its documents to the partitions of their content hashes and, tagged by kind, of their buckets.

    Parts of this run also tell their keys; of earlier runs only what meets one of those is sent, so a
    large past costs a reading, not a shuffle.
    """

    def __init__(self, corpora: Corpora, partitions: int, near: bool) -> None:
        self._corpora, self._partitions, self._near = corpora, partitions, near

    def start_bundle(self) -> None:
        self._hashed = Gather()
        self._buckets = {kind: Gather() for kind in self._corpora.kinds()}

    def process(self, number: int, bitmap: bytes | None = None) -> Iterator[Any]:
        keys = _keys(self._corpora, number, self._near)
        run, corpus, _ = self._corpora.at(number)
        if bitmap is not None:
            keys = keys.filtered(np.frombuffer(bitmap, dtype=np.uint8))
        else:
            own = np.concatenate([keys.hashed[:, 1], keys.buckets[:, 0]])
            yield beam.pvalue.TaggedOutput("keys", id_batch(_KEYS, own))
        hashed = id_batch(HASHED, keys.hashed)
        yield from self._hashed.add(hashed, partition_of(keys.hashed[:, :2], self._partitions))
        partition = (keys.buckets[:, 0] % np.uint64(self._partitions)).astype(np.int64)
        for kind in self._buckets if run == 0 else [corpus.kind]:
            for found in self._buckets[kind].add(id_batch(BUCKETS, keys.buckets), partition):
                yield beam.pvalue.TaggedOutput(kind, found)

    def finish_bundle(self) -> Iterator[Any]:
        for found in self._hashed.rest():
            yield last(found)
        for kind, gathered in self._buckets.items():
            for found in gathered.rest():
                yield last(found, kind)


def _batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch  # tells its type, see `shuffle.Typed`


class _MarkFn(beam.CombineFn):
    """Batches of keys -> the bitmap in which they are marked."""

    def __init__(self, size: int) -> None:
        self._size = size

    def create_accumulator(self) -> bytearray:
        return bytearray(self._size)

    def add_input(self, accumulator: bytearray, batch: pa.RecordBatch) -> bytearray:
        mark(np.frombuffer(accumulator, dtype=np.uint8), columns(batch, ["key"])[:, 0])
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[bytearray]) -> bytearray:
        merged = np.zeros(self._size, dtype=np.uint8)
        for one in accumulators:
            merged |= np.frombuffer(one, dtype=np.uint8)
        return bytearray(merged.tobytes())

    def extract_output(self, accumulator: bytearray) -> bytes:
        return bytes(accumulator)


class _CrossDoFn(Work):
    def __init__(self, cap: int, partitions: int) -> None:
        self._cap, self._partitions = cap, partitions

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        pairs = cross_pairs(columns(concatenate(element[1], BUCKETS), BUCKETS.names), self._cap)
        yield from keyed(id_batch(PAIRS, pairs), partition_of(pairs[:, 3:5], self._partitions))


class _WantDoFn(GatherDoFn):
    """Distinct pairs of a partition, and what of their documents is wanted."""

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Any]:
        pairs = distinct_pairs(columns(concatenate(element[1], PAIRS), PAIRS.names))
        yield element[0], id_batch(PAIRS, pairs)
        wanted = wanted_of(pairs, element[0])
        place = np.asarray(wanted.column("place"))
        for want in self.gathered.add(wanted, (place >> ROW_BITS).astype(np.int64)):
            yield beam.pvalue.TaggedOutput("wanted", want)

    def finish_bundle(self) -> Iterator[Any]:
        for want in self.gathered.rest():
            yield last(want, "wanted")


class _ReadSetsDoFn(GatherDoFn):
    """Reads what pairs are verified by, of the wanted documents of one part, once."""

    def __init__(self, corpora: Corpora, kind: str) -> None:
        self._corpora, self._kind = corpora, kind

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        wanted = distinct_rows(columns(concatenate(element[1], WANTED), WANTED.names))
        first = run_starts(wanted[:, :1])
        rows = (wanted[first, 0] & np.uint64(0xFFFFFFFF)).astype(np.int32)
        values, sizes = self._read(element[0], rows)
        document = np.cumsum(first) - 1
        arrays = [
            pa.array(np.zeros(len(wanted), dtype=np.uint64)),  # the place stands for the id, see `matches_of`
            pa.array(wanted[:, 0]),
            pa.array(sizes[document]),
            values.take(pa.array(document)),
        ]
        sets = pa.RecordBatch.from_arrays(arrays, schema=SKETCHES)
        for found in self.gathered.add(sets, wanted[:, 3].astype(np.int64)):
            yield from blobs_of(found)

    def finish_bundle(self) -> Iterator[Any]:
        for found in self.gathered.rest():
            for blob in blobs_of(found):
                yield last(blob)

    def _read(self, number: int, rows: npt.NDArray[np.int32]) -> tuple[pa.LargeListArray, I64]:
        _, corpus, part = self._corpora.at(number)
        c = self._corpora.comparison
        if self._kind == "signatures":
            assert corpus.annotations is not None
            found = one_batch(corpus.annotations.read_rows(part, rows, ["minhash"])).column("minhash")
            values = signature_matrix(found)[0].astype(np.uint64)  # a pair has two signatures: none is null
            bounds = np.arange(len(values) + 1) * values.shape[1]
            lists = pa.LargeListArray.from_arrays(pa.array(bounds), pa.array(values.ravel()))
            return lists, np.diff(bounds)
        if corpus.index is None:
            assert corpus.documents is not None
            keys, sizes = shingle_keys(ReadTextsOf(corpus.documents)(part, rows), c.ngram, c.max_shingles)
            return keys.cast(pa.large_list(pa.uint64())), sizes
        table = one_batch(corpus.index.read(part, ["row", "size", "sketch"]))
        at = pa.array(np.searchsorted(np.asarray(table.column("row")), rows))
        sketches = table.column("sketch").take(at).cast(pa.large_list(pa.uint64()))
        return sketches, np.asarray(table.column("size").take(at))


class _MatchDoFn(Work):
    def __init__(self, comparison: Comparison, kind: str, partitions: int) -> None:
        self._comparison, self._by_signature, self._partitions = comparison, kind == "signatures", partitions

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        pairs, sketches = by_schema(element[1], PAIRS, SKETCHES)
        found = matches_of(columns(pairs, PAIRS.names), Sets(sketches), self._comparison, self._by_signature)
        yield from keyed(found, partition_of(columns(found, ["hi", "lo"]), self._partitions))


class _ExactDoFn(Work):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        found = exact_matches(columns(concatenate(element[1], HASHED), HASHED.names))
        yield from keyed(found, partition_of(columns(found, ["hi", "lo"]), self._partitions))


class _DropDoFn(Work):
    def __init__(self, corpora: Corpora) -> None:
        self._corpora = corpora

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
        best = best_matches(concatenate(element[1], MATCHES))
        rows = columns(best, ["hi", "lo", "place", "earlier_hi", "earlier_lo", "earlier_place", "exact"])
        part = [self._corpora.at(int(p))[2] for p in rows[:, 2] >> ROW_BITS]
        run = [self._corpora.runs[int(r)].name for r in rows[:, 5] >> RUN_BITS]
        kept = unpack_ids(np.ascontiguousarray(rows[:, 3:5])).to_pylist()
        arrays = [
            pa.array(part, pa.string()),
            pa.array((rows[:, 2] & np.uint64(0xFFFFFFFF)).astype(np.int32)),
            unpack_ids(np.ascontiguousarray(rows[:, :2])),
            pa.array([f"{i} of {name}" for i, name in zip(kept, run, strict=True)], pa.string()),
            best.column("similarity"),
            pa.array([EXACT if e else NEAR for e in rows[:, 6]], pa.string()),
            best.column("limit"),
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=JUDGED)


class AgainstEarlier(beam.PTransform):
    """Pipeline root -> `JUDGED` batches: the documents of this run that an earlier run has kept already.

    Args:
        corpora: this run and the earlier ones.
        partitions: keys of each shuffle; the drops do not depend on it.
        near: whether near duplicates are looked for, beside exact ones.
        documents: how many there are in this run, about: it decides how well the documents of earlier runs are
            sifted before the shuffle, never the drops.
    """

    def __init__(
        self, corpora: Corpora, partitions: int, near: bool = True, documents: int = 1_000_000
    ) -> None:
        super().__init__()
        self._bitmap_bytes = bitmap_bytes(documents * (1 + (corpora.comparison.bands if near else 0)))
        if len(corpora.runs) > MOST_RUNS:
            raise ValueError(f"{len(corpora.runs)} runs; at most {MOST_RUNS} are compared")
        self._corpora, self._partitions, self._near = corpora, partitions, near

    def expand(self, root: Any) -> Any:
        n, kinds = self._partitions, self._corpora.kinds() if self._near else []
        numbers = self._corpora.parts()
        own = [p for p in numbers if self._corpora.at(p)[0] == 0]
        key = _KeyDoFn(self._corpora, n, self._near)
        mine = (
            root
            | "Own parts" >> Given(own, int)
            | "Own keys"
            >> beam.ParDo(key).with_output_types(Keyed).with_outputs(*kinds, "keys", main="hashes")
        )
        own_keys = mine["keys"] | "Typed" >> each(_batch).with_output_types(pa.RecordBatch)
        bitmap = own_keys | "Mark" >> beam.CombineGlobally(_MarkFn(self._bitmap_bytes))
        theirs = (
            root
            | "Earlier parts" >> Given(numbers[len(own) :], int)
            | "Earlier keys"
            >> beam.ParDo(key, beam.pvalue.AsSingleton(bitmap))
            .with_output_types(Keyed)
            .with_outputs(*kinds, main="hashes")
        )
        exact = (
            (mine["hashes"] | "Own hashes" >> Typed(), theirs["hashes"] | "Earlier hashes" >> Typed())
            | "Hashes" >> beam.Flatten()
            | "ByHash" >> beam.GroupByKey()
            | "Exact" >> beam.ParDo(_ExactDoFn(n)).with_output_types(Keyed)
        )
        matches = [exact]
        for kind in kinds:
            sides = (mine[kind] | f"Own {kind}" >> Typed(), theirs[kind] | f"Earlier {kind}" >> Typed())
            buckets = sides | f"Buckets {kind}" >> beam.Flatten()
            matches.append(self._near_matches(buckets, kind))
        drop = beam.ParDo(_DropDoFn(self._corpora)).with_output_types(pa.RecordBatch)
        return matches | beam.Flatten() | "ByDocument" >> beam.GroupByKey() | "Drop" >> drop

    def _near_matches(self, buckets: Any, kind: str) -> Any:
        n, c = self._partitions, self._corpora.comparison
        want = beam.ParDo(_WantDoFn()).with_output_types(Keyed)
        pairs = (
            buckets
            | f"Bucket {kind}" >> beam.GroupByKey()
            | f"Cross {kind}" >> beam.ParDo(_CrossDoFn(c.bucket_cap, n)).with_output_types(Keyed)
            | f"ByPair {kind}" >> beam.GroupByKey()
            | f"Want {kind}" >> want.with_outputs("wanted", main="pairs")
        )
        read = beam.ParDo(_ReadSetsDoFn(self._corpora, kind)).with_output_types(Keyed)
        wanted = pairs["wanted"] | f"Wanted {kind}" >> Typed()
        sets = wanted | f"ByPart {kind}" >> beam.GroupByKey() | f"Read {kind}" >> read
        match = beam.ParDo(_MatchDoFn(c, kind, n)).with_output_types(Keyed)
        return (
            (pairs["pairs"] | f"Pairs {kind}" >> Typed(), sets)
            | f"With sets {kind}" >> beam.Flatten()
            | f"Meet {kind}" >> beam.GroupByKey()
            | f"Match {kind}" >> match
        )


def index_part(part: str, corpus: Corpus, ngram: int, hashes: int) -> UnitOutput:
    """A part of `dedup_index`: what `corpus` kept of a part, with signatures and sketches."""
    started = time.perf_counter()
    signed = signed_rows(corpus, part, media=True)
    assert corpus.documents is not None
    texts = ReadTextsOf(corpus.documents)(part, np.asarray(signed.column("row")))
    table = pa.Table.from_batches([index_rows(signed, texts, ngram, hashes)])
    return UnitOutput(
        part, (OutputTable(part, table),), None, table.num_rows, seconds=time.perf_counter() - started
    )
