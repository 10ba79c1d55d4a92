"""Small runs on disk, up to the stage `filter`, for the tests of the stages after it."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline.annotate import annotate
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.console import Console
from mixloom.pipeline.run import RunDirectory, StageManifest, parquet_bytes
from mixloom.pipeline.schema import SURVIVORS, Document, Locator, Media, Segment, documents_batch
from mixloom.pipeline.stage import OutputTable, RunSettings, Stage, StageContext, UnitOutput, run_stage


class Written(Stage):
    """Stands for a stage: writes the tables it is given."""

    version = 1

    def __init__(self, name, tables, settings=None, inputs=()) -> None:
        self.name, self.tables, self.inputs, self._settings = name, tables, inputs, settings or {}

    def settings(self):
        # Other tables make another stage, as another configuration does.
        sums = {p: hashlib.sha256(parquet_bytes(t)).hexdigest() for p, t in self.tables.items()}
        return {**self._settings, "tables": sums}

    def execute(self, ctx: StageContext) -> None:
        for part, table in self.tables.items():
            ctx.commit(UnitOutput(part, (OutputTable(part, table),), None, table.num_rows))


class SmallRun:
    """A run directory whose stages are run one by one."""

    def __init__(self, root) -> None:
        self.directory = RunDirectory(str(root))
        self.directory.store.write("config.yaml", b"{}\n")
        self.manifests: dict[str, StageManifest] = {}

    def run(self, stage: Stage, workers: int = 1, console: Console | None = None) -> StageManifest:
        settings = RunSettings(workers=workers)
        console = console or Console(quiet=True)
        manifest, _ = run_stage(stage, self.directory, settings, console, self.manifests)
        self.manifests[stage.name] = manifest
        self.directory.save_plan(list(self.manifests))
        return manifest

    def written(self, name: str, tables, settings=None, inputs=()) -> StageManifest:
        return self.run(Written(name, tables, settings, inputs))

    def survivors(self, stage: str) -> set[str]:
        reader = self.directory.stage(stage).reader()
        parts = [p.name for p in self.manifests[stage].parts if p.name.startswith("part-")]
        return {d for p in parts for d in reader.read(p)["doc_id"].to_pylist()}

    def rejects(self, stage: str) -> list[dict]:
        store = self.directory.stage(stage).store
        tables = [
            pa.parquet.read_table(pa.BufferReader(store.read(p.file))) for p in self.manifests[stage].rejects
        ]
        return pa.concat_tables(tables).to_pylist() if tables else []


def _up_to_filter(root, documents, per_part=100, without=(), config=None) -> SmallRun:
    run = SmallRun(root)
    config = config or AnnotateConfig()
    ingest, annotations, alive = {}, {}, {}
    for i, start in enumerate(range(0, max(len(documents), 1), per_part)):
        part, batch = f"part-{i:05d}-0000", documents_batch(documents[start : start + per_part])
        ids = batch["doc_id"].to_pylist()
        rows = [r for r, d in enumerate(ids) if d not in without]
        ingest[part] = pa.Table.from_batches([batch])
        annotations[part] = pa.Table.from_batches([annotate(batch, config)])
        columns = [pa.array([ids[r] for r in rows], pa.string()), pa.array(rows, pa.int32())]
        alive[part] = pa.Table.from_arrays(columns, schema=SURVIVORS)
    run.written("ingest", ingest)
    run.written("annotate", annotations, AnnotateStage(config).settings())
    run.written("filter", alive)
    return run


def _document(text: str, name: str, source: str = "web", images=()) -> Document:
    media = [
        Media(uri=f"{i}.png", sha256=hashlib.sha256(i.encode()).hexdigest(), bytes=9, width=64, height=64)
        for i in images
    ]
    segments = [Segment(kind="text", text=text), *(Segment(kind="image", media=m) for m in media)]
    return Document(source=source, locator=Locator(uri=name), segments=tuple(segments))


def _words(rng: np.random.Generator, n: int) -> list[str]:
    return [f"w{x}" for x in rng.integers(0, 100_000, n)]


def _edited(rng: np.random.Generator, text: list[str], edits: int) -> list[str]:
    out = list(text)
    for at in rng.choice(len(text), edits, replace=False):
        out[at] = f"e{rng.integers(0, 100_000)}"
    return out


@pytest.fixture
def small_run():
    """(root, documents, per_part, without, config) -> a `SmallRun` whose filter kept all but the ids `without`."""
    return _up_to_filter


@pytest.fixture
def document():
    """(text, name, source, images) -> a `Document`."""
    return _document


@pytest.fixture
def words():
    """(rng, n) -> n random words."""
    return _words


@pytest.fixture
def edited():
    """(rng, words, n) -> the words with n of them replaced."""
    return _edited
