"""Samples that depend on ids alone: the same documents whatever the order, the parts or the workers."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_BITS = 60  # compared as 15 hex digits


def threshold(total: int, wanted: int) -> str:
    """The bound below which about `wanted` of `total` uniformly hashed ids fall ("g": all of them)."""
    if wanted >= total:
        return "g"  # sorts after every hex digit
    return f"{int(wanted / total * (1 << _BITS)):0{_BITS // 4}x}"


def sampled(doc_ids: pa.Array | pa.ChunkedArray, bound: str) -> pa.Array | pa.ChunkedArray:
    """Boolean mask of the ids in the sample; ids are content hashes, so they are already uniform."""
    return pc.less(pc.utf8_slice_codeunits(doc_ids, 0, _BITS // 4), bound)
