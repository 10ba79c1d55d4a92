"""What a record holds: the body of a response or resource, its status and type; images for later reading."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from mixloom.pipeline.ingest.files import SourceFiles
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.warc_http import Head, http_body, http_head
from mixloom.pipeline.ingest.warc_records import Record, record_at

_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s{0,256}<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_DIGESTS = {"sha1": 20, "sha256": 32, "sha512": 64, "md5": 16}


@dataclass(frozen=True, slots=True)
class Capture:
    """What is known of a capture from its header and the first bytes of its block.

    Args:
        url: what was fetched.
        status: of the HTTP response; 0 where there is none (resource and conversion records).
        mime: identified type, else the declared one, in lower case without parameters; where none is named text/html
            if the body begins as a page does, else "".
        content_type: the declared type with its parameters.
        head: the HTTP head, if any.
    """

    url: str
    status: int
    mime: str
    content_type: str
    head: Head | None


def capture_of(kind: str, fields: dict[str, str], block: bytes) -> Capture:
    """Read the start of a record's block (all of it, or its first 64 KiB)."""
    url = fields.get("warc-target-uri", "").strip("<>")
    declared = fields.get("content-type", "")
    head = None
    if kind in ("response", "revisit") and declared.lower().replace(" ", "").startswith("application/http"):
        head = http_head(block)
        declared = head.fields.get("content-type", "") if head else fields.get("arc-type", "")
    identified = fields.get("warc-identified-payload-type", "")
    mime = _bare(identified) or _bare(declared)
    if not mime and head is not None and _PAGE.match(block, head.body):
        mime = "text/html"  # the server named no type; a browser would look, too
    return Capture(url, head.status if head else 0, mime, declared, head)


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def payload(capture: Capture, record: Record, limit: int) -> bytes:
    """The decoded body of a record whose block was read.

    Raises:
        Problem: truncated_body, broken_body, unknown_encoding or too_large.
    """
    block = record.block or b""
    if capture.head is None:
        return block
    return http_body(capture.head, block, limit, partial="warc-truncated" in record.fields)


def read_capture(files: SourceFiles, uri: str, offset: int, inside: int, limit: int) -> bytes:
    """The body of the capture at a place of a web archive.

    Raises:
        Problem: there is no such record any more, or its body does not decode.
    """
    record = record_at(files, uri, offset, inside, limit)
    return payload(capture_of(record.kind, record.fields, record.block or b""), record, limit)


def check_digest(record: Record) -> None:
    """Compare the block with its WARC-Block-Digest, where there is one of a known kind.

    Raises:
        Problem: "digest_mismatch".
    """
    name, _, value = record.fields.get("warc-block-digest", "").partition(":")
    kind = name.strip().lower().replace("-", "")
    wanted = _digest(value.strip(), _DIGESTS.get(kind, 0))
    if wanted is None or hashlib.new(kind, record.block or b"", usedforsecurity=False).digest() == wanted:
        return
    raise Problem(
        "digest_mismatch",
        f"the block of the record does not match its WARC-Block-Digest ({value[:64]})",
        fix="fetch the file again, or set verify_digests: false if its writer computed digests wrongly",
    )


def _digest(value: str, size: int) -> bytes | None:
    if len(value) == 2 * size and size:
        try:
            return bytes.fromhex(value)
        except ValueError:
            return None
    try:
        raw = base64.b32decode(value.upper() + "=" * (-len(value) % 8))
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == size and size else None
