"""Beam transform of stage `tokenize`: documents -> token ids."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
import pyarrow as pa

from mixloom.pipeline.engine import part_of
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.stage import UnitOutput
from mixloom.pipeline.storage import Store
from mixloom.tokenizers.arranged import check_codec
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.layout_config import READING_ORDER, LayoutConfig
from mixloom.tokenizers.transform import tokenize, tokens_output


class _TokenizeDoFn(beam.DoFn):
    def __init__(
        self, tokenizer: Store, assignments: PartReader, roots: dict[str, str], layout: LayoutConfig
    ) -> None:
        self._store, self._assignments, self._roots, self._layout = tokenizer, assignments, roots, layout
        self._codecs: Codecs | None = None

    def setup(self) -> None:
        self._codecs = Codecs.load(self._store)
        check_codec(self._layout, self._codecs.speech)

    def process(self, documents: pa.RecordBatch) -> Iterator[UnitOutput]:
        assert self._codecs is not None
        started = time.perf_counter()
        part = part_of(documents)
        assigned = self._assignments.read(part, ["domain", "cell"])
        for name in ("domain", "cell"):
            documents = documents.append_column(name, assigned[name].combine_chunks())
        encoded, failures = tokenize(documents, self._codecs, self._roots, self._layout)
        output = tokens_output(part, documents, encoded, failures)
        yield replace(output, seconds=time.perf_counter() - started)


class Tokenize(beam.PTransform):
    """Documents -> `UnitOutput` with rows of `TOKENS`.

    Args:
        tokenizer: folder of the fitted tokenizers (`run/tokenizer`).
        assignments: domain and cell of every document, part by part, in the order of the documents.
        roots: where each source lies, by name.
        layout: in which order the segments of a document are written, by source.
    """

    def __init__(
        self,
        tokenizer: Store,
        assignments: PartReader,
        roots: dict[str, str],
        layout: LayoutConfig = READING_ORDER,
    ) -> None:
        super().__init__()
        self._args = (tokenizer, assignments, roots, layout)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_TokenizeDoFn(*self._args))
