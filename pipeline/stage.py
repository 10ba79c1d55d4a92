"""What a stage is, and how one is run: keyed, resumable unit by unit, and accounted for.

A stage declares its name, a version of its code's behaviour, its configuration and the stages it reads.
`key = hash(name, version, configuration, fingerprints of the inputs)`: the same key means the same bytes.
"""

from __future__ import annotations

import posixpath
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from mixloom.pipeline import ledger
from mixloom.pipeline.console import Advance, Console
from mixloom.pipeline.ledger import Counts
from mixloom.pipeline.overlay import EditedMedia, edited_annotations, edited_documents, edited_media
from mixloom.pipeline.run import Part, PartReader, RunDirectory, StageDirectory, StageManifest, UnitRecord
from mixloom.pipeline.storage import canonical_json, sha256_hex

if TYPE_CHECKING:
    import apache_beam as beam


REPORT_INTERVAL = 3.0  # seconds between two notes on the progress of a long loop
COUNTING_SHARE = 50  # counting finished parts takes at most one part in so many of the time


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How to run, never what to compute: nothing here may change a byte of any output (but `seed`)."""

    seed: int = 0
    workers: int = 1
    runner_args: tuple[str, ...] = ()
    max_failed_share: float = 0.01


@dataclass(frozen=True, slots=True)
class OutputTable:
    """A table to be written as one part. `row_groups` gives the rows of each row group (default: one)."""

    name: str
    table: pa.Table
    row_groups: list[int] | None = None


@dataclass(frozen=True, slots=True)
class UnitOutput:
    """Everything one unit of work produced; written and recorded atomically by the engine.

    `files` are parts the unit has already written itself (shards). `kept` is the number of documents that
    passed; with the rejects it gives the unit's counts.
    """

    unit: str
    tables: tuple[OutputTable, ...] = ()
    rejects: pa.Table | None = None
    kept: int = 0
    files: tuple[Part, ...] = ()
    info: dict[str, Any] | None = None
    seconds: float = 0.0


class Stage(ABC):
    """One step of a run. Subclasses set the class variables and implement `settings` and `execute`."""

    name: ClassVar[str]
    version: ClassVar[int]
    inputs: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()
    """Stages before this one that changed documents; set by the recipe, read through `StageContext.documents`."""
    parallelism: ClassVar[str] = "threads"
    """"threads" where the work releases the GIL, "processes" otherwise."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that may change the output, as plain JSON values; part of the stage's key."""

    @abstractmethod
    def execute(self, ctx: StageContext) -> None:
        """Do the work through the context. Called only when the stage is not current."""

    def info_of(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """What the manifest tells beside the counts: by default what each unit told, by unit."""
        return {r.unit: r.info for r in records if r.info}

    def expected_in(self, ctx: StageContext) -> int | None:
        """Documents that must be accounted for: by default those its first input kept."""
        return ctx.manifest(self.inputs[0]).counts.kept if self.inputs else None


@dataclass(slots=True)
class StageContext:
    """What a stage may use: its folder, the finished stages before it, and the engine."""

    run: RunDirectory
    directory: StageDirectory
    stage: Stage
    settings: RunSettings
    console: Console
    manifests: dict[str, StageManifest]
    _mark: float = field(default_factory=time.perf_counter)  # when the work of this process began

    def manifest(self, stage: str) -> StageManifest:
        return self.manifests[stage]

    def reader(self, stage: str) -> PartReader:
        m = self.manifests[stage]
        return PartReader(self.run.stage(stage).store, {p.name: p for p in m.parts})

    def part_names(self, stage: str) -> list[str]:
        """The parts of a stage; tables beside them, which lie in folders of their own, are not among them."""
        return [p.name for p in self.manifests[stage].parts if "/" not in p.name]

    def documents(self) -> PartReader:
        """The documents as they are for this stage: what ingest wrote, with all edits since."""
        return edited_documents(self.reader("ingest"), [self.reader(e) for e in self.stage.edits])

    def annotations(self) -> PartReader:
        """The annotations of the documents as they are for this stage."""
        return edited_annotations(self.reader("annotate"), [self.reader(e) for e in self.stage.edits])

    def media(self) -> EditedMedia:
        """The measures of images and recordings, by the names of the parts of their documents."""
        return edited_media(self.reader("annotate"), [self.reader(e) for e in self.stage.edits])

    def todo(self, units: Sequence[str]) -> list[str]:
        """The units not finished yet by an interrupted run of this very stage."""
        done = {u.unit for u in self.directory.units()}
        return [u for u in units if u not in done]

    def beam(self, build: Callable[[beam.Pipeline], Any], units: int | None = None) -> None:
        """Run one Beam pipeline. With `units`, its transforms end in `Commit` and progress is shown."""
        from mixloom.pipeline.engine import run_pipeline

        if units is not None:
            self.directory.set_total(units)
        with self.console.progress(self.stage.name) as advance:
            asked = 0.0  # when finished units may be counted next: with many parts that takes a while

            def count() -> None:
                nonlocal asked
                began = time.monotonic()
                if began >= asked:
                    advance(self.directory.finished_units(), units or None)
                    asked = time.monotonic() + COUNTING_SHARE * (time.monotonic() - began)

            poll = count if units is not None else None
            run_pipeline(
                build, self.settings.workers, self.settings.runner_args, self.stage.parallelism, poll
            )
        self._mark = time.perf_counter()

    @contextmanager
    def steps(self, title: str) -> Iterator[Advance]:
        """Progress of a loop in this process: on the console, and every few seconds for `mixloom status`."""
        reported = time.monotonic()

        def advance(done: int, total: int | None) -> None:
            nonlocal reported
            show(done, total)
            if total and time.monotonic() - reported > REPORT_INTERVAL:
                reported = time.monotonic()
                self.directory.set_total(total, done)

        with self.console.progress(title) as show:
            yield advance

    def save_model(self, folder: str, save: Callable[[Path], object]) -> tuple[Part, ...]:
        """Let `save` write a model into a local folder, then store its files under `folder` of this stage."""
        with tempfile.TemporaryDirectory() as temporary:
            save(Path(temporary))
            files = sorted(p for p in Path(temporary).rglob("*") if p.is_file())
            named = [
                (posixpath.join(folder, p.relative_to(temporary).as_posix()), p.read_bytes()) for p in files
            ]
        return tuple(self.directory.write_file(name, data) for name, data in named)

    def commit(self, output: UnitOutput) -> None:
        """Write and record a unit from this process (for the global steps of a stage), with the time it took."""
        seconds = output.seconds or time.perf_counter() - self._mark
        commit_unit(self.directory, replace(output, seconds=seconds))
        self._mark = time.perf_counter()


def commit_unit(directory: StageDirectory, output: UnitOutput) -> UnitRecord:
    """Write a unit's tables and rejects, then its record. Writing it twice gives the same files."""
    started = time.perf_counter()
    parts = [directory.write_table(f"{t.name}.parquet", t.name, t.table, t.row_groups) for t in output.tables]
    rejects = None
    if output.rejects is not None and output.rejects.num_rows:
        rejects = directory.write_table(f"rejects/{output.unit}.parquet", output.unit, output.rejects)
    counts = ledger.counts_of(output.kept, output.rejects)
    seconds = output.seconds + time.perf_counter() - started
    all_parts = [*parts, *output.files]
    record = UnitRecord(output.unit, all_parts, rejects, counts, round(seconds, 4), output.info or {})
    directory.commit(record)
    return record


def stage_key(stage: Stage, inputs: dict[str, str]) -> str:
    return sha256_hex(canonical_json([stage.name, stage.version, stage.settings(), sorted(inputs.items())]))


def _rejects(directory: StageDirectory, parts: list[Part]) -> pa.Table | None:
    tables = [pq.read_table(pa.BufferReader(directory.store.read(p.file))) for p in parts]
    return pa.concat_tables(tables) if tables else None


def run_stage(
    stage: Stage,
    run: RunDirectory,
    settings: RunSettings,
    console: Console,
    manifests: dict[str, StageManifest],
) -> tuple[StageManifest, bool]:
    """Bring one stage up to date.

    Returns:
        Its manifest, and whether any work was done (False: it was current already).

    Raises:
        UserError: more documents failed than allowed; the ledger of the stage stays for inspection.
    """
    directory = run.stage(stage.name)
    inputs = {name: manifests[name].fingerprint for name in (*stage.inputs, *stage.edits)}
    key = stage_key(stage, inputs)
    current = directory.manifest()
    if current is not None and current.key == key and directory.intact(current):
        return current, False
    started = time.time()
    resumed = (directory.progress() or {}).get("key") == key and directory.finished_units()
    directory.begin(key)
    if resumed:
        console.say(f"{stage.name}: continuing; {resumed} finished units are kept")
    ctx = StageContext(run, directory, stage, settings, console, manifests)
    stage.execute(ctx)
    records = directory.units()
    counts: Counts = ledger.total(r.counts for r in records)
    ledger.check_conservation(stage.name, counts, stage.expected_in(ctx))
    rejects = [r.rejects for r in records if r.rejects]
    if counts.failed:
        table = _rejects(directory, rejects)
        examples = ledger.failure_examples(table) if table is not None else []
        where = directory.store.url("rejects")
        ledger.check_failures(stage.name, counts, settings.max_failed_share, where, examples)
    slowest = max(records, key=lambda r: r.seconds, default=None)
    manifest = StageManifest(
        stage=stage.name,
        key=key,
        inputs=inputs,
        config=stage.settings(),
        counts=counts,
        parts=sorted((p for r in records for p in r.parts), key=lambda p: p.name),
        rejects=sorted(rejects, key=lambda p: p.name),
        units=len(records),
        started=started,
        seconds=round(time.time() - started, 2),
        slowest={"unit": slowest.unit, "seconds": slowest.seconds} if slowest else {},
        info=stage.info_of(records),
    )
    directory.finish(manifest)
    return manifest, True
