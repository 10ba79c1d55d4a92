"""Records (JSON objects, table rows) to documents: which field is the text, which the media."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from mixloom.pipeline.ingest.assemble import Assembler, Item, Output, Ref, Text, as_text
from mixloom.pipeline.ingest.config import CsvSource, JsonlSource, ParquetSource
from mixloom.pipeline.ingest.decode import decode
from mixloom.pipeline.ingest.problems import Problem

_MISSING = object()


def lookup(record: dict[str, Any], path: str) -> Any:
    """The value at a dotted path (a key that contains the dots wins), or `_MISSING`."""
    if path in record:
        return record[path]
    node: Any = record
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            return _MISSING
        node = node[part]
    return node


def lookup_value(record: dict[str, Any], path: str | None) -> Any:
    """The value at a dotted path; None when it is null, missing, or there is no path."""
    value = lookup(record, path) if path else None
    return None if value is _MISSING else value


def _optional(record: dict[str, Any], path: str | None) -> str | None:
    return as_text(lookup_value(record, path))


def record_document(
    make: Assembler,
    source: JsonlSource | ParquetSource | CsvSource,
    uri: str,
    record: dict[str, Any],
    *,
    place: dict[str, Any],
    where: str,
    row: int = -1,
) -> Iterator[Output]:
    """The document of one record, or a failure that names the field at fault.

    Args:
        place: offset and length for the locator.
        where: the record in words ("line 7"), for messages.
        row: row of a Parquet file, for media held in the table itself.
    """
    try:
        items = _items(source, record, where, row)
    except Problem as p:
        yield make.fail(p, uri, **place)
        return
    meta = {k: v for k in source.meta_fields if (v := _optional(record, k)) is not None}
    yield from make.document(
        uri,
        items,
        meta=meta,
        language=_optional(record, source.language_field),
        timestamp=_optional(record, source.timestamp_field),
        **place,
    )


def _items(
    source: JsonlSource | ParquetSource | CsvSource, record: dict[str, Any], where: str, row: int
) -> list[Item]:
    if source.segments_field is not None:
        return segment_items(_required(record, source.segments_field, where), source.segments_field, where)
    media: list[Item] = []
    if source.image_field is not None:
        media += _refs("image", record, source.image_field, where, row)
    if source.audio_field is not None:
        media += _refs("speech", record, source.audio_field, where, row)
    if source.text_field is None:
        return media
    text: list[Item] = [Text(_text(record, source, where))]
    return media + text if source.media_order == "media_first" else text + media


def _required(record: dict[str, Any], path: str, where: str) -> Any:
    value = lookup(record, path)
    if value is _MISSING or value is None:
        state = "is null" if value is None else "is missing"
        names = sorted(str(k) for k in record)
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise Problem(
            "missing_field",
            f"{where}: the field '{path}' {state} (the record has: {shown or 'no fields'})",
            fix="set the field name in the source, or repair the record",
        )
    return value


def _text(record: dict[str, Any], source: JsonlSource | ParquetSource | CsvSource, where: str) -> str:
    path = source.text_field or ""
    value = _required(record, path, where)
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):  # a binary column, or a string column whose bytes are not UTF-8
        what = f"{where}: the field '{path}'"
        return decode(value, source.encoding, source.on_encoding_error, what=what)
    if isinstance(value, list) and all(isinstance(x, str) for x in value):
        return source.join.join(value)
    raise Problem(
        "wrong_type",
        f"{where}: the field '{path}' is {_a(value)}, not text or a list of texts",
        fix="name a field that holds text",
    )


def _a(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list with other things than text",
        bytes: "binary",
        bool: "a boolean",
    }
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _refs(
    kind: Literal["image", "speech"], record: dict[str, Any], path: str, where: str, row: int
) -> list[Item]:
    value = lookup(record, path)
    if value is _MISSING:
        try:
            _required(record, path, where)
        except Problem as p:
            p.detail += "; a record without media says null"
            raise
    if value is None:
        return []
    out: list[Item] = []
    for one in value if isinstance(value, list) else [value]:
        data = one.get("bytes") if isinstance(one, dict) else one if isinstance(one, bytes) else None
        name = one.get("path") if isinstance(one, dict) else one
        if isinstance(data, bytes) and row >= 0 and not isinstance(value, list):
            out.append(Ref(kind, f"{path}:{row}", data=data))
        elif isinstance(name, str):
            out.append(Ref(kind, name))
        else:
            raise Problem(
                "wrong_type",
                f"{where}: the field '{path}' is {_a(one)}, not a path",
                fix="name a field that holds paths relative to the source",
            )
    return out


def segment_items(value: Any, path: str, where: str) -> list[Item]:
    """Items of an interleaved document: {"text"}, {"image"} or {"audio"} in reading order, with their attributes.

    Kept are the texts alt, caption, title and role, and the list word_times.
    """
    if not isinstance(value, list):
        raise Problem(
            "wrong_type",
            f"{where}: the field '{path}' is {_a(value)}, not a list of segments",
            fix=_SEGMENT_FIX,
        )
    out: list[Item] = []
    for i, one in enumerate(value):
        if isinstance(one, str):
            out.append(Text(one, flow=False))
            continue
        kinds = [
            k for k in ("text", "image", "audio") if isinstance(one, dict) and isinstance(one.get(k), str)
        ]
        if len(kinds) != 1:
            raise Problem(
                "bad_segment",
                f"{where}: segment {i + 1} of '{path}' needs exactly one of text, image, audio as a string",
                fix=_SEGMENT_FIX,
            )
        attrs = {
            k: one[k] for k in ("alt", "caption", "title", "role") if isinstance(one.get(k), str) and one[k]
        }
        attrs |= word_times(one)
        if kinds[0] == "text":
            out.append(Text(one["text"], attrs, flow=False))
        else:
            out.append(Ref("image" if kinds[0] == "image" else "speech", one[kinds[0]], attrs))
    return out


def word_times(entry: dict[str, Any]) -> dict[str, str]:
    """The attribute that tells when words are said, [[word, begin, end], ...] in seconds, where an entry has one."""
    value = entry.get("word_times")
    return {"word_times": json.dumps(value, ensure_ascii=False)} if isinstance(value, list) else {}


_SEGMENT_FIX = 'write a list of {"text": ...}, {"image": "path"} and {"audio": "path"}'
