"""Markdown: the source text, verbatim, cut at its images.

What is an image is decided by a CommonMark parser, so that an image spelt inside a code fence or a code
span stays text. The parser tells blocks by line and inline content by offset; both are mapped back to
positions in the file.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import accumulate
from typing import Any

from mixloom.pipeline.ingest.assemble import Assembler, Item, Output, Ref, Text
from mixloom.pipeline.ingest.config import MarkdownSource
from mixloom.pipeline.ingest.decode import decode, newlines, read_whole, split_bom
from mixloom.pipeline.ingest.frontmatter import split_front_matter
from mixloom.pipeline.ingest.split import Split

_IMG = re.compile(r"<!--.*?-->|<(script|style|textarea)\b.*?</\1\s*>|<img\b[^>]*>", re.DOTALL | re.IGNORECASE)


def read(split: Split, source: MarkdownSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of a Markdown source: a document per file."""
    make = Assembler(source, root)

    def one(uri: str) -> Iterator[Output]:
        data = read_whole(make.files, uri, source.max_bytes)
        bom, encoding = split_bom(data, source.encoding)
        text = newlines(decode(data[bom:], encoding, source.on_encoding_error, base=bom, what=f"'{uri}'"))
        meta: dict[str, str] = {}
        if source.front_matter:
            meta, text = split_front_matter(text)
        timestamp = meta.get(source.timestamp_field) if source.timestamp_field else None
        language = meta.get("language") or meta.get("lang")
        items: list[Item] = markdown_items(text) if source.images else [Text(text)]
        yield from make.document(uri, items, meta=meta, language=language, timestamp=timestamp)

    yield from make.each_file(split.files, one)


@dataclass(frozen=True, slots=True)
class Found:
    """An image in a text: the characters it takes up, and what it says."""

    start: int
    stop: int
    target: str
    attrs: dict[str, str]


def markdown_items(text: str) -> list[Item]:
    """Text and images of a Markdown text in reading order; joined, the texts are the source without images."""
    items: list[Item] = []
    at = 0
    for image in find_images(text):
        items.append(Text(text[at : image.start]))
        items.append(Ref("image", image.target, image.attrs))
        at = image.stop
    items.append(Text(text[at:]))
    return items


def find_images(text: str) -> list[Found]:
    """Every image of a Markdown text (inline, by reference, and <img>), in order and without overlap."""
    if "![" not in text and "<img" not in text.lower():
        return []
    lines = text.split("\n")
    starts = [0, *accumulate(len(x) + 1 for x in lines)]
    out: list[Found] = []
    cursor = 0  # images come in order: positions before it are taken
    span, in_table = (0, len(lines)), False
    for token in _parser().parse(text):
        if token.map:
            span = (token.map[0], token.map[1])
        if token.type in ("table_open", "table_close"):
            in_table = token.type == "table_open"
        if token.type == "html_block":
            a, b = starts[span[0]], starts[min(span[1], len(lines))]
            found = [(a + m.start(), a + m.end(), *_img(m[0])) for m in _IMG.finditer(text[a:b])]
            out += [Found(i, j, src, attrs) for i, j, src, attrs in found if src]
        elif token.type == "inline":
            place = _Place(text, starts, span, token.content, in_table, cursor)
            for child in token.children or ():
                image = _inline_image(child, place)
                if image is not None:
                    out.append(image)
        if out:
            cursor = max(cursor, out[-1].stop)
    return _in_order(out)


def _in_order(found: list[Found]) -> list[Found]:
    out: list[Found] = []
    for image in sorted(found, key=lambda f: (f.start, f.stop)):
        if not out or image.start >= out[-1].stop:
            out.append(image)
    return out


