"""Lays out elements as text the way a browser would: white space collapsed, blocks on lines of their own."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

from mixloom.pipeline.ingest.assemble import Item, Ref, Text

_SPACE = re.compile(r"[ \t\n\r\f]+")


class Flow:
    """Collects text and media in reading order.

    Separators wait until text follows: the strongest one asked for wins (lines, then a tab, then a space).
    """

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._out: list[str] = []
        self._any = False  # whether anything has been said since the last hard cut
        self._lines, self._tab, self._space = 0, False, False
        self._attrs: dict[str, str] = {}

    def text(self, value: str, *, preserve: bool = False) -> None:
        """Add text; white space is collapsed unless `preserve`."""
        if preserve:
            if value:
                self._separate()
                self._out.append(value)
            return
        words = _SPACE.sub(" ", value)
        if words.startswith(" "):
            self._space = True
        body = words.strip(" ")
        if body:
            self._separate()
            self._out.append(body)
            self._space = words.endswith(" ")

    def _separate(self) -> None:
        if self._any:
            if self._lines:
                self._out.append("\n" * self._lines)
            elif self._tab:
                self._out.append("\t")
            elif self._space:
                self._out.append(" ")
        self._lines, self._tab, self._space, self._any = 0, False, False, True

    def mark(self, text: str) -> None:
        """Add a list marker: what follows stands on its line."""
        self._separate()
        self._out.append(text)
        self._space = False

    def open(self, name: str, lines: int) -> None:
        """An element begins, which asks for so many line ends; said before anything inside it."""

    def close(self, name: str, lines: int) -> None:
        """The element ends that began last, and asks for so many line ends."""

    def lines(self, count: int) -> None:
        """Ask for at least so many line ends before the next text."""
        self._lines = max(self._lines, count)

    def line_break(self) -> None:
        self._lines = min(self._lines + 1, 2)

    def tab(self) -> None:
        self._tab = True

    def media(self, ref: Ref) -> None:
        self._pour()
        self.items.append(ref)
        self._any = True

    def add(self, item: Any) -> None:
        """Add a finished item (a split mark, say) after what has been said so far."""
        self._pour()
        self.items.append(item)

    def open_role(self, role: str) -> None:
        """From here to `close_role` the text is a segment of its own."""
        self._pour()
        self._attrs = {"role": role}
        self._any = False

    def close_role(self) -> None:
        self._pour()
        self._attrs = {}
        self._any, self._lines = False, 0

    def _pour(self) -> None:
        if self._out:
            self.items.append(Text("".join(self._out), self._attrs, flow=not self._attrs))
            self._out = []

    def finish(self) -> list[Any]:
        self._pour()
        return self.items


def walk(
    root: Any, enter: Callable[[Any], bool], leave: Callable[[Any], None], text: Callable[[str, Any], None]
) -> None:
    """Visit a tree in document order without recursion.

    `enter` says whether to go inside; `leave` is called for entered elements only; `text` gets each piece of
    text and the element it stands in. Unresolved entities come as text, decoded where HTML knows them.
    """
    if not enter(root):
        return
    if root.text:
        text(root.text, root)
    stack: list[tuple[Any, Any]] = [(root, iter(root))]
    while stack:
        parent, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            leave(parent)
            if stack and parent.tail:
                text(parent.tail, stack[-1][0])
            continue
        if isinstance(child.tag, str):
            if enter(child):
                if child.text:
                    text(child.text, child)
                stack.append((child, iter(child)))
                continue
        elif type(child).__name__ == "_Entity":
            text(html.unescape(child.text), parent)
        if child.tail:
            text(child.tail, parent)


def local_name(element: Any) -> str:
    """Tag without its namespace, lower-cased as it stands in HTML only by the parser."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Any, name: str) -> str | None:
    """An attribute by its local name."""
    value = element.get(name)
    if value is not None:
        return str(value)
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return None


__all__ = ["Flow", "Item", "attribute", "local_name", "walk"]
