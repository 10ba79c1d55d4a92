"""Does the cost of curation grow linearly with the number of documents, and does memory stay bounded?

    python benchmarks/scale.py --data ROOT [--quick] [--sizes 10000,100000,1000000] [--work FOLDER] [--json FILE]

Corpora of each size are re-mixed from real text (see remix.py): documents of ordinary lengths, about 1.5 KB each, one in
ten a copy of an earlier one, half of these exact and half with a word changed. The larger corpora begin with the smaller
ones. The stages annotate, filter, dedup_exact and dedup_near run with their defaults and one worker, each size in a process
of its own pinned to one core; memory is the peak of that process and its children. Making the corpus is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from recording import options_parser, save
from remix import Corpus, Text, ingested, pieces, real_documents

from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.console import Console
from mixloom.pipeline.decide import FilterConfig, RulePlan
from mixloom.pipeline.dedup_config import DedupConfig
from mixloom.pipeline.dedup_stage import ExactDedupStage, NearDedupStage
from mixloom.pipeline.filter_stage import FilterStage
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import RunSettings, Stage, run_stage

FULL, QUICK = "10000,100000,1000000", "5000,25000"
SHORTEST, LONGEST, PIECES = (
    400,
    6000,
    4,
)  # characters of the real documents whose shape is used; pieces, at least
COPIES = 0.1
SAMPLE = 5000  # documents whose text is measured
PACKAGES = ("mixloom", "apache-beam", "numba", "numpy", "pyarrow")


def ordinary(texts: list[Text]) -> list[Text]:
    """The documents of ordinary length."""
    return [t for t in texts if SHORTEST <= len(t.text) <= LONGEST and len(pieces(t.text)) >= PIECES]


def make(texts: Path, documents: int, folder: Path) -> dict[str, Any]:
    """Write a corpus as the stage `ingest` of a run; returns what is told of it."""
    read = [Text(*row) for row in json.loads(texts.read_text(encoding="utf-8"))]
    corpus = Corpus(read, verbatim=False, copies=COPIES)
    manifest = ingested(RunDirectory(str(folder)), corpus, documents)
    some = [len(corpus.text(i).text.encode()) for i in range(min(documents, SAMPLE))]
    return {
        "mean bytes of text": round(sum(some) / len(some)),
        "corpus MB on disk": sum(p.bytes for p in manifest.parts) / 1e6,
    }


def stages(dedup: DedupConfig) -> list[Stage]:
    """The stages, in order."""
    return [
        AnnotateStage(AnnotateConfig()),
        FilterStage(RulePlan.load(FilterConfig())),
        ExactDedupStage(dedup),
        NearDedupStage(dedup),
    ]


def warm_up(texts: Path) -> None:
    """Compile the kernels and import everything, for deduplication in one piece and in steps."""
    for partitions in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            make(texts, 200, Path(folder))
            curate(200, Path(folder), DedupConfig(partitions=partitions))


def curate(documents: int, folder: Path, dedup: DedupConfig) -> dict[str, Any]:
    """Run the stages on a corpus: its row of the table."""
    run, settings = RunDirectory(str(folder)), RunSettings()
    manifest = run.stage("ingest").manifest()
    assert manifest is not None
    manifests = {"ingest": manifest}
    row: dict[str, Any] = {"documents": documents}
    began = time.perf_counter()
    total = 0.0
    for stage in stages(dedup):
        before = time.process_time()
        manifests[stage.name], _ = run_stage(stage, run, settings, Console(quiet=True), manifests)
        row[f"{stage.name} µs per document"] = (time.process_time() - before) / documents * 1e6
        total += time.process_time() - before
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        **row,
        "documents per CPU s": documents / total,
        "minutes": (time.perf_counter() - began) / 60,
        "peak memory MiB": peak / 1024,
        "kept": manifests["dedup_near"].counts.kept,
        "candidates": manifests["dedup_near"].info["search"]["candidates"],
    }


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def child(phase: str, texts: Path, documents: int, folder: Path) -> dict[str, Any]:
    """Do one phase in a process of its own; returns what it prints at the end."""
    command = [sys.executable, __file__, "--phase", phase, "--data", str(texts)]
    command += ["--sizes", str(documents), "--work", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def measured(texts: Path, documents: int, folder: Path, rounds: int) -> dict[str, Any]:
    """The row of one size: the median round by documents per CPU second."""
    made = child("make", texts, documents, folder)
    rows = []
    for _ in range(rounds):
        for path in folder.iterdir():
            if path.is_dir() and path.name != "ingest":
                shutil.rmtree(path)
        rows.append(child("run", texts, documents, folder))
    row = sorted(rows, key=lambda r: float(r["documents per CPU s"]))[len(rows) // 2]
    written = _bytes(folder) - _bytes(folder / "ingest")
    return {**row, **made, "bytes written per document": written / documents}


def compared(rows: list[dict[str, Any]]) -> None:
    """Add to the last row how it compares with those before it."""
    row, before = rows[-1], rows[-2] if len(rows) > 1 else None
    speed = "documents per CPU s"
    row["against the first size"] = row[speed] / rows[0][speed]
    # A run costs some seconds however small it is; what a further document costs is free of them.
    row["further documents per CPU s"] = None
    if before is not None:
        seconds = row["documents"] / row[speed] - before["documents"] / before[speed]
        row["further documents per CPU s"] = (row["documents"] - before["documents"]) / seconds
    first = (
        "documents",
        speed,
        "against the first size",
        "further documents per CPU s",
        "minutes",
        "peak memory MiB",
    )
    rows[-1] = {name: row[name] for name in dict.fromkeys([*first, *row])}


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument("--sizes", help=f"numbers of documents ({FULL}; {QUICK} with --quick)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the runs are written for a while")
    parser.add_argument("--phase", choices=("make", "run"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [int(s) for s in (options.sizes or (QUICK if options.quick else FULL)).split(",")]
    if options.phase:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)
        row: dict[str, Any] = {}
        if options.phase == "make":
            row = make(options.data, sizes[0], options.work)
        else:
            warm_up(options.data)
            row = curate(sizes[0], options.work, DedupConfig())
        print(json.dumps(row))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        texts = Path(folder, "texts.json")
        found = ordinary(real_documents(options.data))
        texts.write_text(json.dumps([[t.source, t.text] for t in found]), encoding="utf-8")
        for documents in sizes:
            with tempfile.TemporaryDirectory(dir=folder) as run:
                rows.append(measured(texts, documents, Path(run), 3 if documents <= sizes[0] else 1))
            compared(rows)
            row = rows[-1]
            print(
                "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
                flush=True,
            )
    save(options.json, options.quick, {"growth": rows}, PACKAGES)


if __name__ == "__main__":
    main()
