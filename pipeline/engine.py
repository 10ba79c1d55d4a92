"""The engine: Apache Beam over Arrow record batches.

An element is one part: a record batch of some thousand documents, with the part's name in its schema
metadata. A run works on Beam's `FnApiRunner` by name (plain `DirectRunner` first tries to download Prism);
any other runner is chosen with Beam's own flags.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
import pickle
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import environments

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.graph import Spread, Work, each
from mixloom.pipeline.interrupts import stop_if_asked
from mixloom.pipeline.run import PartReader, StageDirectory, one_batch
from mixloom.pipeline.stage import UnitOutput, commit_unit

PART_KEY = b"mixloom.part"
STARTED_KEY = b"mixloom.started"
WATCHDOG_SECONDS = 10.0
_RUN = 50  # rows in a run, on average, from which on cutting is faster than taking


class RecordBatchCoder(coders.Coder):
    """Arrow IPC for record batches: a pickled slice would carry its whole parent buffer."""

    def encode(self, value: pa.RecordBatch) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_batch(value)
        return bytes(sink.getvalue().to_pybytes())

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        with pa.ipc.open_stream(encoded) as reader:
            return reader.read_next_batch()

    def estimate_size(self, value: pa.RecordBatch) -> int:
        # Beam asks this of many elements for its metrics; its own answer is to encode the batch once more.
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> Any:
        return pa.RecordBatch


coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)


class UnitOutputCoder(coders.Coder):
    """Pickled units of work. Transforms that give them name their type, or Beam pickles many of them to learn their size."""

    def encode(self, value: UnitOutput) -> bytes:
        return pickle.dumps(value, protocol=5)

    def decode(self, encoded: bytes) -> UnitOutput:
        found: UnitOutput = pickle.loads(encoded)
        return found

    def estimate_size(self, value: UnitOutput) -> int:
        return sum(t.table.nbytes for t in value.tables) + (
            0 if value.rejects is None else value.rejects.nbytes
        )

    def to_type_hint(self) -> Any:
        return UnitOutput


coders.registry.register_coder(UnitOutput, UnitOutputCoder)


def part_of(batch: pa.RecordBatch) -> str:
    """The name of the part a batch holds."""
    return str((batch.schema.metadata or {})[PART_KEY].decode())


def with_part(batch: pa.RecordBatch, part: str, started: float | None = None) -> pa.RecordBatch:
    """The batch with the part's name (and when work on it began) in its schema metadata."""
    metadata = {PART_KEY: part.encode(), STARTED_KEY: repr(started or time.time()).encode()}
    return batch.replace_schema_metadata(metadata)


