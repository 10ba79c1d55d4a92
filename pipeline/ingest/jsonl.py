"""JSON Lines, plain, .gz or .zst: a document per line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from mixloom.pipeline.ingest.assemble import Assembler, Output
from mixloom.pipeline.ingest.config import JsonlSource
from mixloom.pipeline.ingest.decode import decode, line_safe, read_whole, split_bom
from mixloom.pipeline.ingest.fields import record_document
from mixloom.pipeline.ingest.lines import Line, line_number, lines
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.source_base import BaseSource
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.ingest.text import empty_file, first_line, line_too_long


def read(split: Split, source: JsonlSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of a JSON Lines source."""
    make = Assembler(source, root)

    def document(uri: str, record: dict[str, Any], place: dict[str, Any], where: str) -> Iterator[Output]:
        return record_document(make, source, uri, record, place=place, where=where)

    def one(uri: str) -> Iterator[Output]:
        return read_lines(make, source, uri, split.start, split.stop, document)

    yield from make.each_file(split.files, one)


DocumentOf = Callable[[str, dict[str, Any], dict[str, Any], str], Iterator[Output]]


def read_lines(
    make: Assembler, source: BaseSource, uri: str, start: int, stop: int, document: DocumentOf
) -> Iterator[Output]:
    """Documents and failures of the lines of a file that begin in bytes start..stop (stop -1: to the end).

    Args:
        document: what a line becomes, from the path of the file, the object, offset and length of the line, and the line
            in words for messages.
    """
    found, number = False, _Numbers(make, uri, start)
    for line in _lines(make, source, uri, start, stop):
        number.step(line)
        place: dict[str, Any] = {"offset": line.offset, "length": line.length}
        try:
            if line.data is None:
                raise line_too_long(line.length, source.max_bytes)
            record = _parse(line, source, number)
        except Problem as p:
            if p.reason == "wrong_encoding":
                raise
            p.offset = -1
            found = True
            yield make.fail(p, uri, **place)
            continue
        if record is not None:
            found = True
            yield from document(uri, record, place, number.text())
    if not found and start == 0 and stop < 0:
        yield make.fail(empty_file(make.files.size(uri)), uri)


def _lines(make: Assembler, source: BaseSource, uri: str, start: int, stop: int) -> Iterator[Line]:
    if line_safe(source.encoding):
        yield from lines(make.files, uri, start, stop, source.max_bytes)
        return
    data = read_whole(make.files, uri, source.max_bytes)
    bom, encoding = split_bom(data, source.encoding)
    at = bom
    for text in decode(data[bom:], encoding, source.on_encoding_error, base=bom, what="the file").split("\n"):
        size = len((text + "\n").encode(encoding, "replace"))
        yield Line(at, text.encode("utf-8", "surrogatepass"), size)
        at += size


class _Numbers:
    """The number of the current line; counted from the start of the file only when a message needs it."""

    def __init__(self, make: Assembler, uri: str, start: int) -> None:
        self._make, self._uri = make, uri
        self._number: int | None = 0 if start == 0 else None
        self._offset = 0

    def step(self, line: Line) -> None:
        self._offset = line.offset
        if self._number is not None:
            self._number += 1

    def text(self) -> str:
        if self._number is None:
            self._number = line_number(self._make.files, self._uri, self._offset)
        return f"line {self._number}" if self._number is not None else f"the line at byte {self._offset}"


def _parse(line: Line, source: BaseSource, number: _Numbers) -> dict[str, Any] | None:
    """The object of a line; None for a blank line."""
    data = line.data or b""
    encoding = source.encoding if line_safe(source.encoding) else "utf-8"
    if line.offset == 0:
        data = first_line(data)
    if not data.strip():
        return None
    try:
        text = decode(data, encoding, source.on_encoding_error, base=line.offset, what="the line")
    except Problem as p:
        p.detail = f"{number.text()}: {p.detail}"
        raise
    try:
        record = json.loads(text)
    except json.JSONDecodeError as e:
        raise _malformed(f"{number.text()}, column {e.colno}: {e.msg}") from None
    except (ValueError, RecursionError) as e:  # a number of many thousand digits; brackets without end
        raise _malformed(f"{number.text()}: {e}") from None
    if not isinstance(record, dict):
        raise Problem(
            "not_an_object",
            f"{number.text()} holds a JSON {_json_type(record)}, not an object",
            fix='write each line as {"text": ...}',
        )
    return record


def _malformed(what: str) -> Problem:
    return Problem("malformed_json", f"{what}", fix="correct the line; each line must be one JSON object")


def _json_type(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
