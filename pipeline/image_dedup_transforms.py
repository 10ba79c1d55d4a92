"""Image deduplication in Beam: shuffles of keys and hashes, and of the thumbnails of candidates alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.components import ENDS, STARS, connected_components
from mixloom.pipeline.doc_ids import ROW_BITS, U64, columns, concatenate, id_batch, mix, partition_of
from mixloom.pipeline.engine import one_batch, with_part
from mixloom.pipeline.hamming import band_values
from mixloom.pipeline.image_dedup import COPIES, FATES, copies, fates, kept_images, rooted_edges
from mixloom.pipeline.image_dedup_config import ImageDedupConfig, ImageNearConfig
from mixloom.pipeline.image_pairs import (
    CONTENTS,
    IMAGE_EDGES,
    IMAGE_PAIRS,
    ITEM_COLUMNS,
    THUMBS,
    USES,
    banded,
    confirmed,
    distinct_contents,
    equal_hash_pairs,
    image_uses,
    near_hash_pairs,
    thumbs_at,
)
from mixloom.pipeline.preference import source_priority
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.shuffle import (
    DONE,
    Keyed,
    ReadBatches,
    RunPipeline,
    Typed,
    WriteBatches,
    by_schema,
    keyed,
)
from mixloom.pipeline.storage import Store

_BANDED = pa.schema([pa.field("band", pa.uint64(), nullable=False), *CONTENTS])
_PLACES = pa.schema([pa.field(n, pa.uint64(), nullable=False) for n in ("place", "pair")])
_ROOTED = pa.schema(
    [pa.field(n, pa.uint64(), nullable=False) for n in ("root_hi", "root_lo", *IMAGE_EDGES.names)]
)
_KEPT_USES = pa.schema(
    [pa.field(n, pa.uint64(), nullable=False) for n in ("kept_hi", "kept_lo", "distance", *USES.names)]
)
_PAIRS, _BANDS = "pairs", "bands"


def _to(schema: pa.Schema, rows: U64, partition: np.ndarray[Any, Any]) -> Iterator[Keyed]:
    yield from keyed(id_batch(schema, rows), partition)


class _UsesDoFn(beam.DoFn):
    """The images of the documents of a part that are alive."""

    def __init__(
        self,
        media: PartReader,
        annotations: PartReader,
        survivors: PartReader,
        parts: Sequence[str],
        config: ImageDedupConfig,
    ) -> None:
        self._media, self._annotations, self._survivors = media, annotations, survivors
        self._parts, self._config = list(parts), config

    def process(self, part: str) -> Iterator[pa.RecordBatch]:
        rows = self._annotations.read(part, ["doc_id", "source"])
        alive = np.asarray(self._survivors.read(part, ["row"])["row"])
        items = one_batch(self._media.read(part, ITEM_COLUMNS))
        near = self._config.near
        rank = source_priority(rows["source"], self._config.priority)
        doc_ids = rows["doc_id"].combine_chunks()
        uses = image_uses(items, doc_ids, rank, alive, (part, self._parts), near.min_std if near else 0.0)
        yield with_part(uses, part)


class ReadImageUses(beam.PTransform):
    """Pipeline root -> one batch of `USES` per part, with the name of the part.

    Args:
        parts: names of all the parts, sorted.
        media, annotations, survivors: readers of the parts as they are before this stage.
    """

    def __init__(
        self,
        parts: Sequence[str],
        media: PartReader,
        annotations: PartReader,
        survivors: PartReader,
        config: ImageDedupConfig,
    ) -> None:
        super().__init__()
        self._parts = list(parts)
        self._read = _UsesDoFn(media, annotations, survivors, parts, config)

    def expand(self, root: Any) -> Any:
        names = root | "ImageParts" >> beam.Create(self._parts, reshuffle=True).with_output_types(str)
        return names | "Uses" >> beam.ParDo(self._read).with_output_types(pa.RecordBatch)


class _ByHashDoFn(beam.DoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        rows = distinct_contents(columns(batch, USES.names))
        yield from _to(CONTENTS, rows, (mix(rows[:, 2]) % np.uint64(self._partitions)).astype(np.int64))


class _EqualHashDoFn(beam.DoFn):
    """Pairs of one hash, and the images that stand for it by each of their bands."""

    def __init__(self, config: ImageNearConfig, partitions: int) -> None:
        self._config, self._partitions = config, partitions

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Any]:
        rows = columns(concatenate(element[1], CONTENTS), CONTENTS.names)
        ordered = rows[np.lexsort((rows[:, 4], rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0]))]
        first = np.ones(len(ordered), np.bool_)
        first[1:] = (ordered[1:, :2] != ordered[:-1, :2]).any(axis=1)
        pairs, best = equal_hash_pairs(ordered[first], self._config.bucket_cap, self._config.leaders)
        for item in _to(IMAGE_PAIRS, pairs, partition_of(pairs[:, :2], self._partitions)):
            yield beam.pvalue.TaggedOutput(_PAIRS, item)
        rows = banded(best, self._config.distance)
        value = np.concatenate(list(band_values(best[:, 2], self._config.distance).T))
        key = mix(mix(rows[:, 0] + np.uint64(1)) ^ value)
        yield from _to(_BANDED, rows, (key % np.uint64(self._partitions)).astype(np.int64))


class _NearHashDoFn(beam.DoFn):
    def __init__(self, distance: int, partitions: int) -> None:
        self._distance, self._partitions = distance, partitions

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        pairs = near_hash_pairs(columns(concatenate(element[1], _BANDED), _BANDED.names), self._distance)
        yield from _to(IMAGE_PAIRS, pairs, partition_of(pairs[:, :2], self._partitions))


class _WantThumbsDoFn(beam.DoFn):
    """The places whose thumbnails a partition of pairs needs, by part."""

    def process(self, element: Keyed) -> Iterator[Keyed]:
        pairs = columns(element[1], IMAGE_PAIRS.names)
        place = np.unique(pairs[:, [3, 7]])
        rows = np.stack([place, np.full(len(place), element[0], np.uint64)], axis=1)
        yield from _to(_PLACES, rows, (place >> ROW_BITS).astype(np.int64))


class _ReadThumbsDoFn(beam.DoFn):
    def __init__(self, media: PartReader, parts: Sequence[str]) -> None:
        self._media, self._parts = media, list(parts)

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        wanted = columns(concatenate(element[1], _PLACES), _PLACES.names)
        items = one_batch(self._media.read(self._parts[element[0]], ["width", "height", "thumb"]))
        for partition in np.unique(wanted[:, 1]):
            yield int(partition), thumbs_at(items, wanted[wanted[:, 1] == partition, 0])


class _ConfirmDoFn(beam.DoFn):
    def __init__(self, config: ImageNearConfig) -> None:
        self._config = config

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        pairs, thumbs = by_schema(element[1], IMAGE_PAIRS, THUMBS)
        edges = confirmed(columns(pairs, IMAGE_PAIRS.names), thumbs, self._config)
        if len(edges):
            yield element[0], id_batch(IMAGE_EDGES, edges[np.lexsort(edges[:, ::-1].T)])


class ImageEdges(beam.PTransform):
    """`USES` of every part -> (partition, `IMAGE_EDGES`): images that show the same picture.

    Args:
        media: reads the thumbnails of candidates.
        parts: names of all the parts, sorted; a place refers to a part by its index here.
        partitions: keys of each shuffle; the edges do not depend on it.
    """

    def __init__(
        self, media: PartReader, parts: Sequence[str], config: ImageNearConfig, partitions: int
    ) -> None:
        super().__init__()
        self._media, self._parts, self._config, self._partitions = media, parts, config, partitions

    def expand(self, pcoll: Any) -> Any:
        n, config = self._partitions, self._config
        equal = beam.ParDo(_EqualHashDoFn(config, n)).with_output_types(Keyed)
        found = (
            pcoll
            | "ByHash" >> beam.ParDo(_ByHashDoFn(n)).with_output_types(Keyed)
            | "Hash" >> beam.GroupByKey()
            | "EqualHash" >> equal.with_outputs(_PAIRS, main=_BANDS)
        )
        near = (
            found[_BANDS]
            | "Bands" >> Typed()
            | "Band" >> beam.GroupByKey()
            | "NearHash" >> beam.ParDo(_NearHashDoFn(config.distance, n)).with_output_types(Keyed)
        )
        pairs = (found[_PAIRS] | "Equal" >> Typed(), near) | "AllPairs" >> beam.Flatten()
        thumbs = (
            pairs
            | "Want" >> beam.ParDo(_WantThumbsDoFn()).with_output_types(Keyed)
            | "OfPart" >> beam.GroupByKey()
            | "Thumbs" >> beam.ParDo(_ReadThumbsDoFn(self._media, self._parts)).with_output_types(Keyed)
        )
        return (
            (pairs, thumbs)
            | "Meet" >> beam.Flatten()
            | "Pair" >> beam.GroupByKey()
            | "Confirm" >> beam.ParDo(_ConfirmDoFn(config)).with_output_types(Keyed)
        )


class _EdgesByNodeDoFn(beam.DoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        key = columns(batch, ENDS[:2] if "a_hi" in batch.schema.names else STARS.names[:2])
        yield from keyed(batch, partition_of(key, self._partitions))


class _RootDoFn(beam.DoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        edges, stars = by_schema(element[1], IMAGE_EDGES, STARS)
        rooted = rooted_edges(columns(edges, IMAGE_EDGES.names), columns(stars, STARS.names))
        yield from _to(_ROOTED, rooted, partition_of(rooted[:, :2], self._partitions))


class _CopiesDoFn(beam.DoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        found = copies(columns(concatenate(element[1], _ROOTED), _ROOTED.names))
        yield from _to(COPIES, found, partition_of(found[:, :2], self._partitions))


class _UsesByKeyDoFn(beam.DoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        rows = columns(batch, USES.names)
        yield from _to(USES, rows, partition_of(rows[:, :2], self._partitions))


class _KeptDoFn(beam.DoFn):
    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        uses, found = by_schema(element[1], USES, COPIES)
        rows = columns(uses, USES.names)
        kept, distance = kept_images(rows[:, :2], columns(found, COPIES.names))
        rows = np.concatenate([kept, distance[:, None], rows], axis=1)
        yield from _to(_KEPT_USES, rows, partition_of(kept, self._partitions))


class _FatesDoFn(beam.DoFn):
    """What becomes of each use, by the index of its part."""

    def __init__(self, config: ImageDedupConfig) -> None:
        self._config = config

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        rows = columns(concatenate(element[1], _KEPT_USES), _KEPT_USES.names)
        found = fates(rows[:, 3:], rows[:, :2], rows[:, 2], self._config)
        yield from _to(FATES, found, (found[:, 0] >> ROW_BITS).astype(np.int64))


class ImageFates(beam.PTransform):
    """`USES` of every part -> (index of a part, `FATES`), given edges and components.

    Args:
        edges, stars: folders of `IMAGE_EDGES` and of final components (`STARS`); None where only equal pixels count.
    """

    def __init__(self, edges: Store | None, stars: Store | None, config: ImageDedupConfig) -> None:
        super().__init__()
        self._edges, self._stars, self._config = edges, stars, config

    def expand(self, pcoll: Any) -> Any:
        n, root = self._config.partitions, pcoll.pipeline
        uses = pcoll | "UsesByKey" >> beam.ParDo(_UsesByKeyDoFn(n)).with_output_types(Keyed)
        rows = [uses]
        if self._edges is not None and self._stars is not None:
            by_node = [
                root
                | f"Read{name}" >> ReadBatches(store)
                | f"{name}ByNode" >> beam.ParDo(_EdgesByNodeDoFn(n)).with_output_types(Keyed)
                for name, store in (("Edges", self._edges), ("Stars", self._stars))
            ]
            rows.append(
                by_node
                | "EdgesAndStars" >> beam.Flatten()
                | "Node" >> beam.GroupByKey()
                | "Root" >> beam.ParDo(_RootDoFn(n)).with_output_types(Keyed)
                | "Component" >> beam.GroupByKey()
                | "Copies" >> beam.ParDo(_CopiesDoFn(n)).with_output_types(Keyed)
            )
        return (
            rows
            | "UsesAndCopies" >> beam.Flatten()
            | "Key" >> beam.GroupByKey()
            | "Kept" >> beam.ParDo(_KeptDoFn(n)).with_output_types(Keyed)
            | "Picture" >> beam.GroupByKey()
            | "Fates" >> beam.ParDo(_FatesDoFn(self._config)).with_output_types(Keyed)
        )


def search_images(
    uses: Callable[[beam.Pipeline], Any],
    media: PartReader,
    parts: Sequence[str],
    config: ImageDedupConfig,
    work: Store,
    run: RunPipeline,
) -> ImageFates:
    """Run the pipelines for edges and components; the transform that tells the fates is left to the caller.

    Args:
        uses: applied to a pipeline, gives one `USES` batch per part.
        work: a folder for intermediate files; what is finished in it is not done again.
        run: runs a Beam pipeline built by the function it is given.
    """
    if config.near is None:
        return ImageFates(None, None, config)
    edges, near = work.child("edges"), config.near
    if not edges.exists(DONE):
        find = ImageEdges(media, parts, near, config.partitions)

        def build(pipeline: beam.Pipeline) -> None:
            _ = uses(pipeline) | find | WriteBatches(edges)

        run(build)
        edges.write_json(DONE, {})
    stars = connected_components(edges, work.child("components"), run, config.partitions, near.max_rounds)
    return ImageFates(edges, stars, config)
