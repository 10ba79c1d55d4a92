"""Filters and MinHash signatures: this project against datatrove, on the same documents, one core each, in one run.

    python benchmarks/curation.py --data ROOT --peer-python PYTHON [--documents 2000] [--quick] [--json FILE]

PYTHON is the interpreter of an environment of its own with `datatrove[processing]` and spaCy: it cannot be installed
beside this project, because it brings a package that takes the place of fasttext. Both sides read the same documents from
memory and are pinned to one core, the same one, one after the other; CPU seconds are compared. Not counted on either
side: imports, loading a tokenizer, compiling kernels. The filters are FineWeb's: Gopher's repetition and quality rules, C4's without terminal
punctuation, FineWeb's own. datatrove is timed as in a run, where a document stops at the first filter that drops it, and with
every document through every filter. We measure all that these rules ask of every document before anything is decided, and
of those that C4's rules edit once more what is asked after that.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from recording import options_parser, save

from mixloom.pipeline.annotate import Annotator, cut_for, document_text, text_measures
from mixloom.pipeline.annotate_config import AnnotateConfig, MinHashConfig
from mixloom.pipeline.config import load_config
from mixloom.pipeline.console import Console
from mixloom.pipeline.decide import FilterConfig, RulePlan, decide
from mixloom.pipeline.edits import apply_edits
from mixloom.pipeline.ingest_stage import IngestStage
from mixloom.pipeline.lines import segment_lines
from mixloom.pipeline.rules import load_ruleset
from mixloom.pipeline.run import PartReader, RunDirectory
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch
from mixloom.pipeline.signatures import signatures
from mixloom.pipeline.stage import RunSettings, run_stage
from mixloom.pipeline.storage import resolve
from mixloom.trainers.recipe import RunConfig

# English text of conf/real/shared.yaml: posts, articles, reviews, abstracts, answers, statutes, specifications, books.
SOURCES = (
    "20news", "wikitext", "movie-reviews", "sherlock", "scitldr", "medquad", "dccode", "beer", "eips",
    "current-events", "d2l", "openstax-sociology", "legendland",
)  # fmt: skip
FILTERS = {
    "gopher_repetition": ("gopher@datatrove", "repetition"),
    "gopher_quality": ("gopher@datatrove", "quality"),
    "c4": ("c4@datatrove", None),
    "c4_fineweb": ("c4@fineweb", None),
    "fineweb": ("fineweb@code", None),
}
LONGEST = 50_000  # characters: a tokenizer of the peer takes minutes for more
BATCH = 1000
ROUNDS = 5


def chosen(root: Path, wanted: int) -> list[str]:
    """About `wanted` documents as ingest reads them: up to equally many of every source, spread evenly over it."""
    config = load_config(
        RunConfig, Path(__file__).parents[1] / "conf/real/shared.yaml", [f"data_root={root}"]
    )
    sources = [s.model_copy(update={"images": False}) if hasattr(s, "images") else s for s in config.sources]
    sources = [s for s in sources if s.name in SOURCES]
    roots = {s.name: resolve(config.data_root, s.path) for s in sources}
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(folder)
        stage = IngestStage(sources, roots, BATCH, config.part_bytes)
        manifest, _ = run_stage(stage, run, RunSettings(), Console(), {})
        reader = PartReader(run.stage(stage.name).store, {p.name: p for p in manifest.parts})
        table = pa.concat_tables([reader.read(name) for name in sorted(reader.parts)]).combine_chunks()
    text = document_text(table.to_batches()[0]).to_pylist()
    by_source: dict[str, list[str]] = {}
    for source, t in zip(table["source"].to_pylist(), text):
        if 0 < len(t) <= LONGEST:
            by_source.setdefault(source, []).append(t)
    each = -(-wanted // len(by_source))
    out: list[str] = []
    for own in by_source.values():
        out += [own[i] for i in np.unique(np.linspace(0, len(own) - 1, min(each, len(own))).astype(int))]
    return out


def batches(texts: list[str]) -> list[pa.RecordBatch]:
    made = [
        Document(source="s", locator=Locator(uri=str(i)), segments=(Segment(kind="text", text=t),))
        for i, t in enumerate(texts)
    ]
    return [documents_batch(made[i : i + BATCH]) for i in range(0, len(made), BATCH)]


def judged(parts: list[pa.RecordBatch], rules: list[str]) -> tuple[list[str], list[str]]:
    """The reason for each document ("" when kept) under these rule sets in order, and the text that is left of it."""
    plan = RulePlan.load(FilterConfig(rules=rules))
    annotator = Annotator(AnnotateConfig())
    reasons: list[str] = []
    texts: list[str] = []
    for batch in parts:
        now = batch
        said: list[str] = [""] * batch.num_rows
        for step in range(plan.stages):
            if step >= len(plan.default):
                break
            lines = pa.Table.from_batches([annotator.lines(now)])
            made = decide(annotator.annotate(now), plan, step, lines)
            said = [s or (r or "") for s, r in zip(said, made.reason)]
            now = apply_edits(now, made.edits)
        reasons += said
        texts += ["".join(s["text"] for s in row) for row in now.column("segments").to_pylist()]
    return reasons, texts


def seconds_of(work: Any) -> float:
    """CPU seconds of one call, the median of several; the first, which compiles, is not counted."""
    work()
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


def measures_of(batch: pa.RecordBatch, config: AnnotateConfig) -> pa.RecordBatch:
    """The measures alone: what a filter needs, without content hashes and signatures."""
    cuts = cut_for(document_text(batch), config, terms=False)
    named = {"doc_id": batch.column("doc_id"), "source": batch.column("source")}
    return pa.RecordBatch.from_pydict({**named, **text_measures(cuts, config)})


def ours(parts: list[pa.RecordBatch]) -> dict[str, float]:
    plan = RulePlan.load(FilterConfig(rules=["gopher@datatrove", "c4@fineweb", "fineweb@code"]))
    first = AnnotateConfig(measures=plan.text_measures())
    second = AnnotateConfig(measures=plan.text_measures(1))
    texts = [
        pa.array([s[0]["text"] for s in b.column("segments").to_pylist()], pa.large_string()) for b in parts
    ]

    def filters() -> None:
        for batch in parts:
            before = measures_of(batch, first)
            made = decide(before, plan, 0, pa.Table.from_batches([segment_lines(batch)]))
            edited = np.isin(np.arange(batch.num_rows), np.asarray(made.edits["row"]))
            changed = batch.append_column("row", pa.array(np.arange(batch.num_rows, dtype=np.int32)))
            after = measures_of(apply_edits(changed.filter(pa.array(edited)), made.edits), second)
            decide(before.filter(pa.array(made.keep & ~edited)), plan, 1)
            decide(after, plan, 1)

    def signing() -> None:
        for text in texts:
            signatures(text, MinHashConfig())

    return {
        "filter_seconds": seconds_of(filters),
        "signature_seconds": seconds_of(signing),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def agreement(mine: list[str], theirs: list[str]) -> dict[str, Any]:
    """Shares of documents with equal verdicts and with equal reasons, and the commonest differences."""
    n = len(mine)
    differs = Counter((a or "kept", b or "kept") for a, b in zip(mine, theirs) if bool(a) != bool(b))
    return {
        "equal_verdicts": round(sum(bool(a) == bool(b) for a, b in zip(mine, theirs)) / n, 5),
        "equal_reasons": round(sum(a == b for a, b in zip(mine, theirs)) / n, 5),
        "dropped_by_us": sum(map(bool, mine)),
        "dropped_by_them": sum(map(bool, theirs)),
        "differences": [{"ours": a, "theirs": b, "documents": k} for (a, b), k in differs.most_common(8)],
    }


def verdicts(parts: list[pa.RecordBatch], theirs: dict[str, Any]) -> dict[str, Any]:
    out = {}
    repetition = {r.name for r in load_ruleset("gopher@datatrove").rules if not r.name.startswith("gopher_")}
    for name, (ruleset, half) in FILTERS.items():
        reasons, texts = judged(parts, [ruleset])
        if half is not None:
            reasons = half_of(parts, half == "repetition", repetition)
        row = agreement(reasons, theirs["verdicts"][name])
        if name in theirs["edited"]:
            both = [
                (a, b)
                for a, b, r, s in zip(texts, theirs["edited"][name], reasons, theirs["verdicts"][name])
                if not r and not s
            ]
            row["equal_texts_of_kept"] = round(sum(a == b for a, b in both) / max(len(both), 1), 5)
        out[name] = row
    chain, _ = judged(parts, ["gopher@datatrove", "c4@fineweb", "fineweb@code"])
    out["chain"] = agreement(chain, theirs["verdicts"]["chain"])
    return out


def half_of(parts: list[pa.RecordBatch], first: bool, repetition: set[str]) -> list[str]:
    """The first rule that fires among Gopher's repetition rules, or among its quality rules, alone."""
    whole = load_ruleset("gopher@datatrove")
    rules = tuple(r for r in whole.rules if (r.name in repetition) == first)
    plan = RulePlan((whole.model_copy(update={"rules": rules}),), {}, {})
    annotator = Annotator(AnnotateConfig())
    made = [decide(annotator.annotate(b), plan, 0) for b in parts]
    return [r or "" for d in made for r in d.reason]


