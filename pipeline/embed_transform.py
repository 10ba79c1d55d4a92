"""Documents to vectors as a Beam transform, by a saved embedder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils import shared

from mixloom.pipeline.embed import embed_batch
from mixloom.pipeline.embedder import Embedder, Surroundings, load_embedder
from mixloom.pipeline.engine import like, part_of, seconds_since_start
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.pipeline.storage import Store


class _EmbedDoFn(beam.DoFn):
    def __init__(self, model: Store, around: Surroundings) -> None:
        self._store, self._around = model, around
        self._handle = shared.Shared()  # one embedder for all threads of a worker: a model may fill a GPU
        self._model: Embedder | None = None

    def setup(self) -> None:
        self._model = self._handle.acquire(lambda: load_embedder(self._store.root, self._around))

    def process(self, documents: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        assert self._model is not None
        vectors = embed_batch(self._model, documents)
        if "row" in documents.schema.names:
            at = vectors.schema.get_field_index("row")
            vectors = vectors.set_column(at, vectors.schema.field(at), documents.column("row"))
        yield like(vectors, documents)


class Embed(beam.PTransform):
    """Documents -> vectors (`embed.vectors_schema`), by a saved embedder; a column `row` is carried over.

    Args:
        model: folder of the embedder, as `Embedder.save` wrote it.
        around: where sources lie and what image models there are; needed for embedders of images.
    """

    def __init__(self, model: Store, around: Surroundings | None = None) -> None:
        super().__init__()
        self._work = _EmbedDoFn(model, around or Surroundings())

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(self._work).with_output_types(pa.RecordBatch)


def vectors_output(batch: pa.RecordBatch) -> UnitOutput:
    """The vectors of a part as a unit of the stage; its info counts those that are zero."""
    part = part_of(batch)
    zero = batch.num_rows - int(batch.column("has_text").true_count)
    table = OutputTable(part, pa.Table.from_batches([batch]))
    return UnitOutput(
        part,
        (table,),
        None,
        batch.num_rows,
        info={"zero_vectors": zero},
        seconds=seconds_since_start(batch),
    )
