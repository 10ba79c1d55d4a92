"""128-bit document ids as numbers, and the Arrow rows of a shuffle as numpy columns.

Deduplication moves ids, hashes and edges, never text. A `doc_id` (32 hex digits) becomes two uint64 halves,
most significant first, so that the numeric order of (hi, lo) is the order of the strings.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

U16 = npt.NDArray[np.uint16]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_DIGITS = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)


def _each(byte: int) -> np.uint64:
    return np.uint64(byte * 0x0101010101010101)


ROW_BITS = np.uint64(32)  # a place is part << 32 | row


def pack_ids(doc_ids: pa.Array | pa.ChunkedArray) -> U64:
    """Turn ids of 32 lower-case hex digits into uint64 [n, 2] (hi, lo).

    Raises:
        ValueError: an id is null, not 32 characters long, or not lower-case hex.
    """
    if isinstance(doc_ids, pa.ChunkedArray):
        doc_ids = doc_ids.combine_chunks()
    raw = doc_ids.cast(pa.binary())
    if not len(raw):
        return np.empty((0, 2), dtype=np.uint64)
    try:
        if raw.null_count:
            raise pa.ArrowInvalid("null")
        fixed = raw.cast(pa.binary(32))
    except pa.ArrowInvalid:
        bad = next(x for x in doc_ids.to_pylist() if x is None or len(x.encode()) != 32)
        raise ValueError(f"doc_id {bad!r} is not 32 hex digits") from None
    digits = (
        np.ascontiguousarray(fixed_bytes(fixed, 32)).view(">u8").astype(np.uint64)
    )  # eight digits in each
    # Digits end in their value, letters in theirs less nine and have bit 6.
    nibbles = (digits & _each(0x0F)) + ((digits >> np.uint64(6)) & _each(1)) * np.uint64(9)
    letters = ((nibbles + _each(6)) >> np.uint64(4)) & _each(1)
    again = nibbles + _each(ord("0")) + letters * np.uint64(ord("a") - ord("0") - 10)
    if (nibbles & _each(0xF0)).any() or not np.array_equal(again, digits):
        wrong = next(x for x in doc_ids.to_pylist() if set(x) - set("0123456789abcdef"))
        raise ValueError(f"doc_id {wrong!r} is not 32 lower-case hex digits")
    for bits, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
        nibbles = (nibbles | (nibbles >> np.uint64(bits))) & np.uint64(mask)
    return np.ascontiguousarray((nibbles[:, 0::2] << np.uint64(32)) | nibbles[:, 1::2])


def unpack_ids(ids: U64) -> pa.StringArray:
    """The inverse of `pack_ids`: uint64 [n, 2] to strings of 32 hex digits."""
    octets = np.ascontiguousarray(ids).astype(">u8").view(np.uint8).reshape(len(ids), 16)
    digits = np.empty((len(ids), 32), dtype=np.uint8)
    digits[:, 0::2] = _DIGITS[octets >> 4]
    digits[:, 1::2] = _DIGITS[octets & 15]
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(32), len(ids), [None, pa.py_buffer(digits.tobytes())]
    ).cast(pa.string())


def fixed_bytes(array: pa.FixedSizeBinaryArray, width: int) -> npt.NDArray[np.uint8]:
    """The bytes of a fixed-size binary array without nulls, as uint8 [n, width] (respects slices)."""
    if not len(array):
        return np.empty((0, width), dtype=np.uint8)
    values = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    start = array.offset * width
    return values[start : start + len(array) * width].reshape(len(array), width)


def hash_columns(array: pa.Array | pa.ChunkedArray) -> U64:
    """A fixed_size_binary(16) column without nulls as uint64 [n, 2]."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return np.ascontiguousarray(fixed_bytes(array, 16)).view(">u8").astype(np.uint64)


