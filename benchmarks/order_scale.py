"""Does the order cost more than the search it needs, does memory stay bounded, and what is cutting into cells worth?

    python benchmarks/order_scale.py [--data ROOT] [--quick] [--sizes 10000,100000] [--work FOLDER] [--json FILE]

Scale: the stage `order` as in a run, over synthetic unit vectors of 100 numbers that lie in nested clusters, in cells of
at most 50,000, on two workers; each size in a process of its own, whose peak memory is told. Beside it the same searches alone
(faiss IndexFlatIP, the same cells, two at a time on one thread each), and both once more in CPU seconds. Quality: mean
cosine of neighbours over the whole, in 16 cells found by k-means (beside the greedy path over the whole as it was published,
without joins and moves), and of the controls; real text is embedded by the default embedder, all sets together (at most
4,000 documents each) and the newsgroups alone. Copies: crowds of 2 to 50 exact and near copies planted among the vectors.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np
import pyarrow as pa
from recording import options_parser, save
from text_sets import documents, sets

from mixloom.pipeline.console import Console
from mixloom.pipeline.distances import nearest
from mixloom.pipeline.embed import vectors_schema
from mixloom.pipeline.kmeans import fit_centres
from mixloom.pipeline.one_thread import one_thread
from mixloom.pipeline.order import order_cell
from mixloom.pipeline.order_config import OrderConfig
from mixloom.pipeline.order_stage import OrderStage
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import OutputTable, RunSettings, Stage, StageContext, UnitOutput, run_stage
from mixloom.pipeline.tfidf import TfidfConfig, TfidfSvd

FULL, QUICK = "10000,100000,200000,1000000", "10000,50000"
DIM, CELL, PART, WORKERS, NEIGHBOURS = 100, 50_000, 1000, 2, 10
PER_SET = 4000
PACKAGES = ("mixloom", "faiss-cpu", "numba", "numpy", "apache-beam")


class Given(Stage):
    """A finished stage with these parts, made one at a time."""

    name: ClassVar[str]
    version = 1

    def __init__(self, name: str, parts: int, make: Any) -> None:
        self.name, self._parts, self._make = name, parts, make  # type: ignore[misc]

    def settings(self) -> dict[str, Any]:
        return {}

    def execute(self, ctx: StageContext) -> None:
        for p in range(self._parts):
            table = self._make(p)
            ctx.commit(
                UnitOutput(f"part-{p:05d}", (OutputTable(f"part-{p:05d}", table),), None, table.num_rows)
            )


class Synthetic:
    """n unit vectors in cells, in clusters of about 60 inside them; the cell of each is given."""

    def __init__(self, n: int) -> None:
        r = np.random.Generator(np.random.PCG64(1))
        self.n, self.cells = (
            n,
            -(-n * 10 // (CELL * 9)),
        )  # cells differ in size: none is to be above the bound
        cell = r.integers(0, self.cells, max(n // 60, 1))
        self._of = cell.astype(np.int32)
        self._centres = (2 * r.normal(size=(self.cells, DIM))[cell] + r.normal(size=(len(cell), DIM))).astype(
            np.float32
        )

    def rows(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(vectors float32, cells int32) of some documents."""
        r = np.random.Generator(np.random.PCG64([2, begin]))
        cluster = r.integers(0, len(self._of), end - begin)
        x = self._centres[cluster] + r.normal(size=(end - begin, DIM)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True), self._of[cluster]

    def part(self, number: int) -> tuple[np.ndarray, np.ndarray, pa.Array, pa.Array]:
        begin, end = number * PART, min((number + 1) * PART, self.n)
        ids = pa.array([f"{i * 2654435761 % 2**32:08x}{i:024x}" for i in range(begin, end)])
        return *self.rows(begin, end), ids, pa.array(np.arange(end - begin, dtype=np.int32))

    def vectors(self, number: int) -> pa.Table:
        x, _, ids, rows = self.part(number)
        schema = vectors_schema(DIM)
        column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), type=schema.field("vector").type)
        return pa.table(
            {"doc_id": ids, "row": rows, "vector": column, "has_text": np.ones(len(x), bool)}, schema=schema
        )

    def assignments(self, number: int) -> pa.Table:
        _, cell, ids, rows = self.part(number)
        return pa.table({"doc_id": ids, "row": rows, "domain": pa.array(cell), "cell": pa.array(cell)})


