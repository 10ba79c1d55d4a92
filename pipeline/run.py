"""The run directory: one folder per stage, written unit by unit, resumable after any interruption.

    run/config.yaml                 the resolved configuration
    run/<stage>/part-*.parquet      outputs, zstd; written under a temporary name, then renamed
    run/<stage>/rejects/*.parquet   every dropped or failed document (schema `REJECTS`)
    run/<stage>/_progress/*.json    one record per finished unit while the stage runs
    run/<stage>/stage.json          written last: key, inputs, counts, parts with rows, bytes and sha256, times

A stage is finished when its `stage.json` exists; it is current when the key in it is the key asked for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ledger import Counts
from mixloom.pipeline.parquet_encoding import encodings
from mixloom.pipeline.storage import (
    TEMPORARY,
    Store,
    canonical_json,
    changed,
    missing,
    read_checked,
    sha256_hex,
)

PROGRESS = "_progress"
PLAN = "plan.json"
FORMAT_VERSION = 1
SMALL_FILE = 1 << 16  # bytes up to which reading a file whole takes no longer than reading some columns


@dataclass(frozen=True, slots=True)
class Part:
    """One output file of a stage. `name` links the parts of different stages that hold the same documents."""

    name: str
    file: str
    rows: int
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """What one finished unit of work wrote and counted."""

    unit: str
    parts: list[Part]
    rejects: Part | None
    counts: Counts
    seconds: float
    info: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "parts": [p.to_json() for p in self.parts],
            "rejects": self.rejects.to_json() if self.rejects else None,
            "counts": self.counts.to_json(),
            "seconds": self.seconds,
            "info": self.info,
        }

    @classmethod
    def from_json(cls, v: dict[str, Any]) -> UnitRecord:
        rejects = Part(**v["rejects"]) if v["rejects"] else None
        parts = [Part(**p) for p in v["parts"]]
        return cls(v["unit"], parts, rejects, Counts.from_json(v["counts"]), v["seconds"], v["info"])


@dataclass(frozen=True, slots=True)
class StageManifest:
    """The content of `stage.json`."""

    stage: str
    key: str
    inputs: dict[str, str]
    config: dict[str, Any]
    counts: Counts
    parts: list[Part]
    rejects: list[Part]
    units: int
    started: float
    seconds: float
    slowest: dict[str, Any]
    info: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Over what the stage wrote (not when, nor how): two runs with equal outputs have equal fingerprints."""
        files = sorted((p.name, p.sha256) for p in self.parts)
        return sha256_hex(canonical_json([self.stage, files, sorted(p.sha256 for p in self.rejects)]))

    def part(self, name: str) -> Part:
        for p in self.parts:
            if p.name == name:
                return p
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        out = {name: getattr(self, name) for name in self.__slots__}
        out["counts"] = self.counts.to_json()
        out["parts"] = [p.to_json() for p in self.parts]
        out["rejects"] = [p.to_json() for p in self.rejects]
        return {"format": FORMAT_VERSION, "fingerprint": self.fingerprint, **out}

    @classmethod
    def from_json(cls, v: dict[str, Any]) -> StageManifest:
        fields = {name: v[name] for name in cls.__slots__}
        fields["counts"] = Counts.from_json(v["counts"])
        fields["parts"] = [Part(**p) for p in v["parts"]]
        fields["rejects"] = [Part(**p) for p in v["rejects"]]
        return cls(**fields)


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """A table as a single record batch (also when it has no rows)."""
    combined = table.combine_chunks()
    batches = combined.to_batches()
    if not batches:
        return pa.RecordBatch.from_pylist([], schema=table.schema)
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def parquet_bytes(table: pa.Table, row_groups: list[int] | None = None) -> memoryview:
    """Serialise a table deterministically; `row_groups` gives the rows of each row group (default: one)."""
    table = table.replace_schema_metadata(None)
    # Not io.BytesIO, which grows by an eighth at a time: that took up to half of the time.
    sink = pa.BufferOutputStream()
    # Page checksums let a reader that takes only some row groups still notice a damaged file.
    options: dict[str, Any] = {**encodings(table), "write_page_checksum": True}
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        start = 0
        for rows in row_groups if row_groups is not None else [table.num_rows]:
            writer.write_table(table.slice(start, rows), row_group_size=max(rows, 1))
            start += rows
    return memoryview(sink.getvalue())


