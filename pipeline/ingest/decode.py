"""Bytes to text: decompression that keeps what came before the damage, and declared or configured encodings."""

from __future__ import annotations

import codecs
import functools
import zlib
from collections.abc import Iterator
from typing import IO

from mixloom.pipeline.ingest.files import CHUNK, SourceFiles
from mixloom.pipeline.ingest.problems import Problem

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# zstd blocks expand at most 128 KiB from 4 bytes; small bites bound what one call can return.
_BITE = 1024


def compressed(uri: str) -> bool:
    return uri.endswith((".gz", ".zst"))


def chunks(files: SourceFiles, uri: str) -> Iterator[bytes]:
    """The bytes of a file in pieces, decompressed when its name ends in .gz or .zst.

    Raises:
        Problem: missing, outside the root, or broken compression; what came before has been yielded.
    """
    with files.open(uri) as f:
        if uri.endswith(".gz"):
            yield from _gunzip(f, uri)
        elif uri.endswith(".zst"):
            yield from _unzstd(f, uri)
        else:
            while data := f.read(CHUNK):
                yield data


def unpacked(files: SourceFiles, uri: str, start: int = 0) -> Iterator[bytes]:
    """The bytes of a file in pieces, decompressed when its first bytes are those of gzip or zstd.

    Args:
        start: byte of an uncompressed file to start at.

    Raises:
        Problem: as `chunks`.
    """
    with files.open(uri) as f:
        head = f.read(4)
        f.seek(start)
        if head.startswith(b"\x1f\x8b"):
            yield from _gunzip(f, uri)
        elif head.startswith(b"\x28\xb5\x2f\xfd"):
            yield from _unzstd(f, uri)
        else:
            while data := f.read(CHUNK):
                yield data


def _gunzip(f: IO[bytes], uri: str) -> Iterator[bytes]:
    decoder = zlib.decompressobj(wbits=31)
    fed, data = False, b""
    while data or (data := f.read(CHUNK)):
        if decoder.eof:  # the next member, or zero padding
            data = data.lstrip(b"\0")
            if not data:
                continue
            decoder, fed = zlib.decompressobj(wbits=31), False
        fed = True
        try:
            out = decoder.decompress(data, CHUNK)
        except zlib.error as e:
            raise _broken("broken_gzip", uri, f"gzip data is damaged ({e})") from None
        data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
        if out:
            yield out
    if fed and not decoder.eof:
        raise _broken("truncated_gzip", uri, "the gzip stream ends in the middle")


def _unzstd(f: IO[bytes], uri: str) -> Iterator[bytes]:
    import zstandard

    limit = 1 << 31  # the window of `zstd --long=31`, as some public dumps use
    decoder = zstandard.ZstdDecompressor(max_window_size=limit).decompressobj()
    fed = False
    while block := f.read(CHUNK):
        at = 0
        while at < len(block):
            if decoder.eof:
                decoder = zstandard.ZstdDecompressor(max_window_size=limit).decompressobj()
            fed = True
            bite = block[at : at + _BITE]
            try:
                out = decoder.decompress(bite)
            except zstandard.ZstdError as e:
                raise _broken("broken_zstd", uri, f"zstd data is damaged ({e})") from None
            at += len(bite) - (len(decoder.unused_data) if decoder.eof else 0)
            if out:
                yield out
    if fed and not decoder.eof:
        raise _broken("truncated_zstd", uri, "the zstd stream ends in the middle")


def _broken(reason: str, uri: str, detail: str) -> Problem:
    return Problem(
        reason,
        f"'{uri}': {detail}; what came before it was kept",
        fix="fetch the file again, or compress it again from its source",
    )


def read_whole(files: SourceFiles, uri: str, limit: int) -> bytes:
    """A whole file, decompressed.

    Raises:
        Problem: as `chunks`, or "too_large" above `limit` bytes.
    """
    if not compressed(uri):
        return files.read(uri, limit)
    parts: list[bytes] = []
    size = 0
    for part in chunks(files, uri):
        size += len(part)
        if size > limit:
            raise Problem(
                "too_large",
                f"'{uri}' holds more than max_bytes ({limit}) bytes when decompressed",
                fix="raise max_bytes of the source, or cut the file up",
            )
        parts.append(part)
    return b"".join(parts)


@functools.lru_cache(maxsize=64)
def canonical(encoding: str) -> str:
    return codecs.lookup(encoding).name


@functools.lru_cache(maxsize=64)
def line_safe(encoding: str) -> bool:
    """Whether a newline is the byte 0x0A and nothing else, so that lines can be cut before decoding."""
    return canonical(encoding) not in ("utf-7", "hz") and "a\n".encode(encoding) == b"a\n"


def split_bom(data: bytes, encoding: str) -> tuple[int, str]:
    """Length of a byte order mark, and the encoding it declares (else the one given)."""
    for bom, name in _BOMS:
        if data.startswith(bom):
            return len(bom), name
    return 0, encoding


def decode(data: bytes, encoding: str, errors: str, *, base: int = 0, what: str = "the text") -> str:
    """Decode bytes by the configured encoding.

    Args:
        errors: "fail" or "replace".
        base: byte offset of `data` in its file, for the message.
        what: what is being decoded, for the message.

    Raises:
        Problem: "invalid_utf8" or "invalid_encoding", with the byte and its offset.
    """
    try:
        return data.decode(encoding, "replace" if errors == "replace" else "strict")
    except UnicodeDecodeError as e:
        raise bad_bytes(data, e, encoding, base, what) from None
    except UnicodeError as e:  # stateful codecs raise the plain class
        raise Problem(
            "invalid_encoding", f"{what} is not valid {encoding} ({e})", fix=_ENCODING_FIX
        ) from None


_ENCODING_FIX = "set encoding of the source (older files are often latin-1), or on_encoding_error: replace"


def bad_bytes(data: bytes, e: UnicodeDecodeError, encoding: str, base: int, what: str) -> Problem:
    """The problem of a byte that is not valid in its encoding."""
    name = canonical(encoding)
    byte = f"byte 0x{data[e.start]:02x}" if e.start < len(data) else "the end"
    return Problem(
        "invalid_utf8" if name == "utf-8" else "invalid_encoding",
        f"{what} is not valid {name}: {byte} at byte offset {base + e.start} ({e.reason})",
        fix=_ENCODING_FIX,
    )


def newlines(text: str) -> str:
    """Windows and old Mac line ends to \\n."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def trim(text: str) -> str:
    """Without blank lines at the start and white space at the end; the first line keeps its indent."""
    text = text.rstrip()
    start = len(text) - len(text.lstrip())
    return text[text.rfind("\n", 0, start) + 1 :]
