"""Pages with a simplified markup kept in their text, as for CM3 (Aghajanyan et al. 2022, arXiv 2201.07520, section 2).

Tags that are kept stand without attributes; of an image its alternative text and title are told in a tag right before it.
Everything else is laid out as without markup, with `<br>` for a line end that no kept tag stands for, so that the page,
read again without its markup, is the same text with the same images in the same places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from mixloom.pipeline.ingest.assemble import Ref
from mixloom.pipeline.ingest.layout import Flow

_CELLS = frozenset(("td", "th"))  # kept where they are empty: those after them keep their columns


@dataclass(slots=True)
class _Open:
    """An element around what comes next: `lines` it asks for, and whether its tag has been written."""

    name: str
    lines: int
    written: bool = False


class MarkupFlow(Flow):
    """As `Flow`, with the tags of kept elements. An element in which nothing stands is not written."""

    def __init__(self, tags: Iterable[str]) -> None:
        super().__init__()
        self._tags = frozenset(tags)
        self._stack: list[_Open] = []
        self._given = 0  # lines that the tags written since the last text stand for
        self._cell = False  # whether one of them is a cell

    def text(self, value: str, *, preserve: bool = False) -> None:
        super().text(escape(value, quote=False), preserve=preserve)

    def mark(self, text: str) -> None:
        """A list entry, whose tag says what the marker says."""
        self._separate()

    def open(self, name: str, lines: int) -> None:
        if name in self._tags:
            self._stack.append(_Open(name, lines))

    def close(self, name: str, lines: int) -> None:
        if name not in self._tags:
            return
        if name in _CELLS:
            self._write_tags()
        top = self._stack.pop()
        if top.written:
            self._out.append(f"</{name}>")
            self._given = max(self._given, lines)

    def _separate(self) -> None:
        waiting = [x for x in self._stack if not x.written]
        given = max([self._given, *(x.lines for x in waiting)])
        if self._any:
            if self._lines:
                inside_pre = any(x.name == "pre" and x.written for x in self._stack)
                # Line ends add to those of the tags before them, and tags after them ask for so many at least.
                self._out.append("<br>" * (self._lines - self._given) if given < self._lines else "")
                self._out.append("" if inside_pre else "\n")
            elif self._tab:
                self._out.append("" if self._cell or any(x.name in _CELLS for x in waiting) else "\t")
            elif self._space:
                self._out.append(" ")
        self._write_tags()
        self._lines, self._tab, self._space, self._any = 0, False, False, True
        self._given, self._cell = 0, False

    def _write_tags(self) -> None:
        for x in self._stack:
            if not x.written:
                x.written = True
                self._out.append(f"<{x.name}>")
                self._given = max(self._given, x.lines)
                self._cell |= x.name in _CELLS

    def media(self, ref: Ref) -> None:
        self._write_tags()
        shown = "".join(f' {k}="{escape(v)}"' for k in ("alt", "title") if (v := ref.attrs.get(k)))
        super().media(replace(ref, before=f"<img{shown}>"))

    def add(self, item: Any) -> None:
        """A cut between documents: every tag is closed before it and written again after it."""
        self._out += [f"</{x.name}>" for x in reversed(self._stack) if x.written]
        super().add(item)
        for x in self._stack:
            x.written = False

    def open_role(self, role: str) -> None:
        own = self._stack.pop() if self._stack and not self._stack[-1].written else None
        self._write_tags()
        if own is not None:
            self._stack.append(own)
        super().open_role(role)
        self._given = 0

    def close_role(self) -> None:
        super().close_role()
        self._given = 0
