"""fastText model files (`.bin` and `.ftz`, version 12) as arrays.

Reading the file ourselves keeps the scores of a model next to a kernel that holds no interpreter lock, and a file
that is damaged or no model at all ends in a message instead of a crash. Training stays with the library.
The layout is that of `FastText::saveModel` (Bojanowski et al. 2017, arXiv 1607.04606; quantisation: Joulin et
al. 2016, arXiv 1612.03651).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError

MAGIC, VERSION = 793712314, 12
LOSSES = {1: "hs", 2: "ns", 3: "softmax", 4: "ova"}
_SUPERVISED = 3
_CODES = 256  # centroids of one sub-quantiser
_LONGEST = 1000  # n-gram that anybody trains
_BLOCK = 1 << 16  # rows of a quantised matrix that are spelt out at a time


class Damaged(ValueError):
    """The bytes end too early or contradict themselves."""


@dataclass(frozen=True, slots=True)
class FastTextFile:
    """The content of a supervised model.

    matrix: float32 [words + n-gram rows, dim]. output: float32 [labels, dim]. counts: int64 [labels], how often
    each label was seen. word_bytes: uint8, the words one after another; word_bounds: int64 [words+1].
    pruned: int32 [kept, 2] (bucket, row); None where every bucket has its row.
    """

    dim: int
    word_ngrams: int
    minn: int
    maxn: int
    bucket: int
    loss: str
    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    word_bytes: NDArray[np.uint8]
    word_bounds: NDArray[np.int64]
    pruned: NDArray[np.int32] | None
    matrix: NDArray[np.float32]
    output: NDArray[np.float32]


class _Cursor:
    """Typed reads from bytes, each checked against the end."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.at = 0

    def take(self, size: int) -> memoryview:
        if size < 0 or self.at + size > len(self.data):
            raise Damaged(f"it ends at byte {len(self.data)}, and {size} more are due at byte {self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def values(self, format: str) -> tuple[Any, ...]:
        return struct.unpack("<" + format, self.take(struct.calcsize("<" + format)))

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        kind = np.dtype(dtype)
        if count < 0:
            raise Damaged(f"a table of {count} values at byte {self.at}")
        return np.frombuffer(self.take(count * kind.itemsize), kind).copy()  # aligned, and free of the file


def is_fasttext(data: bytes) -> bool:
    """Whether these bytes start like a fastText model."""
    return len(data) >= 8 and struct.unpack_from("<i", data)[0] == MAGIC


def parse_model(data: bytes, name: str) -> FastTextFile:
    """Read a supervised model.

    Args:
        data: the whole file.
        name: what to call it in errors.

    Raises:
        UserError: no fastText file, another version, word vectors without labels, or a damaged file.
    """
    other = "give a fastText model saved by save_model or quantize (.bin or .ftz)"
    if not is_fasttext(data):
        raise UserError(f"{name} is not a fastText model (it does not start as one)", fix=other)
    version = struct.unpack_from("<i", data, 4)[0]
    if version != VERSION:
        raise UserError(
            f"{name} is a fastText model of version {version}, and version {VERSION} is read",
            fix="load it with a current fastText and save it again",
        )
    try:
        return _parse(_Cursor(data), name)
    except (Damaged, struct.error, UnicodeDecodeError) as e:
        raise UserError(f"{name} is damaged: {e}", fix="copy or download the file again") from None


def _parse(cursor: _Cursor, name: str) -> FastTextFile:
    cursor.take(8)
    dim, _, _, _, _, ngrams, loss, model, bucket, minn, maxn, _, _ = cursor.values("12id")
    if model != _SUPERVISED:
        raise UserError(
            f"{name} holds word vectors, not a classifier",
            fix="give a model trained with labels (supervised)",
        )
    sane = loss in LOSSES and dim >= 1 and bucket >= 0
    if not (sane and all(0 <= n <= _LONGEST for n in (ngrams, minn, maxn))):
        raise Damaged(f"loss {loss}, dim {dim}, bucket {bucket}, n-grams {ngrams}, {minn} to {maxn}")
    size, words, labels, _, pruned_size = cursor.values("3i2q")
    if words < 0 or labels < 1 or size != words + labels:
        raise Damaged(f"{size} entries for {words} words and {labels} labels")
    starts, stops, length = _entries(np.frombuffer(cursor.data[cursor.at :], np.uint8), size)
    if length < 0:
        raise Damaged("its dictionary does not end")
    raw = np.frombuffer(cursor.take(length), np.uint8)
    counts = [int.from_bytes(raw[s + 1 : s + 9].tobytes(), "little", signed=True) for s in stops[words:]]
    label_names = tuple(
        raw[a:b].tobytes().decode("utf-8") for a, b in zip(starts[words:], stops[words:], strict=True)
    )
    word_bytes, word_bounds = _packed(raw, starts[:words], stops[:words])
    pruned = None
    if pruned_size >= 0:
        pruned = cursor.array("<i4", 2 * pruned_size).reshape(-1, 2)
        if len(pruned) and (pruned.min() < 0 or pruned[:, 0].max() >= bucket):
            raise Damaged("a pruned bucket that is none of its buckets")
    quantised = cursor.values("?")[0]
    matrix = _quantised(cursor) if quantised else _dense(cursor)
    quantised_output = cursor.values("?")[0]
    output = _quantised(cursor) if quantised and quantised_output else _dense(cursor)
    uses_buckets = maxn > 0 or ngrams > 1
    due = words + (bucket if uses_buckets else 0)
    if pruned is not None:
        due = words + (int(pruned[:, 1].max()) + 1 if len(pruned) else 0)
    if matrix.shape[1] != dim or len(matrix) < due or output.shape != (labels, dim):
        raise Damaged(
            f"matrices {matrix.shape} and {output.shape} for {due} rows, {labels} labels, dim {dim}"
        )
    return FastTextFile(
        dim, ngrams, minn, maxn, bucket, LOSSES[loss], label_names, np.array(counts, np.int64),
        word_bytes, word_bounds, pruned, matrix, output,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _entries(data, size):  # type: ignore[no-untyped-def]
    """Where each zero-terminated entry starts and stops, and the bytes of all (-1: the data end before)."""
    starts, stops = np.zeros(size, np.int64), np.zeros(size, np.int64)
    at = 0
    for i in range(size):
        starts[i] = at
        while at < data.size and data[at] != 0:
            at += 1
        stops[i] = at
        at += 10  # the zero, a count of 8 bytes, a type of 1
        if at > data.size:
            return starts, stops, -1
    return starts, stops, at


@njit(cache=True, nogil=True)
def _packed(raw, starts, stops):  # type: ignore[no-untyped-def]
    """The named stretches one after another, and the bounds between them."""
    bounds = np.zeros(starts.size + 1, np.int64)
    for i in range(starts.size):
        bounds[i + 1] = bounds[i] + stops[i] - starts[i]
    out = np.empty(bounds[-1], np.uint8)
    for i in range(starts.size):
        out[bounds[i] : bounds[i + 1]] = raw[starts[i] : stops[i]]
    return out, bounds


def _dense(cursor: _Cursor) -> NDArray[np.float32]:
    rows, columns = cursor.values("2q")
    if rows < 0 or columns < 1:
        raise Damaged(f"a matrix of {rows} x {columns}")
    return cursor.array("<f4", rows * columns).reshape(rows, columns)


def _quantised(cursor: _Cursor) -> NDArray[np.float32]:
    """A product-quantised matrix, spelt out as float32 [rows, columns]."""
    with_norms, rows, columns, size = cursor.values("?2qi")
    codes = cursor.array("u1", size)
    dim, parts, width, last, centroids = _quantiser(cursor)
    if dim != columns or size != rows * parts:
        raise Damaged(
            f"a quantised matrix of {rows} x {columns} with {size} codes of {parts} parts, {dim} wide"
        )
    codes = codes.reshape(rows, parts)
    out = np.empty((rows, columns), np.float32)
    for p in range(parts):
        own = last if p == parts - 1 else width
        table = centroids[p * _CODES * width :][: _CODES * own].reshape(_CODES, own)
        for start in range(0, rows, _BLOCK):
            block = slice(start, start + _BLOCK)
            out[block, p * width : p * width + own] = table[codes[block, p]]
    if with_norms:
        norm_codes = cursor.array("u1", rows)
        out *= _quantiser(cursor)[4][norm_codes][:, None]
    return out


def _quantiser(cursor: _Cursor) -> tuple[int, int, int, int, NDArray[np.float32]]:
    dim, parts, width, last = cursor.values("4i")
    if dim < 1 or parts < 1 or width < 1 or (parts - 1) * width + last != dim:
        raise Damaged(f"a quantiser of {parts} parts for {dim} columns")
    return dim, parts, width, last, cursor.array("<f4", dim * _CODES)
