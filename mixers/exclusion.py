"""Passing over some items of a group without changing the order of the rest.

Every epoch of a group is a permutation of its items, and a place in it that holds an excluded item is passed over: the
draw gives the next item of the same epoch, or of the next epoch where that one is at its end. No table of what was
served is needed, and each epoch still gives every remaining item exactly once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.permutation import find_places

Int64 = NDArray[np.int64]


class Exclusion:
    """Excluded items of one group, by their places. A place counts through all epochs: epoch * size + place in it.

    Args:
        items: excluded items, each in 0..size.
        size: items in the group, also those excluded.
        key: the group's key, as for `permutation.place`.
    """

    def __init__(self, items: Int64, size: int, key: int) -> None:
        self.items, self.size, self.key = np.unique(items), size, key
        self.open = size - len(self.items)  # items left in each epoch
        self._places: dict[int, Int64] = {}

    def places(self, epoch: int) -> Int64:
        """Places of the excluded items inside an epoch, ascending: int64 [items]."""
        found = self._places.get(epoch)
        if found is None:
            found = np.sort(find_places(self.items, epoch, self.size, self.key))
            self._places[epoch] = found
        return found

    def open_before(self, place: int) -> int:
        """Number of places before `place`, over all epochs, that are not passed over."""
        epoch, rest = divmod(place, self.size)
        return epoch * self.open + rest - int(np.searchsorted(self.places(epoch), rest))

    def nth(self, numbers: Int64) -> Int64:
        """The places with exactly `numbers` open places before them, and themselves open: int64 [m].

        Raises:
            ValueError: no item is left.
        """
        if self.open < 1:
            raise ValueError("every item of the group is excluded")
        epoch, rest = np.divmod(numbers, self.open)
        out = np.empty_like(numbers)
        for e in np.unique(epoch).tolist():
            mine = epoch == e
            # The i-th excluded place lies behind (place - i) open ones, so that many draws come before it.
            shift = np.searchsorted(self.places(e) - np.arange(len(self.items)), rest[mine], side="right")
            out[mine] = e * self.size + rest[mine] + shift
        return out

    def after(self, place: int, count: int) -> int:
        """The place behind `count` open places from `place` on: where a later draw begins to look."""
        if count == 0:
            return place
        last = np.array([self.open_before(place) + count - 1], np.int64)
        return int(self.nth(last)[0]) + 1
