"""Files of good and of ordinary documents, of our own making, and a classifier fitted on them once."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline.config import validate
from mixloom.pipeline.console import Console
from mixloom.pipeline.ledger import Counts
from mixloom.pipeline.quality.config import QualityFitConfig
from mixloom.pipeline.quality.fit import fit_quality
from mixloom.pipeline.run import RunDirectory, StageManifest
from mixloom.pipeline.schema import SURVIVORS, Document, Locator, Segment, documents_batch

_SHARED = [
    "the",
    "a",
    "of",
    "to",
    "in",
    "and",
    "that",
    "for",
    "with",
    "is",
    "was",
    "on",
    "it",
    "as",
    "by",
    "from",
    "this",
    "which",
    "their",
    "have",
]
_GOOD = (
    "theorem proof lemma estimate measure converges bounded operator therefore hypothesis experiment observed sample "
    "results suggest previously published method significant variance model parameter equation derived consistent"
)
_ORDINARY = (
    "click here buy now cheap deal shipping subscribe login cookie policy amazing wow totally guys lol awesome photo "
    "gallery share comment follow page menu home contact sale offer best price free download watch online"
)


def make_text(rng: np.random.Generator, good: bool, words: int = 60) -> str:
    """Prose with one word in six from the own list of its class, now and then from the other one's."""
    own, other = (_GOOD, _ORDINARY) if good else (_ORDINARY, _GOOD)
    out = []
    for _ in range(words):
        draw = rng.random()
        pool = own.split() if draw < 0.16 else other.split() if draw < 0.18 else _SHARED
        out.append(pool[int(rng.integers(len(pool)))])
        if rng.random() < 0.1:
            out.append(f"word{int(rng.integers(400))}")
    return " ".join(out).capitalize() + "."


@pytest.fixture(scope="session")
def text_of():
    return make_text


@pytest.fixture(scope="session")
def examples_root(tmp_path_factory):
    """good.jsonl and plain.jsonl with 700 and 900 documents, and folder/ with 60 text files, all ordinary."""
    root = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(11)
    for name, good, n in (("good", True, 700), ("plain", False, 900)):
        lines = [json.dumps({"text": make_text(rng, good)}) for _ in range(n)]
        (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (root / "folder").mkdir()
    for i in range(60):
        (root / "folder" / f"{i}.txt").write_text(make_text(rng, False, 90))
    return root


@pytest.fixture(scope="session")
def make_fit(examples_root):
    """Fits with small settings; keyword arguments replace parts of the configuration."""

    def fit(out, **changes):
        tree = {
            "out": str(out),
            "data_root": str(examples_root),
            "positives": [{"name": "good", "format": "jsonl", "path": "good.jsonl"}],
            "negatives": [
                {"name": "plain", "format": "jsonl", "path": "plain.jsonl"},
                {"name": "files", "format": "text", "path": "folder"},
            ],
            "fasttext": {"dim": 8, "bucket": 2000},
        }
        config = validate(QualityFitConfig, {**tree, **changes}, "test")
        return fit_quality(config, Console(quiet=True))

    return fit


@pytest.fixture(scope="session")
def fitted(make_fit, tmp_path_factory):
    """The folder of a fitted model, and its header."""
    out = tmp_path_factory.mktemp("fitted") / "model"
    return out, make_fit(out)


@pytest.fixture(scope="session")
def make_run(examples_root, tmp_path_factory):
    """A run with ingest and a filter that lets every other document pass: its folder, doc ids, and which are good."""
    root = tmp_path_factory.mktemp("run")
    run = RunDirectory(str(root / "run"))
    run.store.write("config.yaml", b"{}\n")
    parts, ids, good = [], [], []
    ingest, decided = run.stage("ingest"), run.stage("filter")
    alive = []
    for k, name in enumerate(("good", "plain")):
        lines = (examples_root / f"{name}.jsonl").read_text().splitlines()[:400]
        for p in range(0, len(lines), 100):
            documents = [
                Document(
                    source=name,
                    locator=Locator(uri=f"{name}.jsonl", offset=p + i, length=1),
                    segments=(Segment(kind="text", text=json.loads(line)["text"]),),
                )
                for i, line in enumerate(lines[p : p + 100])
            ]
            part = f"part-{k:05d}-{p // 100:04d}"
            table = pa.Table.from_batches([documents_batch(documents)])
            parts.append(ingest.write_table(f"{part}.parquet", part, table))
            ids += table["doc_id"].to_pylist()
            good += [name == "good"] * len(documents)
            rows = pa.table(
                {
                    "doc_id": table["doc_id"].take(pa.array(range(0, 100, 2))),
                    "row": pa.array(range(0, 100, 2), pa.int32()),
                }
            )
            alive.append(decided.write_table(f"{part}.parquet", part, rows.cast(SURVIVORS)))
    for directory, written in ((ingest, parts), (decided, alive)):
        directory.finish(
            StageManifest(directory.name, "k", {}, {}, Counts(), written, [], 1, 0.0, 0.0, {}, {})
        )
    return root / "run", ids, np.array(good)
