"""One thread for torch, so that the last bits of a product do not depend on the machine's cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_before = 0


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run the block with one torch thread per operation; what was set before returns when the last block ends.

    Several workers of a process may be inside at once: each then computes on a thread of its own.
    """
    import torch

    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)  # every time: the number belongs to the calling thread too
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_before)
