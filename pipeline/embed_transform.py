"""Documents to vectors as a Beam transform, by a fitted and saved embedder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from mixloom.pipeline.embed import embed_batch
from mixloom.pipeline.engine import like
from mixloom.pipeline.storage import Store
from mixloom.pipeline.tfidf import TfidfSvd


class _EmbedDoFn(beam.DoFn):
    def __init__(self, model: Store) -> None:
        self._store = model
        self._model: TfidfSvd | None = None

    def setup(self) -> None:
        self._model = TfidfSvd.load(self._store.root)

    def process(self, documents: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        assert self._model is not None
        vectors = embed_batch(self._model, documents)
        if "row" in documents.schema.names:
            at = vectors.schema.get_field_index("row")
            vectors = vectors.set_column(at, vectors.schema.field(at), documents.column("row"))
        yield like(vectors, documents)


class Embed(beam.PTransform):
    """Documents -> vectors (`embed.vectors_schema`), by a fitted and saved model; a column `row` is carried over."""

    def __init__(self, model: Store) -> None:
        super().__init__()
        self._model = model

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_EmbedDoFn(self._model)).with_output_types(pa.RecordBatch)