def _inline_image(token: Any, place: _Place) -> Found | None:
    at = token.meta.get("at")
    if at is None:
        return None
    if token.type == "image":
        target = str(token.attrs.get("src", ""))
        attrs = {"alt": _plain(token), "title": str(token.attrs.get("title", ""))}
    else:
        target, attrs = _img(token.content)
    if not target:
        return None
    start, stop = place.find(*at)
    return Found(start, stop, target, {k: v for k, v in attrs.items() if v})


def _plain(token: Any) -> str:
    """The alt text without its markup."""
    parts = []
    for child in token.children or ():
        if child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        else:
            parts.append(_plain(child) if child.type == "image" else child.content)
    return "".join(parts).strip()


class _Place:
    """Maps offsets in the content of an inline block to offsets in the text.

    The content is the lines of the block, each without indent and quote marks: a suffix of the line in the
    file, except in headings (closing #) and table cells, where it is found by search.
    """

    def __init__(
        self, text: str, starts: list[int], span: tuple[int, int], content: str, table: bool, cursor: int
    ) -> None:
        self._text, self._starts, self._span = text, starts, span
        self._content, self._table, self._cursor = content, table, cursor
        self._breaks = [-1, *(i for i, c in enumerate(content) if c == "\n")]

    def find(self, start: int, stop: int) -> tuple[int, int]:
        """Where content[start:stop] is; when it cannot be found, an empty place at the end of the block."""
        a = self._position(start)
        b = self._position(stop - 1)
        if a is not None and b is not None and self._text[a] in "!<" and b >= a:
            self._cursor = max(self._cursor, b + 1)
            return a, b + 1
        raw = self._content[start:stop]
        block_start, block_stop = self._starts[self._span[0]], self._starts[self._span[1]] - 1
        at = self._text.find(raw, max(block_start, self._cursor), block_stop)
        if at < 0:
            at = max(block_start, self._cursor, min(block_stop, len(self._text)))
            return at, at
        self._cursor = at + len(raw)
        return at, at + len(raw)

    def _position(self, offset: int) -> int | None:
        if self._table:
            return None
        number = bisect_right(self._breaks, offset - 1) - 1
        first = self._breaks[number] + 1
        stop = self._breaks[number + 1] if number + 1 < len(self._breaks) else len(self._content)
        inner = self._content[first:stop].rstrip()
        row = self._span[0] + number
        if row + 1 >= len(self._starts):
            return None
        line = self._text[self._starts[row] : self._starts[row + 1] - 1].rstrip()
        at = len(line) - len(inner) if line.endswith(inner) else line.find(inner)
        return None if at < 0 else self._starts[row] + at + (offset - first)


class _Tag(HTMLParser):
    found: dict[str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img" and self.found is None:
            self.found = {k: v or "" for k, v in reversed(attrs)}


def _img(tag: str) -> tuple[str, dict[str, str]]:
    """Source and attributes of an <img> tag; an empty source for anything else."""
    if tag[:4].lower() != "<img":
        return "", {}
    parser = _Tag()
    parser.feed(tag)
    found = parser.found or {}
    return found.get("src", "").strip(), {k: found[k] for k in ("alt", "title") if found.get(k)}


@functools.cache
def _parser() -> Any:
    """A CommonMark parser with tables whose image and inline-HTML tokens know where they stand."""
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import html_inline, image

    parser = MarkdownIt("commonmark", {"maxNesting": 100}).enable("table")
    # Sources are paths here, not links: escaping them would only have to be undone.
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    parser.inline.ruler.at("image", _positioned(image))
    parser.inline.ruler.at("html_inline", _positioned(html_inline))
    return parser


def _positioned(rule: Callable[[Any, bool], bool]) -> Callable[[Any, bool], bool]:
    def with_position(state: Any, silent: bool) -> bool:
        start, before = state.pos, len(state.tokens)
        matched = rule(state, silent)
        if matched and not silent and len(state.tokens) > before:
            state.tokens[-1].meta = {**state.tokens[-1].meta, "at": (start, state.pos)}
        return matched

    return with_position
