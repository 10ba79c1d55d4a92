"""What does curation cost from reading to writing, against copying the same Parquet and against plain loops?

    python benchmarks/end_to_end.py --data ROOT [--quick] [--megabytes 200] [--rounds 3] [--work FOLDER] [--json FILE]

The documents are real ones and re-mixes of them (see remix.py), as Parquet parts of a run. Four things are done to
them in turn, in one process pinned to one core, a copy before and after each of the others, and CPU seconds are compared
round by round:

    copy     every part is read, decompressed, compressed again with the same settings and written, by pyarrow alone
    loop     annotate, judge, find exact and near duplicates, write the surviving documents: plain functions called one
             after the other, everything between them in memory
    files    the same loops, but each step writes and reads back what the stages of a run write and check
    run      the stages on Beam, with one worker, and the surviving documents written

So run / copy is the price of curation in units of copying; run / files - 1 is what Beam adds, and files / loop - 1 what the
run directory adds (all annotations and lines are kept, checked and resumable). Beam also takes a fixed time for each of
its pipelines, whatever their size: "Beam fixed" is what it adds for 300 documents. What a user waits for is told apart, on
all cores: the copy in one process, and the run with one worker and with one for each core. All files that the stages write are
checked to be the same as those of the loops, byte for byte, and so is the number of documents that survive in memory.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from plain import InMemory, LoopAnnotate, LoopExact, LoopFilter, LoopNear
from recording import options_parser, save
from remix import Corpus, ingested, real_documents
from steps import STEPS, measured

from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.console import Console
from mixloom.pipeline.decide import FilterConfig, RulePlan
from mixloom.pipeline.dedup_config import DedupConfig
from mixloom.pipeline.dedup_stage import ExactDedupStage, NearDedupStage
from mixloom.pipeline.engine import Commit, ReadParts, one_batch, read_part, with_part
from mixloom.pipeline.filter_stage import FilterStage
from mixloom.pipeline.graph import Given, each
from mixloom.pipeline.parquet_encoding import encodings
from mixloom.pipeline.run import RunDirectory, StageManifest
from mixloom.pipeline.stage import RunSettings, Stage, StageContext, UnitOutput, run_stage
from mixloom.pipeline.transforms import rows_output

WEB_RULES = ["gopher@datatrove", "c4@fineweb", "fineweb@code"]
PACKAGES = ("mixloom", "apache-beam", "numba", "numpy", "pyarrow", "scipy")


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration of curation."""

    name: str
    annotate: AnnotateConfig
    rules: list[str]
    dedup: DedupConfig = field(default_factory=DedupConfig)

    @property
    def plan(self) -> RulePlan:
        return RulePlan.load(FilterConfig(rules=self.rules))


def asked(name: str, rules: list[str], *, lines: bool) -> Case:
    """Only what these rules ask is measured, and near duplicates are ranked by what costs nothing."""
    measures = ("text_chars", *RulePlan.load(FilterConfig(rules=rules)).text_measures())
    return Case(name, AnnotateConfig(measures=measures, lines=lines), rules, DedupConfig(length="text_chars"))


CASES = (
    # What a run measures that names nothing: every dialect and every line, so that any rule can be asked later.
    Case("all measures, basic rules", AnnotateConfig(), ["basic", "media"]),
    asked("what basic rules ask", ["basic", "media"], lines=False),
    asked("what Gopher, C4 and FineWeb ask", WEB_RULES, lines=True),
)


class SurvivingStage(Stage):
    """The documents that are left, as they are now, on Beam."""

    name = "surviving"
    version = 1

    def __init__(self, survivors: str) -> None:
        self.inputs = (survivors, "ingest")

    def settings(self) -> dict[str, Any]:
        return {}

    def execute(self, ctx: StageContext) -> None:
        parts = ctx.part_names("ingest")
        ctx.beam(
            lambda p: (
                p
                | Given(ctx.todo(parts), spread=False)
                | ReadParts(ctx.documents(), None, ctx.reader(self.inputs[0]))
                | each(rows_output).with_output_types(UnitOutput)
                | Commit(ctx.directory)
            ),
            len(parts),
        )


class LoopSurviving(SurvivingStage):
    """`SurvivingStage` as a loop."""

    def execute(self, ctx: StageContext) -> None:
        documents, survivors = ctx.documents(), ctx.reader(self.inputs[0])
        for part in ctx.part_names("ingest"):
            ctx.commit(rows_output(with_part(read_part(part, documents, None, survivors), part)))


BEAM = (AnnotateStage, FilterStage, ExactDedupStage, NearDedupStage, SurvivingStage)
LOOPS = (LoopAnnotate, LoopFilter, LoopExact, LoopNear, LoopSurviving)


