"""Tables beside media: transcripts and captions, by the file they belong to.

A table is read whole and remembered, since every split of its source needs it.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.ingest.config import CocoCaptions, Column, Match, TableCaptions, TranscriptTable
from mixloom.pipeline.ingest.decode import canonical, decode, read_whole, split_bom
from mixloom.pipeline.ingest.files import normalise, source_files
from mixloom.pipeline.ingest.problems import Problem

_MEDIA_SUFFIX = re.compile(
    r"\.(?:wav|flac|mp3|ogg|opus|m4a|aiff?|jpe?g|png|webp|gif|bmp|tiff?|avif)\Z", re.IGNORECASE
)
_ESCAPED = re.compile("[\udc80-\udcff]")
AnyTable = CocoCaptions | TableCaptions | TranscriptTable


@dataclass(frozen=True, slots=True)
class Row:
    """What a table says about one file: the row it stands in (from 1), the id as written, and the text."""

    number: int
    id: str
    text: str
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by key, in file order, and the rows that could not be read."""

    rows: dict[str, list[Row]]
    bad: list[tuple[int, Problem]]


def media_key(path: str, match: Match, *, is_file: bool) -> str:
    """What a file and its row have in common: the stem, the name, or the path from the root.

    The id of a row loses a suffix only when it is one of media: `a.b` may well be a whole id.
    """
    if match == "path":
        return normalise(path) or path
    name = posixpath.basename(path.replace("\\", "/"))
    if match == "name":
        return name
    return posixpath.splitext(name)[0] if is_file else _MEDIA_SUFFIX.sub("", name)


def load_table(root: str, table: AnyTable, encoding: str, errors: str, limit: int, name: str) -> Table:
    """The table of a source.

    Raises:
        UserError: it is missing, cannot be read at all, or lacks a column that the source names.
    """
    files = source_files(root)
    try:
        size = files.size(table.path)
        return _load(root, table, encoding, errors, limit, size, files.stamp(table.path))
    except Problem as p:
        if p.reason != "missing_file":
            detail, _, fix = p.detail.partition("; fix: ")
            raise UserError(f"source '{name}': table '{table.path}': {detail}", fix=fix) from None
        beside = sorted(posixpath.basename(e.uri) for e in files.entries() if _is_table(e.uri))[:20]
        shown = f" (tables there: {', '.join(beside)})" if beside else ""
        raise UserError(
            f"source '{name}': the table '{table.path}' does not exist below {files.root}{shown}",
            fix="correct the path" + nearest(posixpath.basename(table.path), beside),
        ) from None


def _is_table(uri: str) -> bool:
    return uri.lower().endswith((".csv", ".tsv", ".txt", ".json", ".psv"))


@functools.lru_cache(maxsize=4)
def _load(root: str, table: AnyTable, encoding: str, errors: str, limit: int, size: int, stamp: str) -> Table:
    files = source_files(root)
    data = read_whole(files, table.path, limit)
    bom, encoding = split_bom(data, encoding)
    data = data[bom:]
    if isinstance(table, CocoCaptions):
        return _coco(data, table, encoding, errors)
    if errors == "replace":
        text = decode(data, encoding, errors)
    else:
        try:
            text = data.decode(encoding, "surrogateescape")  # so that a bad byte costs its row only
        except UnicodeError:  # UTF-16 and its like cannot hold a bad byte in place
            text = decode(data, encoding, errors, base=bom, what="the table")
    return _rows(text, table, encoding)


def _rows(text: str, table: TableCaptions | TranscriptTable, encoding: str) -> Table:
    if isinstance(table, TranscriptTable):
        delimiter, id_column, text_column = table.delimiter, table.id_column, table.text_column
    else:
        tab = table.path.removesuffix(".gz").endswith((".tsv", ".tab"))
        delimiter = table.delimiter or ("\t" if tab else ",")
        id_column, text_column = table.image_column, table.caption_column
    cells = _quoted(text, delimiter) if table.quoting else _plain(text, delimiter)
    times_column = table.times_column if isinstance(table, TranscriptTable) else None
    columns = (id_column, text_column, *(() if times_column is None else (times_column,)))
    out = Table({}, [])
    if table.header if table.header is not None else any(isinstance(c, str) for c in columns):
        header = next(cells, (0, [], None))[1]
        i, j, *times = (_index(c, header) for c in columns)
    else:
        i, j, *times = (int(c) for c in columns)
    for number, row, problem in cells:
        if problem is None:
            problem = _row_problem(row, max(i, j, *times), number, delimiter, encoding)
        if problem is not None:
            out.bad.append((number, problem))
            continue
        key = media_key(row[i].strip(), table.match, is_file=False)
        said = "".join(row[t].strip() for t in times)
        meta = {"word_times": said} if said else {}
        out.rows.setdefault(key, []).append(Row(number, row[i].strip(), row[j].strip(), meta))
    if not out.rows and out.bad:
        raise out.bad[0][1]
    return out


