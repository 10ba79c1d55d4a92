"""Does the cost of curation grow linearly with the number of documents, and does memory stay bounded?

    python benchmarks/scale.py --data ROOT [--quick] [--sizes 10000,100000,1000000] [--work FOLDER] [--json FILE]

Corpora of each size are re-mixed from real text (see remix.py): documents of ordinary lengths, about 1.5 KB each, one in
ten a copy of an earlier one, half of these exact and half with a word changed. The larger corpora begin with the smaller
ones. The stages annotate, filter, dedup_exact and dedup_near run with their defaults and one worker, each size in a process
of its own pinned to one core; memory is the peak of that process and its children. Making the corpus is not counted, nor
are three passes over a corpus of 10,000 documents, after which kernels are compiled and memory has been touched. Of small
sizes, whose runs take a second, the median of several rounds is told, made before and after those of larger ones.
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
from collections.abc import Sequence
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
WARM, PASSES = 10_000, 3  # documents gone through before anything is measured
ROUNDS = (
    (20_000, (0, 1, 2, 3, 4)),
    (200_000, (0, 2, 4)),
    (None, (2,)),
)  # in which rounds sizes up to this are run: around each other, as a machine's speed drifts
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
    """Compile the kernels and import everything, for deduplication in one piece and in steps; touch memory."""
    for partitions, documents in ((2, 200), *[(1, WARM)] * PASSES):
        with tempfile.TemporaryDirectory() as folder:
            make(texts, documents, Path(folder))
            curate(documents, Path(folder), DedupConfig(partitions=partitions))


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


def rounds_of(documents: int) -> tuple[int, ...]:
    """The rounds in which a size is run."""
    return next(rounds for most, rounds in ROUNDS if most is None or documents <= most)


def run_once(texts: Path, documents: int, folder: Path) -> dict[str, Any]:
    """The row of one run of a corpus, whose earlier run is removed."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != "ingest":
            shutil.rmtree(path)
    row = child("run", texts, documents, folder)
    written = _bytes(folder) - _bytes(folder / "ingest")
    return {**row, "bytes written per document": written / documents}


def measured(texts: Path, sizes: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """The row of each size: its median round by documents per CPU second."""
    folders = {n: folder / str(n) for n in sizes}
    made, rows = {}, {n: [] for n in sizes}
    for n, path in folders.items():
        path.mkdir()
        made[n] = child("make", texts, n, path)
    for at in range(1 + max(max(rounds_of(n)) for n in sizes)):
        for n, path in folders.items():
            if at in rounds_of(n):
                rows[n].append(run_once(texts, n, path))
    middle = {
        n: sorted(r, key=lambda row: float(row["documents per CPU s"]))[len(r) // 2] for n, r in rows.items()
    }
    return [{**middle[n], **made[n]} for n in sizes]


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
        for row in measured(texts, sizes, Path(folder)):
            rows.append(row)
            compared(rows)
            row = rows[-1]
            print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    save(options.json, options.quick, {"growth": rows}, PACKAGES)


if __name__ == "__main__":
    main()
