"""Ingest as a stage: parts of bounded size, one unit of work per split, keyed by the files that are there."""

import os

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.config import SourceConfig
from mixloom.pipeline.ingest_stage import IngestStage, PartSize, chunks, ingest_unit
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.schema import Document, Failure, Locator, Media, Segment
from mixloom.pipeline.stage import RunSettings, StageContext, run_stage, stage_key

TYPE = TypeAdapter(SourceConfig)


def document(i, text="some words", images=0):
    image = Segment(kind="image", media=Media(uri="a.png", sha256="0" * 64, bytes=1, width=1, height=1))
    segments = (Segment(kind="text", text=text), *[image] * images)
    return Document(source="s", locator=Locator(uri=f"{i}.txt"), segments=segments)


def failure(i):
    return Failure(source="s", locator=Locator(uri=f"{i}.txt"), reason="bad", detail=f"{i} is bad")


items = st.lists(
    st.one_of(
        st.builds(document, st.integers(0, 99), st.text("ab", min_size=1, max_size=40), st.integers(0, 3)),
        st.builds(failure, st.integers(0, 99)),
    ),
    max_size=40,
)


@given(items, st.integers(1, 7), st.integers(1, 100), st.integers(1, 5))
def test_chunks_lose_nothing_keep_the_order_and_hold_the_bounds(stream, most, size, media):
    found = list(chunks(iter(stream), PartSize(most, size, media)))
    assert [x for chunk in found for x in chunk] == stream
    assert all(found)
    for chunk in found:
        documents = [x for x in chunk if isinstance(x, Document)]
        assert len(documents) <= most
        volumes = [len(d.segments[0].text) for d in documents]
        assert sum(volumes[:-1]) < size  # closed by the document that reaches the bound
        images = [len(d.segments) - 1 for d in documents]
        assert sum(images[:-1]) < media
    for chunk in found[:-1]:
        documents = [x for x in chunk if isinstance(x, Document)]
        full = sum(len(d.segments[0].text) for d in documents) >= size
        assert full or len(documents) == most or sum(len(d.segments) - 1 for d in documents) >= media


def test_a_chunk_is_given_away_before_the_next_is_read():
    read = []

    def stream():
        for i in range(6):
            read.append(i)
            yield document(i)

    chunk = next(chunks(stream(), PartSize(2, 1000, 1000)))
    assert len(chunk) == 2
    assert read == [0, 1]


def test_a_unit_writes_numbered_parts_and_counts_its_failures(tmp_path):
    directory = RunDirectory(str(tmp_path)).stage("ingest")
    stream = [document(0), failure(1), document(2), document(3), failure(4)]
    out = ingest_unit("00007", iter(stream), directory, PartSize(2, 1000, 1000))
    assert [(p.name, p.rows) for p in out.files] == [("part-00007-0000", 2), ("part-00007-0001", 1)]
    assert out.kept == 3
    assert out.rejects.column("detail").to_pylist() == ["1 is bad", "4 is bad"]
    first = pq.read_table(tmp_path / "ingest" / "part-00007-0000.parquet")
    assert first["doc_id"].to_pylist() == [document(0).doc_id, document(2).doc_id]


def test_a_unit_of_failures_alone_writes_no_part(tmp_path):
    directory = RunDirectory(str(tmp_path)).stage("ingest")
    out = ingest_unit("00000", iter([failure(1)]), directory, PartSize(2, 1000, 1000))
    assert (out.files, out.kept, out.rejects.num_rows) == ((), 0, 1)


class World:
    def __init__(self, root, make_corpus):
        self.corpus = make_corpus(root / "corpus", "notes", "pages")
        self.run = RunDirectory(str(root / "run"))

    def stage(self, parts=10, root=None, **settings):
        notes = {"name": "notes", "format": "text", "path": "notes", **settings}
        pages = {"name": "pages", "format": "markdown", "path": "pages"}
        sources = [TYPE.validate_python(s) for s in (notes, pages)]
        root = root or self.corpus.root
        return IngestStage(sources, {s.name: f"{root}/{s.path}" for s in sources}, parts, 1 << 20)

    def ingest(self, workers=1, **settings):
        return run_stage(
            self.stage(**settings), self.run, RunSettings(workers=workers), Console(quiet=True), {}
        )


