"""The life of a document, asked of runs that are whole, half done, or know nothing of it."""

import pytest

from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.explain import explain
from mixloom.pipeline.ingest_stage import IngestStage
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import RunSettings, run_stage


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_corpus, make_tree):
    """A run that was interrupted after ingest."""
    from pydantic import TypeAdapter

    from mixloom.pipeline.ingest.config import SourceConfig

    tmp = tmp_path_factory.mktemp("explain")
    make_corpus(tmp / "corpus", "pages", "records")
    tree = make_tree(tmp / "corpus", tmp / "run", ["pages", "records"])
    sources = [TypeAdapter(SourceConfig).validate_python(s) for s in tree["sources"]]
    roots = {s.name: str(tmp / "corpus" / s.path) for s in sources}
    directory = RunDirectory(str(tmp / "run"))
    run_stage(IngestStage(sources, roots, 100, 1 << 20), directory, RunSettings(), Console(quiet=True), {})
    directory.store.write("config.yaml", b"")
    directory.save_plan(["ingest", "annotate"])
    return directory


def documents(run):
    reader = run.stage("ingest").reader()
    return [row for name in sorted(reader.parts) for row in reader.read(name).to_pylist()]


def test_a_document_is_shown_with_its_place_and_segments_and_long_text_is_cut(run):
    page = next(d for d in documents(run) if d["locator"]["uri"] == "walk.md")
    told = explain(run, page["doc_id"])
    assert told["document"]["source"] == "pages"
    assert told["document"]["license"] == "CC0-1.0"
    text, image = told["document"]["segments"][:2]
    assert (text["kind"], image["kind"], image["uri"]) == ("text", "image", "img/one.png")
    assert text["text"] == page["segments"][0]["text"][:300]
    assert text["characters"] == len(page["segments"][0]["text"])
    [entry] = told["life"]
    assert (entry["stage"], entry["outcome"]) == ("ingest", "kept")
    assert "lost" not in entry


def test_a_kept_document_tells_which_of_its_images_it_went_without(run):
    torn = next(d for d in documents(run) if d["locator"]["uri"] == "torn.md")
    lost = explain(run, torn["doc_id"])["life"][0]["lost"]
    assert [(x["media"], x["reason"]) for x in lost] == [
        ("img/cut.jpg", "truncated_image"),
        ("img/gone.png", "missing_media"),
    ]
    assert all("fix: " in x["detail"] for x in lost)


def test_a_lost_image_can_be_asked_for_by_its_own_id(run):
    [entry] = run.stage("ingest").manifest().rejects[:1]
    reader = type(run.stage("ingest").reader())(run.stage("ingest").store, {entry.name: entry})
    row = next(r for r in reader.read(entry.name).to_pylist() if r["scope"] == "media")
    told = explain(run, row["doc_id"])
    assert "document" not in told
    assert told["life"][0]["scope"] == "media"
    assert told["life"][0]["reason"] == row["reason"]


def test_a_prefix_of_several_documents_lists_some_and_asks_for_more_digits(run):
    with pytest.raises(UserError, match=r"documents have ids that begin with '': [0-9a-f]{32}, .*") as caught:
        explain(run, "")
    assert "give more digits" in str(caught.value)


def test_an_id_that_is_not_there_says_where_ids_are_found(run):
    with pytest.raises(
        UserError, match=r"no document of .*/run has an id that begins with '\.\./zz'"
    ) as caught:
        explain(run, "../zz")
    assert "rejects/*.parquet files list them" in str(caught.value)


def test_a_run_that_has_not_read_its_documents_yet_says_so(tmp_path):
    run = RunDirectory(str(tmp_path))
    run.store.write("config.yaml", b"")
    run.save_plan(["ingest", "annotate"])
    with pytest.raises(UserError, match="ingest has not finished, so its documents are not known yet"):
        explain(run, "ab")
