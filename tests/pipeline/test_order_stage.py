"""The stage over stages written by hand: nothing but what the order is made from."""

from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline import order_stage
from mixloom.pipeline.console import Console
from mixloom.pipeline.embed import vectors_schema
from mixloom.pipeline.order_config import LongConfig, OrderConfig, QuestionsConfig
from mixloom.pipeline.order_stage import OrderStage
from mixloom.pipeline.order_transform import CellShare
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch
from mixloom.pipeline.stage import OutputTable, RunSettings, Stage, UnitOutput, run_stage

N, PART, CELLS, DIM = 240, 50, 4, 10


class Given(Stage):
    """A stage that writes the tables it was given."""

    name: ClassVar[str]
    version = 1

    def __init__(self, name, tables):
        self.name, self.tables = name, tables

    def settings(self):
        return {}

    def execute(self, ctx):
        for name, table in self.tables.items():
            ctx.commit(UnitOutput(name, (OutputTable(name, table),), None, table.num_rows))


def documents():
    """Every tenth document, from 3 on, asks about the one before it."""
    out: list[Document] = []
    for i in range(N):
        meta = {"answers": out[-1].doc_id} if i % 10 == 3 else {}
        segments = (Segment(kind="text", text=f"number {i}"),)
        out.append(Document(source="s", locator=Locator(uri=f"{i}.txt"), segments=segments, meta=meta))
    return out


@pytest.fixture(scope="module")
def given():
    """Tables by stage and part; a document and its question lie in one cell."""
    r = np.random.default_rng(0)
    made = documents()
    ids = [d.doc_id for d in made]
    cell = np.arange(N) // 5 % CELLS
    x = r.normal(size=(CELLS, DIM))[cell] + r.normal(size=(N, DIM))
    x[100:110:5] = x[100]  # copies, in one cell or not
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    out = {stage: {} for stage in ("ingest", "annotate", "embed", "cluster")}
    for p, begin in enumerate(range(0, N, PART)):
        own = slice(begin, min(begin + PART, N))
        n = own.stop - begin
        name, rows = f"part-{p:05d}", pa.array(np.arange(n, dtype=np.int32))
        flat = pa.array(x[own].ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, type=vectors_schema(DIM).field("vector").type)
        out["ingest"][name] = pa.Table.from_batches([documents_batch(made[own])])
        out["annotate"][name] = pa.table({"doc_id": ids[own], "text_chars": [50 + i for i in range(n)]})
        out["embed"][name] = pa.table(
            {"doc_id": ids[own], "row": rows, "vector": vectors, "has_text": [True] * n},
            schema=vectors_schema(DIM),
        )
        out["cluster"][name] = pa.table(
            {
                "doc_id": ids[own],
                "row": rows,
                "domain": pa.array(cell[own].astype(np.int32) // 2),
                "cell": pa.array(cell[own].astype(np.int32)),
            }
        )
    return out


def ordered(given, folder, config, workers=1):
    run, settings, manifests = RunDirectory(str(folder)), RunSettings(workers=workers), {}
    stages = [*(Given(name, tables) for name, tables in given.items()), OrderStage(config)]
    for stage in stages:
        manifests[stage.name], _ = run_stage(stage, run, settings, Console(quiet=True), manifests)
    return run.stage("order").reader(), manifests["order"]


CONFIG = OrderConfig(
    neighbours=5,
    questions=QuestionsConfig(),
    upsample_long=LongConfig(min_characters=95, factor=2, apart=10),
)


def test_documents_stand_once_questions_before_them_and_long_ones_again(given, tmp_path):
    reader, manifest = ordered(given, tmp_path, CONFIG)
    ids = [d.doc_id for d in documents()]
    assert manifest.counts.kept == N
    assert manifest.inputs.keys() == {"cluster", "embed", "ingest", "annotate"}
    found, copies = [], []
    for c in range(CELLS):
        rows = reader.read(f"cell-{c:06d}").to_pylist()
        assert [r["rank"] for r in rows] == list(range(len(rows)))
        assert {(r["domain"], r["cell"]) for r in rows} == {(c // 2, c)}
        path = [ids.index(r["doc_id"]) for r in rows]
        for i, v in enumerate(path):
            if v % 10 == 3:
                assert path[i + 1] == v - 1
            assert rows[i]["part"] == f"part-{v // PART:05d}"
            assert rows[i]["row"] == v % PART
        found += [v for v, r in zip(path, rows, strict=True) if r["copy"] == 0]
        copies += [v for v, r in zip(path, rows, strict=True) if r["copy"] > 0]
        beside = reader.read(f"vectors/cell-{c:06d}")
        assert beside["doc_id"].to_pylist() == [r["doc_id"] for r in rows]
        info = manifest.info[f"cell-{c:06d}"]
        assert info["questions"] == (12 if c % 2 == 0 else 0)
        assert info["questions_elsewhere"] == 0
        assert info["near_duplicate_neighbours"] == 0
    assert sorted(found) == list(range(N))
    long = {v for v in range(N) if v % PART >= 45 and v % 10 not in (2, 3)}
    assert set(copies) <= long
    assert copies


def test_workers_and_passes_change_no_byte(given, tmp_path, monkeypatch):
    fingerprints = {ordered(given, tmp_path / "one", CONFIG)[1].fingerprint}
    fingerprints.add(ordered(given, tmp_path / "two", CONFIG, workers=2)[1].fingerprint)
    monkeypatch.setattr(order_stage, "AT_ONCE", 100)
    fingerprints.add(ordered(given, tmp_path / "passes", CONFIG)[1].fingerprint)
    assert len(fingerprints) == 1


def test_without_options_only_vectors_and_cells_are_read(given, tmp_path):
    tables = {name: given[name] for name in ("embed", "cluster")}
    reader, manifest = ordered(tables, tmp_path, OrderConfig(keep_vectors=False, method="linking"))
    assert sorted(reader.parts) == [f"cell-{c:06d}" for c in range(CELLS)]
    assert manifest.inputs.keys() == {"cluster", "embed"}
    assert sum(reader.read(n).num_rows for n in reader.parts) == N


def test_a_share_of_the_cells_leaves_out_what_is_finished():
    cells = np.array([0, 5, 2, 3, 5, 4])
    assert CellShare().holds(cells).all()
    assert CellShare(1, 2, frozenset(["cell-000005"])).holds(cells).tolist() == [
        False,
        False,
        False,
        True,
        False,
        False,
    ]
