"""The files of one source, on any file system, behind one wall: nothing outside the root is ever read.

A document can name any path it likes as an image. Whatever it names is resolved here, links included, and
refused when it ends outside the root of its source.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.problems import Problem, printable

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a source: its path relative to the root, its size, and what changes when it does."""

    uri: str
    size: int
    stamp: str


def normalise(path: str) -> str | None:
    """A relative path without `.` and `..`, or None when it climbs out of the root."""
    out = posixpath.normpath(path.replace("\\", "/").lstrip("/"))
    return None if out == ".." or out.startswith("../") or "\0" in out else out


class SourceFiles:
    """The files below a root: a folder, a single file (then it is the only one), or a URL."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.fs, path = fsspec.core.url_to_fs(root)
        self.local = isinstance(self.fs, LocalFileSystem)
        if self.local:
            path = os.path.abspath(path)
            self.single = posixpath.basename(path) if os.path.isfile(path) else None
        else:
            self.single = posixpath.basename(path) if self.fs.isfile(path) else None
        self.base: str = posixpath.dirname(path) if self.single is not None else path
        self._real = os.path.realpath(self.base) if self.local else self.base

    def exists(self) -> bool:
        return self.single is not None or bool(self.fs.exists(self.base))

    def path(self, uri: str) -> str:
        """The full path of a file of the source.

        Raises:
            Problem: the path, or what it links to, lies outside the root ("outside_root").
        """
        clean = normalise(uri)
        if clean is None:
            raise _outside(uri)
        full = posixpath.join(self.base, clean)
        if self.local:
            real = os.path.realpath(full)
            if real != self._real and not real.startswith(self._real.rstrip("/") + "/"):
                raise _outside(uri)
        return full

    def is_file(self, uri: str) -> bool:
        """Whether the path, inside the root, is a file. Raises Problem ("outside_root") when it is not inside."""
        full = self.path(uri)
        return os.path.isfile(full) if self.local else bool(self.fs.isfile(full))

    def size(self, uri: str) -> int:
        """Bytes of a file; Problem when it is outside the root, missing, or not a regular file."""
        return self._stat(uri)[1]

    def stamp(self, uri: str) -> str:
        """What changes when a file does: a content tag where there is one, else its time."""
        return _stamp(self.fs.info(self.path(uri)))

    def open(self, uri: str) -> IO[bytes]:
        """Open a file for reading; Problem as `size`."""
        return self._open(uri, self._stat(uri)[0])

    def read(self, uri: str, limit: int) -> bytes:
        """The bytes of a file; Problem as `size`, or "too_large" when there are more than `limit`."""
        full, size = self._stat(uri)
        if size > limit:
            raise too_large(uri, size, limit)
        with self._open(uri, full) as f:
            return bytes(f.read())

    def _stat(self, uri: str) -> tuple[str, int]:
        full = self.path(uri)
        try:
            if not self.local:
                return full, int(self.fs.size(full) or 0)
            state = os.stat(full)
        except (FileNotFoundError, NotADirectoryError):
            raise Problem(
                "missing_file",
                f"there is no file '{uri}'",
                fix="restore it, or correct the path that names it",
            ) from None
        if not stat.S_ISREG(state.st_mode):  # a pipe or a device would block or never end
            raise Problem("not_a_file", f"'{uri}' is not a regular file", fix="replace it or exclude it")
        return full, state.st_size

    def _open(self, uri: str, full: str) -> IO[bytes]:
        try:
            return open(full, "rb") if self.local else self.fs.open(full, "rb")
        except PermissionError:
            raise Problem(
                "unreadable", f"no permission to read '{uri}'", fix="give this user the right to read it"
            ) from None

    def entries(self, skip: re.Pattern[str] | None = None) -> Iterator[Entry]:
        """Every file below the root, in no particular order; hidden folders (.git) are left out.

        Raises:
            UserError: a folder below the root is a link to somewhere outside it (`skip` may exclude it).
        """
        if self.single is not None:
            full = posixpath.join(self.base, self.single)
            info = self.fs.info(full)
            yield Entry(self.single, int(info["size"] or 0), _stamp(info))
        elif self.local:
            yield from self._walk("", skip)
        else:
            for full, info in self.fs.find(self.base, detail=True).items():
                uri = posixpath.relpath(full, self.base)
                if not any(part.startswith(".") for part in uri.split("/")[:-1]):
                    yield Entry(uri, int(info.get("size") or 0), _stamp(info))

    def _walk(self, folder: str, skip: re.Pattern[str] | None) -> Iterator[Entry]:
        folders = [folder]
        while folders:
            here = folders.pop()
            with os.scandir(posixpath.join(self.base, here)) as found:
                for item in found:
                    uri = posixpath.join(here, item.name)
                    if item.is_dir(follow_symlinks=False):
                        if not item.name.startswith("."):
                            folders.append(uri)
                    elif item.is_symlink() and os.path.isdir(item.path):  # False for a link to itself
                        self._refuse_folder_link(uri, skip)
                    else:
                        yield _local_entry(item, uri)

    def _refuse_folder_link(self, uri: str, skip: re.Pattern[str] | None) -> None:
        # A linked folder inside the root is listed where it really is; one outside would be lost in silence.
        try:
            self.path(uri)
        except Problem:
            if skip is not None and skip.match(uri + "/x"):
                return
            raise UserError(
                f"'{printable(posixpath.join(self.root, uri))}' is a link to a folder outside the root of its "
                "source; what lies outside is never read",
                fix=f"make it a source of its own with its real path, or add exclude: ['{printable(uri)}/**']",
            ) from None


def _local_entry(item: os.DirEntry[str], uri: str) -> Entry:
    try:
        state = item.stat()
    except OSError:  # a dangling link: reading it says so
        return Entry(uri, 0, "missing")
    return Entry(uri, state.st_size, str(state.st_mtime_ns))


def _stamp(info: dict[str, Any]) -> str:
    """What a file system offers to tell a changed file: content tags first, then times."""
    for key in (
        "etag",
        "ETag",
        "md5Hash",
        "content_md5",
        "mtime",
        "LastModified",
        "last_modified",
        "updated",
    ):
        if info.get(key) is not None:
            return str(info[key])
    return str(info.get("created", ""))


def _outside(uri: str) -> Problem:
    return Problem(
        "outside_root",
        f"'{uri}' leads outside the root of the source (directly or through a link) and was not read",
        fix="put the file inside the root, or set the path of the source to a folder that holds both",
    )


def too_large(uri: str, size: int, limit: int) -> Problem:
    return Problem(
        "too_large",
        f"'{uri}' has {size} bytes, more than max_bytes ({limit}) allows to hold in memory",
        fix="raise max_bytes of the source, or cut the file up",
    )


@functools.lru_cache(maxsize=16)
def _remote_files(root: str) -> SourceFiles:
    return SourceFiles(root)


def source_files(root: str) -> SourceFiles:
    """The files of a root. Remote roots are remembered: finding out what they are costs a request."""
    return _remote_files(root) if "://" in root else SourceFiles(root)
