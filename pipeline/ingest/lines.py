"""Lines of a byte range: a line belongs to the range in which it starts, so any cut gives the same lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mixloom.pipeline.ingest.decode import chunks, compressed
from mixloom.pipeline.ingest.files import CHUNK, SourceFiles
from mixloom.pipeline.ingest.problems import Problem

_COUNT_UP_TO = 1 << 30  # beyond this, finding the number of a bad line would cost more than it tells


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its newline. `data` is None when it was longer than the limit and was skipped."""

    offset: int
    data: bytes | None
    length: int


def lines(files: SourceFiles, uri: str, start: int, stop: int, limit: int) -> Iterator[Line]:
    """Lines that start in the bytes [start, stop) of a file (stop -1: to the end).

    Offsets count decompressed bytes. Compressed files are read whole.

    Raises:
        Problem: the file is missing or damaged; the complete lines before the damage have been yielded.
    """
    if start <= 0:
        yield from _cut(chunks(files, uri), 0, stop, limit)
    elif not compressed(uri):
        yield from _cut(_from_first_line(files, uri, start), start, stop, limit)


def _from_first_line(files: SourceFiles, uri: str, start: int) -> Iterator[bytes]:
    # One byte early: when it is a newline, a line starts exactly at `start`; else the rest of the line that
    # began before the range is passed over, as a first "line" that _cut is told to count but not to yield.
    with files.open(uri) as f:
        f.seek(start - 1)
        while data := f.read(CHUNK):
            yield data


def _cut(parts: Iterator[bytes], start: int, stop: int, limit: int) -> Iterator[Line]:
    skip_first = start > 0
    offset = start - 1 if skip_first else 0  # of the line being gathered
    held: list[bytes] = []
    size = 0
    try:
        for part in parts:
            if b"\n" not in part:
                size += len(part)
                held.append(part)
                if size > limit or skip_first:
                    held = []  # too long, or not ours: only its length matters from here on
                continue
            first, *rest = part.split(b"\n")
            tail = rest.pop()
            whole = size + len(first)
            ready = [(whole, b"".join([*held, first]) if whole <= limit else None)]
            ready += [(len(x), x if len(x) <= limit else None) for x in rest]
            for length, data in ready:
                if 0 <= stop <= offset:
                    return
                if skip_first:
                    skip_first = False
                else:
                    yield Line(offset, data, length)
                offset += length + 1
            held, size = [tail], len(tail)
    except Problem as p:
        p.offset = offset  # the line that was being gathered is the first one lost
        raise
    if size and not skip_first and not 0 <= stop <= offset:
        yield Line(offset, b"".join(held) if size <= limit else None, size)


def line_number(files: SourceFiles, uri: str, offset: int) -> int | None:
    """Number (from 1) of the line that starts at a byte of an uncompressed file; None when it is too far in."""
    if compressed(uri) or offset > _COUNT_UP_TO:
        return None
    count, left = 1, offset
    with files.open(uri) as f:
        while left > 0 and (data := f.read(min(CHUNK, left))):
            count += data.count(b"\n")
            left -= len(data)
    return count
