"""Shards that lie elsewhere: copied one by one into a bounded folder on the local disk, and checked on the way.

A tar is copied when it is first asked for, under a temporary name, compared with the sha256 of the manifest and then
renamed, so a file in the folder is always whole. Where the folder would grow beyond its bound, the tars that were used
least recently go; a tar that a process has mapped stays readable for it. Any number of processes may share a folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import fsspec

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import MANIFEST_NAME, ShardEntry, ShardManifest, find_manifest
from mixloom.pipeline.shards import INDEX_SUFFIX

T = TypeVar("T")

CACHE_BYTES = 50 * 10**9
ATTEMPTS, PAUSE, LONGEST_PAUSE = 5, 0.5, 8.0  # tries, seconds before the second one, and the most between two
_CHUNK = 1 << 22
_INDEX_THREADS = 8


def default_folder() -> Path:
    """Where copies lie when nothing else is said: mixloom/shards in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "mixloom" / "shards"


def is_local(path: str | Path) -> bool:
    """Whether a path or URL is on the local file system."""
    text = str(path)
    return "://" not in text or text.startswith(("file://", "local://"))


def shown(url: str) -> str:
    """A URL as it may stand in an error: without user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def retried(
    read: Callable[[], T],
    url: str,
    *,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """What `read` gives, tried again after growing pauses where the other side fails.

    Raises:
        UserError: the file is not there, the file system is not installed, or every attempt failed.
    """
    pause, last = PAUSE, ""
    for attempt in range(attempts):
        if attempt:
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        try:
            return read()
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(
                f"{shown(url)} is missing",
                fix="copy every file named in the manifest there, or mend the address",
            ) from None
        except ImportError as error:
            raise UserError(
                f"{shown(url)} cannot be opened: {error}",
                fix="install the file system it needs: s3fs for s3://, gcsfs for gs://, aiohttp for http(s)://",
            ) from None
        except Exception as error:  # every file system has errors of its own
            last = f"{type(error).__name__}: {error}".splitlines()[0]
    raise UserError(
        f"{shown(url)} could not be read in {attempts} attempts; the last one said {last}",
        fix="check the network, the address and the credentials; what was copied already stays in the cache",
    )


class ShardCache:
    """Local copies of the shards of one remote manifest.

    Args:
        url: the remote folder of the shards, as fsspec takes it.
        manifest: what lies there.
        folder: the local folder; several manifests may share it, each in a folder named by its fingerprint.
        cache_bytes: most bytes of tars kept in `folder`.
        sleep: how to wait between attempts.

    Raises:
        UserError: a shard larger than `cache_bytes`.
    """

    def __init__(
        self,
        url: str,
        manifest: ShardManifest,
        folder: str | Path,
        cache_bytes: int = CACHE_BYTES,
        *,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        largest = max(manifest.shards, key=lambda e: e.bytes)
        if largest.bytes > cache_bytes:
            raise UserError(
                f"cache_bytes is {cache_bytes:,}, but shard {largest.name} has {largest.bytes:,} bytes",
                fix=f"set cache_bytes to at least {largest.bytes:,}; room for every shard in use is best",
            )
        self.url, self.manifest, self.cache_bytes = url.rstrip("/"), manifest, cache_bytes
        self.root = Path(folder)
        self.folder = self.root / manifest.fingerprint[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sleep = sleep
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._ahead: ThreadPoolExecutor | None = None
        self._asked: dict[str, Future[Path]] = {}
        self._lock = threading.Lock()

    def indexes(self) -> Path:
        """The folder with the index of every shard; those that are missing are copied, several at once.

        Raises:
            UserError: an index that cannot be had, or is not the one the manifest names.
        """
        missing = [e for e in self.manifest.shards if not (self.folder / f"{e.name}{INDEX_SUFFIX}").exists()]
        with ThreadPoolExecutor(_INDEX_THREADS) as pool:
            for _ in pool.map(self._index, missing):
                pass
        return self.folder

    def _index(self, entry: ShardEntry) -> Path:
        return self._copied(f"{entry.name}{INDEX_SUFFIX}", entry.index_sha256, None)

    def tar(self, entry: ShardEntry) -> Path:
        """The local copy of a tar, made where there is none; it may be removed again once others are asked for.

        Raises:
            UserError: the tar cannot be had, or is not the one the manifest names.
        """
        path = self.folder / entry.name
        if not self.used(entry):
            return self._copied(entry.name, entry.sha256, entry.bytes)
        return path

    def used(self, entry: ShardEntry) -> bool:
        """Note that a tar is in use, so that others go before it; False where there is no copy of it."""
        try:
            os.utime(self.folder / entry.name)
        except FileNotFoundError:
            return False
        return True

    def expect(self, entries: Iterable[ShardEntry]) -> None:
        """Begin to copy tars that will be asked for, in a thread; an error shows when the tar is asked for.

        Only as many as half of the cache holds: more would push out what is in use.
        """
        if self._pid != os.getpid():
            self._begin()  # after a fork: threads are not inherited, and a lock may be held by one that is gone
        room = self.cache_bytes // 2
        for entry in entries:
            room -= entry.bytes
            if room < 0:
                return
            with self._lock:
                old = self._asked.get(entry.name)
                if (old is not None and not old.done()) or (self.folder / entry.name).exists():
                    continue
                if self._ahead is None:
                    self._ahead = ThreadPoolExecutor(1, thread_name_prefix="shards")
                self._asked[entry.name] = self._ahead.submit(self.tar, entry)

    def _copied(self, name: str, sha256: str, size: int | None) -> Path:
        path = self.folder / name
        with locked(self.folder / f".{name}.lock"):
            if path.exists():  # another process has copied it while this one waited
                return path
            for stale in self.folder.glob(f".{name}.*.tmp"):
                stale.unlink(missing_ok=True)  # of a process that died: nobody else holds the lock
            temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
            if size is not None:
                self._make_room(size, temporary)
            try:
                self._download(name, temporary, sha256)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return path

    def _download(self, name: str, temporary: Path, sha256: str) -> None:
        url = f"{self.url}/{name}"

        def copy() -> None:
            fs, inside = fsspec.core.url_to_fs(url)
            digest, size = hashlib.sha256(), 0
            mode = "r+b" if temporary.exists() else "wb"
            with fs.open(inside, "rb") as source, temporary.open(mode) as target:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    size += target.write(chunk)
                target.truncate(size)
            if sha256 and digest.hexdigest() != sha256:
                raise OSError(f"its sha256 is {digest.hexdigest()[:12]}, the manifest says {sha256[:12]}")

        retried(copy, url, sleep=self._sleep)

    def _make_room(self, size: int, reserved: Path) -> None:
        """Remove the tars used least recently until `size` more bytes fit, and reserve them.

        What others are copying counts too. Where several processes copy more at once than may be kept, the
        folder holds that much until the next copy.
        """
        with locked(self.root / ".room.lock"):
            kept: list[tuple[int, int, Path]] = []
            for tar in (*self.root.glob("*/*.tar"), *self.root.glob("*/.*.tar.*.tmp")):
                with suppress(FileNotFoundError):
                    about = tar.stat()
                    kept.append((about.st_mtime_ns, about.st_size, tar))
            total = size + sum(n for _, n, _ in kept)
            for _, n, tar in sorted(kept):
                if total <= self.cache_bytes:
                    break
                if tar.suffix == ".tar":
                    tar.unlink(missing_ok=True)
                    total -= n
            with reserved.open("wb") as f:
                f.truncate(size)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, which the system lets go of when a process dies. Threads wait for each other too."""
    with path.open("a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def remote_manifest(path: str) -> tuple[str, ShardManifest]:
    """The URL of the folder with a manifest, and the manifest.

    Raises:
        UserError: no manifest there, or it cannot be read.
    """

    def read() -> tuple[str, ShardManifest]:
        try:
            file = find_manifest(path)
        except UserError:
            # Some file systems say of a server that does not answer that the file is not there.
            first = path if path.endswith(".json") else f"{path.rstrip('/')}/{MANIFEST_NAME}"
            fs, inside = fsspec.core.url_to_fs(first)
            with suppress(FileNotFoundError):
                fs.cat_file(inside, 0, 1)
            raise
        return file.rsplit("/", 1)[0], ShardManifest.load(file)

    return retried(read, path)
