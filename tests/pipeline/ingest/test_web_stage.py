"""Web sources through the ingest stage: the same bytes for any number of workers, and read anew when they must be."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

import mixloom.pipeline.ingest.extract as extract
from mixloom.pipeline.console import Console
from mixloom.pipeline.ingest.config import SourceConfig
from mixloom.pipeline.ingest_stage import IngestStage
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import RunSettings, run_stage

sys.path.insert(0, str(Path(__file__).parent))
from warc_files import pack, page, response

TYPE = TypeAdapter(SourceConfig)


@pytest.fixture
def ingest(tmp_path, make_png):
    web = tmp_path / "web"
    web.mkdir()
    for name in ("a.warc.gz", "b.warc"):
        made = [response(f"http://{name}/{i}", page(f"item {i}", "<img src='i.png'>")) for i in range(12)]
        made += [response(f"http://{name}/i.png", make_png(), "image/png")]
        (web / name).write_bytes(pack(made, "gzip" if name.endswith("gz") else "plain"))
    run = RunDirectory(str(tmp_path / "run"))

    def once(parts=5, workers=1, **settings):
        source = TYPE.validate_python({"name": "web", "format": "warc", "path": "web", **settings})
        stage = IngestStage([source], {"web": str(web)}, parts, 1 << 20)
        return run_stage(stage, run, RunSettings(workers=workers), Console(quiet=True), {})

    def ids(manifest):
        tables = [pq.read_table(tmp_path / "run" / "ingest" / f"{p.name}.parquet") for p in manifest.parts]
        return [x for t in tables for x in t["doc_id"].to_pylist()]

    once.run, once.ids = run, ids
    return once


def test_processes_write_the_same_parts_and_the_size_of_parts_changes_no_document(ingest):
    one, _ = ingest()
    assert [p.rows for p in one.parts] == [5, 5, 5, 5, 4]
    ids = ingest.ids(one)
    ingest.run.store.remove("ingest")
    assert ingest(workers=2)[0].fingerprint == one.fingerprint
    other, _ = ingest(parts=100)
    assert [p.rows for p in other.parts] == [24]
    assert len(ids) == 24
    assert ingest.ids(other) == ids


def test_another_version_of_the_extractor_reads_the_source_anew(ingest, monkeypatch):
    assert ingest()[1]
    assert not ingest()[1]
    monkeypatch.setattr(extract, "version", lambda name: "99.0")
    assert ingest()[1]
    assert not ingest()[1]
    assert ingest(extract="all")[1]
    monkeypatch.undo()
    assert not ingest(extract="all")[1]  # no extractor, no version
