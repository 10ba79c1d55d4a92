"""Records of WARC, WET and ARC files: where each lies, what it says of itself, its block; damage in its place.

A record belongs to the byte range in which its gzip member (zstd frame, or itself where nothing is packed)
starts, so any cut of a file gives the same records. Formats: WARC 1.0 and 1.1 (ISO 28500:2017), ARC 1.0 and
2.0 (Burner and Kahle, "The ARC File Format", Internet Archive, 1996).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mixloom.pipeline.ingest.files import SourceFiles
from mixloom.pipeline.ingest.packing import Member, Packed
from mixloom.pipeline.ingest.problems import Problem

HEAD = 1 << 16  # most bytes of a header block, and of the start of a block shown to `want`
_VERSION = re.compile(rb"WARC/\d\.\d+\r?\n")
# URL (it may hold spaces), IP, date, type, length; version 2 has five more fields between type and length.
_ARC1 = re.compile(rb"(\S.*?) (\S+) (\d{12,18}) (\S+) (-?\w+)")
_ARC2 = re.compile(rb"(\S.*?) (\S+) (\d{12,18}) (\S+) (\d{3}) \S+ \S+ (?:\d+|-) \S+ (-?\w+)")
_ARC_START = re.compile(rb"(?:[a-zA-Z][a-zA-Z0-9+.-]*:)\S*")
_NEXT_ARC = re.compile(rb"\n(?=[a-z][a-z0-9+.-]*:[^\r\n]{1,2000}? \S+ \d{12,18} \S+ [^\r\n]*\d\n)")
_NEXT_WARC = re.compile(rb"\n(?=WARC/\d\.\d+\r?\n)")


@dataclass(frozen=True, slots=True)
class Record:
    """One record.

    Args:
        kind: the WARC-Type; of an ARC record "response" or "warcinfo".
        fields: header fields by lower-case name.
        offset: byte of the file at which it, or the member it is packed in, starts.
        inside: bytes before it in what that member holds; 0 where the member holds one record.
        length: bytes in the file, up to the next record; -1 where a member holds several records.
        start: first bytes of its block, at most 64 KiB.
        block: what follows its header; None when it was not wanted.
    """

    kind: str
    fields: dict[str, str]
    offset: int
    inside: int
    length: int
    start: bytes
    block: bytes | None


@dataclass(frozen=True, slots=True)
class Damage:
    """A place that could not be read as a record; reading went on behind it."""

    problem: Problem
    offset: int
    inside: int


Want = Callable[[str, dict[str, str], bytes], bool]  # kind, fields, first bytes of the block


def records(
    files: SourceFiles, uri: str, want: Want, *, start: int = 0, stop: int = -1, limit: int = 1 << 30
) -> Iterator[Record | Damage]:
    """Records that start in the bytes [start, stop) of a file (stop -1: to the end), in file order.

    Args:
        want: whether the block of a record is to be read; the others are passed over.
        limit: longest block in bytes; a longer one that is wanted is damage "too_large".

    Raises:
        Problem: the file is missing or outside the root.
    """
    with files.open(uri) as raw:
        packed = Packed(raw, _begins)
        at = packed.begin if start <= packed.begin else _first(packed, start, stop)
        while at is not None and not 0 <= stop <= at:
            packed.seek(at)
            if packed.at_end():
                return
            reader = _Reader(packed, at, want, stop, limit)
            yield from reader.run()
            at = reader.next_start()


def record_at(files: SourceFiles, uri: str, offset: int, inside: int, limit: int) -> Record:
    """The record at a place, with its block.

    Raises:
        Problem: there is no whole record, or the file is missing.
    """
    with files.open(uri) as raw:
        packed = Packed(raw, _begins)
        member = packed.member(offset)
        member.skip(inside)
        try:
            one = _one(member, lambda *_: True, limit, 1)
        except _Malformed as m:
            raise m.problem from None
        return Record(one.kind, one.fields, offset, inside, -1, one.start, one.block)


def _first(packed: Packed, start: int, stop: int) -> int | None:
    if packed.packing != "plain":
        return packed.next_member(start, stop)
    member = packed.member(start - 1)
    return _seek_next(member, stop - (start - 1) if stop >= 0 else -1, start - 1)


def _begins(data: bytes) -> bool:
    line = data.split(b"\n", 1)[0]
    return _VERSION.match(data) is not None or (_ARC_START.match(line) is not None and _arc(line) is not None)


class _Reader:
    """The records of one member; of a plain file, of all that follows."""

    def __init__(self, packed: Packed, offset: int, want: Want, stop: int, limit: int) -> None:
        self._packed, self._offset, self._want, self._stop, self._limit = packed, offset, want, stop, limit
        self._member = packed.member(offset)
        self._plain = packed.packing == "plain"
        self._broken, self._junk = False, False

    def run(self) -> Iterator[Record | Damage]:
        count = 0
        begin = 0
        try:
            _skip_newlines(self._member)
            while not self._member.ended:
                begin = self._member.at
                if self._plain and 0 <= self._stop <= self._offset + begin:
                    return
                try:
                    one = _one(self._member, self._want, self._limit, count)
                except _Malformed as m:
                    yield self._damage(m.problem, begin)
                    if not self._resume(begin + m.head):
                        return
                else:
                    alone = count == 0 and not self._plain and self._member.ended
                    yield self._record(one, begin, alone)
                count += 1
            yield from self._between()
        except Problem as p:  # the packing itself is damaged
            self._broken = True
            yield self._damage(p, begin)

    def _between(self) -> Iterator[Damage]:
        """Pass over padding after a member; what else stands there is damage."""
        if self._plain:
            return
        self._packed.seek(self._member.stop)
        junk = self._packed.padding()
        self._junk = junk > 0
        if junk:
            problem = Problem(
                f"broken_{self._packed.packing}",
                f"{junk} bytes or more after the last record start no {self._packed.packing} member",
                fix=_AGAIN,
            )
            yield Damage(problem, self._packed.position, 0)

    def next_start(self) -> int | None:
        """Where reading goes on after this member; None at the end of the range."""
        if self._plain:
            return None
        if self._broken:
            return self._packed.next_member(self._offset + 1, self._stop)
        at = self._packed.position
        return self._packed.next_member(at, self._stop) if self._junk else at

    def _record(self, one: _One, begin: int, alone: bool) -> Record:
        if self._plain:
            place = (self._offset + begin, 0, self._member.at - begin)
        elif alone:
            place = (self._offset, 0, self._member.stop - self._offset)
        else:
            place = (self._offset, begin, -1)
        return Record(one.kind, one.fields, *place, one.start, one.block)

    def _damage(self, problem: Problem, begin: int) -> Damage:
        if self._plain:
            return Damage(problem, self._offset + begin, 0)
        return Damage(problem, self._offset, begin)

    def _resume(self, at: int) -> bool:
        """Go to the next start of a record at or after byte `at` of this member; False when there is none."""
        self._member = self._member.again(at)
        bound = self._stop - self._offset if self._plain and self._stop >= 0 else -1
        return _seek_next(self._member, bound, 0) is not None


def _seek_next(member: Member, bound: int, base: int) -> int | None:
    """Move to the next line that starts a record, before `bound`; returns base + its place, or None."""
    while not member.ended:
        window = member.peek(1 << 20)
        last = len(window) < 1 << 20
        found = min(
            (m.start() for m in (_NEXT_WARC.search(window), _NEXT_ARC.search(window)) if m is not None),
            default=-1,
        )
        if found >= 0:
            if 0 <= bound <= member.at + found + 1:
                return None
            member.skip(found + 1)
            return base + member.at
        if last or 0 <= bound <= member.at:
            return None
        member.skip(len(window) - HEAD)
    return None


class _Malformed(Exception):
    """What stands here is no record; `head` is how far into it there is surely no other one."""

    def __init__(self, problem: Problem, head: int) -> None:
        super().__init__(problem.detail)
        self.problem, self.head = problem, head


@dataclass(frozen=True, slots=True)
class _One:
    kind: str
    fields: dict[str, str]
    start: bytes
    block: bytes | None


def _one(member: Member, want: Want, limit: int, count: int) -> _One:
    head = member.peek(HEAD)
    kind, fields, size, length = _header(head, count)
    member.skip(size)
    start = member.peek(min(length, HEAD))
    wanted = want(kind, fields, start)
    block: bytes | None = None
    if wanted and length <= limit:
        block = member.take(length)
        have = len(block)
    else:
        have = member.skip(length)
    if have < length:
        raise _Malformed(
            Problem(
                "truncated_record",
                f"the record promises a block of {length} bytes, {have} are there",
                fix=_AGAIN,
            ),
            size,
        )
    _skip_newlines(member)
    if not member.ended and not _begins(member.peek(HEAD)):
        raise _Malformed(
            Problem(
                "wrong_length",
                f"no record follows where this one should end, after {length} bytes (there is {member.peek(16)!r})",
                fix=_AGAIN,
            ),
            size,
        )
    if wanted and length > limit:
        raise _Malformed(_too_large(length, limit), size + length)
    return _One(kind, fields, start, block)


_AGAIN = "fetch the file again; records before and after it were kept"


def _too_large(length: int, limit: int) -> Problem:
    return Problem(
        "too_large",
        f"the record has {length} bytes, more than max_bytes ({limit}) allows to hold in memory",
        fix="raise max_bytes of the source, or leave it: it is only counted",
    )


def _skip_newlines(member: Member) -> None:
    while (rest := member.peek(4)) and rest[:1] in b"\r\n\0":
        member.skip(len(rest) - len(rest.lstrip(b"\r\n\0")))


def _header(head: bytes, count: int) -> tuple[str, dict[str, str], int, int]:
    """(kind, fields, bytes of the header, bytes of the block) of the record that starts here."""
    if _VERSION.match(head):
        end = re.search(rb"\r?\n\r?\n", head)
        if end is None:
            raise _bad_header("its header does not end")
        fields = header_fields(head[: end.start()])
        length = fields.get("content-length", "")
        if not length.isdigit():
            raise _bad_header(f"its Content-Length is {length[:40]!r}, not a number of bytes")
        kind = fields.get("warc-type", "").lower()
        if not kind:
            raise _bad_header("it has no WARC-Type")
        return kind, fields, end.end(), int(length)
    line, newline, _ = head.partition(b"\n")
    arc = _arc(line.rstrip(b"\r")) if newline and _ARC_START.match(line) else None
    if arc is None:
        what = "not a WARC or ARC file" if count == 0 else "no record starts here"
        raise _Malformed(
            Problem(
                "not_a_record", f"{what}: it starts with {head[:16]!r}", fix="correct glob, or fetch it again"
            ),
            1,
        )
    url, address, date, mime, length = arc
    if not length.isdigit():
        raise _bad_header(f"its length is {length[:40]!r}, not a number of bytes", len(line) + 1)
    fields = {"warc-target-uri": url, "warc-ip-address": address, "warc-date": _arc_date(date)}
    fields["content-type"] = mime if url.startswith("filedesc:") else "application/http; msgtype=response"
    fields["arc-type"] = mime
    return "warcinfo" if url.startswith("filedesc:") else "response", fields, len(line) + 1, int(length)


def _bad_header(what: str, head: int = 1) -> _Malformed:
    return _Malformed(
        Problem("bad_record_header", f"the header of the record is damaged: {what}", fix=_AGAIN), head
    )


def _arc(line: bytes) -> tuple[str, str, str, str, str] | None:
    match = _ARC2.fullmatch(line) or _ARC1.fullmatch(line)
    if match is None:
        return None
    text = [x.decode("utf-8", "replace") for x in match.groups()]
    return text[0], text[1], text[2], text[3], text[-1]


def _arc_date(digits: str) -> str:
    d = digits[:14].ljust(14, "0")
    return f"{d[:4]}-{d[4:6]}-{d[6:8]}T{d[8:10]}:{d[10:12]}:{d[12:14]}Z"


def header_fields(head: bytes) -> dict[str, str]:
    """Fields of a header block by lower-case name; folded lines joined, the first of a name wins.

    The first line (a version or a status) is left out.
    """
    out: dict[str, str] = {}
    name = ""
    for raw in head.split(b"\n")[1:]:
        line = raw.rstrip(b"\r").decode("utf-8", "backslashreplace")
        if line[:1] in (" ", "\t"):
            if name:
                out[name] = f"{out[name]} {line.strip()}".strip()
            continue
        key, colon, value = line.partition(":")
        key = key.strip().lower()
        if not colon or key in out:
            name = ""
            continue
        name = key
        out[name] = value.strip()
    return out
