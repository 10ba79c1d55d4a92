"""Stage `ingest`: files of every declared source -> documents in parts of bounded size."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
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
        part_documents, part_bytes: a part is closed at whichever comes first (bytes of text).
    """

    name = "ingest"
    version = 4
    parallelism = "processes"  # parsing is Python code and holds the interpreter lock

    def __init__(
        self, sources: Sequence[Source], roots: dict[str, str], part_documents: int, part_bytes: int
    ) -> None:
        self.sources, self.roots = sources, roots
        self.part_documents, self.part_bytes = part_documents, part_bytes

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
        return {"sources": described, "part_documents": self.part_documents, "part_bytes": self.part_bytes}

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
                | ReadSplits(self.roots, ctx.directory, self.part_documents, self.part_bytes)
                | Commit(ctx.directory)
            ),
            len(units),
        )


def chunks(
    items: Iterable[Document | Failure], documents: int, size: int
) -> Iterator[list[Document | Failure]]:
    """Cut a stream of documents and failures into lists of at most `documents` documents or `size` bytes of text."""
    from mixloom.pipeline.schema import Document

    held: list[Document | Failure] = []
    count = volume = 0
    for item in items:
        held.append(item)
        if isinstance(item, Document):
            count += 1
            volume += sum(len(s.text) for s in item.segments if s.text)
        if count >= documents or volume >= size:
            yield held
            held, count, volume = [], 0, 0
    if held:
        yield held


def ingest_unit(
    name: str, items: Iterable[Document | Failure], directory: Any, documents: int, size: int
) -> UnitOutput:
    """Write the documents of one split as parts `part-<split>-<chunk>`, one at a time; return its record."""
    import pyarrow as pa

    from mixloom.pipeline.schema import Document, Failure, documents_batch, failures_batch

    started = time.perf_counter()
    parts: list[Part] = []
    failed: list[Failure] = []
    kept = 0
    for chunk in chunks(items, documents, size):
        good = [x for x in chunk if isinstance(x, Document)]
        failed += [x for x in chunk if isinstance(x, Failure)]
        if good:
            part = f"part-{name}-{len(parts):04d}"
            table = pa.Table.from_batches([documents_batch(good)])
            parts.append(directory.write_table(f"{part}.parquet", part, table))
            kept += len(good)
    rejects = pa.Table.from_batches([failures_batch(failed, IngestStage.name)])
    return UnitOutput(name, (), rejects, kept, tuple(parts), None, time.perf_counter() - started)
