"""Vectors to domains and cells as a Beam transform, by fitted and saved domains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from mixloom.pipeline.cluster import Domains, assign_batch
from mixloom.pipeline.engine import like
from mixloom.pipeline.storage import Store


class _AssignDoFn(beam.DoFn):
    def __init__(self, model: Store) -> None:
        self._store = model
        self._model: Domains | None = None

    def setup(self) -> None:
        self._model = Domains.load(self._store.root)

    def process(self, vectors: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        assert self._model is not None
        yield like(assign_batch(self._model, vectors), vectors)


class AssignDomains(beam.PTransform):
    """Vectors -> nearest domain and cell (schema `DOMAINS`), by a fitted and saved model."""

    def __init__(self, model: Store) -> None:
        super().__init__()
        self._model = model

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_AssignDoFn(self._model)).with_output_types(pa.RecordBatch)
