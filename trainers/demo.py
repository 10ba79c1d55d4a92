"""The demo: a corpus of our own making, every stage on it, a short training, and a score against the truth."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import MODALITIES
from mixloom.pipeline.run import PartReader, RunDirectory, StageManifest
from mixloom.pipeline.status import run_status


def run_demo(
    run_dir: str, overrides: Sequence[str], beam_flags: Sequence[str], console: Console
) -> dict[str, Any]:
    """Run the demo in `run_dir` and print how well the planted truth was recovered.

    Returns:
        What is written to `summary.json`: conserved, truth, loss, tokens, seconds.
    """
    from mixloom.pipeline.config import apply_overrides, read_yaml, validate
    from mixloom.pipeline.demo.corpus import write_corpus
    from mixloom.trainers.recipe import RunConfig, run_recipe
    from mixloom.trainers.report import write_report

    if "://" in run_dir:
        raise UserError(
            f"the demo writes its corpus beside the run, and {run_dir} is not a local path",
            fix="use a local --run-dir",
        )
    started = time.perf_counter()
    corpus = Path(run_dir) / "corpus"
    tree = read_yaml(
        files("mixloom.conf.demo").joinpath("demo.yaml").read_text(encoding="utf-8"), "demo.yaml"
    )
    tree |= {"run_dir": run_dir, "data_root": str(corpus)}
    config = validate(RunConfig, apply_overrides(tree, overrides), "demo.yaml")
    console.say(
        f"mixloom demo: writing a small made-up corpus to {corpus} (docstrings, drawn scenes, synthetic speech)"
    )
    with RunDirectory(config.run_dir).lock():
        truth = write_corpus(corpus, config.seed)
    console.say(f"{'corpus':<12} {_counted(truth.totals)}, {time.perf_counter() - started:.1f} s")
    run_recipe(config, console, beam_flags)
    summary = summarise(RunDirectory(config.run_dir), truth)
    summary["seconds"]["total"] = round(time.perf_counter() - started, 1)
    run = RunDirectory(config.run_dir)
    run.store.write_json("summary.json", summary)
    page = write_report(config.run_dir)
    print(told(summary))
    console.say(f"report: {page}\nnumbers: {run.store.url('summary.json')}")
    return summary


def _counted(totals: dict[str, int]) -> str:
    return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in totals.items() if name != "bytes")


def summarise(run: RunDirectory, truth: Any) -> dict[str, Any]:
    """The figures of a finished demo run, from its files alone."""
    from mixloom.pipeline.demo.score import score

    manifests = {name: m for name in run.plan() if (m := run.stage(name).manifest())}
    stages = run_status(run)
    totals = manifests["shards"].info["manifest"]["totals"]
    trained = manifests["train"].info["train"] if "train" in manifests else {}
    first, last = (trained.get(f"loss_{end}_by_modality", {}) for end in ("first", "last"))
    return {
        "conserved": all(s.counts.conserved and s.state == "finished" for s in stages),
        "truth": {
            k: round(v, 4) if isinstance(v, float) else v
            for k, v in score(truth, facts_of(run, manifests)).items()
        },
        "loss": {m: [first.get(m), last.get(m)] for m in MODALITIES},
        "tokens": {**totals["tokens_by_modality"], "total": totals["tokens"]},
        "seconds": {s.stage: s.seconds for s in stages},
    }


def facts_of(run: RunDirectory, manifests: dict[str, StageManifest]) -> Any:
    """What the run did, in the terms of the score."""
    from mixloom.pipeline.demo.score import DocumentRow, DropRow, Facts, FailureRow

    documents = []
    for row in _rows(run, manifests["ingest"], ["doc_id", "source", "locator"]):
        at = row["locator"]
        documents.append(DocumentRow(row["doc_id"], row["source"], at["uri"], at["offset"]))
    failures, drops = [], []
    for name, manifest in manifests.items():
        for row in _ledger(run, manifest):
            if name == "ingest":
                at = row["locator"]
                failures.append(
                    FailureRow(row["source"], at["uri"], at["offset"], row["reason"], row["detail"] or "")
                )
            elif row["scope"] == "document":
                drops.append(DropRow(row["doc_id"], row["stage"], row["reason"], row["detail"] or ""))
    # A deduplication that an override turned off keeps what came before it.
    kept: dict[str, set[str]] = {}
    before = "filter"
    for name in ("dedup_exact", "dedup_near"):
        before = name if name in manifests else before
        kept[name] = {r["doc_id"] for r in _rows(run, manifests[before], ["doc_id"])}
    return Facts(
        documents=documents,
        failures=failures,
        drops=drops,
        kept_exact=kept["dedup_exact"],
        kept_near=kept["dedup_near"],
        domains={r["doc_id"]: r["domain"] for r in _rows(run, manifests["cluster"], ["doc_id", "domain"])},
    )


def _rows(run: RunDirectory, manifest: StageManifest, columns: list[str]) -> list[dict[str, Any]]:
    parts = [p for p in manifest.parts if p.name.startswith("part-")]
    reader = PartReader(run.stage(manifest.stage).store, {p.name: p for p in parts})
    return pa.concat_tables([reader.read(p.name, columns) for p in parts]).to_pylist() if parts else []


def _ledger(run: RunDirectory, manifest: StageManifest) -> list[dict[str, Any]]:
    reader = PartReader(run.stage(manifest.stage).store, {p.name: p for p in manifest.rejects})
    return [row for p in manifest.rejects for row in reader.read(p.name).to_pylist()]


def told(summary: dict[str, Any]) -> str:
    """The figures as a person reads them."""
    truth, loss = summary["truth"], summary["loss"]
    lines = [
        "",
        "recovered of the planted truth",
        *(f"  {name.replace('_', ' '):<28} {value}" for name, value in truth.items()),
        "loss (nats per token), first and last steps",
        *(
            f"  {name:<28} {a:.3f} -> {b:.3f}"
            for name, (a, b) in loss.items()
            if a is not None and b is not None
        ),
        "tokens in the shards",
        *(f"  {name:<28} {value:,}" for name, value in summary["tokens"].items()),
        f"documents conserved at every stage: {'yes' if summary['conserved'] else 'NO'}",
        json.dumps({"seconds": summary["seconds"]["total"]}),
        "",
    ]
    return "\n".join(lines)
