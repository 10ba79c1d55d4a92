"""Broken files of every common kind, each with the reasons of failure that name the damage rightly.

The bytes are made from good files by the damage the name says, so a reader meets what really happens: a copy
that stopped, a wrong encoding, an empty upload, a page whose picture is gone.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True)
class Broken:
    """A file to write: path below the root of its source, its bytes, and what a failure may call it."""

    source: str
    uri: str
    data: bytes
    damage: str
    reasons: tuple[str, ...]
    table_text: str | None = None  # caption or transcript: the table names the file like any other


def broken_text(sample: str) -> list[Broken]:
    """Text files: invalid UTF-8 in the middle of `sample`, and an empty file."""
    half = len(sample) // 2
    spoiled = sample[:half].encode() + b"\xff\xfe\xc3\x28" + sample[half:].encode()
    return [
        Broken("prose", "unsorted/broken-encoding.txt", spoiled, "invalid UTF-8", ("invalid_utf8",)),
        Broken("prose", "unsorted/broken-empty.txt", b"", "empty file", ("empty_document", "empty_file")),
    ]


def broken_records(texts: Sequence[str]) -> list[Broken]:
    """Compressed JSON Lines that end in the middle, and one that is not compressed at all."""
    import zstandard

    third = len(texts) // 3  # no text occurs twice: a piece of a file may well be read

    def lines(part: int) -> bytes:
        chosen = texts[part * third : (part + 1) * third]
        return "".join(json.dumps({"text": t, "domain": "unsorted"}) + "\n" for t in chosen).encode()

    squeezed, zst = gzip.compress(lines(0), mtime=0), zstandard.ZstdCompressor(level=3).compress(lines(1))
    kept = len(squeezed) * 3 // 5, len(zst) // 2
    return [
        Broken(
            "records",
            "broken-cut.jsonl.gz",
            squeezed[: kept[0]],
            "truncated gzip",
            ("truncated_gzip", "broken_gzip"),
        ),
        Broken(
            "records",
            "broken-cut.jsonl.zst",
            zst[: kept[1]],
            "truncated zstd",
            ("truncated_zstd", "broken_zstd"),
        ),
        Broken(
            "records", "broken-plain.jsonl.gz", lines(2), "not gzip at all", ("broken_gzip", "truncated_gzip")
        ),
    ]


def broken_lines(sample: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """(line, damage, reasons) for lines to put between good ones."""
    cut = json.dumps({"text": sample})[:-15]
    return [
        (cut, "malformed JSON: the line is cut", ("malformed_json",)),
        (json.dumps(["text", sample[:40]]), "a JSON array where an object should be", ("not_an_object",)),
        (json.dumps({"txet": sample[:60]}), "the text field is misspelt", ("missing_field",)),
    ]


def broken_images(picture: Image.Image) -> list[Broken]:
    """A JPEG and a PNG that end in the middle, an empty one, and one that is no picture."""
    jpeg, png = encoded(picture, "JPEG"), encoded(picture, "PNG")
    cut = ("truncated_image", "undecodable_image")
    said = "a picture that did not arrive whole"
    return [
        Broken("scenes", "broken-cut.jpg", jpeg[: len(jpeg) // 2], "truncated JPEG", cut, said),
        Broken("scenes", "broken-cut.png", png[: len(png) // 2], "truncated PNG", cut, said),
        Broken("scenes", "broken-empty.png", b"", "zero-length image", ("empty_image", "empty_document"), said),
        Broken("scenes", "broken-text.jpg", b"404 Not Found\n" * 20, "text under the name of an image",
               ("unknown_image_format", "undecodable_image"), said),
    ]  # fmt: skip


def broken_speech(wav: bytes) -> list[Broken]:
    """WAV files: zero bytes, a header alone, a header with half its sound, and noise under the name of sound."""
    header = wav[:40] + struct.pack("<I", 0)
    header = header[:4] + struct.pack("<I", 36) + header[8:]
    said = "red circle above blue square"
    return [
        Broken("speech", "broken-empty.wav", b"", "zero-length WAV", ("empty_audio",), said),
        Broken("speech", "broken-header.wav", header, "WAV header with no samples", ("empty_audio", "undecodable_audio"), said),
        Broken("speech", "broken-cut.wav", wav[: len(wav) // 2], "truncated WAV", ("truncated_audio", "undecodable_audio"), said),
        Broken("speech", "broken-garbage.wav", wav[:12] + bytes(range(7, 207)) * 9, "garbage after a WAV header",
               ("undecodable_audio", "truncated_audio", "empty_audio"), said),
    ]  # fmt: skip


def encoded(picture: Image.Image, kind: str) -> bytes:
    """The bytes of a picture as "JPEG" or "PNG"."""
    out = io.BytesIO()
    if kind == "JPEG":
        picture.save(out, "JPEG", quality=90, subsampling=0)
    else:
        picture.save(out, "PNG", optimize=False, compress_level=6)
    return out.getvalue()
