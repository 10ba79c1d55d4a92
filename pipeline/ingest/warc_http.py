"""HTTP messages as archived: status, header, and the body without its transfer and content encodings."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.warc_records import header_fields

_STATUS = re.compile(rb"(?:HTTP/\d(?:\.\d+)?|ICY)[ \t]+(\d{3})")
_END = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Head:
    """Status, header fields by lower-case name, and where the body starts."""

    status: int
    fields: dict[str, str]
    body: int


def http_head(block: bytes) -> Head | None:
    """The head of an HTTP response; None when the bytes do not start with one."""
    status = _STATUS.match(block)
    if status is None:
        return None
    end = _END.search(block)
    stop = end.start() if end else len(block)
    return Head(int(status[1]), header_fields(block[:stop]), end.end() if end else len(block))


def http_body(head: Head, block: bytes, limit: int, *, partial: bool = False) -> bytes:
    """The body of a response, chunks joined and content encodings undone.

    A body whose header names an encoding it does not have is taken as it is: many crawlers undo the encoding and
    keep the header.

    Args:
        limit: most bytes of the result.
        partial: keep what is there of a body that ends too early (the record says that it was cut).

    Raises:
        Problem: truncated_body, broken_body, unknown_encoding or too_large.
    """
    body = block[head.body :]
    codings = [c.strip().lower() for c in head.fields.get("content-encoding", "").split(",")]
    transfer = [c.strip().lower() for c in head.fields.get("transfer-encoding", "").split(",")]
    if "chunked" in transfer:
        body = _unchunk(body, partial)
        transfer.remove("chunked")
    for coding in [*reversed(transfer), *reversed(codings)]:
        body = _decoded(coding, body, limit, partial)
    return body


def _unchunk(body: bytes, partial: bool) -> bytes:
    first = _CHUNK.match(body)
    if first is None:
        return body  # stored without its chunks
    parts: list[bytes] = []
    at = 0
    while True:
        match = _CHUNK.match(body, at)
        if match is None:
            if parts and body[at:].strip():
                return _cut("a chunk has no valid length", b"".join(parts), partial)
            if not parts:
                return body
            return _cut("the last chunk is missing", b"".join(parts), partial)
        size = int(match[1], 16)
        if size == 0:
            return b"".join(parts)
        data = body[match.end() : match.end() + size]
        after = body[match.end() + size : match.end() + size + 2]
        if not parts and len(data) == size and after[:1] not in (b"\r", b"\n", b""):
            return body  # text that only looks like a chunk
        parts.append(data)
        if len(data) < size:
            return _cut(f"a chunk of {size} bytes holds {len(data)}", b"".join(parts), partial)
        at = match.end() + size
        at += 2 if after == b"\r\n" else 1 if after[:1] in (b"\r", b"\n") else 0


def _cut(what: str, have: bytes, partial: bool) -> bytes:
    if partial:
        return have
    raise Problem(
        "truncated_body",
        f"the body of the response ends too early: {what}; {len(have)} bytes are there",
        fix="leave it: the capture was cut when it was made",
    )


def _decoded(coding: str, body: bytes, limit: int, partial: bool) -> bytes:
    if coding in ("", "identity", "none", "utf-8", "binary", "8bit", "7bit", "chunked") or not body:
        return body
    if coding in ("gzip", "x-gzip"):
        return _inflate(body, 31, limit, partial) if body[:2] == b"\x1f\x8b" else body
    if coding == "deflate":
        zlib_head = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        if not zlib_head and body.lstrip()[:1] == b"<":
            return body
        return _inflate(body, 15 if zlib_head else -15, limit, partial)
    if coding == "br":
        return _unbrotli(body, limit, partial)
    if coding == "zstd":
        return _unzstd(body, limit, partial)
    if body.lstrip()[:1] == b"<":
        return body  # markup already: "sdch" without its dictionary, "aws-chunked" and the like
    raise Problem(
        "unknown_encoding",
        f"the body has the content encoding '{coding[:40]}', which is none of gzip, deflate, br, zstd",
        fix="leave it: it is only counted",
    )


def _inflate(body: bytes, wbits: int, limit: int, partial: bool) -> bytes:
    out: list[bytes] = []
    size = 0
    while True:  # gzip may hold several members
        decoder = zlib.decompressobj(wbits=wbits)
        data = body
        while not decoder.eof and data:
            try:
                piece = decoder.decompress(data, 1 << 20)
            except zlib.error as e:
                raise _damaged(str(e)) from None
            data = decoder.unconsumed_tail
            size += len(piece)
            _check(size, limit)
            out.append(piece)
        if not decoder.eof:
            return _cut("its compressed data stop", b"".join(out), partial)
        body = decoder.unused_data
        if wbits != 31 or body[:2] != b"\x1f\x8b":
            return b"".join(out)


def _unbrotli(body: bytes, limit: int, partial: bool) -> bytes:
    import brotli

    decoder = brotli.Decompressor()
    out: list[bytes] = []
    size = 0
    try:
        piece = decoder.process(body, output_buffer_limit=1 << 20)
        while True:
            size += len(piece)
            _check(size, limit)
            out.append(piece)
            if decoder.is_finished() or decoder.can_accept_more_data():
                break
            piece = decoder.process(b"", output_buffer_limit=1 << 20)
    except brotli.error as e:
        if body.lstrip()[:1] == b"<":
            return body
        raise _damaged(str(e)) from None
    if not decoder.is_finished():
        return _cut("its compressed data stop", b"".join(out), partial)
    return b"".join(out)


def _unzstd(body: bytes, limit: int, partial: bool) -> bytes:
    import zstandard

    if body[:4] != b"\x28\xb5\x2f\xfd":
        return body
    decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    out: list[bytes] = []
    size = 0
    try:
        for at in range(0, len(body), 1024):
            piece = decoder.decompress(body[at : at + 1024])
            size += len(piece)
            _check(size, limit)
            out.append(piece)
            if decoder.eof:
                return b"".join(out)
    except zstandard.ZstdError as e:
        raise _damaged(str(e)) from None
    return _cut("its compressed data stop", b"".join(out), partial)


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise Problem(
            "too_large",
            f"the body has more than max_bytes ({limit}) bytes when decompressed",
            fix="raise max_bytes of the source, or leave it: it is only counted",
        )


def _damaged(what: str) -> Problem:
    return Problem(
        "broken_body",
        f"the compressed body of the response is damaged ({what})",
        fix="leave it: the capture is damaged where it was made",
    )