@dataclass(frozen=True, slots=True)
class PartReader:
    """Reads the parts of one finished stage, checked. Small and picklable, for use inside workers."""

    store: Store
    parts: dict[str, Part]

    def __contains__(self, name: str) -> bool:
        return name in self.parts

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a whole part, whose sha256 is verified, or some columns of it, whose pages are verified by their checksums."""
        # Not `read_table`, which sets up a scan of a data set: half a millisecond for each of many small parts.
        if columns is not None and self.store.local and self.parts[name].bytes > SMALL_FILE:
            with self._opened(name) as file:
                return file.read(columns=columns, use_threads=False)
        file = pq.ParquetFile(pa.BufferReader(self.read_bytes(name)))
        return file.read(columns=columns, use_threads=False)

    def read_bytes(self, name: str) -> bytes:
        """Read a part that is no table (a manifest, a fitted model); its sha256 is verified."""
        return read_checked(self.store, self.parts[name].file, self.parts[name].sha256)

    def read_where(self, name: str, column: str, value: int, columns: list[str]) -> tuple[pa.Table, int]:
        """Read only the row groups of a part whose `column` is `value` throughout.

        The file must have been written with one row group per value. Pages are verified by their checksums.

        Returns:
            The rows, and the row number of the first of them in the part (0 when there are none).
        """
        with self._opened(name) as file:
            at = file.schema_arrow.get_field_index(column)
            start = first = 0
            groups: list[int] = []
            for g in range(file.num_row_groups):
                group = file.metadata.row_group(g)
                statistics = group.column(_leaf(file, at)).statistics
                if statistics is not None and statistics.min == value == statistics.max:
                    first = first if groups else start
                    groups.append(g)
                start += group.num_rows
            return file.read_row_groups(groups, columns=columns, use_threads=False), first

    def read_rows(self, name: str, rows: np.ndarray, columns: list[str]) -> pa.Table:
        """Read some rows of a part (ascending row numbers), touching only the row groups that hold them."""
        with self._opened(name) as file:
            sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            group_of = np.searchsorted(starts, rows, side="right") - 1
            groups = np.unique(group_of)
            table = file.read_row_groups(groups.tolist(), columns=columns, use_threads=False)
            base = np.zeros(len(sizes), np.int64)
            base[groups] = np.concatenate([[0], np.cumsum(np.asarray(sizes)[groups])])[:-1]
            return table.take(pa.array(base[group_of] + rows - starts[group_of]))

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[pq.ParquetFile]:
        file, local = self.parts[name].file, self.store.local
        url = self.store.url(file)
        try:
            with pa.OSFile(url) if local else fsspec.open(url, "rb") as f:
                if local and f.size() != self.parts[name].bytes:
                    raise OSError(f"it has {f.size()} bytes, recorded are {self.parts[name].bytes}")
                yield pq.ParquetFile(f, page_checksum_verification=True, pre_buffer=not local)
        except FileNotFoundError:
            raise missing(self.store, file) from None
        except (OSError, pa.ArrowException) as e:
            raise changed(self.store, file, " ".join(str(e).split())) from None


def _leaf(file: pq.ParquetFile, field_index: int) -> int:
    """Column index in the row group metadata of a flat top-level field."""
    name = file.schema_arrow.field(field_index).name
    return next(i for i in range(len(file.schema)) if file.schema.column(i).path == name)


class StageDirectory:
    """The folder of one stage."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self.store = store

    def manifest(self) -> StageManifest | None:
        """The manifest of the finished stage, or None.

        Raises:
            UserError: `stage.json` is not what was written.
        """
        if not self.store.exists("stage.json"):
            return None
        try:
            value = self.store.read_json("stage.json")
            if value.get("format") != FORMAT_VERSION:
                return None  # written by another version of the format: the stage is redone
            return StageManifest.from_json(value)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise changed(self.store, "stage.json", "it cannot be read as a manifest") from None

    def intact(self, manifest: StageManifest) -> bool:
        """Whether every file the manifest lists is there with its size (content is verified when read)."""
        files = [*manifest.parts, *manifest.rejects]
        return all(self.store.exists(p.file) and self.store.size(p.file) == p.bytes for p in files)

    def progress(self) -> dict[str, Any] | None:
        """What a running (or interrupted) stage recorded at its start: key, total, started."""
        try:
            return dict(self.store.read_json("progress.json"))
        except (FileNotFoundError, ValueError):
            return None

    def units(self) -> list[UnitRecord]:
        """Records of the units finished so far, by name."""
        names = [n for n in self.store.names(PROGRESS) if n.endswith(".json")]
        return [UnitRecord.from_json(self.store.read_json(f"{PROGRESS}/{n}")) for n in names]

    def finished_units(self) -> int:
        return sum(1 for n in self.store.names(PROGRESS) if n.endswith(".json"))

    def begin(self, key: str) -> None:
        """Start or continue. Units finished under another key are thrown away with everything they wrote."""
        previous = self.progress()
        if self.store.exists("stage.json") or previous is None or previous["key"] != key:
            self.store.remove("stage.json")  # first, so that a stage half wiped never looks finished
            for name in self.store.names():
                self.store.remove(name)
        else:  # leftovers of a killed process
            for name in self.store.files():
                if TEMPORARY in name:
                    self.store.remove(name)
        if previous is None or previous["key"] != key:
            self.store.write_json("progress.json", {"key": key, "total": None, "started": time.time()})

    def set_total(self, total: int, done: int | None = None) -> None:
        """Record how many units there are; `done` for work that leaves no record per unit (training steps)."""
        known = {"total": total} if done is None else {"total": total, "done": done}
        self.store.write_json("progress.json", {**(self.progress() or {}), **known})

    def write_table(self, file: str, name: str, table: pa.Table, row_groups: list[int] | None = None) -> Part:
        data = parquet_bytes(table, row_groups)
        self.store.write(file, data)
        return Part(name, file, table.num_rows, len(data), sha256_hex(data))

    def write_file(self, file: str, data: bytes, rows: int = 0) -> Part:
        """Write any other file of the stage (a fitted model, a shard's index)."""
        self.store.write(file, data)
        return Part(file, file, rows, len(data), sha256_hex(data))

    def commit(self, record: UnitRecord) -> None:
        self.store.write(f"{PROGRESS}/{record.unit}.json", canonical_json(record.to_json()))

    def finish(self, manifest: StageManifest) -> None:
        self.store.write_json("stage.json", manifest.to_json())
        self.store.remove(PROGRESS)
        self.store.remove("progress.json")

    def reader(self) -> PartReader:
        manifest = self.manifest()
        if manifest is None:
            raise UserError(
                f"{self.store.root}: the stage '{self.name}' has not finished",
                fix="run `mixloom run` on this run directory first",
            )
        return PartReader(self.store, {p.name: p for p in manifest.parts})


