"""Bodies of archived responses, with and without the encodings their headers name."""

import gzip
import sys
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.warc_http import http_body, http_head

sys.path.insert(0, str(Path(__file__).parent))
from warc_files import http

TEXT = b"<p>Some words that repeat, repeat and repeat.</p>" * 20
LIMIT = 1 << 20


def body(data: bytes, *, limit: int = LIMIT, partial: bool = False, **fields: str) -> bytes:
    block = http(data, **fields)
    head = http_head(block)
    assert head is not None
    return http_body(head, block, limit, partial=partial)


def problem(data: bytes, **given_) -> Problem:
    with pytest.raises(Problem) as caught:
        body(data, **given_)
    return caught.value


def chunked(data: bytes, sizes: list[int], extension: str = "") -> bytes:
    out, at = b"", 0
    for size in [*sizes, len(data)]:
        piece = data[at : at + size]
        if piece:
            out += f"{len(piece):x}{extension}\r\n".encode() + piece + b"\r\n"
        at += size
    return out + b"0\r\n\r\n"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@given(st.binary(max_size=200), st.lists(st.integers(1, 50), max_size=6))
def test_chunks_are_joined_however_they_were_cut(data, sizes):
    block = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(data, sizes)
    assert http_body(http_head(block), block, LIMIT) == data


def test_chunk_extensions_and_bare_newlines_are_read():
    assert body(chunked(TEXT, [7], ";name=value"), Transfer_Encoding="chunked") == TEXT
    assert body(chunked(TEXT, [7]).replace(b"\r\n", b"\n"), Transfer_Encoding="chunked") == TEXT


def test_a_body_stored_without_its_chunks_is_taken_as_it_is():
    assert body(TEXT, Transfer_Encoding="chunked") == TEXT


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(TEXT, mtime=0)),
        ("x-gzip", gzip.compress(TEXT, mtime=0)),
        ("gzip", gzip.compress(TEXT[:100], mtime=0) + gzip.compress(TEXT[100:], mtime=0)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("br", brotli.compress(TEXT)),
        ("zstd", zstandard.compress(TEXT)),
        ("br, gzip", gzip.compress(brotli.compress(TEXT), mtime=0)),
        ("identity", TEXT),
    ],
)
def test_content_encodings_are_undone(coding, packed):
    assert body(packed, Content_Encoding=coding) == TEXT
    assert body(chunked(packed, [10, 20]), Content_Encoding=coding, Transfer_Encoding="chunked") == TEXT


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "sdch", "aws-chunked"])
def test_a_body_that_was_decoded_before_it_was_stored_is_taken_as_it_is(coding):
    assert body(TEXT, Content_Encoding=coding) == TEXT


@pytest.mark.parametrize(
    ("coding", "packed"),
    [("gzip", gzip.compress(TEXT, mtime=0)), ("deflate", zlib.compress(TEXT)), ("br", brotli.compress(TEXT)),
     ("zstd", zstandard.compress(TEXT))],
)  # fmt: skip
def test_a_body_that_ends_too_early_is_a_failure_unless_the_record_says_it_was_cut(coding, packed):
    p = problem(packed[:-9], Content_Encoding=coding)
    assert p.reason == "truncated_body"
    assert "the body of the response ends too early" in p.detail
    assert TEXT.startswith(body(packed[:-9], Content_Encoding=coding, partial=True))


def test_a_missing_last_chunk_is_a_truncated_body():
    p = problem(chunked(TEXT, [10])[:-5], Transfer_Encoding="chunked")
    assert p.reason == "truncated_body"
    p = problem(chunked(TEXT, [10])[:40], Transfer_Encoding="chunked")
    assert "holds" in p.detail


def test_damage_and_unknown_encodings_are_told():
    hurt = bytearray(gzip.compress(TEXT, mtime=0))
    hurt[15:20] = b"\xff" * 5
    assert problem(bytes(hurt), Content_Encoding="gzip").reason == "broken_body"
    p = problem(b"\x1f\x9d" + TEXT, Content_Encoding="compress")
    assert p.reason == "unknown_encoding"
    assert "content encoding 'compress', which is none of gzip, deflate, br, zstd" in p.detail


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_is_stopped_at_the_limit(coding):
    zeros = b"\0" * (8 << 20)
    pack = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}
    packed = pack[coding](zeros) if coding in pack else brotli.compress(zeros, quality=2)
    p = problem(packed, Content_Encoding=coding, limit=1 << 20)
    assert p.reason == "too_large"
    assert "more than max_bytes (1048576)" in p.detail


def test_what_does_not_start_with_a_status_line_has_no_head():
    assert http_head(b"<html>") is None
    assert http_head(b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\nx").status == 404
    assert http_head(b"HTTP/2 200\r\n\r\n").status == 200
