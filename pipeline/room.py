"""Large arrays whose memory is used again: a fresh one costs the system a page at a time, which kernels would wait for."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALL = 1 << 17  # bytes: smaller arrays are numpy's own affair
_LARGE = 1 << 27  # bytes: larger ones are given back at once
_HELD = 24  # arrays kept by one thread


def _references(arrays: list[NDArray[np.uint8]]) -> list[int]:
    return [sys.getrefcount(a) for a in arrays]


class _Room(threading.local):
    def __init__(self) -> None:
        self.held: list[NDArray[np.uint8]] = []
        self.alone = _references([np.empty(0, np.uint8)])[
            0
        ]  # what is counted of one that nothing else refers to


_ROOM = _Room()


def room(size: int, dtype: type[np.generic]) -> NDArray[Any]:
    """An array [size] as `numpy.empty` makes it: what stands in it is anything.

    Its memory is that of an earlier one made by this thread to which nothing refers any more, nor to a part of it.
    """
    need = size * np.dtype(dtype).itemsize
    if not _SMALL <= need <= _LARGE:
        return np.empty(size, dtype)
    here = _ROOM
    counts = _references(here.held)
    free = [k for k, count in enumerate(counts) if count == here.alone]
    fits = [k for k in free if here.held[k].nbytes >= need]
    if fits:
        return here.held[min(fits, key=lambda k: here.held[k].nbytes)][:need].view(dtype)
    if len(here.held) >= _HELD and free:
        del here.held[free[0]]
    made = np.empty(min(_LARGE, need + need // 4), np.uint8)
    if len(here.held) < _HELD:
        here.held.append(made)
    return made[:need].view(dtype)
