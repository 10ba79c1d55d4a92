"""Deduplication: recall and precision on real revisions, speed of each step, and how cost grows.

    python benchmarks/dedup.py --data ROOT [--quick] [--json FILE]

Quality: the real revisions of `dup-eip-revisions` go through the stages `dedup_exact` and `dedup_near`; a true pair is
found when not both of its documents are kept, by band of Jaccard similarity as the set states it; a wrong drop is one
for the sake of another proposal. Records of a few words (`dup-records`) show what helps there. A template with
similarities around the threshold is the hardest case known.

Speed: sentences of real text are mixed into new documents, a tenth of them edited copies of others and a twentieth exact
ones. Steps are timed one by one over the same documents; growth runs the stages, each size in a process of its own.
All times are CPU seconds of the process.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from dedup_steps import timed_steps
from recording import options_parser, save
from text_sets import documents as texts_of

from mixloom.pipeline.annotate import annotate
from mixloom.pipeline.annotate_config import AnnotateConfig, MinHashConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.console import Console
from mixloom.pipeline.dedup_config import DedupConfig, IndexConfig, NearConfig, candidate_probability
from mixloom.pipeline.dedup_stage import ExactDedupStage, NearDedupStage
from mixloom.pipeline.incremental_stage import AgainstDedupStage, DedupIndexStage
from mixloom.pipeline.run import RunDirectory, StageManifest
from mixloom.pipeline.schema import SURVIVORS, Document, Locator, Segment, documents_batch
from mixloom.pipeline.signatures import jaccard, shingle_sets
from mixloom.pipeline.stage import OutputTable, RunSettings, Stage, StageContext, UnitOutput, run_stage

PART = 1000
PACKAGES = ("mixloom", "apache-beam", "numba", "numpy", "pyarrow", "scipy")
MIXED_SETS = (
    "text-20news",
    "text-movie-reviews",
    "text-wikitext2",
    "text-current-events",
    "text-scitldr",
    "text-eips",
)


class Written(Stage):
    """Stands for the stages before deduplication: writes the parts it is given, one at a time."""

    version = 1

    def __init__(self, name: str, parts: Iterator[tuple[str, pa.Table]], config: dict[str, Any]) -> None:
        self.name, self.parts, self.config = name, parts, config  # type: ignore[misc]

    def settings(self) -> dict[str, Any]:
        return self.config

    def execute(self, ctx: StageContext) -> None:
        for name, table in self.parts:
            ctx.commit(UnitOutput(name, (OutputTable(name, table),), None, table.num_rows))


class Bench:
    """A run directory whose stages are run one by one, with the CPU seconds of each."""

    def __init__(self, root: str) -> None:
        self.run = RunDirectory(root)
        self.manifests: dict[str, StageManifest] = {}
        self.seconds: dict[str, float] = {}

    def stage(self, stage: Stage) -> StageManifest:
        began = time.process_time()
        manifest, _ = run_stage(stage, self.run, RunSettings(), Console(quiet=True), self.manifests)
        self.seconds[stage.name] = time.process_time() - began
        self.manifests[stage.name] = manifest
        return manifest

    def prepare(self, batches: Iterator[pa.RecordBatch], config: AnnotateConfig) -> None:
        """Write ingest, annotations and survivors (everything) of some batches of documents."""
        reader = self._ingest(batches)
        names = sorted(reader.parts)

        def annotated() -> Iterator[tuple[str, pa.Table]]:
            for name in names:
                batch = reader.read(name).combine_chunks().to_batches()[0]
                yield name, pa.Table.from_batches([annotate(batch, config)])

        def alive() -> Iterator[tuple[str, pa.Table]]:
            for name in names:
                ids = reader.read(name, ["doc_id"])["doc_id"]
                yield name, pa.table([ids, pa.array(np.arange(len(ids), dtype=np.int32))], schema=SURVIVORS)

        self.stage(Written("annotate", annotated(), AnnotateStage(config).settings()))
        self.stage(Written("filter", alive(), {}))

    def _ingest(self, batches: Iterator[pa.RecordBatch]) -> Any:
        named = ((f"part-{i:05d}-0000", pa.Table.from_batches([b])) for i, b in enumerate(batches))
        self.stage(Written("ingest", named, {}))
        return self.run.stage("ingest").reader()

    def deduplicate(self, config: DedupConfig) -> None:
        self.stage(ExactDedupStage(config, "filter"))
        self.stage(NearDedupStage(config, "dedup_exact"))

    def rejects(self, stage: str) -> list[dict[str, Any]]:
        """The ledger of a stage."""
        store = self.run.stage(stage).store
        files = [store.read(p.file) for p in self.manifests[stage].rejects]
        return [row for f in files for row in pa.parquet.read_table(pa.BufferReader(f)).to_pylist()]

    def drops(self) -> dict[str, str]:
        """Dropped id -> id of the document kept in its place."""
        return {r["doc_id"]: r["detail"] for s in ("dedup_exact", "dedup_near") for r in self.rejects(s)}


def batches_of(texts: Sequence[str], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Texts as documents, in parts."""
    for start in range(0, len(texts), PART):
        yield documents_batch(
            [
                Document(source="bench", locator=Locator(uri=n), segments=(Segment(kind="text", text=t),))
                for t, n in zip(texts[start : start + PART], names[start : start + PART])
            ]
        )


