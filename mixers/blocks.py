"""Memory of batches that are gone, for the batches to come.

A batch of some million bytes is more than the allocator keeps at hand: made in a thread, it would be given back to the
system and asked for again each time, which cost as much as filling it.
"""

from __future__ import annotations

import sys
import threading

import numpy as np
from numpy.typing import NDArray


class Blocks:
    """Integer arrays that are handed out again once nothing refers to them. Safe to use from several threads.

    An array, a view of it and a tensor over it all count as references, so what is in use is never handed out.

    Args:
        most: blocks kept; with fewer than are in use at a time nothing is ever handed out again.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._kept: list[NDArray[np.int32]] = []
        self._alone = _references([np.empty(0, np.int32)], 0)
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """An int32 array of this shape with anything in it."""
        with self._lock:
            for i in range(len(self._kept)):
                if self._kept[i].shape == shape and _references(self._kept, i) == self._alone:
                    return self._kept[i]
            made = np.empty(shape, dtype=np.int32)
            self._kept = [*self._kept, made][-self._most :]
            return made


def _references(blocks: list[NDArray[np.int32]], i: int) -> int:
    """References to a block, those of the list and of this call among them: how many these are, Python decides."""
    return sys.getrefcount(blocks[i])
