"""What a run leaves behind for later ones: content hashes, signatures, and sketches of the shingle sets it kept.

A sketch holds the smallest 32-bit shingle keys (the upper halves of the shingle hashes) of a document. With all its
keys in it, similarity to another document is exact; otherwise it is the bottom-k estimate over the k keys at hand
(see `verify`), standard error sqrt(J (1 - J) / k).
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.doc_ids import I64, U64
from mixloom.pipeline.signatures import shingle_sets

SIGNED = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),  # in the part of its run
        pa.field("content_hash", pa.binary(16), nullable=False),
        pa.field("media_key", pa.uint64(), nullable=False),  # see `near_rows.media_keys`
    ]
)
"""A document as the first comparison sees it; beside these, `minhash` as annotate wrote it."""

_SKETCH = [
    pa.field(
        "size", pa.int64(), nullable=False
    ),  # distinct shingle keys of the document; 0 without a shingle
    pa.field("sketch", pa.large_list(pa.uint32()), nullable=False),  # the smallest of them, ascending
]


def index_schema(minhash: pa.DataType) -> pa.Schema:
    """Schema of the parts of `dedup_index`, given the type of the signatures."""
    return pa.schema([*SIGNED, pa.field("minhash", minhash), *_SKETCH])


@numba.njit(cache=True, nogil=True)
def _distinct_keys(values: U64, offsets: I64, most: int) -> tuple[npt.NDArray[np.uint32], I64, I64]:
    n = len(offsets) - 1
    bounds = np.zeros(n + 1, dtype=np.int64)
    sizes = np.zeros(n, dtype=np.int64)
    keys = np.empty(len(values), dtype=np.uint32)
    used = 0
    for d in range(n):
        last = np.uint32(0)
        for i in range(offsets[d], offsets[d + 1]):
            key = np.uint32(values[i] >> np.uint64(32))
            if i > offsets[d] and key == last:
                continue
            last = key
            if sizes[d] < most:
                keys[used] = key
                used += 1
            sizes[d] += 1
        bounds[d + 1] = used
    return keys[:used].copy(), bounds, sizes


def shingle_keys(texts: pa.LargeStringArray, ngram: int, most: int) -> tuple[pa.LargeListArray, I64]:
    """The `most` smallest distinct shingle keys of each of n texts, large_list<uint32>, and how many there are, int64 [n]."""
    sets = shingle_sets(texts, ngram)
    offsets = sets.offsets.to_numpy()
    values = np.asarray(sets.values.to_numpy(zero_copy_only=False), dtype=np.uint64)
    keys, bounds, sizes = _distinct_keys(values, offsets, most)
    return pa.LargeListArray.from_arrays(pa.array(bounds), pa.array(keys)), sizes


def index_rows(signed: pa.RecordBatch, texts: pa.LargeStringArray, ngram: int, hashes: int) -> pa.RecordBatch:
    """Documents (`SIGNED` and minhash) with their texts -> rows of `index_schema`."""
    sketch, sizes = shingle_keys(texts, ngram, hashes)
    schema = index_schema(signed.schema.field("minhash").type)
    arrays = [*(signed.column(c) for c in [*SIGNED.names, "minhash"]), pa.array(sizes), sketch]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
