"""The raw UTF-8 bytes of an Arrow string array, for compiled code."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def utf8_buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of a string or large_string array and its offsets into them (int64 [n+1]); null reads as "".

    Slices are honoured and the bytes are not copied. Raises TypeError for any other Arrow type.
    """
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise TypeError(f"expected an Arrow string or large_string array, got {texts.type}")
    if texts.null_count:
        texts = texts.fill_null("")
    _, offsets, data = texts.buffers()
    kind = np.int32 if pa.types.is_string(texts.type) else np.int64
    if len(texts) == 0 or offsets is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    bounds = np.frombuffer(offsets, dtype=kind)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    raw = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8)
    return raw, bounds
