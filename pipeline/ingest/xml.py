"""XML of any vocabulary: records by name or XPath, chosen elements as blocks of text, images where they stand.

Namespaces are ignored. A record that is a plain element name is read as a stream, so that a dump of many
gigabytes needs the memory of one record, and what stands before damage is kept.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

from mixloom.pipeline.ingest.assemble import Assembler, Output, Ref
from mixloom.pipeline.ingest.config import XmlSource
from mixloom.pipeline.ingest.decode import bad_bytes, chunks, read_whole
from mixloom.pipeline.ingest.html import html_fragment_items, strip_namespaces
from mixloom.pipeline.ingest.layout import Flow, attribute, local_name, walk
from mixloom.pipeline.ingest.markup import (
    bad_xml,
    declared_encoding,
    decode_markup,
    parse_xml,
    xml_parser_options,
)
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.source_base import is_plain_name
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.ingest.text import empty_file


def read(split: Split, source: XmlSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of an XML source; locators of records hold their number."""
    make = Assembler(source, root)

    def one(uri: str) -> Iterator[Output]:
        return _read_file(make, source, uri)

    yield from make.each_file(split.files, one)


def _read_file(make: Assembler, source: XmlSource, uri: str) -> Iterator[Output]:
    if make.files.size(uri) == 0:
        yield make.fail(empty_file(), uri)
        return
    if source.record is None:
        yield from _document(make, source, uri, _whole(make, source, uri), -1)
        return
    names: dict[str, None] = {}
    number = 0
    try:
        for record in _records(make, source, uri, names):
            yield from _document(make, source, uri, record, number)
            number += 1
    except Problem as p:
        p.detail = f"after {number} records: {p.detail}"
        yield make.fail(p, uri, offset=number)
        return
    if number == 0:
        shown = ", ".join(list(names)[:20]) or "none"
        problem = Problem(
            "no_records",
            f"nothing in the file matches record '{source.record}' (elements there: {shown})",
            fix="set record of the source to the element that is one document",
            outcome="dropped",
        )
        yield make.fail(problem, uri)


def _whole(make: Assembler, source: XmlSource, uri: str) -> Any:
    data = read_whole(make.files, uri, source.max_bytes)
    text = decode_markup(data, source.encoding, source.on_encoding_error, f"'{uri}'", is_html=False)
    return parse_xml(text)


def _records(make: Assembler, source: XmlSource, uri: str, names: dict[str, None]) -> Iterator[Any]:
    record = source.record or ""
    if is_plain_name(record):
        yield from _stream(make, source, uri, record, names)
        return
    tree = _whole(make, source, uri)
    strip_namespaces(tree)
    for element in tree.iter():
        if isinstance(element.tag, str):
            names[element.tag] = None
    result = tree.xpath(record)
    yield from (
        x for x in (result if isinstance(result, list) else []) if isinstance(getattr(x, "tag", None), str)
    )


class _Utf8:
    """A file object for lxml: any declared encoding, checked and turned into UTF-8 piece by piece."""

    def __init__(self, parts: Iterator[bytes], source: XmlSource, what: str) -> None:
        self._parts, self._what = parts, what
        first = next(parts, b"")
        bom, self._encoding = declared_encoding(first, source.encoding, is_html=False)
        errors = "replace" if source.on_encoding_error == "replace" else "strict"
        self._decoder = codecs.getincrementaldecoder(self._encoding)(errors)
        self._first: bytes | None = first[bom:]
        self._read = bom
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        while not self._held:
            data = self._first if self._first is not None else next(self._parts, b"")
            self._first = None
            pending = self._decoder.getstate()[0]
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as e:
                at = self._read - len(pending)
                raise bad_bytes(pending + data, e, self._encoding, at, self._what) from None
            self._read += len(data)
            self._held = text.encode("utf-8", "replace")
            if not data:
                break
        size = len(self._held) if size < 0 else size
        out, self._held = self._held[:size], self._held[size:]
        return out


def _stream(
    make: Assembler, source: XmlSource, uri: str, record: str, names: dict[str, None]
) -> Iterator[Any]:
    """Outermost elements of a name, each freed once it has been used."""
    from lxml import etree

    stream = _Utf8(chunks(make.files, uri), source, f"'{uri}'")
    depth = 0
    try:
        events = etree.iterparse(stream, events=("start", "end"), encoding="utf-8", **xml_parser_options())
        for event, element in events:
            name = local_name(element)
            if event == "start":
                if len(names) < 100:
                    names[name] = None
                depth += name == record
                continue
            if name == record:
                depth -= 1
                if depth == 0:
                    yield element
            if depth == 0:
                _free(element)
    except etree.XMLSyntaxError as e:
        raise bad_xml(e) from None


