"""Memory of batches that are gone, for the batches to come.

A batch of some million bytes is more than the allocator keeps at hand: made in a thread, it would be given back to the
system and asked for again each time, which cost as much as filling it.
"""

from __future__ import annotations

import sys
import threading

import numpy as np
from numpy.typing import NDArray

_UNUSED = (
    3  # references to a block that nobody uses: the list, the loop's name and the argument of getrefcount
)


class Blocks:
    """Integer arrays that are handed out again once nothing refers to them. Safe to use from several threads.

    An array, a view of it and a tensor over it all count as references, so what is in use is never handed out.

    Args:
        most: blocks kept; with fewer than are in use at a time nothing is ever handed out again.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._kept: list[NDArray[np.int32]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """An int32 array of this shape with anything in it."""
        with self._lock:
            for block in self._kept:
                if block.shape == shape and sys.getrefcount(block) == _UNUSED:
                    return block
            made = np.empty(shape, dtype=np.int32)
            self._kept = [*self._kept, made][-self._most :]
            return made
