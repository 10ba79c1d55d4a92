"""Decontamination as Beam transforms: parts of documents -> matches; matches -> survivors and ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from mixloom.pipeline.decontaminate import (
    MATCHES,
    cut_spans,
    find_matches,
    judge,
    summary,
)
from mixloom.pipeline.decontaminate_config import DecontaminateConfig
from mixloom.pipeline.edit_writer import EditWriter
from mixloom.pipeline.engine import read_part
from mixloom.pipeline.model_store import read_model
from mixloom.pipeline.overlap_index import I64, OverlapIndex
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.pipeline.storage import Store

COLUMNS = ["doc_id", "segments"]


class _FindDoFn(beam.DoFn):
    def __init__(
        self, documents: PartReader, survivors: PartReader, index: Store, config: DecontaminateConfig
    ) -> None:
        self._documents, self._survivors = documents, survivors
        self._store, self._config = index, config
        self._index: OverlapIndex | None = None

    def setup(self) -> None:
        self._index = OverlapIndex.load(self._store.root)

    def process(self, part: str) -> Iterator[UnitOutput]:
        assert self._index is not None
        started = time.perf_counter()
        batch = read_part(part, self._documents, COLUMNS, self._survivors)
        matches = find_matches(batch, self._index, self._config)
        tables = (OutputTable(f"matches/{part}", matches),) if matches.num_rows else ()
        yield UnitOutput(f"matches-{part}", tables, seconds=time.perf_counter() - started)


class FindMatches(beam.PTransform):
    """Names of parts -> one `UnitOutput` each: `MATCHES` as `matches/<part>`, nothing where there is none.

    Args:
        documents: the documents as they are now; only survivors are read.
        index: folder of the saved `OverlapIndex`.
    """

    def __init__(
        self, documents: PartReader, survivors: PartReader, index: Store, config: DecontaminateConfig
    ) -> None:
        super().__init__()
        self._find = _FindDoFn(documents, survivors, index, config)

    def expand(self, parts: Any) -> Any:
        return (
            parts
            | "Spread" >> beam.Reshuffle()
            | "Find" >> beam.ParDo(self._find).with_output_types(UnitOutput)
        )


class _JudgeDoFn(beam.DoFn):
    def __init__(
        self,
        matches: PartReader,
        index: Store,
        counts: Store,
        config: DecontaminateConfig,
        writer: EditWriter,
    ) -> None:
        self._matches, self._folders = matches, (index, counts)
        self._config, self._writer = config, writer
        self._index: OverlapIndex | None = None
        self._counts: I64 = np.zeros(0, np.int64)

    def setup(self) -> None:
        index, counts = self._folders
        self._index = OverlapIndex.load(index.root)
        self._counts = read_model(counts.root, "counts")[1]["documents"]

    def process(self, part: str) -> Iterator[UnitOutput]:
        assert self._index is not None
        started = time.perf_counter()
        name = f"matches/{part}"
        matches = self._matches.read(name) if name in self._matches else MATCHES.empty_table()
        verdict = judge(matches, self._index, self._counts, self._config)
        if not verdict.overlaps:
            yield self._writer.unchanged(part, None, started)
            return
        info = {"found": summary(verdict, self._index)}
        yield self._writer.changed(
            part, lambda batch: cut_spans(batch, verdict, self._config), verdict.dropped, info, started
        )


class JudgeMatches(beam.PTransform):
    """Names of parts -> one `UnitOutput` each: survivors, rejects, and the edits of documents that are cut.

    Args:
        matches: what `FindMatches` wrote.
        index, counts: folders of the saved index and of the document counts of its keys.
        writer: reads the documents of contaminated parts and writes what is left of them.
    """

    def __init__(
        self,
        matches: PartReader,
        index: Store,
        counts: Store,
        config: DecontaminateConfig,
        writer: EditWriter,
    ) -> None:
        super().__init__()
        self._judge = _JudgeDoFn(matches, index, counts, config, writer)

    def expand(self, parts: Any) -> Any:
        return (
            parts
            | "Spread" >> beam.Reshuffle()
            | "Judge" >> beam.ParDo(self._judge).with_output_types(UnitOutput)
        )