def peer(python: str, texts: list[str], signed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "documents.jsonl", Path(folder) / "out.json"
        source.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
        script = Path(__file__).with_name("peer_datatrove.py")
        command = [python, str(script), str(source), str(out), "--signatures", str(signed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"datatrove failed under {python}:\n{done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return result


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument("--peer-python", required=True, help="interpreter of an environment with datatrove")
    parser.add_argument("--documents", type=int, default=2000, help="documents, about (400 with --quick)")
    options = parser.parse_args()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    pa.set_cpu_count(1)
    texts = chosen(options.data, 400 if options.quick else options.documents)
    signed = min(len(texts), 200 if options.quick else 1000)
    size = sum(len(t.encode()) for t in texts)
    theirs = peer(options.peer_python, texts, signed)
    parts = batches(texts)
    mine = ours(parts)
    n = len(texts)
    speed = []
    steps = (
        ("filters, until one drops", "filter", "filter", n),
        ("filters, each on every document", "filter", "every", n),
        ("signatures", "signature", "signature", signed),
    )
    for title, name, their, count in steps:
        a = n / mine[f"{name}_seconds"]
        b = count / theirs[f"{their}_seconds"]
        speed.append(
            {
                "step": title,
                "ours_documents_per_s": round(a, 1),
                "datatrove_documents_per_s": round(b, 1),
                "ratio": round(a / b, 1),
                "ours_cpu_s": round(mine[f"{name}_seconds"], 3),
                "datatrove_cpu_s": round(theirs[f"{their}_seconds"], 2),
                "ours_mb_per_s": round(size / 1e6 / mine[f"{name}_seconds"], 1),
            }
        )
    found = verdicts(parts, theirs)
    figures = {
        "documents": n,
        "mean_bytes": round(size / n),
        "speed": speed,
        "peak_mib": {"ours": round(mine["peak_mib"]), "datatrove": round(theirs["peak_mib"])},
        "agreement": [
            {"filter": k, **{a: b for a, b in v.items() if a != "differences"}} for k, v in found.items()
        ],
        "differences": [{"filter": k, **d} for k, v in found.items() for d in v["differences"]],
    }
    print(f"{n} documents, {size / n:.0f} bytes each")
    for row in speed:
        print(json.dumps(row))
    for row in figures["agreement"]:
        print(json.dumps(row))
    for row in figures["differences"]:
        print("  differs:", json.dumps(row))
    save(options.json, options.quick, figures, ("mixloom", "numpy", "numba", "pyarrow", "datatrove"))


if __name__ == "__main__":
    sys.exit(main())
