"""CSV and TSV with a header: a document per row. Quoted fields may hold delimiters and line ends.

Rows are read by Python's csv module, whose errors cost one row; pyarrow's reader gives up the rest of the file
at the first bad quote or byte.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from typing import Any

from mixloom.pipeline.ingest.assemble import Assembler, Output
from mixloom.pipeline.ingest.config import CsvSource
from mixloom.pipeline.ingest.decode import canonical, chunks, split_bom
from mixloom.pipeline.ingest.fields import record_document
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.ingest.text import empty_file

_ESCAPED = re.compile("[\udc80-\udcff]")


def read(split: Split, source: CsvSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of a CSV source; locators hold row numbers (from 0, without header)."""
    make = Assembler(source, root)

    def one(uri: str) -> Iterator[Output]:
        return _read_file(make, source, uri)

    yield from make.each_file(split.files, one)


def _read_file(make: Assembler, source: CsvSource, uri: str) -> Iterator[Output]:
    lines = _Lines(chunks(make.files, uri), source)
    rows = csv.reader(lines, delimiter=_delimiter(source, uri), quoting=_quoting(source), strict=True)
    names: list[str] | None = None
    number = 0
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as e:
            yield make.fail(_bad_row(line, str(e), source), uri, offset=max(number, 0), length=1)
            number += names is not None
            continue
        if not row or (len(row) == 1 and not row[0].strip()):
            continue  # a blank line
        if names is None:
            names = [x.strip() for x in row]
            _check_header(names, source)
            continue
        place: dict[str, Any] = {"offset": number, "length": 1}
        number += 1
        problem = _row_problem(row, names, line, source)
        if problem is not None:
            yield make.fail(problem, uri, **place)
            continue
        record = {k: v for k, v in zip(names, row, strict=True) if v != ""} | _text_of(row, names, source)
        yield from record_document(make, source, uri, record, place=place, where=f"line {line}")
    if number == 0 and not lines.failed:
        yield make.fail(empty_file(make.files.size(uri)) if names is None else _no_rows(), uri)
    if lines.failed is not None:
        lines.failed.detail = f"after {number} rows: {lines.failed.detail}"
        yield make.fail(lines.failed, uri, offset=number)


def _text_of(row: list[str], names: list[str], source: CsvSource) -> dict[str, str]:
    """The text column even where it is empty: an empty cell is an empty document, not a missing field."""
    name = source.text_field
    return {name: row[names.index(name)]} if name in names else {}


class _Lines:
    """Physical lines of a file as text, line ends kept; bad bytes as lone surrogates, to be found in their row.

    Damage ends the lines and is kept in `failed`; the csv module would take it for the end of the file.
    """

    def __init__(self, parts: Iterator[bytes], source: CsvSource) -> None:
        self._source = source
        self.failed: Problem | None = None
        self._lines = self._read(parts)

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def _read(self, parts: Iterator[bytes]) -> Iterator[str]:
        try:
            first = next(parts, b"")
            bom, encoding = split_bom(first, self._source.encoding)
            errors = "replace" if self._source.on_encoding_error == "replace" else "surrogateescape"
            decoder = codecs.getincrementaldecoder(encoding)(errors)
            held = ""
            part = first[bom:]
            while True:
                held += decoder.decode(part, final=not part)
                whole, newline, held = held.rpartition("\n")
                if newline:
                    yield from (f"{x}\n" for x in whole.split("\n"))
                if len(held) > self._source.max_bytes:
                    raise Problem("too_large", "a line is longer than max_bytes", fix="raise max_bytes")
                if not part:
                    break
                part = next(parts, b"")
            if held:
                yield held
        except UnicodeError as e:
            self.failed = Problem("invalid_encoding", str(e), fix="set encoding of the source")
        except Problem as p:
            self.failed = p


def _delimiter(source: CsvSource, uri: str) -> str:
    name = uri.removesuffix(".gz").removesuffix(".zst").lower()
    return source.delimiter or ("\t" if name.endswith((".tsv", ".tab")) else ",")


def _quoting(source: CsvSource) -> Any:
    csv.field_size_limit(
        min(source.max_bytes, 1 << 30)
    )  # a field may be a whole book; the default is 128 KiB
    return csv.QUOTE_MINIMAL if source.quoting else csv.QUOTE_NONE


def _check_header(names: list[str], source: CsvSource) -> None:
    wanted = [n for n in (source.text_field, source.image_field, source.audio_field) if n]
    for name in wanted:
        if name not in names:
            raise Problem(
                "missing_column",
                f"there is no column '{name}' (the header has: {', '.join(names[:20])})",
                fix="set the field name in the source, or the delimiter",
            )
    twice = sorted({n for n in names if names.count(n) > 1 and n in (*wanted, *source.meta_fields)})
    if twice:
        raise Problem("bad_row", f"the header has the column '{twice[0]}' twice", fix="rename one of them")


def _bad_row(line: int, error: str, source: CsvSource) -> Problem:
    hint = ": a quote opened there is never closed" if "unexpected end" in error else ""
    return Problem("bad_row", f"line {line}: {error}{hint}", fix="repair the quotes, or set quoting: false")


def _row_problem(row: list[str], names: list[str], line: int, source: CsvSource) -> Problem | None:
    if len(row) != len(names):
        return Problem(
            "short_row" if len(row) < len(names) else "bad_row",
            f"line {line}: the row has {len(row)} columns, the header has {len(names)}",
            fix="repair the row, or set delimiter or quoting of the source",
        )
    bad = next((m for cell in row if not cell.isascii() and (m := _ESCAPED.search(cell))), None)
    if bad is None:
        return None
    return Problem(
        "invalid_utf8" if canonical(source.encoding) == "utf-8" else "invalid_encoding",
        f"line {line}: the row is not valid {source.encoding}: byte 0x{ord(bad[0]) - 0xDC00:02x}",
        fix="set encoding of the source (older files are often latin-1), or on_encoding_error: replace",
    )


def _no_rows() -> Problem:
    return Problem(
        "empty_document",
        "the table has a header and no rows",
        outcome="dropped",
        fix="leave it: it is counted",
    )
