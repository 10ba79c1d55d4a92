"""Files of a run on any fsspec file system: atomic writes and checked reads.

Local paths and URLs (s3://, gs://, ...) are treated alike; nothing here assumes a shared local disk. Local files go past
fsspec: a stage writes several small ones for every part, and fsspec takes longer for them than the system does.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from mixloom.pipeline.errors import UserError

TEMPORARY = ".tmp-"


def resolve(base: str, path: str) -> str:
    """A path or URL against a base folder or URL; local results are absolute."""
    if "://" not in path and not os.path.isabs(path):
        path = base if path in (".", "") else f"{base.rstrip('/')}/{path}"
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def sha256_hex(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one JSON spelling we hash: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


@dataclass(frozen=True, slots=True)
class Store:
    """A folder on some file system. Picklable: workers open their own connection."""

    root: str

    @classmethod
    def at(cls, root: str) -> Store:
        return cls(root if "://" in root else os.path.abspath(os.path.expanduser(root)))

    @property
    def local(self) -> bool:
        return "://" not in self.root

    def url(self, relative: str) -> str:
        return posixpath.join(self.root, relative) if relative else self.root

    def child(self, relative: str) -> Store:
        return Store(self.url(relative))

    def _fs(self) -> tuple[Any, str]:
        return fsspec.core.url_to_fs(self.root)

    def _path(self, relative: str) -> tuple[Any, str]:
        fs, root = self._fs()
        return fs, posixpath.join(root, relative) if relative else root

    def exists(self, relative: str) -> bool:
        if self.local:
            return os.path.exists(self.url(relative))
        fs, path = self._path(relative)
        return bool(fs.exists(path))

    def size(self, relative: str) -> int:
        if self.local:
            return os.path.getsize(self.url(relative))
        fs, path = self._path(relative)
        return int(fs.size(path))

    def read(self, relative: str) -> bytes:
        if self.local:
            with open(self.url(relative), "rb") as f:
                return f.read()
        fs, path = self._path(relative)
        with fs.open(path, "rb") as f:
            return bytes(f.read())

    def read_json(self, relative: str) -> Any:
        return json.loads(self.read(relative))

    def write(self, relative: str, data: bytes | memoryview) -> None:
        """Write whole or not at all: to a temporary name beside it, then rename."""
        if self.local:
            _write_local(self.url(relative), data)
            return
        fs, path = self._path(relative)
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
        temporary = _temporary(path)
        with fs.open(temporary, "wb") as f:
            f.write(data)
        fs.mv(temporary, path)

    def write_json(self, relative: str, value: Any) -> None:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
        self.write(relative, (text + "\n").encode("utf-8"))

    def names(self, relative: str = "") -> list[str]:
        """Names directly inside a folder, sorted; [] when the folder does not exist."""
        if self.local:
            try:
                return sorted(os.listdir(self.url(relative)))
            except FileNotFoundError:
                return []
        fs, path = self._path(relative)
        if not fs.exists(path):
            return []
        return sorted(posixpath.basename(p.rstrip("/")) for p in fs.ls(path, detail=False))

    def files(self, relative: str = "") -> list[str]:
        """Every file below a folder, as paths relative to this store, sorted."""
        fs, path = self._path(relative)
        if not fs.exists(path):
            return []
        _, root = self._fs()
        return sorted(posixpath.relpath(p, root) for p in fs.find(path))

    def remove(self, relative: str) -> None:
        """Remove a file or a whole folder; no error when it is not there."""
        if self.local:
            _remove_local(self.url(relative))
            return
        fs, path = self._path(relative)
        if fs.exists(path):
            fs.rm(path, recursive=True)


def _temporary(path: str) -> str:
    return f"{path}{TEMPORARY}{uuid.uuid4().hex}"


def _write_local(path: str, data: bytes | memoryview) -> None:
    temporary = _temporary(path)
    try:
        file = open(temporary, "wb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:  # mostly the folder is there
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(temporary, "wb")  # noqa: SIM115
    with file:
        file.write(data)
    os.replace(temporary, path)


def _remove_local(path: str) -> None:
    try:
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.remove(path)
    except FileNotFoundError:
        pass


def read_checked(store: Store, relative: str, sha256: str) -> bytes:
    """Read a file and check that it is what was written.

    Raises:
        UserError: the file is missing or its bytes changed since the stage finished.
    """
    try:
        data = store.read(relative)
    except FileNotFoundError:
        raise missing(store, relative) from None
    if sha256_hex(data) != sha256:
        raise changed(store, relative, f"sha256 is {sha256_hex(data)[:12]}..., recorded {sha256[:12]}...")
    return data


def missing(store: Store, relative: str) -> UserError:
    """The error of a file of a finished stage that is not there."""
    return UserError(
        f"{store.url(relative)} is missing, but the stage that wrote it is recorded as finished",
        fix=_redo(store),
    )


def changed(store: Store, relative: str, how: str) -> UserError:
    """The error of a file of a finished stage that is not what was written."""
    return UserError(f"{store.url(relative)} has changed since it was written ({how})", fix=_redo(store))


def _redo(store: Store) -> str:
    return f"remove {store.url('stage.json')} and run again: the stage will be redone"


@contextmanager
def local_folder(store: Store, relative: str) -> Iterator[Path]:
    """A folder as a local path: itself when it is local, a temporary copy otherwise."""
    if store.local:
        yield Path(store.url(relative))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in store.files(relative):
            target = Path(temporary) / posixpath.relpath(name, relative)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.read(name))
        yield Path(temporary)
