"""Web archives to documents: a document per capture of a page, with the images that were captured beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mixloom.pipeline.ingest.assemble import Assembler, Item, Output, Ref, Text
from mixloom.pipeline.ingest.charset import decode_page, header_charset
from mixloom.pipeline.ingest.config import WarcSource
from mixloom.pipeline.ingest.decode import newlines
from mixloom.pipeline.ingest.html import read_page
from mixloom.pipeline.ingest.problems import Outcome, Problem, unexpected
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.ingest.text import empty_file
from mixloom.pipeline.ingest.warc_payload import Capture, capture_of, check_digest, payload
from mixloom.pipeline.ingest.warc_records import Record, records
from mixloom.pipeline.ingest.web_images import Places, file_group, image_places, place_images

_CAPTURES = frozenset({"response", "resource", "conversion"})
_HTML = frozenset({"text/html", "application/xhtml+xml"})


def read(split: Split, source: WarcSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of a web archive; the locator of a document is that of its record."""
    make = Assembler(source, root)

    def one(uri: str) -> Iterator[Output]:
        return _read_file(make, source, root, uri, split)

    yield from make.each_file(split.files, one)


def _read_file(make: Assembler, source: WarcSource, root: str, uri: str, split: Split) -> Iterator[Output]:
    size = make.files.size(uri)
    if size == 0:
        yield make.fail(empty_file(), uri)
        return
    images: Places = {}
    if source.images != "none":
        images = image_places(root, file_group(source, root, uri, source.images))
    start, stop = (split.start, split.stop) if split.unit == "bytes" else (0, -1)

    def want(kind: str, fields: dict[str, str], first: bytes) -> bool:
        return kind in _CAPTURES and _left_out(source, fields, capture_of(kind, fields, first)) is None

    told = False
    for found in records(make.files, uri, want, start=start, stop=stop, limit=source.max_bytes):
        if not isinstance(found, Record):
            told = True
            yield make.fail(found.problem, uri, offset=found.offset, member=_inside(found.inside))
        elif _is_capture(found):
            for item in _capture(make, source, uri, found, images):
                told = True
                yield item
    if not told and start == 0 and stop < 0:
        yield make.fail(
            _dropped("no_records", "there is no page in the file, only images or records about captures"), uri
        )


def _is_capture(record: Record) -> bool:
    """Whether a record holds something fetched; crawlers keep their own logs and look-ups as records too."""
    if record.kind not in _CAPTURES and record.kind not in ("revisit", "continuation"):
        return False
    return not record.fields.get("warc-target-uri", "").lower().lstrip("<").startswith(("metadata:", "dns:"))


def _inside(at: int) -> str:
    return f"+{at}" if at else ""


def _dropped(reason: str, detail: str, fix: str = "leave it: it is only counted") -> Problem:
    outcome: Outcome = "dropped"
    return Problem(reason, detail, fix=fix, outcome=outcome)


def _left_out(source: WarcSource, fields: dict[str, str], capture: Capture) -> Problem | None:
    """Why a capture is no document by the settings of its source; None when it is one."""
    if "warc-segment-number" in fields:
        return _dropped(
            "segmented_record", "the capture is cut into several records, which are not put together"
        )
    if capture.head is None and fields.get("content-type", "").lower().startswith("application/http"):
        return Problem(
            "bad_http", "the block does not start with an HTTP status line", fix="fetch the file again"
        )
    if capture.status and capture.status not in source.status:
        return _dropped("http_status", f"HTTP status {capture.status} ({_short(capture.url)})")
    kind = capture.mime.partition("/")[0] + "/*"
    if capture.mime not in source.mime and kind not in source.mime:
        name = capture.mime or "no type"
        return _dropped(
            "mime_type", f"{_short(name, 80)} is not in mime of the source ({_short(capture.url)})"
        )
    return None


def _short(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _capture(
    make: Assembler, source: WarcSource, uri: str, record: Record, images: Places
) -> Iterator[Output]:
    member = _inside(record.inside)
    place: dict[str, Any] = {"offset": record.offset, "length": record.length}
    capture = capture_of(record.kind, record.fields, record.start)
    try:
        problem = _revisited(record, capture) or _left_out(source, record.fields, capture)
        if problem is not None:
            if not (problem.reason == "mime_type" and _is_image(source, capture)):
                yield make.fail(problem, uri, member=member, **place)
            return
        if source.verify_digests:
            check_digest(record)
        data = payload(capture, record, source.max_bytes)
        items, meta, language = _content(source, capture, data, images)
    except Problem as p:
        p.detail = f"{p.detail} ({_short(capture.url)})" if capture.url not in p.detail else p.detail
        yield make.fail(p, uri, member=member, **place)
        return
    except Exception as e:  # one page must not cost the rest of the file
        yield make.fail(unexpected(e), uri, member=member, **place)
        return
    meta = {**_meta(record, capture), **meta}
    timestamp = record.fields.get("warc-date")
    yield from make.document(
        uri, items, member=member, meta=meta, language=language, timestamp=timestamp, **place
    )


def _is_image(source: WarcSource, capture: Capture) -> bool:
    """Whether a capture is an image that pages may show: it is neither a document nor a loss."""
    return source.images != "none" and capture.mime.startswith("image/")


def _revisited(record: Record, capture: Capture) -> Problem | None:
    if record.kind == "continuation":
        return _dropped("segmented_record", "the record continues another one, and they are not put together")
    if record.kind != "revisit":
        return None
    fields = record.fields
    first = fields.get("warc-refers-to-target-uri", "").strip("<>")
    when = fields.get("warc-refers-to-date", "")
    what = f"the capture of {_short(first or capture.url)}" + (f" on {when}" if when else "")
    return _dropped("revisit", f"the same content as {what}; a revisit record holds no content of its own")


def _meta(record: Record, capture: Capture) -> dict[str, str]:
    meta = {"url": capture.url}
    if capture.status:
        meta["status"] = str(capture.status)
    if capture.mime:
        meta["mime"] = capture.mime
    for key, name in (
        ("truncated", "warc-truncated"),
        ("identified_language", "warc-identified-content-language"),
    ):
        if record.fields.get(name):
            meta[key] = record.fields[name]
    return meta


def _content(
    source: WarcSource, capture: Capture, data: bytes, images: Places
) -> tuple[list[Item], dict[str, str], str | None]:
    """Items, meta and declared language of a page or plain text."""
    is_html = capture.mime in _HTML
    declared = header_charset(capture.content_type)
    text, encoding, replaced = decode_page(
        data, declared, source.encoding, source.on_encoding_error, "the page"
    )
    text = newlines(text)
    meta = {} if encoding == "utf-8" else {"encoding": encoding}
    if replaced:
        meta["replaced_characters"] = str(replaced)
    if not is_html:
        return [Text(text)], meta, None
    page = read_page(text, source)
    if page.title:
        meta["title"] = page.title
    items: list[Item] = [x for x in page.items if source.images != "none" or not isinstance(x, Ref)]
    items, missing = place_images(items, capture.url, page.base, images)
    if missing:
        meta["images_not_captured"] = str(missing)
    return items, meta, page.language