def like(batch: pa.RecordBatch, source: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` with the part address of `source`: every stage's output stays with its part."""
    return batch.replace_schema_metadata({**(batch.schema.metadata or {}), **(source.schema.metadata or {})})


def seconds_since_start(batch: pa.RecordBatch) -> float:
    started = float((batch.schema.metadata or {}).get(STARTED_KEY, b"0"))
    return max(0.0, time.time() - started) if started else 0.0


class ReadPart:
    """Reads a part by its name, as `ReadParts` does; picklable."""

    def __init__(
        self, reader: PartReader, columns: list[str] | None = None, survivors: PartReader | None = None
    ) -> None:
        self._reader, self._columns, self._survivors = reader, columns, survivors

    def __call__(self, part: str) -> pa.RecordBatch:
        started = time.time()
        return with_part(read_part(part, self._reader, self._columns, self._survivors), part, started)


def read_part(
    part: str, reader: PartReader, columns: list[str] | None = None, survivors: PartReader | None = None
) -> pa.RecordBatch:
    """Read a part; with `survivors`, only the rows still alive, with their row number in a column `row`."""
    table = reader.read(part, columns)
    if survivors is not None:
        rows = survivors.read(part, ["row"])["row"]
        if len(rows) < table.num_rows:  # they ascend, so as many rows are all rows
            table = _ascending(table, np.asarray(rows))
        if "row" not in table.column_names:
            table = table.append_column("row", rows)
    return one_batch(table)


def _ascending(table: pa.Table, rows: npt.NDArray[np.int32]) -> pa.Table:
    """Some rows of a table, which ascend: where few are missing cut out run by run, which copies a text once, not twice."""
    stops = np.append(np.flatnonzero(np.diff(rows) > 1) + 1, len(rows)).tolist()
    if len(stops) * _RUN > len(rows):
        return table.take(pa.array(rows))
    return pa.concat_tables([table.slice(int(rows[a]), b - a) for a, b in pairwise([0, *stops])])


class ReadParts(beam.PTransform):
    """Names of parts -> one record batch per part, checked against its recorded sha256.

    The names are spread over the workers here, so their source need not do it (`graph.Given(..., spread=False)`).

    Args:
        reader: the stage whose parts are read.
        columns: columns to read; all by default.
        survivors: a deciding stage; only rows alive after it are read, with a column `row` (int32).
    """

    def __init__(
        self, reader: PartReader, columns: list[str] | None = None, survivors: PartReader | None = None
    ) -> None:
        super().__init__()
        self._read = ReadPart(reader, columns, survivors)

    def expand(self, pcoll: Any) -> Any:
        spread = pcoll | "Spread" >> Spread()
        return spread | "Read" >> each(self._read).with_output_types(pa.RecordBatch)


class _CommitDoFn(Work):
    def __init__(self, directory: StageDirectory) -> None:
        self._directory = directory

    def process(self, output: UnitOutput) -> Iterator[str]:
        commit_unit(self._directory, output)
        yield output.unit


class Commit(beam.PTransform):
    """`UnitOutput` -> files and a record in the stage's folder. Idempotent, so a runner may retry it."""

    def __init__(self, directory: StageDirectory) -> None:
        super().__init__()
        self._directory = directory

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_CommitDoFn(self._directory))


class _Options(PipelineOptions):
    """Beam's options, each view of them made once.

    Beam asks for views at every transform, over a hundred in a small pipeline, and would build and run a parser of
    command-line flags for each: a third of the time such a pipeline takes.
    """

    def view_as(self, cls: type[Any]) -> Any:
        views = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
            self.__dict__.setdefault("_asked", set()).add(cls)
        return views[cls]

    def prepare(self) -> None:
        """Make the views that pipelines before asked for, so that their copies have them."""
        for cls in tuple(self.__dict__.setdefault("_asked", set())):
            self.view_as(cls)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Options:
        # Every pipeline copies its options; flags and parsers never change, what is set does.
        made = _twin(self)
        made.__dict__["_all_options"] = copy.deepcopy(self._all_options, memo)
        views = {cls: _twin(view) for cls, view in self.__dict__.get("_views", {}).items()}
        for view in views.values():
            view.__dict__["_all_options"] = made._all_options
        made.__dict__["_views"] = views
        return made


def _twin(options: Any) -> Any:
    made = object.__new__(type(options))
    made.__dict__.update(options.__dict__)
    return made


class _LocalOptions(_Options):
    """Options of the local runner, whose flags have been checked: Beam need not look for unknown ones again."""

    def get_all_options(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if kwargs.get("display_warnings"):
            return dict(self._all_options)
        return dict(super().get_all_options(*args, **kwargs))


def _options(workers: int, runner_args: Sequence[str], parallelism: str) -> tuple[PipelineOptions, Any]:
    """Beam's options and the runner: the local one, unless the flags name another."""
    args = list(runner_args)
    if any("dask" in a.lower() for a in args):
        raise UserError(
            "Beam's DaskRunner is refused: it reports success while files are empty and tagged outputs are mixed",
            fix="use the local default, or --runner=FlinkRunner, SparkRunner, DataflowRunner or PortableRunner",
        )
    if any(a.startswith("--runner") for a in args):
        options, _ = _parsed(args)  # a runner may have flags of its own that Beam here knows nothing of
        return options, _named_runner(options)
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    options = _local_options((f"--direct_num_workers={workers}", *args))
    options.prepare()
    return options, FnApiRunner(default_environment=_environment(parallelism) if workers > 1 else None)


@functools.lru_cache(maxsize=4)
def _local_options(args: tuple[str, ...]) -> _Options:
    """Options of the local runner; a pipeline works on a copy of them."""
    options, unknown = _parsed(list(args), _LocalOptions)
    if unknown:
        raise UserError(
            f"Beam has no flag '{unknown[0]}'",
            fix="see the Beam documentation; overrides such as workers=2 stand before '--'",
        )
    return options


def _parsed(args: list[str], kind: type[_Options] = _Options) -> tuple[_Options, list[str]]:
    """Beam's options, and the flags none of them stands for."""
    parsers: list[Any] = []
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = kind(args)
            options.get_all_options(add_extra_args_fn=parsers.append)
            return options, parsers[0].parse_known_args(args)[1]
    except SystemExit:
        why = said.getvalue().strip().rpartition("error: ")[2]
        raise UserError(
            f"Beam does not understand the flags after '--' ({' '.join(args)}): {why}",
            fix="see the Beam documentation",
        ) from None


def _named_runner(options: PipelineOptions) -> Any:
    from apache_beam.options.pipeline_options import StandardOptions
    from apache_beam.runners.runner import create_runner

    name = options.view_as(StandardOptions).runner
    try:
        return create_runner(name)
    except (ValueError, ImportError, AttributeError) as e:
        raise UserError(
            f"there is no Beam runner '{name}': {e}",
            fix="leave --runner out for the local one, or correct its name",
        ) from None


def _environment(parallelism: str) -> environments.Environment:
    """Where the local runner's workers live."""
    if parallelism == "threads":
        # Workers of this process, each in a thread of its own. Not those that speak with the runner over local
        # connections, as Beam's `multi_threading` does: they cost twice the time of a small pipeline, and Beam's timed flush
        # of what they have buffered cuts elements of a shuffle in two on a busy machine.
        return environments.EmbeddedPythonEnvironment.default()
    # The log of a worker is thrown away: an error comes back as an exception, and one that dies is noticed.
    command = f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main 2>/dev/null"
    return environments.SubprocessSDKEnvironment.from_command_string(command)


def _worker_processes() -> set[int]:
    import psutil

    out = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if "sdk_worker_main" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                out.add(child.pid)
        except psutil.Error:
            continue
    return out


def run_pipeline(
    build: Callable[[beam.Pipeline], Any],
    workers: int = 1,
    runner_args: Sequence[str] = (),
    parallelism: str = "threads",
    poll: Callable[[], None] | None = None,
) -> None:
    """Build and run one pipeline to its end.

    Args:
        build: applies transforms to the pipeline it is given.
        workers: threads or processes of the local runner; ignored when `runner_args` name a runner.
        runner_args: Beam flags, passed through.
        parallelism: "threads" or "processes" (see `Stage.parallelism`).
        poll: called about twice a second while the pipeline runs.

    Raises:
        UserError: from a stage, or when a worker process died (Beam's local runner would wait for ever).
    """
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    _ask_once()
    options, runner = _options(workers, runner_args, parallelism)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            pipeline = beam.Pipeline(runner=runner, options=options)
            build(pipeline)
            pipeline.run().wait_until_finish()
        except BaseException as e:  # handed to the caller below
            failure.append(e)

    thread = threading.Thread(target=work, name="beam", daemon=True)
    with _quiet_threads():
        thread.start()
        _wait(thread, parallelism == "processes" and workers > 1, poll)
    if failure:
        raise _cause(failure[0])


def _ask_once() -> None:
    """Have Beam find out once whether it runs in IPython, not at every transform: where that is not installed, it looks through
    all folders Python imports from."""
    from apache_beam.utils import interactive_utils

    asked = getattr(interactive_utils, "is_in_ipython", None)
    if asked is not None and not hasattr(asked, "cache_info"):
        interactive_utils.is_in_ipython = functools.cache(asked)


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Keep the tracebacks of Beam's own connection threads off the screen: what ended them is told once, by us."""
    previous = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        module = type(args.exc_value).__module__
        lost = module.startswith("grpc") or "Worker subprocess exited" in str(args.exc_value)
        if not lost:
            previous(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous


def _wait(thread: threading.Thread, watched: bool, poll: Callable[[], None] | None) -> None:
    """Wait for the pipeline's thread, looking after its worker processes when they are `watched`."""
    seen: set[int] = set()
    lost_since: float | None = None
    while thread.is_alive():
        thread.join(timeout=0.05 if poll is None else 0.4)
        stop_if_asked()
        if poll is not None:
            poll()
        if watched and thread.is_alive():
            alive = _worker_processes()
            lost_since = (lost_since or time.monotonic()) if seen - alive else None
            seen |= alive
            if lost_since is not None and time.monotonic() - lost_since > WATCHDOG_SECONDS:
                raise UserError(
                    "a worker process died (often: killed by the system because memory ran out)",
                    fix="run the same command again: finished parts are kept. Lower workers= if it dies again",
                )


# How Beam tells an error of a worker: the message, then the step it happened in; from another process only as text.
_TOLD = re.compile(r"^(?P<what>.*?)(?:\n  fix: (?P<fix>.*?))?\s*\[while running '", re.DOTALL)


def _cause(error: BaseException) -> BaseException:
    """The user's error as it was raised, out of what Beam made of it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError) and "[while running '" not in str(seen):
            return seen
        seen = seen.__cause__ or seen.__context__
    text = str(error)
    if isinstance(error, UserError) or "UserError: " in text:
        told = _TOLD.search(text if isinstance(error, UserError) else text.rpartition("UserError: ")[2])
        if told:
            return UserError(told["what"], fix=told["fix"] or "")
    return error