def run_stages(stages: list[Stage], folder: Path) -> list[Any]:
    """Run stages in a folder; returns their manifests."""
    run, manifests = RunDirectory(str(folder)), {}
    for name in ("embed", "cluster"):
        if (found := run.stage(name).manifest()) is not None:
            manifests[name] = found
    for stage in stages:
        manifests[stage.name], _ = run_stage(
            stage, run, RunSettings(workers=WORKERS), Console(quiet=True), manifests
        )
    return [manifests[s.name] for s in stages]


def make(n: int, folder: Path) -> dict[str, Any]:
    """Write `embed` and `cluster` of a run."""
    made, parts = Synthetic(n), -(-n // PART)
    run_stages([Given("embed", parts, made.vectors), Given("cluster", parts, made.assignments)], folder)
    return {}


def order(n: int, folder: Path) -> dict[str, Any]:
    """The stage over what `make` wrote; its row of the table without the search."""
    x = Synthetic(3000).rows(0, 3000)[0]
    order_cell(x, [f"{i:05d}" for i in range(len(x))], OrderConfig())  # compile, and load everything
    import mixloom.pipeline.order_transform  # noqa: F401

    began, cpu = time.perf_counter(), time.process_time()
    (manifest,) = run_stages([OrderStage(OrderConfig(neighbours=NEIGHBOURS))], folder)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    info = manifest.info.values()
    total = sum(i["documents"] for i in info)

    def mean(key: str) -> float:
        return sum(float(i[key]) * i["documents"] for i in info) / total

    return {
        "documents": n,
        "cells": len(info),
        "largest cell": max(i["documents"] for i in info),
        "order s": seconds,
        "order CPU s": cpu,
        "peak memory MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "mean cosine": mean("mean_cosine"),
        "random": mean("random_cosine"),
        "share of bound": sum(i["path_weight"] for i in info) / sum(i["bound"] for i in info),
        "jumps": sum(i["jumps"] for i in info),
    }


def search(n: int, folder: Path) -> dict[str, Any]:
    """The searches alone, of the vectors as the stage has them, two cells at a time with one thread each."""
    made = Synthetic(n)
    found = [made.rows(b, min(b + PART, n)) for b in range(0, n, PART)]
    x = np.concatenate([f[0] for f in found]).astype(np.float16)
    cell = np.concatenate([f[1] for f in found])
    groups = [x[cell == c].astype(np.float32) for c in np.unique(cell)]

    def one(vectors: np.ndarray) -> None:
        index = faiss.IndexFlatIP(DIM)
        index.add(vectors)
        with one_thread():
            index.search(vectors, NEIGHBOURS + 1)

    one(groups[0][:2000])
    began, cpu = time.perf_counter(), time.process_time()
    # One cell has its blocks on two threads, as the stage does.
    pieces = groups if len(groups) > 1 else []
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, pieces))
        if not pieces:
            index = faiss.IndexFlatIP(DIM)
            index.add(groups[0])
            blocks = [groups[0][b : b + 4096] for b in range(0, len(groups[0]), 4096)]

            def block(queries: np.ndarray) -> None:
                with one_thread():
                    index.search(queries, NEIGHBOURS + 1)

            list(pool.map(block, blocks))
    return {"search s": time.perf_counter() - began, "search CPU s": time.process_time() - cpu}


