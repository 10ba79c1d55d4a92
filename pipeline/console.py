"""What a run says while it works: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int | None], None]
"""Called with units done and units in all (None while not known)."""

PLAIN_INTERVAL = 5.0  # seconds between progress lines when output is not a terminal


class Console:
    """Progress on standard error, so that standard output stays for results.

    Args:
        quiet: say nothing but errors.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        """Show progress of one task; nothing is shown for a task that ends within a second or so."""
        if self.quiet:
            yield lambda done, total: None
        elif sys.stderr.isatty():
            with self._bar(title) as advance:
                yield advance
        else:
            yield self._lines(title)

    @contextmanager
    def _bar(self, title: str) -> Iterator[Advance]:
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _lines(self, title: str) -> Advance:
        started = last = time.monotonic()

        def advance(done: int, total: int | None) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PLAIN_INTERVAL:
                last = now
                of = f" of {total}" if total else ""
                self.say(f"  {title}: {done}{of} units, {now - started:.0f} s")

        return advance
