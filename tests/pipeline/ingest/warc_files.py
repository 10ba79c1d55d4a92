"""Small web archives, written by hand so that each can be wrong in one place."""

from __future__ import annotations

import base64
import gzip
import hashlib

import zstandard

PAGE = (
    "<!doctype html><html lang='en'><head><title>On {0}</title></head><body><nav><a href='/'>Home</a></nav>"
    "<main><article><h1>On {0}</h1><p>This page tells about {0}, at a length that a reader of some patience "
    "would call sufficient, and then says a little more about it.</p>{1}<p>A second paragraph closes the page "
    "about {0}, as second paragraphs do when there is no third.</p></article></main></body></html>"
)


def page(topic: str, middle: str = "") -> bytes:
    return PAGE.format(topic, middle).encode()


def record(kind: str, url: str, block: bytes, **fields: str) -> bytes:
    """A WARC record; fields with underscores for hyphens, None leaves one out."""
    head = {"WARC-Type": kind, "WARC-Target-URI": url, "WARC-Date": "2024-05-06T07:08:09Z"}
    head |= {"Content-Type": "application/http; msgtype=response" if kind == "response" else "text/plain"}
    head |= {k.replace("_", "-"): v for k, v in fields.items()}
    head.setdefault("Content-Length", str(len(block)))
    lines = "".join(f"{k}: {v}\r\n" for k, v in head.items())
    return b"WARC/1.0\r\n" + lines.encode() + b"\r\n" + block + b"\r\n\r\n"


def http(body: bytes, mime: str = "text/html; charset=utf-8", status: int = 200, **fields: str) -> bytes:
    """An HTTP response."""
    lines = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in fields.items())
    return f"HTTP/1.1 {status} Some Reason\r\nContent-Type: {mime}\r\n{lines}\r\n".encode() + body


def response(url: str, body: bytes, mime: str = "text/html; charset=utf-8", **fields: str) -> bytes:
    return record("response", url, http(body, mime), **fields)


def block_digest(block: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(block).digest()).decode()


def arc(records: list[tuple[str, bytes]], version: int = 1) -> list[bytes]:
    """An ARC file as a list of records: the file description, then (url, HTTP response) pairs."""
    names = "URL IP-address Archive-date Content-type Archive-length\n"
    about = f"{version} 0 Somebody\n{names}".encode()
    extra = "" if version == 1 else "200 - - 0 x.arc "
    out = [
        f"filedesc://x.arc 0.0.0.0 20240506070809 text/plain {extra}{len(about)}\n".encode() + about + b"\n"
    ]
    for url, block in records:
        head = f"{url} 10.0.0.1 20240506070809 text/html {extra}{len(block)}\n"
        out.append(head.encode() + block + b"\n")
    return out


def pack(records: list[bytes], packing: str) -> bytes:
    """Records as a file: "plain", a member or frame per record ("gzip", "zstd"), or one for all ("gzip-whole")."""
    if packing == "gzip":
        return b"".join(gzip.compress(r, mtime=0) for r in records)
    if packing == "zstd":
        return b"".join(zstandard.ZstdCompressor(write_checksum=True).compress(r) for r in records)
    if packing == "gzip-whole":
        return gzip.compress(b"".join(records), mtime=0)
    if packing == "gzip-blocks":
        whole = b"".join(records)
        return b"".join(gzip.compress(whole[i : i + 500], mtime=0) for i in range(0, len(whole), 500))
    return b"".join(records)
