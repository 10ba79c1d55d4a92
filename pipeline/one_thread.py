"""One thread for BLAS and OpenMP, so that the last bits of a product do not depend on the machine's cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_entered: list[Any] = []


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS and OpenMP of this process to one thread; safe when several workers of a process do so at once.

    Limits are global, so the first one in remembers the old ones and the last one out puts them back: with plain
    nested limits, one worker leaving would lift the limit for another in the middle of its product. Enter after
    the library in question has been imported.
    """
    from threadpoolctl import threadpool_limits

    with _lock:
        _entered.append(threadpool_limits(1))  # every time: OpenMP counts its threads per calling thread
    try:
        yield
    finally:
        with _lock:
            if len(_entered) == 1:
                _entered[0].restore_original_limits()
            _entered.pop()