def _free(element: Any) -> None:
    element.clear(keep_tail=False)
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]


def _document(make: Assembler, source: XmlSource, uri: str, record: Any, number: int) -> Iterator[Output]:
    layout = _Layout(source)
    walk(record, layout.enter, layout.leave, layout.text)
    meta = {k: v for k, path in source.meta_fields.items() if (v := find_value(record, path))}
    timestamp = find_value(record, source.timestamp_field) if source.timestamp_field else None
    yield from make.document(
        uri,
        layout.flow.finish(),
        offset=number,
        length=1 if number >= 0 else -1,
        meta=meta,
        language=attribute(record, "lang"),
        timestamp=timestamp,
    )


def find_value(record: Any, path: str) -> str | None:
    """The text at `element`, `element@attribute` or `@attribute`: first match in document order."""
    name, _, key = path.partition("@")
    if not name:
        return attribute(record, key)
    for element in record.iter():
        if local_name(element) == name:
            value = attribute(element, key) if key else " ".join("".join(element.itertext()).split())
            if value:
                return value
    return None


class _Layout:
    """Takes text inside chosen elements. An element is inline when its parent also holds bare text."""

    def __init__(self, source: XmlSource) -> None:
        self.flow = Flow()
        entries = source.text_entries()
        self._blocks = {e.path: e.html for e in entries if "@" not in e.path}
        self._attributes = [(*e.path.partition("@")[::2], e.html) for e in entries if "@" in e.path]
        self._drop = frozenset(source.drop)
        self._caption = source.caption
        self._image = source.image.split("@") if source.image else None
        self._alt = source.alt.split("@") if source.alt else None
        self._taking = 0 if entries else 1
        self._mixed: dict[Any, bool] = {}

    def enter(self, element: Any) -> bool:
        name = local_name(element)
        if name in self._drop:
            return False
        for wanted, key, is_html in self._attributes:
            value = attribute(element, key) if wanted == name else None
            if value:
                self._value(value, is_html)
        if self._image is not None and name == self._image[0]:
            self._add_image(element)
        if name == self._caption:
            self.flow.open_role("caption")
            self._taking += 1
        elif name in self._blocks:
            if self._blocks[name]:
                self._value("".join(element.itertext()), True)
                return False
            self.flow.lines(self._gap(element))
            self._taking += 1
        elif not self._inline(element):
            self.flow.lines(1)
        return True

    def leave(self, element: Any) -> None:
        name = local_name(element)
        if name == self._caption:
            self.flow.close_role()
            self._taking -= 1
        elif name in self._blocks:
            self._taking -= 1
            self.flow.lines(self._gap(element))
        elif not self._inline(element):
            self.flow.lines(1)

    def text(self, value: str, element: Any) -> None:
        if self._taking:
            self.flow.text(value)

    def _value(self, value: str, is_html: bool) -> None:
        self.flow.lines(2)
        if is_html:
            for item in html_fragment_items(value):
                if isinstance(item, Ref):
                    self.flow.media(item)
                else:
                    self.flow.text(item.text, preserve=True)
        else:
            self.flow.text(value)
        self.flow.lines(2)

    def _gap(self, element: Any) -> int:
        """Line ends around a text entry; none where it stands in the running text of another."""
        return 0 if self._taking and self._inline(element) else 2

    def _inline(self, element: Any) -> bool:
        parent = element.getparent()
        if parent is None:
            return False
        known = self._mixed.get(parent)
        if known is None:
            pieces = [parent.text, *(child.tail for child in parent)]
            known = self._mixed[parent] = any(p and p.strip() for p in pieces)
        return known

    def _add_image(self, element: Any) -> None:
        target = (attribute(element, (self._image or ["", ""])[1]) or "").strip()
        if not target:
            return
        attrs = {}
        if self._alt is not None:
            around = element
            while around is not None and local_name(around) != self._alt[0]:
                around = around.getparent()
            alt = attribute(around, self._alt[1]) if around is not None else None
            if alt and alt.strip():
                attrs["alt"] = " ".join(alt.split())
        self.flow.media(Ref("image", target, attrs))