class RunDirectory:
    """A run: its stages, its configuration, and a lock against two processes writing at once."""

    def __init__(self, root: str) -> None:
        self.store = Store.at(root)

    @classmethod
    def existing(cls, root: str) -> RunDirectory:
        """Open a run that must be there.

        Raises:
            UserError: nothing there, or not a run directory.
        """
        run = cls(root)
        if not run.store.exists("config.yaml"):
            what = (
                "does not exist"
                if not run.store.exists("")
                else "is not a run directory (it has no config.yaml)"
            )
            raise UserError(
                f"{run.store.root} {what}", fix="name the run_dir of a `mixloom run` or `mixloom demo`"
            )
        return run

    def stage(self, name: str) -> StageDirectory:
        return StageDirectory(self.store.child(name), name)

    def plan(self) -> list[str]:
        """The stages of the run, in order, and then the trainings that were added to it."""
        plan = self._plan()
        return [*plan["stages"], *(t for t in plan["trainings"] if t not in plan["stages"])]

    def _plan(self) -> dict[str, list[str]]:
        empty: dict[str, list[str]] = {"stages": [], "trainings": []}
        if not self.store.exists(PLAN):
            return empty
        try:
            return {**empty, **self.store.read_json(PLAN)}
        except (TypeError, ValueError):
            raise UserError(
                f"{self.store.url(PLAN)} is damaged", fix="remove it and run `mixloom run` again"
            ) from None

    def save_plan(self, stages: Sequence[str] | None = None, training: str | None = None) -> None:
        """Record the stages of the run, or one more training on its shards (written only when that changes it).

        Raises:
            UserError: a folder of that name holds something else than a training.
        """
        old = self._plan()
        new_training = training is not None and training not in old["trainings"]
        if training and new_training and (training in old["stages"] or self.store.exists(training)):
            raise UserError(
                f"a training cannot be named '{training}': {self.store.url(training)} belongs to the run itself",
                fix=f"choose another name, for example name={training}-2",
            )
        new = {
            "stages": old["stages"] if stages is None else list(stages),
            "trainings": sorted({*old["trainings"], *([training] if training else [])}),
        }
        if new != old or not self.store.exists(PLAN):
            self.store.write_json(PLAN, new)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process (local run directories only; freed by the system if we are killed).

        Raises:
            UserError: another process holds it, or nothing can be written there.
        """
        if not self.store.local:
            yield
            return
        import fcntl

        with self._lock_file() as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is running in {self.store.root}",
                    fix="wait for it (`mixloom status` shows its progress) or use another run_dir",
                ) from None
            yield

    def _lock_file(self) -> IO[bytes]:
        try:
            os.makedirs(self.store.root, exist_ok=True)
            return open(self.store.url(".lock"), "ab")
        except OSError as e:
            why = "it is a file" if os.path.isfile(self.store.root) else e.strerror
            raise UserError(
                f"the run directory {self.store.root} cannot be written: {why}",
                fix="set run_dir to a folder this user may write",
            ) from None

    def locked(self) -> bool:
        """Whether a process is working in this run now (always False for a remote run directory)."""
        if not self.store.local or not self.store.exists(".lock"):
            return False
        try:
            with self.lock():
                return False
        except UserError:
            return True
