"""Ctrl+C that is never lost.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. Inside a finaliser or a callback of a compiled
library it is printed and forgotten, and a run would go on as if nobody had asked. So that somebody did is kept too, and
looked at between stages and while a pipeline works.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_asked = threading.Event()


@contextmanager
def noticed() -> Iterator[None]:
    """Keep in mind, inside, that Ctrl+C was pressed; signals are the business of the main thread, in others nothing is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.clear()
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook

    def handler(number: int, frame: FrameType | None) -> None:
        _asked.set()
        raise KeyboardInterrupt

    def unraisable(what: Any) -> None:
        if what.exc_type is not KeyboardInterrupt:  # which is raised again where it can be
            hook(what)

    signal.signal(signal.SIGINT, handler)
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook
        _asked.clear()


def stop_if_asked() -> None:
    """Raise KeyboardInterrupt where Ctrl+C was pressed and what it raised was lost."""
    if _asked.is_set():
        raise KeyboardInterrupt