def deduplicated(
    texts: Sequence[str], names: Sequence[str], near: NearConfig, ngram: int = 5
) -> tuple[dict[str, str], Bench]:
    """Drops by name (dropped -> kept) of some texts, through the stages."""
    batches = list(batches_of(texts, names))
    ids = {
        b["doc_id"][i].as_py(): names[k * PART + i] for k, b in enumerate(batches) for i in range(b.num_rows)
    }
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder)
        bench.prepare(iter(batches), AnnotateConfig(minhash=MinHashConfig(ngram=ngram)))
        bench.deduplicate(DedupConfig(near=near, partitions=2))
        return {ids[a]: ids[b] for a, b in bench.drops().items()}, bench


def _revisions(root: Path) -> tuple[list[str], list[str], dict[str, dict[str, str]], list[dict[str, str]]]:
    """(names, texts, row of clusters.tsv by name, rows of pairs.tsv) of `dup-eip-revisions`."""
    folder = root / "dup-eip-revisions"
    names = sorted(f"docs/{p.name}" for p in (folder / "docs").iterdir())
    texts = [(folder / n).read_text(encoding="utf-8") for n in names]
    with open(folder / "clusters.tsv", encoding="utf-8", newline="") as f:
        clusters = {r["doc"]: r for r in csv.DictReader(f, delimiter="\t")}
    with open(folder / "pairs.tsv", encoding="utf-8", newline="") as f:
        return names, texts, clusters, list(csv.DictReader(f, delimiter="\t"))


def revisions(root: Path) -> list[dict[str, Any]]:
    """Recall by band of similarity and wrong drops on the real revisions, for thresholds 0.8 and 0.7."""
    names, texts, clusters, pairs = _revisions(root)
    cluster = {n: c["cluster"] for n, c in clusters.items()}
    real = {frozenset((p["doc_a"], p["doc_b"])): float(p["jaccard5"]) for p in pairs}
    out = []
    for near in (NearConfig(), NearConfig(threshold=0.7), NearConfig(bands=14, rows=8)):
        drops, bench = deduplicated(texts, names, near)
        info = bench.manifests["dedup_near"].info["search"]
        row: dict[str, Any] = {
            "threshold": near.threshold,
            "banding": f"{info['bands']} x {info['rows']}",
            "probability at the threshold": candidate_probability(
                near.threshold, info["bands"], info["rows"]
            ),
        }
        wrong = [(a, b) for a, b in drops.items() if cluster[a] != cluster[b]]
        for low, high in ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.01)):
            mine = [p for p in pairs if p["same_document"] == "1" and low <= float(p["jaccard5"]) < high]
            found = sum(p["doc_a"] in drops or p["doc_b"] in drops for p in mine)
            row[f"{low:.1f} to {min(high, 1.0):.1f}"] = f"{found}/{len(mine)}"
        above = [p for p in pairs if p["same_document"] == "1" and float(p["jaccard5"]) >= near.threshold]
        found = sum(p["doc_a"] in drops or p["doc_b"] in drops for p in above)
        below = sum(real.get(frozenset(d), 0.0) < near.threshold - 0.04 for d in drops.items())
        row |= {
            "recall at the threshold": found / len(above),
            "precision": 1 - len(wrong) / max(1, len(drops)),
            "dropped": len(drops),
            "drops below the threshold": below,
            "candidates": info["candidates"],
            "edges": info["edges"],
        }
        out.append(row)
    return out