def stages(case: Case, classes: tuple[type[Any], ...]) -> list[Stage]:
    """The stages of a curation in order, as a recipe chains them."""
    annotate, filtering, exact, near, surviving = classes
    plan, dedup = case.plan, case.dedup
    filters = [filtering(plan, step) for step in range(plan.stages)]
    edits = tuple(f.name for f in filters) if len(filters) > 1 else ()
    after = [exact(dedup, filters[-1].name), near(dedup, "dedup_exact"), surviving("dedup_near")]
    for stage in after:
        stage.edits = edits
    return [annotate(case.annotate), *filters, *after]


def clocked(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU seconds of this process, seconds by the clock, and what the work returns."""
    cpu, wall = time.process_time(), time.perf_counter()
    made = work()
    return time.process_time() - cpu, time.perf_counter() - wall, made


class Bench:
    """A corpus in a run directory, and the things done to it."""

    def __init__(self, corpus: Corpus, documents: int, folder: Path) -> None:
        self.folder, self.documents = folder, documents
        self.root = folder / "run"
        self.ingest = ingested(RunDirectory(str(self.root)), corpus, documents)
        self.reader = RunDirectory(str(self.root)).stage("ingest").reader()
        tables = (self.reader.read(part, ["segments"]) for part in self.reader.parts)
        flat = (one_batch(t).column("segments").flatten().field("text") for t in tables)
        self.text_bytes = sum(pa.compute.sum(pa.compute.binary_length(t)).as_py() for t in flat)

    def clean(self) -> None:
        """Remove all that was made of the corpus."""
        for path in (*self.root.iterdir(), self.folder / "copy", self.folder / "loop"):
            if path.is_dir() and path.name != "ingest":
                shutil.rmtree(path)

    def copy(self) -> None:
        """Read, decompress, compress and write every part, by pyarrow alone, from file to file, with a run's own settings."""
        source = self.reader.store
        folder = self.folder / "copy"
        folder.mkdir()
        for part in self.reader.parts.values():
            table = pq.read_table(source.url(part.file), use_threads=False)
            how: dict[str, Any] = {**encodings(table), "write_page_checksum": True}
            pq.write_table(table, folder / part.file, row_group_size=table.num_rows, **how)

    def loop(self, case: Case) -> int:
        """Curation in loops and in memory; returns how many documents survive."""
        out = RunDirectory(str(self.folder / "loop")).store
        return InMemory(self.reader, case.annotate, case.plan, case.dedup, out).run()

    def staged(
        self, case: Case, classes: tuple[type[Any], ...], workers: int = 1
    ) -> dict[str, tuple[float, StageManifest]]:
        """Curation in stages: CPU seconds and manifest of each."""
        run, settings = RunDirectory(str(self.root)), RunSettings(workers=workers)
        manifests = {"ingest": self.ingest}
        out = {}
        for stage in stages(case, classes):
            cpu, _, (manifest, _) = clocked(
                lambda stage=stage: run_stage(stage, run, settings, Console(quiet=True), manifests)
            )
            manifests[stage.name] = manifest
            out[stage.name] = cpu, manifest
        return out

    def written(self) -> dict[str, int]:
        """Bytes of each stage's folder."""
        folders = (p for p in self.root.iterdir() if p.is_dir())
        return {p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in folders}


def beam_fixed(small: Bench, case: Case) -> float:
    """CPU seconds that Beam adds for a handful of documents."""
    spent = []
    for _ in range(3):
        both = []
        for how in (BEAM, LOOPS):
            small.clean()
            both.append(clocked(lambda how=how: small.staged(case, how))[0])
        spent.append(both)
    return statistics.median(a - b for a, b in spent)


def compare(bench: Bench, case: Case, rounds: int, fixed: float = 0.0) -> dict[str, Any]:
    """Rows of the tables of one case."""
    works: dict[str, Callable[[], Any]] = {
        "loop": lambda: bench.loop(case),
        "files": lambda: bench.staged(case, LOOPS),
        "run": lambda: bench.staged(case, BEAM),
    }
    cpu: dict[str, list[float]] = {name: [] for name in (*works, "copy", "copy beside")}
    wall: dict[str, list[float]] = {name: [] for name in cpu}
    parts: list[dict[str, float]] = []

    def spent(name: str, work: Callable[[], Any]) -> Any:
        bench.clean()
        seconds, clock, made = clocked(work)
        cpu[name].append(seconds)
        wall[name].append(clock)
        return made

    for turn in range(rounds):
        order = list(works)[turn % 3 :] + list(works)[: turn % 3]
        made: dict[str, Any] = {}
        spent("copy", bench.copy)
        for name in order:
            made[name] = spent(name, works[name])
            if name == "run":
                disk = bench.written()
            spent("copy", bench.copy)
            if name == "run":  # what copying takes at this time: the mean of before and after
                cpu["copy beside"].append(statistics.mean(cpu["copy"][-2:]))
        parts.append({name: seconds for name, (seconds, _) in made["run"].items()})
        same = {n: made["run"][n][1].fingerprint == made["files"][n][1].fingerprint for n in made["run"]}
        left = made["run"]["surviving"][1].counts.kept
        if not all(same.values()) or made["loop"] != left:
            raise SystemExit(f"the ways of curation disagree: {same}, {made['loop']} and {left} documents")

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(cpu[a], cpu[b]))

    middle = {name: statistics.median(v) for name, v in cpu.items()}
    megabytes = bench.text_bytes / 1e6
    row = {
        "case": case.name,
        "run / copy": ratio("run", "copy beside"),
        "run / files - 1": ratio("run", "files") - 1,
        "the same without Beam fixed": (middle["run"] - fixed) / middle["files"] - 1,
        "files / loop - 1": ratio("files", "loop") - 1,
        "run / loop - 1": ratio("run", "loop") - 1,
        **{f"{name}, CPU s": middle[name] for name in ("copy", *works)},
        "Beam fixed, CPU s": fixed,
        "run, wall s": statistics.median(wall["run"]),
        "run documents/s": bench.documents / middle["run"],
        "run MB/s": megabytes / middle["run"],
        "survive": left,
        "written MB": sum(disk[name] for name in made["run"]) / 1e6,
    }
    by_stage = {n: statistics.median(p[n] for p in parts) for n in parts[0]}
    return {"row": row, "stages": by_stage, "copy": middle["copy"]}


