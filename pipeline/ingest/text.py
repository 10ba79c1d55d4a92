"""Plain text: a document per file, per line, or from each match of a regex to the next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any

from mixloom.pipeline.ingest.assemble import Assembler, Output, Text
from mixloom.pipeline.ingest.config import TextSource
from mixloom.pipeline.ingest.decode import decode, line_safe, newlines, read_whole, split_bom
from mixloom.pipeline.ingest.lines import lines
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.split import Split

_HEADER = re.compile(r"([!-9;-~]+):(?:[ \t](.*))?\Z")


def read(split: Split, source: TextSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of a text source."""
    make = Assembler(source, root)

    def one(uri: str) -> Iterator[Output]:
        if source.split == "lines" and line_safe(source.encoding):
            return _lines(make, source, uri, split.start, split.stop)
        return _whole(make, source, uri)

    yield from make.each_file(split.files, one)


def _lines(make: Assembler, source: TextSource, uri: str, start: int, stop: int) -> Iterator[Output]:
    found = False
    for line in lines(make.files, uri, start, stop, source.max_bytes):
        place: dict[str, Any] = {"offset": line.offset, "length": line.length}
        try:
            if line.data is None:
                raise line_too_long(line.length, source.max_bytes)
            data = first_line(line.data) if line.offset == 0 else line.data
            text = decode(data, source.encoding, source.on_encoding_error, base=line.offset, what="the line")
        except Problem as p:
            if p.reason == "wrong_encoding":
                raise
            p.offset = -1  # the place of the failure is the line; its text has the byte
            found = True
            yield make.fail(p, uri, **place)
            continue
        if text.strip():
            found = True
            yield from make.document(uri, [Text(text)], **place)
    if not found and start == 0 and stop < 0:
        yield make.fail(empty_file(make.files.size(uri)), uri)


def first_line(data: bytes) -> bytes:
    """The first line of a file cut at newline bytes, without its UTF-8 mark.

    Raises:
        Problem: "wrong_encoding": a mark of UTF-16 or UTF-32, where newlines are no single bytes.
    """
    bom, encoding = split_bom(data, "")
    if encoding in ("", "utf-8"):
        return data[bom:]
    raise Problem(
        "wrong_encoding",
        f"the file starts with the byte order mark of {encoding}",
        fix=f"set encoding: {encoding[:6]} for the source",
    )


def line_too_long(length: int, limit: int) -> Problem:
    return Problem(
        "too_large",
        f"the line has {length} bytes, more than max_bytes ({limit})",
        fix="raise max_bytes of the source, or cut the line up",
    )


def empty_file(size: int = 0) -> Problem:
    """The problem of a file in which there is no document."""
    what = f"the file holds nothing but white space ({size} bytes)" if size else "the file is empty (0 bytes)"
    return Problem("empty_document", what, outcome="dropped", fix="restore it, or remove it")


def _whole(make: Assembler, source: TextSource, uri: str) -> Iterator[Output]:
    data = read_whole(make.files, uri, source.max_bytes)
    if not data:
        yield make.fail(empty_file(), uri)
        return
    bom, encoding = split_bom(data, source.encoding)
    text = decode(data[bom:], encoding, source.on_encoding_error, base=bom, what=f"'{uri}'")
    if source.split is None:
        text = newlines(text)
        meta: dict[str, str] = {}
        timestamp = None
        if source.strip_headers:
            text, meta, timestamp = strip_headers(text)
        yield from make.document(uri, [Text(text)], meta=meta, timestamp=timestamp)
        return
    pattern = r"^" if source.split == "lines" else source.split
    yield from _pieces(make, uri, text, re.compile(pattern, re.MULTILINE), bom, encoding)


def _pieces(
    make: Assembler, uri: str, text: str, pattern: re.Pattern[str], base: int, encoding: str
) -> Iterator[Output]:
    """A document from each match to the next; what stands before the first match is one too."""
    starts = [0, *(m.start() for m in pattern.finditer(text) if m.start() > 0), len(text)]
    offset, any_text = base, False
    for i, j in pairwise(starts):
        piece = text[i:j]
        length = len(piece.encode(encoding, "replace"))
        if piece.strip():
            any_text = True
            yield from make.document(uri, [Text(newlines(piece))], offset=offset, length=length)
        offset += length
    if not any_text:
        yield from make.document(uri, [])


def strip_headers(text: str) -> tuple[str, dict[str, str], str | None]:
    """Cut an RFC 822 header block off the start of a message.

    Returns the body, {"subject": ...} where there is one, and the Date in ISO 8601 where it can be read. Text
    that does not start with at least two header lines and a blank line is returned as it is.
    """
    fields: dict[str, str] = {}
    name, at, count = "", 0, 0
    while at < len(text):
        stop = text.find("\n", at)
        line = text[at:] if stop < 0 else text[at:stop]
        after = len(text) if stop < 0 else stop + 1
        if not line.strip():
            break
        match = _HEADER.match(line)
        if line[0] in " \t" and name:
            fields[name] = f"{fields[name]} {line.strip()}".strip()
        elif match:
            count += 1
            name = match[1].lower()
            fields.setdefault(name, (match[2] or "").strip())
        elif not (at == 0 and line.startswith("From ")):  # the envelope line of a mailbox file
            return text, {}, None
        at = after
    else:
        after = len(text)
    if count < 2:
        return text, {}, None
    meta = {"subject": fields["subject"]} if fields.get("subject") else {}
    return text[after:], meta, _iso_date(fields.get("date", ""))


def _iso_date(value: str) -> str | None:
    try:
        return parsedate_to_datetime(value).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