def incremental(root: Path) -> list[dict[str, Any]]:
    """First revisions as an earlier run, later ones as a new crawl: what is found, by what the earlier run left behind."""
    names, texts, clusters, _ = _revisions(root)
    old = [i for i, n in enumerate(names) if clusters[n]["revision"] == "0"]
    new = [i for i, n in enumerate(names) if clusters[n]["revision"] != "0"]
    sets = [np.asarray(s.values) for s in shingle_sets(pa.array(texts, pa.large_string()))]
    truth = {i: max(jaccard(sets[i], sets[j]) for j in old) for i in new}
    out = []
    for left, hashes in (("index, 1024 hashes", 1024), ("index, 256 hashes", 256), ("signatures", 0)):
        with tempfile.TemporaryDirectory() as where:
            earlier, crawl = Bench(f"{where}/old"), Bench(f"{where}/new")
            earlier.prepare(batches_of([texts[i] for i in old], [names[i] for i in old]), AnnotateConfig())
            earlier.run.store.write("config.yaml", b"{}\n")
            earlier.run.save_plan(["ingest", "annotate", "filter"])
            if hashes:
                earlier.stage(DedupIndexStage(DedupConfig(index=IndexConfig(hashes=hashes)), "filter"))
            batches = list(batches_of([texts[i] for i in new], [names[i] for i in new]))
            ids = {
                x: new[k * PART + j]
                for k, b in enumerate(batches)
                for j, x in enumerate(b["doc_id"].to_pylist())
            }
            crawl.prepare(iter(batches), AnnotateConfig())
            crawl.stage(AgainstDedupStage(DedupConfig(against=(f"{where}/old",), partitions=2)))
            dropped = [(ids[r["doc_id"]], r) for r in crawl.rejects("dedup_against")]
            index = earlier.run.stage("dedup_index").manifest()
            out.append(
                {
                    "left behind": left,
                    "new documents": len(new),
                    **{
                        f"found of {low} to {high}": f"{sum(low <= truth[i] < high + (high == 1) for i, _ in dropped)}/"
                        f"{sum(low <= t < high + (high == 1) for t in truth.values())}"
                        for low, high in ((0.8, 0.85), (0.85, 0.9), (0.9, 0.95), (0.95, 1))
                    },
                    "dropped below 0.8": sum(truth[i] < 0.8 for i, _ in dropped),
                    "largest error": max(
                        (abs(r["value"] - truth[i]) for i, r in dropped if r["value"] < 1), default=0.0
                    ),
                    "bytes per document": sum(p.bytes for p in index.parts) // len(old) if index else 0,
                }
            )
    return out


