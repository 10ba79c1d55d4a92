"""Drawing by hashed ids: the same documents whatever their order, and few of them held at a time."""

from __future__ import annotations

import hashlib
import heapq
from typing import Any


class Smallest:
    """The `most` smallest keys of each group, with a value each; its content does not depend on the order of `add`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heaps: dict[str, list[tuple[int, str, Any]]] = {}
        self._held: dict[str, set[str]] = {}

    def add(self, group: str, key: int, doc_id: str, value: Any) -> None:
        heap, held = self._heaps.setdefault(group, []), self._held.setdefault(group, set())
        item = (-key, doc_id, value)
        if doc_id in held:
            return
        if len(heap) < self._most:
            heapq.heappush(heap, item)
        elif item[:2] > heap[0][:2]:
            held.discard(heapq.heapreplace(heap, item)[1])
        else:
            return
        held.add(doc_id)

    def limit(self, group: str) -> int:
        """The largest key that the group still has room for."""
        heap = self._heaps.get(group, [])
        return (1 << 64) - 1 if len(heap) < self._most else -heap[0][0]

    def groups(self) -> dict[str, list[Any]]:
        """The values of each group, smallest key first, groups sorted."""
        return {
            g: [v for _, _, v in sorted(self._heaps[g], key=lambda x: x[:2], reverse=True)]
            for g in sorted(self._heaps)
        }


def draw_key(doc_id: str, seed: int) -> int:
    """Where a document stands in the order of drawing: 64 bits of a hash of its id and the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{doc_id}".encode(), digest_size=8).digest(), "big")
