"""Reading ahead in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """What comes after the last item; StopIteration where all went well."""

    error: BaseException


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in the same order, with up to `depth` of them made in advance by a thread.

    An error in `items` is raised here, after the items before it. The thread ends when the iterator is closed.
    """
    if depth < 1:
        yield from items
        return
    ready: SimpleQueue[T | _End] = SimpleQueue()
    wanted: SimpleQueue[bool] = SimpleQueue()  # an entry for each item that may be made; False: none any more

    def work() -> None:
        try:
            source = iter(items)
            while wanted.get():
                ready.put(next(source))
        except BaseException as error:
            ready.put(_End(error))

    thread = threading.Thread(target=work, name="mixloom-prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(depth):
            wanted.put(True)
        while not isinstance(item := ready.get(), _End):
            wanted.put(True)
            yield item
        if not isinstance(item.error, StopIteration):
            raise item.error
    finally:
        with suppress(Empty):
            while True:
                wanted.get_nowait()
        wanted.put(False)
        thread.join()
