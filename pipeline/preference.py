"""Which of two duplicates is the better one, as a single number that sorts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.doc_ids import U64

_LONGEST = (1 << 24) - 1
_LAST = 255


def source_priority(source: pa.Array | pa.ChunkedArray, priority: Sequence[str]) -> npt.NDArray[np.int32]:
    """Rank of each source in the list of preferred sources, int32 [n]; len(priority) for one not listed."""
    found = pc.index_in(source, value_set=pa.array(list(priority), type=source.type))
    return np.asarray(pc.fill_null(found, len(priority)).to_numpy(zero_copy_only=False), dtype=np.int32)


def preference(
    priority: npt.ArrayLike, quality: npt.ArrayLike | None = None, length: npt.ArrayLike | None = None
) -> U64:
    """Pack survivor order into uint64 [n]; the smaller number is the better document.

    Ordered by priority (int, ascending, at most 255), then quality (rounded to float32, descending; NaN is
    worst), then length (int, descending, at most 2**24 - 1). Ties are left to the document id.
    """
    rank = np.clip(np.asarray(priority, dtype=np.int64), 0, _LAST).astype(np.uint64)
    out = rank << np.uint64(56)
    if quality is not None:
        q = np.asarray(quality, dtype=np.float32) + np.float32(0.0)  # -0.0 becomes 0.0
        bits = np.where(np.isnan(q), -np.inf, q).astype(np.float32).view(np.uint32)
        negative = (bits >> np.uint32(31)).astype(bool)
        ascending = np.where(negative, ~bits, bits | np.uint32(0x80000000))
        out |= (~ascending).astype(np.uint32).astype(np.uint64) << np.uint64(24)
    if length is not None:
        n = np.clip(np.asarray(length, dtype=np.int64), 0, _LONGEST)
        out |= (_LONGEST - n).astype(np.uint64)
    return out
