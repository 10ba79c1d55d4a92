"""Tar files as a forward stream of members; one member by its place. Nothing is ever unpacked to disk.

Headers are parsed by Python's tarfile; its iteration is not used, for it takes damage in the middle of a file
for its end.
"""

from __future__ import annotations

import tarfile
import threading
from dataclasses import dataclass

from mixloom.pipeline.ingest.decode import unpacked
from mixloom.pipeline.ingest.files import SourceFiles
from mixloom.pipeline.ingest.problems import Problem, printable

_BLOCK = 512
_NAMES = {tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE}
_MOST_NAME = 1 << 20


class Tape:
    """The decompressed bytes of a file, read forward only; `at` counts what was read."""

    def __init__(self, files: SourceFiles, uri: str, start: int = 0) -> None:
        self._parts = unpacked(files, uri, start)
        self._held = memoryview(b"")
        self.at = start

    def read(self, count: int) -> bytes:
        """The next bytes; fewer than `count` only at the end. Raises Problem when the packing is damaged."""
        out: list[memoryview] = []
        left = count
        while left > 0:
            if not self._held:
                self._held = memoryview(next(self._parts, b""))
                if not self._held:
                    break
            piece = self._held[:left]
            self._held = self._held[left:]
            left -= len(piece)
            out.append(piece)
        self.at += count - left
        return b"".join(out)

    def unread(self, data: bytes) -> None:
        """Hand back what was read last."""
        self._held = memoryview(data + bytes(self._held))
        self.at -= len(data)

    def skip(self, count: int) -> int:
        """Pass over bytes; returns how many there were."""
        done = 0
        while done < count:
            step = len(self.read(min(count - done, 1 << 20)))
            if not step:
                break
            done += step
        return done


@dataclass(frozen=True, slots=True)
class Entry:
    """A member: its name, its size in bytes, and the byte of the (decompressed) file where its header starts."""

    name: str
    size: int
    offset: int
    regular: bool


def next_entry(tape: Tape) -> Entry | None:
    """The next member; the tape then stands at its first byte. None at the end mark.

    Raises:
        Problem: truncated_tar (the file ends), broken_tar (no header here).
    """
    start = tape.at
    name: str | None = None
    size: int | None = None
    while True:
        block = tape.read(_BLOCK)
        if len(block) == _BLOCK and not block.strip(b"\0"):
            return None
        if len(block) < _BLOCK:
            what = "there is no end mark" if not block else "the file ends inside a header"
            raise Problem("truncated_tar", f"{what} (after byte {start})", fix=_AGAIN, offset=start)
        info = _parse(block, start)
        if info.type in _NAMES:
            name, size = _long_name(tape, info, start, name, size)
            continue
        if info.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
            tape.skip(-(-info.size // _BLOCK) * _BLOCK)
            continue
        size = info.size if size is None else size
        return Entry(name or info.name, size if info.isreg() else 0, start, info.isreg())


_AGAIN = "fetch the file again; samples before the damage were kept"


def _parse(block: bytes, start: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as e:
        raise Problem(
            "broken_tar", f"no member starts at byte {start} ({e})", fix=_AGAIN, offset=start
        ) from None


def _long_name(
    tape: Tape, info: tarfile.TarInfo, start: int, name: str | None, size: int | None
) -> tuple[str | None, int | None]:
    if info.size > _MOST_NAME:
        raise Problem(
            "broken_tar", f"a header of {info.size} bytes at byte {start}", fix=_AGAIN, offset=start
        )
    data = tape.read(info.size)
    tape.skip(-info.size % _BLOCK)
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), size
    at = 0
    while at < len(data):  # POSIX.1-2001 pax: "length key=value\n"
        digits, space, _ = data[at:].partition(b" ")
        if not space or not digits.isdigit() or int(digits) < len(digits) + 3:
            break
        key, _, value = data[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif key == b"size" and value.isdigit():
            size = int(value)
        at += int(digits)
    return name, size


def find_entry(tape: Tape) -> bool:
    """Go on behind damage to the next block that is a header, and stand before it; False when there is none."""
    while len(block := tape.read(_BLOCK)) == _BLOCK:
        if block[257:262] != b"ustar":
            continue
        try:
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            continue
        tape.unread(block)
        return True
    return False


def read_entry(tape: Tape, entry: Entry) -> bytes:
    """The bytes of the member at which the tape stands, which then stands before the next header.

    Raises:
        Problem: truncated_tar.
    """
    data = tape.read(entry.size)
    if len(data) < entry.size or tape.skip(-entry.size % _BLOCK) < -entry.size % _BLOCK:
        raise _cut(entry, len(data))
    return data


def skip_entry(tape: Tape, entry: Entry) -> None:
    """Pass over a member. Raises Problem as `read_entry`."""
    padded = -(-entry.size // _BLOCK) * _BLOCK
    if tape.skip(padded) < padded:
        raise _cut(entry, -1)


def _cut(entry: Entry, have: int) -> Problem:
    shown = f", {have} are there" if have >= 0 else ""
    return Problem(
        "truncated_tar",
        f"the file ends inside the member '{entry.name}' ({entry.size} bytes{shown})",
        fix=_AGAIN,
        offset=entry.offset,
    )


class _Held(threading.local):
    """One tape per thread: media of a compressed tar are asked for in their order, and found by going on."""

    key: tuple[str, str, str] | None = None
    tape: Tape | None = None


_HELD = _Held()


def read_member(files: SourceFiles, uri: str, name: str, offset: int, limit: int) -> bytes:
    """The bytes of the member of a name whose header starts at a byte of the (decompressed) tar.

    Raises:
        Problem: it is not there, or larger than `limit`.
    """
    key = (files.root, uri, files.stamp(uri))
    tape = _HELD.tape if _HELD.key == key and _HELD.tape is not None and _HELD.tape.at <= offset else None
    try:
        if tape is None:
            tape = Tape(files, uri, 0) if is_packed(files, uri) else Tape(files, uri, offset)
        _HELD.key, _HELD.tape = key, tape
        tape.skip(offset - tape.at)
        entry = next_entry(tape)
        if entry is None or printable(entry.name) != name:
            raise _gone(uri, name, offset)
        if entry.size > limit:
            raise Problem(
                "too_large", f"'{name}' has {entry.size} bytes, more than {limit}", fix="raise max_bytes"
            )
        return read_entry(tape, entry)
    except Problem as p:
        _HELD.key, _HELD.tape = None, None
        raise _gone(uri, name, offset) if p.reason in ("truncated_tar", "broken_tar") else p from None


def is_packed(files: SourceFiles, uri: str) -> bool:
    """Whether the file is compressed, by its first bytes."""
    with files.open(uri) as f:
        return f.read(4).startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd"))


def _gone(uri: str, name: str, offset: int) -> Problem:
    return Problem(
        "missing_media", f"'{uri}' has no member '{name}' at byte {offset} any more", fix="run ingest again"
    )