@pytest.fixture
def world(tmp_path, make_corpus):
    return World(tmp_path, make_corpus)


def test_parts_are_bounded_and_every_file_is_accounted_for(world):
    manifest, _ = world.ingest()
    assert all(0 < p.rows <= 10 for p in manifest.parts)
    assert sum(p.rows for p in manifest.parts) == manifest.counts.kept == 29
    assert manifest.counts.dropped == {"empty_document": 2}
    assert manifest.counts.failed == {"broken_gzip": 1, "invalid_utf8": 1}
    assert manifest.counts.media == {"missing_media": 1, "truncated_image": 1}


def test_processes_write_the_same_parts(world):
    one = world.ingest()[0].fingerprint
    world.run.store.remove("ingest")
    assert world.ingest(workers=2)[0].fingerprint == one


def test_a_touched_an_added_and_a_removed_file_are_noticed_and_an_unrelated_one_is_not(world):
    root = world.corpus.root
    assert world.ingest()[1]
    assert not world.ingest()[1]
    (root / "notes" / "unrelated.pdf").write_bytes(b"not read by this source")
    assert not world.ingest()[1]
    os.utime(root / "notes" / "sea" / "1.txt", (1, 1))
    assert world.ingest()[1]
    (root / "notes" / "sea" / "new.txt").write_text("A new note.")
    assert world.ingest()[1]
    (root / "notes" / "sea" / "new.txt").unlink()
    assert world.ingest()[1]
    (root / "pages" / "img" / "one.png").write_bytes(
        (root / "pages" / "img" / "one.png").read_bytes() + b"\0"
    )
    assert world.ingest()[1]  # pages name their pictures, so these count too
    assert not world.ingest()[1]


def test_where_the_data_lie_is_not_part_of_the_key(world, tmp_path):
    world.ingest()
    (tmp_path / "corpus").rename(tmp_path / "moved")
    assert not world.ingest(root=tmp_path / "moved")[1]


def test_other_settings_of_a_source_or_of_parts_read_anew(world):
    world.ingest()
    assert world.ingest(parts=5)[1]
    assert world.ingest(parts=5, language="en")[1]


def test_a_missing_path_is_told_before_anything_is_written(world):
    with pytest.raises(UserError, match=r"source 'notes': the path .*/nowhere/notes does not exist"):
        world.ingest(root=world.corpus.root / "nowhere")
    assert not world.run.store.exists("ingest")


def test_an_interrupted_ingest_reads_only_the_splits_that_are_left(world):
    whole = world.ingest()[0]
    parts = [p for p in whole.parts if p.name.startswith("part-00001")]
    # As a kill leaves it: the first unit recorded, the second not, its part half written.
    notes_only = RunDirectory(str(world.run.store.root) + "-half")
    stage = world.stage()
    directory = notes_only.stage("ingest")
    directory.begin(stage_key(stage, {}))
    ctx = StageContext(notes_only, directory, stage, RunSettings(), Console(quiet=True), {})
    stage.execute(ctx)
    directory.store.remove("_progress/00001.json")
    directory.store.remove(parts[0].file)
    directory.store.write(f"{parts[0].file}.tmp-123", b"half")
    kept = {u.unit for u in directory.units()}
    assert kept == {"00000"}
    told = []
    console = Console(quiet=True)
    console.say = told.append
    resumed, _ = run_stage(stage, notes_only, RunSettings(), console, {})
    assert told == ["ingest: continuing; 1 finished units are kept"]
    assert resumed.fingerprint == whole.fingerprint
    assert not [n for n in directory.store.files() if ".tmp-" in n]
