"""Images of a crawl: which capture holds the image that a page names."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import unquote, urljoin, urlsplit

from mixloom.pipeline.ingest.assemble import Item, Ref
from mixloom.pipeline.ingest.config import Source
from mixloom.pipeline.ingest.files import source_files
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.warc_payload import capture_of
from mixloom.pipeline.ingest.warc_records import Record, records

Places = dict[str, tuple[str, str]]  # URL key -> (file, member)


def url_key(url: str) -> str:
    """What two spellings of one URL share: no scheme, port, fragment or percent-escapes, host in lower case."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        port = f":{parts.port}" if parts.port not in (None, 80, 443) else ""
    except ValueError:  # a port that is no number, a bracket without its other
        return url
    query = f"?{unquote(parts.query)}" if parts.query else ""
    return f"{host}{port}{unquote(parts.path) or '/'}{query}"


def image_places(root: str, uris: tuple[str, ...]) -> Places:
    """Where the images captured in some files lie; the first capture of a URL wins, in the order of files."""
    out: Places = {}
    for uri in uris:
        try:
            found = _file_images(root, uri, source_files(root).stamp(uri))
        except (Problem, OSError):  # told when the file itself is read
            continue
        for key, place in found.items():
            out.setdefault(key, place)
    return out


@functools.cache
def _file_images(root: str, uri: str, stamp: str) -> Places:
    """Images of one file; a revisit stands for the capture whose payload it shares."""
    out: Places = {}
    by_digest: dict[str, tuple[str, str]] = {}
    revisits: list[tuple[str, str]] = []
    for record in records(source_files(root), uri, lambda *_: False):
        if not isinstance(record, Record) or record.kind not in ("response", "resource", "revisit"):
            continue
        capture = capture_of(record.kind, record.fields, record.start)
        digest = record.fields.get("warc-payload-digest", "")
        if record.kind == "revisit":
            if digest:
                revisits.append((url_key(capture.url), digest))
        elif capture.mime.startswith("image/") and capture.status in (0, 200):
            place = (uri, member_of(record.offset, record.inside))
            out.setdefault(url_key(capture.url), place)
            if digest:
                by_digest.setdefault(digest, place)
    for key, digest in revisits:
        if digest in by_digest:
            out.setdefault(key, by_digest[digest])
    return out


def member_of(offset: int, inside: int) -> str:
    """The member of a media reference into a web archive."""
    return f"@{offset}+{inside}" if inside else f"@{offset}"


def place_images(
    items: Sequence[Item], page: str, base: str | None, places: Places
) -> tuple[list[Item], int]:
    """Items with each image referred to where it lies, and how many images were not captured.

    Args:
        page: URL of the page. base: its <base href>, if any.
    """
    out: list[Item] = []
    missing = 0
    start = _join(page, base) if base else page
    for item in items:
        if not isinstance(item, Ref):
            out.append(item)
            continue
        for target in (item.target, *item.others):
            place = places.get(url_key(_join(start, target)))
            if place is not None:
                out.append(replace(item, target=target, others=(), stored=place))
                break
        else:
            missing += 1
    return out, missing


def _join(base: str, url: str) -> str:
    try:
        return urljoin(base, url)
    except ValueError:
        return url


def file_group(source: Source, root: str, uri: str, scope: str) -> tuple[str, ...]:
    """The files in which images of a page are looked for: its own, then (scope "source") all others in order."""
    if scope == "file":
        return (uri,)
    from mixloom.pipeline.ingest.plan import list_documents

    return (uri, *(e.uri for e in list_documents(source, source_files(root)) if e.uri != uri))
