"""Stage `ingest`: files of every declared source -> documents in parts of bounded size."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mixloom.pipeline.ingest.config import Source
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    from mixloom.pipeline.run import Part
    from mixloom.pipeline.schema import Document, Failure


class IngestStage(Stage):
    """Sources -> documents (schema `DOCUMENTS`), media checked and referred to where they lie.

    Args:
        sources: what to read.
        roots: the root path or URL of each source, by name; not part of the key, so that data may be moved.
        part_documents, part_bytes, part_media: a part is closed at whichever comes first (documents, bytes of text, images
            and recordings).
    """

    name = "ingest"
    version = 4
    parallelism = "processes"  # parsing is Python code and holds the interpreter lock

    def __init__(
        self,
        sources: Sequence[Source],
        roots: dict[str, str],
        part_documents: int,
        part_bytes: int,
        part_media: int = 1000,
    ) -> None:
        self.sources, self.roots = sources, roots
        self.size = PartSize(part_documents, part_bytes, part_media)

    def settings(self) -> dict[str, Any]:
        from mixloom.pipeline.ingest.plan import fingerprint
        from mixloom.pipeline.ingest.readers import reader_settings

        described = [
            {
                **s.model_dump(mode="json", exclude={"path"}),
                **reader_settings(s),
                "files": fingerprint(s, self.roots[s.name]),
            }
            for s in self.sources
        ]
        return {"sources": described, **{f"part_{name}": bound for name, bound in asdict(self.size).items()}}

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit
        from mixloom.pipeline.ingest.plan import plan_splits
        from mixloom.pipeline.ingest_transform import ReadSplits

        splits = [(s, split) for s in self.sources for split in plan_splits(s, self.roots[s.name])]
        units = {f"{i:05d}": x for i, x in enumerate(splits)}
        todo = [(name, *units[name]) for name in ctx.todo(list(units))]
        ctx.beam(
            lambda p: (
                p
                | beam.Create(todo)
                | ReadSplits(self.roots, ctx.directory, self.size)
                | Commit(ctx.directory)
            ),
            len(units),
        )


@dataclass(frozen=True, slots=True)
class PartSize:
    """When a part is full: so many documents, bytes of text (about), images and recordings; whichever comes first."""

    documents: int
    bytes: int
    media: int


def chunks(items: Iterable[Document | Failure], size: PartSize) -> Iterator[list[Document | Failure]]:
    """Cut a stream of documents and failures into lists that are closed when they are full."""
    from mixloom.pipeline.schema import Document

    held: list[Document | Failure] = []
    count = volume = media = 0
    for item in items:
        held.append(item)
        if isinstance(item, Document):
            count += 1
            volume += sum(len(s.text) for s in item.segments if s.text)
            media += sum(1 for s in item.segments if s.media is not None)
        if count >= size.documents or volume >= size.bytes or media >= size.media:
            yield held
            held, count, volume, media = [], 0, 0, 0
    if held:
        yield held


def ingest_unit(name: str, items: Iterable[Document | Failure], directory: Any, size: PartSize) -> UnitOutput:
    """Write the documents of one split as parts `part-<split>-<chunk>`, one at a time; return its record."""
    import pyarrow as pa

    from mixloom.pipeline.schema import Document, Failure, documents_batch, failures_batch

    started = time.perf_counter()
    parts: list[Part] = []
    failed: list[Failure] = []
    kept = 0
    for chunk in chunks(items, size):
        good = [x for x in chunk if isinstance(x, Document)]
        failed += [x for x in chunk if isinstance(x, Failure)]
        if good:
            part = f"part-{name}-{len(parts):04d}"
            table = pa.Table.from_batches([documents_batch(good)])
            parts.append(directory.write_table(f"{part}.parquet", part, table))
            kept += len(good)
    rejects = pa.Table.from_batches([failures_batch(failed, IngestStage.name)])
    return UnitOutput(name, (), rejects, kept, tuple(parts), None, time.perf_counter() - started)