def waited(bench: Bench, case: Case, rounds: int, cores: set[int]) -> dict[str, Any]:
    """A row of what a user waits for: seconds by the clock on all cores, beside CPU seconds; medians."""
    works: dict[str, Callable[[], Any]] = {"copy": bench.copy}
    for workers in sorted({1, len(cores)}):
        of = "1 worker" if workers == 1 else f"{workers} workers"
        works[f"run, {of}"] = lambda workers=workers: bench.staged(case, BEAM, workers)
    pinned = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            bench.clean()
            times[name].append(clocked(work)[:2])
    os.sched_setaffinity(0, pinned)
    row: dict[str, Any] = {"case": case.name}
    for name, both in times.items():
        row[f"{name}, wall s"] = statistics.median(wall for _, wall in both)
        row[f"{name}, CPU s"] = statistics.median(cpu for cpu, _ in both)
    return row


def steps_of(bench: Bench, case: Case) -> dict[str, float]:
    """CPU seconds of each step of a run; the rest is Beam's and that of everything not named."""
    bench.clean()
    with measured() as times:
        cpu, _, _ = clocked(lambda: bench.staged(case, BEAM))
    out = {step: times.seconds[step] for step in STEPS}
    return out | {"Beam and the rest": cpu - sum(out.values())}


def say(row: dict[str, Any]) -> None:
    """Print a row."""
    print(
        "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True
    )


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument("--megabytes", type=float, help="text, about (200; 40 with --quick)")
    parser.add_argument("--rounds", type=int, help="rounds (3)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the runs are written for a while")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    rounds = options.rounds or 3
    corpus = Corpus(real_documents(options.data))
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        small = Bench(corpus, 300, Path(folder, "warm"))
        for case in CASES:  # compiles the kernels, imports what is imported late
            compare(small, case, 1)
        wanted = corpus.documents_of(options.megabytes or (40 if options.quick else 200))
        bench = Bench(corpus, wanted, Path(folder, "bench"))
        rows: list[dict[str, Any]] = []
        waits: list[dict[str, Any]] = []
        by_stage: dict[str, dict[str, Any]] = {}
        by_step: dict[str, dict[str, Any]] = {}
        for case in CASES:
            made = compare(bench, case, rounds, beam_fixed(small, case))
            rows.append(made["row"])
            waits.append(waited(bench, case, rounds, cores))
            say(made["row"])
            say(waits[-1])
            for name, seconds in made["stages"].items():
                by_stage.setdefault(name, {})[f"{case.name}, times copy"] = seconds / made["copy"]
            for step, seconds in steps_of(bench, case).items():
                by_step.setdefault(step, {})[f"{case.name}, times copy"] = seconds / made["copy"]
        ordered = sorted(by_step.items(), key=lambda x: -max(x[1].values()))
        stage_rows = [{"stage": name, **row} for name, row in by_stage.items()]
        step_rows = [{"step": name, **row} for name, row in ordered]
        for row in (*stage_rows, *step_rows):
            say(row)
        figures = {
            "documents": bench.documents,
            "text_mb": bench.text_bytes / 1e6,
            "parquet_mb": bench.written()["ingest"] / 1e6,
            "rounds": rounds,
            "curation": rows,
            "what a user waits for": waits,
            "stages": stage_rows,
            "steps": step_rows,
        }
    save(options.json, options.quick, figures, PACKAGES)


if __name__ == "__main__":
    main()