def mix(x: U64) -> U64:
    """A bijection of uint64 that spreads its bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def partition_of(ids: U64, partitions: int) -> I64:
    """The partition, int64 [n] in [0, partitions), of each id in uint64 [n, 2]."""
    return (mix(ids[:, 0] ^ mix(ids[:, 1])) % np.uint64(partitions)).astype(np.int64)


def places(part: str, rows: npt.NDArray[np.int32], parts: Sequence[str]) -> U64:
    """Where documents lie, uint64 [n]: index of their part in the sorted `parts` << 32 | row.

    Raises:
        ValueError: the part is not among `parts`.
    """
    index = bisect_left(parts, part)
    if index >= len(parts) or parts[index] != part:
        raise ValueError(f"the part '{part}' is not among the {len(parts)} declared parts")
    return (np.uint64(index) << ROW_BITS) | rows.astype(np.uint64)


def ranks(ids: U64) -> tuple[U64, I64]:
    """The distinct ids in order, uint64 [k, 2], and for each of the n ids its index among them, int64 [n]."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))
    ordered = ids[order]
    first = run_starts(ordered)
    codes = np.empty(len(ids), dtype=np.int64)
    codes[order] = np.cumsum(first) - 1
    return ordered[first], codes


def run_starts(rows: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """bool [n]: True where a sorted row [n, k] differs from the one before it."""
    first = np.ones(len(rows), dtype=np.bool_)
    if len(rows) > 1:
        np.any(rows[1:] != rows[:-1], axis=1, out=first[1:])
    return first


def run_bounds(first: npt.NDArray[np.bool_]) -> tuple[I64, I64]:
    """Where each run of equal rows starts and stops, from the result of `run_starts`."""
    starts = np.flatnonzero(first)
    return starts, np.append(starts, len(first))[1:]


def distinct_rows(rows: U64) -> U64:
    """The distinct rows of uint64 [n, k], sorted by their columns from left to right."""
    ordered = rows[np.lexsort(rows.T[::-1])]
    return ordered[run_starts(ordered)]


def columns(batch: pa.RecordBatch, names: Sequence[str]) -> U64:
    """Some uint64 columns of a batch as one uint64 array [n, len(names)]."""
    out = np.empty((batch.num_rows, len(names)), dtype=np.uint64)
    for i, name in enumerate(names):
        out[:, i] = batch.column(name).to_numpy(zero_copy_only=False)
    return out


def id_batch(schema: pa.Schema, *blocks: npt.NDArray[np.generic]) -> pa.RecordBatch:
    """A batch of `schema` from blocks [n] or [n, k], whose columns stand in the order of the schema."""
    arrays: list[npt.NDArray[np.generic]] = []
    for block in blocks:
        arrays += [block] if block.ndim == 1 else [block[:, i] for i in range(block.shape[1])]
    return pa.RecordBatch.from_arrays(
        [pa.array(np.ascontiguousarray(a), type=f.type) for a, f in zip(arrays, schema, strict=True)],
        schema=schema,
    )


def packed_rows(rows: U64) -> pa.RecordBatch:
    """Rows uint64 [n, k] as a batch of one column, without a copy: for shuffles whose rows are looked at whole."""
    width = 8 * rows.shape[1]
    buffers = [None, pa.py_buffer(np.ascontiguousarray(rows))]
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(rows), buffers)
    return pa.RecordBatch.from_arrays([column], names=["rows"])


def unpacked_rows(batches: Iterable[pa.RecordBatch], columns: int) -> U64:
    """All the rows of some batches of `packed_rows`, uint64 [n, columns]."""
    found = [fixed_bytes(b.column(0), 8 * columns).view(np.uint64) for b in batches if b.num_rows]
    return np.concatenate(found) if found else np.empty((0, columns), dtype=np.uint64)


def concatenate(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """All rows of some batches of one schema as one contiguous batch."""
    table = pa.Table.from_batches(list(batches), schema=schema).combine_chunks()
    found = table.to_batches()
    return found[0] if found else pa.RecordBatch.from_pylist([], schema=schema)


def split(batch: pa.RecordBatch, partition: I64) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (partition, its rows) for every partition that has rows, in order."""
    order = np.argsort(partition, kind="stable")
    keys = partition[order]
    starts, stops = run_bounds(run_starts(keys[:, None]))
    grouped = batch.take(pa.array(order))
    for start, stop in zip(starts, stops, strict=True):
        yield int(keys[start]), grouped.slice(int(start), int(stop - start))
