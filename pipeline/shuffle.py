"""Arrow batches in a shuffle: (plain int key, small record batch of numbers), and the files between pipelines."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from mixloom.pipeline.doc_ids import I64, concatenate, split
from mixloom.pipeline.engine import RecordBatchCoder
from mixloom.pipeline.graph import Given, Work, each
from mixloom.pipeline.storage import Store

Keyed = tuple[int, pa.RecordBatch]
Grouped = tuple[int, Iterable[pa.RecordBatch]]
"""All the batches of one key, as `GroupByKey` or `ReadSpilled` give them."""
RunPipeline = Callable[[Callable[[beam.Pipeline], Any]], None]
"""Builds a Beam pipeline with the function it is given and runs it to its end (see `engine.run_pipeline`)."""

ARROW = ".arrow"
DONE = "done.json"  # in a folder whose files are all there


def keyed(batch: pa.RecordBatch, partition: I64) -> Iterator[Keyed]:
    """The rows of a batch by partition, as elements ready for `GroupByKey`."""
    if batch.num_rows:
        yield from split(batch, partition)


def _same(element: Keyed) -> Keyed:
    return element


class Typed(beam.PTransform):
    """(int, RecordBatch) of a tagged output -> the same, with its type told.

    Beam knows no type of tagged outputs and pickles their elements, and a pickled slice carries its whole parent.
    """

    def expand(self, pcoll: Any) -> Any:
        return pcoll | each(_same).with_output_types(Keyed)


GATHERED = 16 << 20  # bytes collected before they are cut by partition


class Gather:
    """Rows collected over many elements before they are cut by partition.

    Cut one by one, n parts give n times as many batches as there are partitions, and as both grow with the
    corpus, so would the cost of a document.
    """

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._partitions: list[I64] = []
        self._bytes = 0

    def add(self, batch: pa.RecordBatch, partition: I64) -> Iterator[Keyed]:
        """Take some rows with their partitions, int64 [n]; yields when enough is collected."""
        if batch.num_rows:
            self._batches.append(batch)
            self._partitions.append(partition)
            self._bytes += batch.nbytes
        if self._bytes > GATHERED:
            yield from self.rest()

    def rest(self) -> Iterator[Keyed]:
        """What is still here, by partition."""
        if self._batches:
            rows = concatenate(self._batches, self._batches[0].schema)
            partitions = np.concatenate(self._partitions)
            self._batches, self._partitions, self._bytes = [], [], 0
            yield from split(rows, partitions)


def last(element: Any, tag: str | None = None) -> Any:
    """An element as `finish_bundle` must give it, for the output `tag` (default: the main one)."""
    windowed = GlobalWindows.windowed_value(element)
    return windowed if tag is None else beam.pvalue.TaggedOutput(tag, windowed)


class GatherDoFn(Work):
    """A DoFn that collects rows over a bundle: subclasses yield from `self.gathered.add` in `process`."""

    def start_bundle(self) -> None:
        self.gathered = Gather()

    def finish_bundle(self) -> Iterator[Any]:
        for element in self.gathered.rest():
            yield last(element)


def by_schema(batches: Iterable[pa.RecordBatch], *schemas: pa.Schema) -> list[pa.RecordBatch]:
    """Sort the values of one key by what they are: one contiguous batch for each of the schemas."""
    found: dict[int, list[pa.RecordBatch]] = {i: [] for i in range(len(schemas))}
    for batch in batches:
        found[next(i for i, s in enumerate(schemas) if batch.schema.equals(s))].append(batch)
    return [concatenate(found[i], schema) for i, schema in enumerate(schemas)]


def batch_name(partition: int) -> str:
    """The name of one partition's file."""
    return f"{partition:07d}{ARROW}"


def write_batch(store: Store, partition: int, batch: pa.RecordBatch) -> str:
    """Write one partition's file into a folder; returns its name."""
    name = batch_name(partition)
    store.write(name, RecordBatchCoder().encode(batch))
    return name


class _WriteDoFn(Work):
    def __init__(self, store: Store) -> None:
        self._store = store

    def process(self, element: Keyed) -> Iterator[str]:
        yield write_batch(self._store, *element)


class WriteBatches(beam.PTransform):
    """(int, RecordBatch), each int once -> one Arrow file per int in a folder. Idempotent under retries."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_WriteDoFn(self._store)).with_output_types(str)


class _ReadDoFn(Work):
    def __init__(self, store: Store) -> None:
        self._store = store

    def process(self, name: str) -> Iterator[pa.RecordBatch]:
        yield read_batch(self._store, name)


class ReadBatches(beam.PTransform):
    """Pipeline root -> the batches `WriteBatches` or `SpillBatches` left in a folder that is finished."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def expand(self, root: Any) -> Any:
        names = [n for n in self._store.files() if n.endswith(ARROW)]
        return (
            root
            | "Names" >> Given(names)
            | "Read" >> beam.ParDo(_ReadDoFn(self._store)).with_output_types(pa.RecordBatch)
        )


class _SpillDoFn(Work):
    def __init__(self, store: Store) -> None:
        self._store = store

    def process(self, element: Keyed) -> Iterator[str]:
        yield spill_batch(self._store, *element)


def spill_batch(store: Store, partition: int, batch: pa.RecordBatch) -> str:
    """Write a batch of a partition into a folder for `ReadSpilled`; returns its name, which no other file has."""
    name = f"{partition:07d}/{uuid.uuid4().hex}{ARROW}"
    store.write(name, RecordBatchCoder().encode(batch))
    return name


class SpillBatches(beam.PTransform):
    """(int, RecordBatch) -> Arrow files in a folder, by int. Where a runner retries, rows may stand there twice: readers
    must not mind.

    Instead of `GroupByKey`, where a shuffle grows with the corpus: runners that keep shuffles in memory hold them
    several times over. `ReadSpilled` gives the groups to the next pipeline.
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_SpillDoFn(self._store)).with_output_types(str)


class _ReadSpilledDoFn(Work):
    def __init__(self, store: Store) -> None:
        self._store = store

    def process(self, partition: int) -> Iterator[tuple[int, list[pa.RecordBatch]]]:
        folder = self._store.child(f"{partition:07d}")
        yield partition, [read_batch(folder, n) for n in folder.names()]


class ReadSpilled(beam.PTransform):
    """Pipeline root -> (int, list of RecordBatch), each int once: what `SpillBatches` left in a folder."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def expand(self, root: Any) -> Any:
        partitions = [int(n) for n in self._store.names() if n.isdigit()]
        given = root | "Partitions" >> Given(partitions, int)
        return given | "Read" >> beam.ParDo(_ReadSpilledDoFn(self._store))


def has_batches(store: Store) -> bool:
    """Whether there is any batch in a folder."""
    return any(n.endswith(ARROW) for n in store.names())


def read_batch(store: Store, name: str) -> pa.RecordBatch:
    """One file that `WriteBatches` or `SpillBatches` left."""
    return RecordBatchCoder().decode(store.read(name))


def read_batches(store: Store) -> list[pa.RecordBatch]:
    """The batches of a folder, in this process, in the order of their partitions."""
    return [read_batch(store, n) for n in store.names() if n.endswith(ARROW)]
