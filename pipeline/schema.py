"""The record: one Arrow schema for documents, and one for every table derived from them.

A document is an ordered list of segments (text, image or speech). Media stay where they lie: a segment
refers to them by a path relative to the root of its source, so a corpus can be moved without changing an id.
Python objects (`Document`, `Segment`, `Media`) exist only while a reader builds a batch; everything after
ingest works on Arrow record batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import xxhash

Kind = Literal["text", "image", "speech"]
KINDS: tuple[Kind, ...] = ("text", "image", "speech")

LOCATOR = pa.struct(
    [
        pa.field("uri", pa.string()),  # path of the file, relative to the root of the source
        pa.field(
            "member", pa.string()
        ),  # member of an archive, column or anchor; "" when the file is the whole
        pa.field(
            "offset", pa.int64()
        ),  # byte offset, or row number where a format has no byte offsets; -1: whole file
        pa.field("length", pa.int64()),  # bytes (or rows); -1: to the end
    ]
)

MEDIA = pa.struct(
    [
        pa.field("uri", pa.string()),  # relative to the root of the source
        pa.field("member", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("width", pa.int32()),  # pixels; null for sound
        pa.field("height", pa.int32()),
        pa.field("seconds", pa.float64()),  # null for images
        pa.field("rate", pa.int32()),  # samples per second; null for images
    ]
)

STRING_MAP = pa.map_(pa.string(), pa.string())

SEGMENT = pa.struct(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("text", pa.string()),  # the text of a text segment; null otherwise
        pa.field("media", MEDIA),  # null for a text segment
        pa.field(
            "attrs", STRING_MAP
        ),  # "alt", "title", "role" (caption, transcript, ...), as the source states
    ]
)

DOCUMENTS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),  # 32 hex digits, from source, locator and content
        pa.field("source", pa.string(), nullable=False),
        pa.field("locator", LOCATOR, nullable=False),
        pa.field("segments", pa.list_(SEGMENT), nullable=False),
        pa.field("language", pa.string()),
        pa.field("timestamp", pa.string()),  # ISO 8601 as the source states it
        pa.field("license", pa.string()),
        pa.field("meta", STRING_MAP),
    ]
)

# One row per document (or media item) that did not pass a stage. `reason` names the rule or the class of
# error; `value` and `limit` say by how much a rule was missed; `detail` is the error text or what explains
# the decision (for a duplicate: the id of the document kept in its place).
REJECTS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("locator", LOCATOR),
        pa.field("stage", pa.string(), nullable=False),
        pa.field(
            "scope", pa.string(), nullable=False
        ),  # "document", or "media" for one item of a kept document
        pa.field("outcome", pa.string(), nullable=False),  # "dropped" (a judgement) or "failed" (an error)
        pa.field("reason", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("limit", pa.float64()),
        pa.field("detail", pa.string()),
    ]
)

# Documents still alive after a deciding stage. `row` is the row in the ingest part of the same name.
SURVIVORS = pa.schema(
    [pa.field("doc_id", pa.string(), nullable=False), pa.field("row", pa.int32(), nullable=False)]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator:
    """Where a document came from, relative to the root of its source."""

    uri: str
    member: str = ""
    offset: int = -1
    length: int = -1

    def __str__(self) -> str:
        place = f"{self.uri}#{self.member}" if self.member else self.uri
        return place if self.offset < 0 else f"{place}@{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A reference to an image or a recording that stays where it lies."""

    uri: str
    member: str = ""
    sha256: str
    bytes: int
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    rate: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    kind: Kind
    text: str | None = None
    media: Media | None = None
    attrs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    source: str
    locator: Locator
    segments: tuple[Segment, ...]
    language: str | None = None
    timestamp: str | None = None
    license: str | None = None
    meta: dict[str, str] = field(default_factory=dict)

    @property
    def doc_id(self) -> str:
        return document_id(self.source, self.locator, self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Something that could not be read: a whole document, or (scope="media") one item of a kept one."""

    source: str
    locator: Locator
    reason: str  # a short class of error in snake_case, for example "invalid_utf8"
    detail: str  # the error in words, for a person: what, where, and what to do about it
    scope: Literal["document", "media"] = "document"
    outcome: Literal["failed", "dropped"] = "failed"


def _digest(parts: Iterable[str], h: Any = None) -> str:
    h = hashlib.blake2b(digest_size=16) if h is None else h
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        h.update(len(raw).to_bytes(8, "little"))  # length-prefixed: no two lists of parts share an encoding
        h.update(raw)
    return h.hexdigest()


def _segment_parts(segments: Sequence[Segment]) -> Iterable[str]:
    for s in segments:
        yield s.kind
        yield s.text if s.text is not None else ""
        yield s.media.sha256 if s.media is not None else ""


def content_id(segments: Sequence[Segment]) -> str:
    """128-bit content hash (32 hex digits, XXH3) over the ordered segments alone; equal for exact duplicates."""
    return _digest(_segment_parts(segments), xxhash.xxh3_128())


def document_id(source: str, locator: Locator, segments: Sequence[Segment]) -> str:
    """128-bit id (32 hex digits) over source, locator and content; never random, never positional in a run."""
    where = (source, locator.uri, locator.member, str(locator.offset))
    return _digest((*where, *_segment_parts(segments)))


def failure_id(failure: Failure) -> str:
    """The id under which a failure stands in the ledger (there is no content to hash)."""
    f = failure
    return _digest(
        (f.source, f.locator.uri, f.locator.member, str(f.locator.offset), f.scope, f.reason, f.detail)
    )


def _locator_row(x: Locator) -> dict[str, object]:
    return {"uri": x.uri, "member": x.member, "offset": x.offset, "length": x.length}


def _segment_row(s: Segment) -> dict[str, object]:
    media = None
    if s.media is not None:
        m = s.media
        media = {"uri": m.uri, "member": m.member, "sha256": m.sha256, "bytes": m.bytes, "width": m.width}
        media |= {"height": m.height, "seconds": m.seconds, "rate": m.rate}
    return {"kind": s.kind, "text": s.text, "media": media, "attrs": sorted(s.attrs.items())}


def documents_batch(documents: Sequence[Document]) -> pa.RecordBatch:
    """Build one record batch of `DOCUMENTS` from reader objects, in the given order."""
    rows = [
        {
            "doc_id": d.doc_id,
            "source": d.source,
            "locator": _locator_row(d.locator),
            "segments": [_segment_row(s) for s in d.segments],
            "language": d.language,
            "timestamp": d.timestamp,
            "license": d.license,
            "meta": sorted(d.meta.items()),
        }
        for d in documents
    ]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENTS)


def failures_batch(failures: Sequence[Failure], stage: str) -> pa.RecordBatch:
    """Build one record batch of `REJECTS` from reader failures."""
    rows = [
        {
            "doc_id": failure_id(f),
            "source": f.source,
            "locator": _locator_row(f.locator),
            "stage": stage,
            "scope": f.scope,
            "outcome": f.outcome,
            "reason": f.reason,
            "value": None,
            "limit": None,
            "detail": f.detail,
        }
        for f in failures
    ]
    return pa.RecordBatch.from_pylist(rows, schema=REJECTS)
