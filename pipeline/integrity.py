"""Whether files are what was written: the shards of a manifest, sample by sample, and every part of every stage of a run.

Nothing is trusted but the hashes: the manifest is checked against its own fingerprint, an index and a tar against the
manifest, a sample against the index, and every other file of a run against the `stage.json` of its stage. Called by
`mixloom verify`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import fsspec

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import MANIFEST_NAME, ShardEntry, ShardManifest, find_manifest
from mixloom.pipeline.run import Part, RunDirectory, StageDirectory
from mixloom.pipeline.shards import INDEX_SUFFIX, load_index
from mixloom.pipeline.storage import Store

_CHUNK = 4 << 20
STAGE_FILE = "stage.json"


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not what was written.

    kind: missing, truncated, too_long, damaged (other bytes) or unreadable. shard and sample are set where they are known.
    """

    file: str
    kind: str
    what: str
    stage: str = ""
    shard: str = ""
    sample: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in one or several files."""

    files: int = 0
    bytes: int = 0
    damages: tuple[Damage, ...] = ()
    unfinished: tuple[str, ...] = ()  # stages that have not finished; their finished parts were checked

    def __add__(self, other: Checked) -> Checked:
        return Checked(
            self.files + other.files,
            self.bytes + other.bytes,
            self.damages + other.damages,
            self.unfinished + other.unfinished,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "whole": not self.damages,
            "files": self.files,
            "bytes": self.bytes,
            "damages": [asdict(d) for d in self.damages],
            "unfinished": list(self.unfinished),
        }


Job = Callable[[], Checked]
Progress = Callable[[Checked], None]


def check(path: str, workers: int = 1, progress: Progress | None = None) -> Checked:
    """Check a run directory, or a folder of shards, or the manifest.json of one.

    Args:
        workers: threads that read; they change the time only.
        progress: told what was found in each file, in the order of the files.

    Raises:
        UserError: the path is neither.
    """
    jobs = _jobs(path)
    total = Checked()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for found in pool.map(lambda job: job(), jobs):
            total += found
            if progress is not None:
                progress(found)
    return total


def verify_shard(directory: str | Path, entry: ShardEntry) -> None:
    """Raise UserError when a tar or its index is not what the manifest says; a changed byte is traced to its sample."""
    _raise_first(check_shard(str(directory), entry).damages)


def verify_shards(path: str | Path) -> ShardManifest:
    """Verify every shard of a manifest; returns the manifest. Raises UserError at the first that fails."""
    file = find_manifest(path)
    manifest = ShardManifest.load(file)
    for entry in manifest.shards:
        verify_shard(file.rsplit("/", 1)[0], entry)
    return manifest


def _raise_first(damages: Sequence[Damage]) -> None:
    if damages:
        first = damages[0]
        more = f" (and {len(damages) - 1} more)" if len(damages) > 1 else ""
        raise UserError(
            f"{first.what}{more}",
            fix=f"copy {first.shard or first.file} again from where it was written, or write the shards again",
        )


def _jobs(path: str) -> list[Job]:
    store = Store.at(path)
    if path.endswith(".json") or not _is_run(store):
        return _manifest_jobs(path)
    run = RunDirectory(store.root)
    names = [
        n for n in store.names() if store.exists(f"{n}/{STAGE_FILE}") or store.exists(f"{n}/progress.json")
    ]
    plan = run.plan()
    names.sort(key=lambda n: (plan.index(n) if n in plan else len(plan), n))
    return [job for name in names for job in _stage_jobs(run.stage(name))]


def _is_run(store: Store) -> bool:
    return store.exists("plan.json") or store.exists("config.yaml")


def _manifest_jobs(path: str) -> list[Job]:
    """Jobs for a folder of shards."""
    store = Store.at(path)
    tars = not path.endswith(".json") and any(n.endswith(".tar") for n in store.names())
    if tars and not store.exists(MANIFEST_NAME):
        what = f"{store.url(MANIFEST_NAME)} is missing: the tars cannot be checked"
        gone = Checked(1, 0, (Damage(MANIFEST_NAME, "missing", what),))
        return [lambda: gone]
    file = find_manifest(path)
    directory = file.rsplit("/", 1)[0]
    return _shard_jobs(directory, file, "")


def _shard_jobs(directory: str, file: str, stage: str) -> list[Job]:
    try:
        manifest = ShardManifest.load(file)
    except UserError as error:
        name = file.rsplit("/", 1)[-1]
        bad = Checked(1, 0, (Damage(name, "damaged", error.what, stage),))
        return [lambda: bad]
    size = len(Store.at(directory).read(file.rsplit("/", 1)[-1]))
    entries = [lambda e=e: _of_stage(check_shard(directory, e), stage) for e in manifest.shards]
    return [lambda: Checked(1, size), *entries]


def _of_stage(found: Checked, stage: str) -> Checked:
    prefix = f"{stage}/" if stage else ""
    damages = tuple(replace(d, stage=stage, file=prefix + d.file) for d in found.damages)
    return replace(found, damages=damages)


def _stage_jobs(directory: StageDirectory) -> Iterator[Job]:
    """Jobs for every file that a stage has recorded."""
    name, store = directory.name, directory.store
    unfinished: tuple[str, ...] = ()
    try:
        manifest = directory.manifest()
        if manifest is None:
            unfinished = (name,)
            units = directory.units()
            parts = [p for u in units for p in (*u.parts, *([u.rejects] if u.rejects else []))]
        else:
            parts = [*manifest.parts, *manifest.rejects]
            if store.read_json(STAGE_FILE).get("fingerprint") != manifest.fingerprint:
                raise UserError(f"{store.url(STAGE_FILE)} does not match its own fingerprint", fix="")
    except (UserError, KeyError, TypeError, ValueError) as error:
        what = (
            error.what if isinstance(error, UserError) else f"{store.url(STAGE_FILE)} cannot be read: {error}"
        )
        bad = Checked(1, 0, (Damage(f"{name}/{STAGE_FILE}", "damaged", what, name),))
        yield lambda: bad
        return
    yield lambda: Checked(1, 0, (), unfinished)
    tars: set[str] = set()
    if any(p.file == MANIFEST_NAME for p in parts) and (entries := _entries(store)):
        tars = {f for e in entries for f in (e.name, e.name + INDEX_SUFFIX)}
        yield from _shard_jobs(store.root, store.url(MANIFEST_NAME), name)[
            1:
        ]  # the manifest is a part like others
    for part in sorted(parts, key=lambda p: p.file):
        if part.file not in tars:
            yield lambda part=part: check_part(store, part, name)  # type: ignore[misc]


def _entries(store: Store) -> Sequence[ShardEntry]:
    try:
        return ShardManifest.load(store.url(MANIFEST_NAME)).shards
    except UserError:
        return ()


def check_part(store: Store, part: Part, stage: str = "") -> Checked:
    """Compare a file of a stage with its recorded size and sha256."""
    fs, root = fsspec.core.url_to_fs(store.root)
    path, name = f"{root}/{part.file}", f"{stage}/{part.file}" if stage else part.file
    if not fs.isfile(path):
        return Checked(1, 0, (Damage(name, "missing", f"{name} is missing", stage),))
    digest, size = hashlib.sha256(), 0
    try:
        with fs.open(path, "rb") as f:
            while data := f.read(_CHUNK):
                digest.update(data)
                size += len(data)
    except OSError as error:
        return Checked(1, size, (Damage(name, "unreadable", f"{name} cannot be read: {error}", stage),))
    if digest.hexdigest() == part.sha256:
        return Checked(1, size)
    kind, how = _difference(size, part.bytes)
    how = how or f"sha256 is {digest.hexdigest()[:12]}, recorded {part.sha256[:12]}"
    return Checked(1, size, (Damage(name, kind, f"{name} is {kind.replace('_', ' ')}: {how}", stage),))


def _difference(size: int, recorded: int) -> tuple[str, str]:
    """The kind of damage that a size tells, and how to say it."""
    if size == recorded:
        return "damaged", ""
    return ("truncated" if size < recorded else "too_long"), f"{size:,} bytes, {recorded:,} were written"


def check_shard(directory: str, entry: ShardEntry) -> Checked:
    """Compare a tar and its index with the manifest; what is wrong inside the tar is named by its samples."""
    fs, root = fsspec.core.url_to_fs(directory)
    name, path = entry.name, f"{root}/{entry.name}"
    damages: list[Damage] = []
    samples: list[dict[str, Any]] = []
    try:
        samples = load_index(directory, entry)["samples"]
    except (UserError, KeyError, TypeError, ValueError) as error:
        what = error.what if isinstance(error, UserError) else f"the index of {name} cannot be read: {error}"
        index = f"{name}{INDEX_SUFFIX}"
        kind = "damaged" if fs.isfile(f"{root}/{index}") else "missing"
        damages.append(Damage(index, kind, what, shard=name))
    if not fs.isfile(path):
        gone = Damage(name, "missing", f"shard {name} is missing", shard=name)
        return Checked(2, 0, (*damages, gone))
    size = int(fs.size(path))
    if size != entry.bytes:
        damages.append(_resized(name, size, entry.bytes, samples))
    digest, changed = hashlib.sha256(), 0
    try:
        with fs.open(path, "rb") as f:
            for sample in samples:
                data = f.read(int(sample["bytes"]))
                digest.update(data)
                if zlib.crc32(data) != sample["crc32"] and len(data) == sample["bytes"]:
                    key = str(sample["key"])
                    what = f"sample {key} of shard {name} is damaged: its bytes do not match their checksum"
                    damages.append(Damage(name, "damaged", what, shard=name, sample=key))
                    changed += 1
            while rest := f.read(_CHUNK):
                digest.update(rest)
    except OSError as error:
        damages.append(Damage(name, "unreadable", f"shard {name} cannot be read: {error}", shard=name))
        return Checked(2, size, tuple(damages))
    if digest.hexdigest() != entry.sha256 and size == entry.bytes and not changed:
        where = "the end of shard" if samples else "shard"
        how = f"sha256 is {digest.hexdigest()[:12]}, the manifest says {entry.sha256[:12]}"
        damages.append(Damage(name, "damaged", f"{where} {name} is damaged: {how}", shard=name))
    return Checked(2, size, tuple(damages))


def _resized(name: str, size: int, recorded: int, samples: list[dict[str, Any]]) -> Damage:
    kind, how = _difference(size, recorded)
    lost = [str(s["key"]) for s in samples if int(s["offset"]) + int(s["bytes"]) > size]
    said = f"; {len(lost)} of {len(samples)} samples are lost, from {lost[0]} on" if lost else ""
    what = f"shard {name} is {kind.replace('_', ' ')}: {how}{said}"
    return Damage(name, kind, what, shard=name, sample=lost[0] if lost else "")
