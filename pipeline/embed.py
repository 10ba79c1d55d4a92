"""Stage `embed`: one unit vector per document, as Arrow tables.

Where each function is called:
- `text_column`: per part, by every embedder of text;
- `sample_keys`: by `order`, for its seeded controls;
- `embed_batch`: per part, with the embedder of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.embedder import Embedder


def vectors_schema(dim: int) -> pa.Schema:
    """Schema VECTORS: `row` is the row in the ingest part of the same name; `vector` has length 1 or is zero.

    `has_text` says which: a document has a vector when its embedder found a word or an image it knows.
    """
    return pa.schema(
        [
            pa.field("doc_id", pa.string(), nullable=False),
            pa.field("row", pa.int32(), nullable=False),
            pa.field("vector", pa.list_(pa.field("item", pa.float32(), nullable=False), dim), nullable=False),
            pa.field("has_text", pa.bool_(), nullable=False),
        ]
    )


def text_column(batch: pa.RecordBatch) -> pa.Array:
    """The words of each document of a DOCUMENTS batch, large_string [n]: its texts, and `alt` or `title` of its media.

    Segments are joined by a line feed in their order; a document without any words gives "".
    """
    segments = batch.column("segments")
    items = segments.flatten()
    attrs = items.field("attrs")
    words = pc.coalesce(
        items.field("text"), pc.map_lookup(attrs, "alt", "first"), pc.map_lookup(attrs, "title", "first"), ""
    )
    offsets = np.zeros(len(batch) + 1, np.int64)
    np.cumsum(pc.fill_null(pc.list_value_length(segments), 0).to_numpy(zero_copy_only=False), out=offsets[1:])
    grouped = pa.LargeListArray.from_arrays(pa.array(offsets), words.cast(pa.large_string()))
    return pc.binary_join(grouped, pa.scalar("\n", pa.large_string()))


def sample_keys(doc_ids: Sequence[str], seed: int) -> np.ndarray:
    """A pseudo-random key per document, uint64 [n], from its id and the seed (blake2b)."""
    key = seed.to_bytes(8, "little")
    raw = b"".join(hashlib.blake2b(d.encode(), digest_size=8, key=key).digest() for d in doc_ids)
    return np.frombuffer(raw, "<u8").astype(np.uint64)


def embed_batch(model: Embedder, batch: pa.RecordBatch, rows: np.ndarray | None = None) -> pa.RecordBatch:
    """A VECTORS batch for the given rows (int [m]; all by default) of a DOCUMENTS batch, in their order."""
    if rows is None:
        rows = np.arange(len(batch), dtype=np.int32)
    else:
        batch = batch.take(pa.array(rows, pa.int64()))
    vectors = model.embed(batch)
    schema = vectors_schema(model.dim)
    columns = [
        batch.column("doc_id"),
        pa.array(rows, pa.int32()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=schema.field("vector").type),
        pa.array(vectors.any(axis=1)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def vectors_of(table: pa.RecordBatch | pa.Table) -> np.ndarray:
    """The `vector` column as float32 [n, dim] (a view where Arrow allows)."""
    column = table.column("vector")
    dim = column.type.list_size
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # no chunks at all
            return np.zeros((0, dim), np.float32)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
