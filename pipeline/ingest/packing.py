"""A file as compressed members: what each holds, where it starts, and where the next one can start.

WARC files are as a rule one gzip member (or zstd frame) per record, so that any of them can be read alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import IO, Any, Literal

from mixloom.pipeline.ingest.problems import Problem

Packing = Literal["plain", "gzip", "zstd"]

_READ = 1 << 16
_OUT = 1 << 20
_MAGIC: dict[Packing, bytes] = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd"}
_WINDOW = 1 << 31  # of `zstd --long=31`, as some public dumps use
_BITE = 1024  # zstd blocks expand at most 128 KiB from 4 bytes; small bites bound what one call can return
_PREFIX = 4096  # bytes of a member looked at to tell whether it begins with a record
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_DICTIONARY = 0x184D2A5D  # a dictionary ahead of the records, by the WARC-zstd specification of the IIPC


class Packed:
    """A file, its packing (told by its first bytes), and one place in it.

    Reading goes forward through `more`; what was read too far is handed back by `unread`.

    Args:
        begins: whether bytes are the start of a record. A member that starts otherwise continues the one before
            (some tools pack a file in blocks of their own, without regard to its records).
    """

    def __init__(self, file: IO[bytes], begins: Callable[[bytes], bool]) -> None:
        self._begins = begins
        self._file = file
        self._held = b""
        self.position = 0
        head = file.read(4)
        self.dictionary: bytes | None = None
        self.packing: Packing = "plain"
        self.begin = 0  # of the first member
        for packing, magic in _MAGIC.items():
            if head.startswith(magic):
                self.packing = packing
        if len(head) == 4 and int.from_bytes(head, "little") in _SKIPPABLE:
            self._skippable_frames(head)
        self.seek(self.begin)

    def _skippable_frames(self, head: bytes) -> None:
        """Pass over frames without content at the start; keep the dictionary among them."""
        import zstandard

        at = 0
        while len(head) == 4 and int.from_bytes(head, "little") in _SKIPPABLE:
            self.packing = "zstd"
            size = int.from_bytes(self._file.read(4), "little")
            if int.from_bytes(head, "little") == _DICTIONARY:
                data = self._file.read(size)
                if data.startswith(_MAGIC["zstd"]):
                    data = zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 27)
                self.dictionary = data
            at += 8 + size
            self._file.seek(at)
            head = self._file.read(4)
        self.begin = at

    def seek(self, position: int) -> None:
        if position == self.position and not self._held:
            self._file.seek(position)
            return
        ahead = position - self.position
        if 0 <= ahead < len(self._held):
            self._held = self._held[ahead:]
        else:
            self._held = b""
            self._file.seek(position)
        self.position = position

    def more(self) -> bytes:
        """The next bytes of the file, some 64 KiB; empty at its end."""
        data, self._held = self._held or self._file.read(_READ), b""
        self.position += len(data)
        return data

    def unread(self, data: bytes) -> None:
        if data:
            self._held = data + self._held
            self.position -= len(data)

    def at_end(self) -> bool:
        data = self.more()
        self.unread(data)
        return not data

    def member(self, offset: int) -> Member:
        """What is packed from a place in the file on."""
        self.seek(offset)
        return Member(self, offset)

    def decoder(self) -> Any:
        if self.packing == "gzip":
            return zlib.decompressobj(wbits=31)
        import zstandard

        known = zstandard.ZstdCompressionDict(self.dictionary) if self.dictionary is not None else None
        return zstandard.ZstdDecompressor(dict_data=known, max_window_size=_WINDOW).decompressobj()

    def continues(self) -> bool:
        """Whether a member starts at the present place that is no start of a record."""
        magic = _MAGIC[self.packing]
        data = b""
        while len(data) < _BITE * 4 and (more := self.more()):
            data += more
        self.unread(data)
        if not data.startswith(magic):
            return False
        prefix, whole = self._prefix(data[:_READ])
        # Of a member cut short there may be too little to say.
        return (whole or b"\n" in prefix or len(prefix) >= _PREFIX) and not self._begins(prefix)

    def padding(self) -> int:
        """Pass over zero bytes and line ends between members; returns how many bytes follow that are no member.

        Zero at the end of the file and where a member starts; else the number of bytes at hand.
        """
        while data := self.more():
            rest = data.lstrip(b"\0\r\n")
            if rest:
                rest += self.more() if len(rest) < 4 else b""
                self.unread(rest)
                return 0 if rest.startswith(_MAGIC[self.packing]) else len(rest)
        return 0

    def next_member(self, start: int, stop: int) -> int | None:
        """The first place in [start, stop) where a member starts that begins with a record; stop -1: the end.

        The bytes that open a member can also stand inside one; so its first bytes are decompressed and looked at.
        Only a file of the same kind kept uncompressed inside a record could deceive it.
        """
        magic = _MAGIC[self.packing]
        self.seek(start)
        held, base = b"", start
        while True:
            more = self.more()
            held += more
            found = held.find(magic)
            while found >= 0:
                if 0 <= stop <= base + found:
                    return None
                while len(held) - found < _READ and (extra := self.more()):
                    held += extra
                if self._begins(self._prefix(held[found : found + _READ])[0]):
                    return base + found
                found = held.find(magic, found + 1)
            if not more or 0 <= stop <= base + len(held) - len(magic):
                return None
            keep = min(len(magic) - 1, len(held))
            base += len(held) - keep
            held = held[len(held) - keep :]

    def _prefix(self, data: bytes) -> tuple[bytes, bool]:
        """What the first bytes of a member hold, and whether that is all of it; empty when they are none."""
        decoder = self.decoder()
        out = b""
        try:
            if self.packing == "gzip":
                out = decoder.decompress(data, _PREFIX)
            for at in range(0, len(data) if self.packing == "zstd" else 0, _BITE):
                out += decoder.decompress(data[at : at + _BITE])
                if len(out) >= _PREFIX or decoder.eof:
                    break
            return out[:_PREFIX], decoder.eof
        except Exception:  # zlib.error, ZstdError: not the start of a member after all
            return b"", False


class Member:
    """A forward stream over what one member (with those that continue it) holds; of a plain file, over all after.

    `at` counts the bytes given out, `stop` is the place in the file after the member once `ended`.
    """

    def __init__(self, packed: Packed, offset: int) -> None:
        self.offset = offset
        self.at = 0
        self.stop = -1
        self._packed = packed
        self._decoder: Any = packed.decoder() if packed.packing != "plain" else None
        self._held = bytearray()
        self._done = False

    def _fill(self, count: int) -> None:
        while len(self._held) < count and not self._done:
            if self._decoder is None:
                data = self._packed.more()
                self._held += data
                if not data:
                    self._done, self.stop = True, self._packed.position
            elif self._packed.packing == "gzip":
                self._gunzip()
            else:
                self._unzstd()

    def _gunzip(self) -> None:
        data = self._packed.more()
        if not data:
            raise _broken("truncated_gzip", self, "the gzip member ends in the middle")
        try:
            self._held += self._decoder.decompress(data, _OUT)
        except zlib.error as e:
            raise _broken("broken_gzip", self, f"gzip data is damaged ({e})") from None
        self._packed.unread(self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail)
        self._end()

    def _unzstd(self) -> None:
        import zstandard

        data = self._packed.more()
        if not data:
            raise _broken("truncated_zstd", self, "the zstd frame ends in the middle")
        self._packed.unread(data[_BITE:])
        try:
            self._held += self._decoder.decompress(data[:_BITE])
        except zstandard.ZstdError as e:
            raise _broken("broken_zstd", self, f"zstd data is damaged ({e})") from None
        if self._decoder.eof:
            self._packed.unread(self._decoder.unused_data)
        self._end()

    def _end(self) -> None:
        if not self._decoder.eof:
            return
        if self._packed.continues():
            self._decoder = self._packed.decoder()
        else:
            self._done, self.stop = True, self._packed.position

    @property
    def ended(self) -> bool:
        """Whether nothing is left. Raises Problem when the member is damaged or cut short."""
        self._fill(1)
        return not self._held

    def peek(self, count: int) -> bytes:
        """Up to `count` of the next bytes, left where they are; fewer only at the end."""
        self._fill(count)
        return bytes(self._held[:count])

    def take(self, count: int) -> bytes:
        """The next bytes; fewer than `count` only at the end."""
        self._fill(count)
        out = bytes(self._held[:count])
        del self._held[:count]
        self.at += len(out)
        return out

    def skip(self, count: int) -> int:
        """Pass over bytes; returns how many there were."""
        left = count
        while left > 0:
            self._fill(1)
            if not self._held:
                break
            step = min(left, len(self._held))
            del self._held[:step]
            left -= step
        self.at += count - left
        return count - left

    def again(self, at: int) -> Member:
        """The same member, read anew from its byte `at` on."""
        if self._decoder is None:
            out = self._packed.member(self.offset + at)
            out.offset, out.at = self.offset, at
        else:
            out = self._packed.member(self.offset)
            out.skip(at)
        return out


def _broken(reason: str, member: Member, detail: str) -> Problem:
    return Problem(
        reason,
        f"{detail} (member at byte {member.offset}, {member.at} bytes into what it holds)",
        fix="fetch the file again; records before and after the damage were kept",
    )