def records(root: Path) -> list[dict[str, Any]]:
    """Recall and precision of pairs on records of about ten words."""
    path = root / "dup-records" / "csv_example_input_with_true_ids.csv"
    with open(path, encoding="utf-8", errors="replace", newline="") as f:
        rows = list(csv.DictReader(f))
    names = [f"{i}" for i in range(len(rows))]
    texts = [
        " ".join(" ".join((r[c] or "").split()) for c in ("Site name", "Address", "Zip", "Phone"))
        for r in rows
    ]
    entity = {n: r["True Id"] for n, r in zip(names, rows)}
    sizes = Counter(entity.values())
    true = sum(n * (n - 1) // 2 for n in sizes.values())
    out = []
    for ngram, threshold in ((5, 0.8), (5, 0.5), (2, 0.5), (1, 0.7), (1, 0.6), (1, 0.5)):
        drops, bench = deduplicated(texts, names, NearConfig(threshold=threshold), ngram)
        groups = _groups(names, drops)
        pairs = [p for g in groups for p in itertools.combinations(g, 2)]
        right = sum(entity[a] == entity[b] for a, b in pairs)
        wrong = sum(entity[a] != entity[b] for a, b in drops.items())
        out.append(
            {
                "ngram": ngram,
                "threshold": threshold,
                "recall of pairs": right / true,
                "precision of pairs": right / max(1, len(pairs)),
                "precision of drops": 1 - wrong / max(1, len(drops)),
                "kept": len(names) - len(drops),
                "entities": len(sizes),
                "candidates": bench.manifests["dedup_near"].info["search"]["candidates"],
            }
        )
    return out


def _groups(names: Sequence[str], drops: dict[str, str]) -> list[list[str]]:
    """Kept documents with those dropped for them, also through one that was dropped itself later."""
    by_kept: dict[str, list[str]] = {}
    for name in names:
        kept = name
        while kept in drops:
            kept = drops[kept]
        by_kept.setdefault(kept, []).append(name)
    return list(by_kept.values())


def template(quick: bool) -> list[dict[str, Any]]:
    """Documents of one template, their similarities around the threshold: recall of all pairs at 0.8 or more."""
    out = []
    for n, edits in ((1500, 5), (1500, 6), *(() if quick else ((5000, 6),))):
        rng = np.random.default_rng(0)
        base = [f"w{x}" for x in rng.integers(0, 100_000, 400)]
        texts = []
        for _ in range(n):
            words = list(base)
            for at in rng.choice(400, edits, replace=False):
                words[at] = f"e{rng.integers(0, 100_000)}"
            texts.append(" ".join(words))
        similarity = _all_similarities(texts)
        for label, near in (
            ("default", NearConfig()),
            (
                "8 all, 3 leaders, 14 x 8",
                NearConfig(bands=14, rows=8, bucket_cap=8, leaders=3, neighbours=0, compare_cap=256),
            ),
        ):
            began = time.process_time()
            drops, bench = deduplicated(texts, [str(i) for i in range(n)], near)
            kept = np.array([str(i) not in drops for i in range(n)])
            upper = np.triu(similarity >= 0.8, 1)
            missed = int((upper & kept[:, None] & kept[None, :]).sum())
            info = bench.manifests["dedup_near"].info["search"]
            out.append(
                {
                    "documents": n,
                    "mean similarity": float(similarity[np.triu_indices(n, 1)].mean()),
                    "pairs": int(upper.sum()),
                    "settings": label,
                    "recall": 1 - missed / max(1, int(upper.sum())),
                    "kept": int(kept.sum()),
                    "candidates per document": info["candidates"] / n,
                    "CPU s": time.process_time() - began,
                }
            )
    return out


def _all_similarities(texts: Sequence[str]) -> np.ndarray:
    from scipy.sparse import csr_array

    sets = shingle_sets(pa.array(texts, pa.large_string()))
    _, codes = np.unique(np.asarray(sets.values), return_inverse=True)
    offsets = sets.offsets.to_numpy()
    table = csr_array((np.ones(len(codes), np.float32), codes, offsets), shape=(len(texts), codes.max() + 1))
    common = (table @ table.T).toarray()
    size = np.diff(offsets)
    return np.asarray(common / (size[:, None] + size[None, :] - common))


class Mixer:
    """New documents from real sentences: about 200 words each, some of them copies of earlier ones, exact or edited."""

    def __init__(self, root: Path) -> None:
        split = re.compile(r"(?<=[.!?])\s+|\n{2,}")
        found = (s.strip() for name in MIXED_SETS for t in texts_of(root / name) for s in split.split(t))
        self.sentences = [s for s in found if 4 <= len(s.split()) <= 60]

    def batches(self, documents: int, seed: int = 0) -> Iterator[pa.RecordBatch]:
        rng = np.random.default_rng(seed)
        earlier: list[str] = []
        for start in range(0, documents, PART):
            texts = [self._text(rng, earlier) for _ in range(min(PART, documents - start))]
            earlier += texts[:200]
            del earlier[:-20_000]
            yield from batches_of(texts, [f"{start + i}" for i in range(len(texts))])

    def _text(self, rng: np.random.Generator, earlier: list[str]) -> str:
        draw = rng.random()
        if earlier and draw < 0.05:
            return earlier[int(rng.integers(len(earlier)))]
        if earlier and draw < 0.15:
            words = earlier[int(rng.integers(len(earlier)))].split()
            for at in rng.integers(0, len(words), int(rng.integers(1, 6))):
                words[at] = self.sentences[int(rng.integers(len(self.sentences)))].split()[0]
            return " ".join(words)
        chosen = rng.integers(0, len(self.sentences), int(rng.integers(3, 18)))
        return " ".join(self.sentences[i] for i in chosen)


def steps(root: Path, documents: int) -> list[dict[str, Any]]:
    """Documents per CPU second of each step, over the same mixed documents, called in a loop."""
    texts = [
        t for b in Mixer(root).batches(documents) for t in (s[0]["text"] for s in b["segments"].to_pylist())
    ]
    rows = []
    for attempt in range(2):  # the first one compiles
        some = texts if attempt else texts[:200]
        rows = timed_steps(pa.array(some, pa.large_string()))
    return rows


def grown(root: Path, documents: int) -> dict[str, Any]:
    """One size of the growth table, in this process."""
    mixer = Mixer(root)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        for partitions in (1, 2):  # compiles; in one piece, and in steps
            warm = Bench(f"{folder}/warm-{partitions}")
            warm.prepare(mixer.batches(200), AnnotateConfig())
            warm.deduplicate(DedupConfig(partitions=partitions))
        bench = Bench(f"{folder}/run")
        bench.prepare(mixer.batches(documents), AnnotateConfig())
        before = _peak_mb()
        bench.deduplicate(DedupConfig())
        info = bench.manifests["dedup_near"].info["search"]
        seconds = bench.seconds["dedup_exact"] + bench.seconds["dedup_near"]
        return {
            "documents": documents,
            "annotate, docs per CPU s": round(documents / bench.seconds["annotate"]),
            "exact, CPU s": round(bench.seconds["dedup_exact"], 2),
            "near, CPU s": round(bench.seconds["dedup_near"], 2),
            "docs per CPU s": round(documents / seconds),
            "candidates per document": round(info["candidates"] / documents, 3),
            "kept": round(bench.manifests["dedup_near"].counts.kept / documents, 4),
            "peak MB before": before,
            "peak MB": _peak_mb(),
        }


def _peak_mb() -> int:
    """Most memory this process has held, MB. Not by `getrusage`, which counts what its parent held when it forked."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    line = next(x for x in status.read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def growth(root: Path, quick: bool) -> list[dict[str, Any]]:
    """Rates at growing sizes, each in a process of its own, and their ratio to the first."""
    out: list[dict[str, Any]] = []
    for n in (10_000, 100_000, *(() if quick else (1_000_000,))):
        command = [sys.executable, __file__, "--data", str(root), "--grown", str(n)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        last = out[-1] if out else None
        # The fixed cost of a dozen small Beam pipelines hides in the first row; what a further document costs does not.
        row["further docs per CPU s"] = (
            round((n - last["documents"]) / (_cost(row) - _cost(last))) if last else None
        )
        out.append(row)
    return out


def _cost(row: dict[str, Any]) -> float:
    return float(row["exact, CPU s"] + row["near, CPU s"])


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of equal keys as a table."""
    if title:
        print(f"\n{title}\n")

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else "" if value is None else f"{value}"

    columns = list(rows[0]) if rows else []
    cells = [[cell(r[c]) for c in columns] for r in rows]
    widths = [max(len(c), *(len(x[i]) for x in cells)) for i, c in enumerate(columns)]
    for line in [columns, ["-" * w for w in widths], *cells]:
        print("| " + " | ".join(x.ljust(w) for x, w in zip(line, widths)) + " |", flush=True)


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument("--grown", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grown:
        print(json.dumps(grown(options.data, options.grown)))
        return
    figures: dict[str, Any] = {}
    for key, title, rows in (
        (
            "revisions",
            "Real revisions (found / true pairs by band of similarity)",
            lambda: revisions(options.data),
        ),
        ("incremental", "Later revisions against a run of the first ones", lambda: incremental(options.data)),
        ("records", "Records of about ten words", lambda: records(options.data)),
        ("template", "One template around the threshold 0.8", lambda: template(options.quick)),
        ("steps", "Steps, called in a loop", lambda: steps(options.data, 5_000 if options.quick else 20_000)),
    ):
        figures[key] = rows()
        show(title, figures[key])
    figures["growth"] = growth(options.data, options.quick)
    show("Growth, stages dedup_exact and dedup_near", figures["growth"])
    save(options.json, options.quick, figures, PACKAGES)


if __name__ == "__main__":
    main()
