"""Pins torch to a number of threads for a while: another number sums in another order and gives other bits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_before = 0


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the block with `count` torch threads per operation; what was set before returns when the last block ends.

    Python threads may be inside at once (workers that encode in parallel); they should ask for the same count.
    """
    import torch

    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(count)  # every time: the number belongs to the calling thread too
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_before)