def _row_problem(row: list[str], most: int, number: int, delimiter: str, encoding: str) -> Problem | None:
    if len(row) <= most:
        return Problem(
            "short_row",
            f"row {number} has {len(row)} columns, the source needs {most + 1} (delimiter {delimiter!r})",
            fix="repair the row, or correct delimiter, id_column or text_column",
        )
    bad = _ESCAPED.search("".join(row))
    if bad:
        return Problem(
            "invalid_utf8" if canonical(encoding) == "utf-8" else "invalid_encoding",
            f"row {number} is not valid {encoding}: byte 0x{ord(bad[0]) - 0xDC00:02x}",
            fix="set encoding of the source (older files are often latin-1), or on_encoding_error: replace",
        )
    return None


Cells = Iterator[tuple[int, list[str], Problem | None]]


def _plain(text: str, delimiter: str) -> Cells:
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line.strip():
            yield number, line.split(delimiter), None


def _quoted(text: str, delimiter: str) -> Cells:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            yield (
                number,
                [],
                Problem("bad_row", f"row {number}: {e}", fix="repair the quotes, or set quoting: false"),
            )
            continue
        if any(cell.strip() for cell in row):
            yield number, row, None


def _index(column: Column, header: list[str]) -> int:
    if isinstance(column, int):
        return column
    names = [h.strip() for h in header]
    if column not in names:
        raise Problem(
            "missing_column",
            f"there is no column '{column}' (the header has: {', '.join(names) or 'nothing'})",
            fix=f"name a column of the header, or give its number from 0{nearest(column, names)}",
        )
    return names.index(column)


def _coco(data: bytes, table: CocoCaptions, encoding: str, errors: str) -> Table:
    try:
        value = json.loads(decode(data, encoding, errors, what=f"'{table.path}'"))
    except (ValueError, RecursionError) as e:
        raise Problem("malformed_json", f"not valid JSON ({e})", fix="fetch the file again") from None
    if not isinstance(value, dict) or not all(
        isinstance(value.get(k), list) for k in ("images", "annotations")
    ):
        raise Problem(
            "not_coco",
            "not a COCO captions file: it needs lists `images` and `annotations`",
            fix="check path",
        )
    licences = {x.get("id"): x.get("name") or x.get("url") for x in _objects(value.get("licenses"))}
    images = {x["id"]: x for x in _objects(value["images"]) if isinstance(x.get("id"), int | str)}
    out = Table({}, [])
    for number, note in enumerate(value["annotations"], start=1):
        image = images.get(note.get("image_id")) if isinstance(note, dict) and _hashable(note) else None
        problem = _note_problem(note, image, number)
        if problem is not None:
            out.bad.append((number, problem))
            continue
        assert image is not None
        meta = {}
        for name in table.meta_fields:
            found = licences.get(image.get(name)) if name == "license" else image.get(name)
            if isinstance(found, str | int | float):
                meta[name] = str(found)
        key = media_key(image["file_name"], table.match, is_file=False)
        out.rows.setdefault(key, []).append(Row(number, image["file_name"], note["caption"].strip(), meta))
    return out


def _objects(value: Any) -> list[dict[str, Any]]:
    return [x for x in value if isinstance(x, dict)] if isinstance(value, list) else []


def _hashable(note: dict[str, Any]) -> bool:
    return isinstance(note.get("image_id"), int | str)


def _note_problem(note: Any, image: dict[str, Any] | None, number: int) -> Problem | None:
    if not isinstance(note, dict) or not isinstance(note.get("caption"), str):
        return Problem(
            "bad_row", f"annotation {number} has no caption", fix="repair or remove the annotation"
        )
    if image is None or not isinstance(image.get("file_name"), str):
        return Problem(
            "missing_media",
            f"annotation {number} is for image_id {note.get('image_id')!r}, which is not among `images`",
            fix="add the image entry, or remove the annotation",
        )
    return None
