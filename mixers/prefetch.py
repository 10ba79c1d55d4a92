"""Reading ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_WAIT = 0.1  # seconds between looks at whether anybody still wants the items


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in the same order, with up to `depth` of them made in advance by a thread.

    An error in `items` is raised here, after the items before it. The thread ends when the iterator is closed.
    """
    if depth < 1:
        yield from items
        return
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    done = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> bool:
        while not done.is_set():
            try:
                ready.put(entry, timeout=_WAIT)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, name="mixloom-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        done.set()
        thread.join()