def child(phase: str, n: int, folder: Path) -> dict[str, Any]:
    """Do one phase in a process of its own; returns what it prints at the end."""
    command = [sys.executable, __file__, "--phase", phase, "--sizes", str(n), "--work", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def scale(n: int, work: Path | None) -> dict[str, Any]:
    """One row of the table of sizes."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        child("make", n, Path(folder))
        row, alone = child("order", n, Path(folder)), child("search", n, Path(folder))
    wall, cpu = row["order s"] / alone["search s"], row["order CPU s"] / alone["search CPU s"]
    return {**row, **alone, "order / search, wall": wall, "order / search, CPU": cpu}


def mean_cosine(x: np.ndarray, path: np.ndarray) -> float:
    return float((x[path[1:]].astype(np.float64) * x[path[:-1]]).sum(axis=1).mean())


def quality(name: str, x: np.ndarray) -> list[dict[str, Any]]:
    """The methods over all vectors, and in 16 cells."""
    ids = np.array([f"{i:08d}" for i in range(len(x))])
    text = x.any(axis=1)
    rng = np.random.Generator(np.random.PCG64(0))
    centres = fit_centres(x[text], 16, iterations=20, restarts=3, rng=rng)
    cell = np.where(text, nearest(x, centres)[0], 16)
    greedy = mean_cosine(x, order_cell(x, ids, OrderConfig(join=False, relocate=0)).path)
    out = []
    for method in ("path", "linking", "cluster_sorted", "random"):
        config = OrderConfig(method=method)  # type: ignore[arg-type]
        whole = order_cell(x, ids, config)
        paths = []
        for c in np.unique(cell):
            rows = np.flatnonzero(cell == c)
            paths.append(rows[order_cell(x[rows], ids[rows], config).path])
        one, cut = mean_cosine(x, whole.path), mean_cosine(x, np.concatenate(paths))
        s = whole.stats
        out.append(
            {
                "vectors": name,
                "documents": len(x),
                "method": method,
                "mean cosine": one,
                "in 16 cells": cut,
                "16 cells / one greedy path": cut / greedy if greedy > 0 else 1.0,
                "share of bound": s.bound_share,
                "jumps": s.jumps,
                "near-duplicates that are neighbours": s.near_duplicate_neighbours,
            }
        )
    return out


def planted(x: np.ndarray, noise: float) -> dict[str, Any]:
    """Crowds of 2 to 50 copies of a vector among others: how many end up beside a copy of the same."""
    r = np.random.Generator(np.random.PCG64(3))
    sizes = [*range(2, 51)]
    every, label = [x], [np.full(len(x), -1)]
    for crowd, size in enumerate(sizes):
        label[0][crowd] = crowd
        copies = x[crowd] + noise * r.normal(size=(size - 1, DIM)) / np.sqrt(DIM)
        every.append((copies / np.linalg.norm(copies, axis=1, keepdims=True)).astype(np.float32))
        label.append(np.full(size - 1, crowd))
    together, of = np.concatenate(every), np.concatenate(label)
    row: dict[str, Any] = {
        "copies": "near" if noise else "exact",
        "crowds": len(sizes),
        "planted": sum(sizes),
    }
    for method in ("path", "linking", "cluster_sorted", "random"):
        config = OrderConfig(method=method)  # type: ignore[arg-type]
        path = order_cell(together, [f"{i:08d}" for i in range(len(of))], config).path
        row[f"neighbours, {method}"] = int(((of[path[1:]] == of[path[:-1]]) & (of[path[1:]] >= 0)).sum())
    return row


def real_vectors(folders: Iterable[Path]) -> np.ndarray:
    """Vectors of real text by the default embedder."""
    texts = [text for folder in folders for text, _ in zip(documents(folder), range(PER_SET))]
    return TfidfSvd.fit(texts, TfidfConfig()).transform(texts)


def main() -> None:
    parser = options_parser(__doc__ or "", data=False)
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", help="folder of the real data sets, for the quality"
    )
    parser.add_argument("--sizes", help=f"documents, by comma (default {FULL}; with --quick {QUICK})")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where runs are written for a while")
    parser.add_argument("--phase", choices=("make", "order", "search"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        phase = {"make": make, "order": order, "search": search}[args.phase]
        print(json.dumps(phase(int(args.sizes), args.work)))
        return
    sizes = [int(s) for s in (args.sizes or (QUICK if args.quick else FULL)).split(",")]
    figures: dict[str, Any] = {"neighbours": NEIGHBOURS, "numbers in a vector": DIM, "workers": WORKERS}
    figures["scale"] = []
    for n in sizes:
        figures["scale"].append(scale(n, args.work))
        print(json.dumps(figures["scale"][-1]))
    synthetic = Synthetic(5000 if args.quick else 20_000)
    x = synthetic.rows(0, synthetic.n)[0]
    figures["quality"] = quality("synthetic", x)
    if args.data is not None:
        found = sets(args.data)
        figures["quality"] += quality("all text sets", real_vectors(found.values()))
        if "text-20news" in found:
            figures["quality"] += quality("newsgroups", real_vectors([found["text-20news"]]))
    figures["planted copies"] = [planted(x, 0.0), planted(x, 0.1)]
    for row in (*figures["quality"], *figures["planted copies"]):
        print(json.dumps(row))
    save(args.json, args.quick, figures, PACKAGES)


if __name__ == "__main__":
    main()
