"""One UTF-8 character as its code point, for compiled loops over bytes.

numba's cache looks at the changes of a kernel's own file only, so a change here needs the cached kernels removed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.lean import LEAN

REPLACEMENT = 0xFFFD


@njit(**LEAN)
def decode(data, i, stop):  # type: ignore[no-untyped-def]
    """The code point that starts at byte i (not ASCII) and its width; (U+FFFD, 1) where it is malformed."""
    b = np.int64(data[i])
    if 0xC2 <= b < 0xE0:
        width, code = 2, b & 0x1F
    elif 0xE0 <= b < 0xF0:
        width, code = 3, b & 0x0F
    elif 0xF0 <= b < 0xF5:
        width, code = 4, b & 0x07
    else:
        return np.int64(REPLACEMENT), np.int64(1)
    if i + width > stop:
        return np.int64(REPLACEMENT), np.int64(1)
    for k in range(1, width):
        c = np.int64(data[i + k])
        if c & 0xC0 != 0x80:
            return np.int64(REPLACEMENT), np.int64(1)
        code = (code << 6) | (c & 0x3F)
    if code > 0x10FFFF:
        return np.int64(REPLACEMENT), np.int64(1)
    return np.int64(code), np.int64(width)
