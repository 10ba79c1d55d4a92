"""Paragraph deduplication on a run directory, against the plain definition over the whole corpus."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.console import Console
from mixloom.pipeline.engine import read_part
from mixloom.pipeline.overlay import edited_annotations, edited_documents
from mixloom.pipeline.paragraph_config import ParagraphConfig
from mixloom.pipeline.paragraph_stage import ParagraphDedupStage
from mixloom.pipeline.run import Part, PartReader
from mixloom.pipeline.stage import RunSettings, StageContext
from mixloom.pipeline.storage import Store

NAME = "dedup_paragraphs"


@pytest.fixture
def corpus(words, document):
    """80 documents of own paragraphs, planted boilerplate, and some that consist of it."""
    rng = np.random.default_rng(2)

    def paragraph(n: int = 25) -> str:
        return " ".join(words(rng, n))

    boilerplate = [paragraph(int(n)) for n in rng.integers(15, 60, 8)]
    documents = []
    for i in range(80):
        own = [paragraph() for _ in range(int(rng.integers(0, 5)))]
        shared = [boilerplate[int(k)] for k in rng.integers(0, 8, int(rng.integers(0, 4)))]
        parts = [*own, *shared, "a short line"]
        text = "\n\n".join(parts[int(k)] for k in rng.permutation(len(parts)))
        documents.append(document(text, f"{i}.txt", f"s{i % 3}"))
    documents += [document("\n\n".join(boilerplate[:4]), f"all{i}.txt", "s2") for i in range(3)]
    return documents


def stage(**settings) -> ParagraphDedupStage:
    return ParagraphDedupStage(ParagraphConfig(**settings), "filter", AnnotateConfig())


def plain(documents, share: float, most: int = 1, priority=()):
    """doc_id -> the paragraphs left (None: dropped), by the definition in the documentation."""

    def removed(alive):
        seen: dict[str, int] = {}
        out: dict[str, set[int]] = {}
        rank = {d.doc_id: priority.index(d.source) if d.source in priority else 9 for d in alive}
        for d in sorted(alive, key=lambda d: (rank[d.doc_id], d.doc_id)):
            out[d.doc_id] = set()
            for i, p in enumerate(d.segments[0].text.split("\n\n")):
                if len(p.split()) >= 13:
                    seen[p] = seen.get(p, 0) + 1
                    if seen[p] > most:
                        out[d.doc_id].add(i)
        return out

    texts = {d.doc_id: d.segments[0].text.split("\n\n") for d in documents}
    first = removed(documents)
    gone = {
        d
        for d, lost in first.items()
        if sum(len(texts[d][i]) for i in lost) > share * sum(len(p) for p in texts[d])
    }
    second = removed([d for d in documents if d.doc_id not in gone])
    return {
        d: None if d in gone else [p for i, p in enumerate(ps) if i not in second[d]]
        for d, ps in texts.items()
    }


def texts_after(run) -> dict[str, list[str]]:
    """Survivors of the stage and their paragraphs, with the edits laid over; annotations are checked on the way."""
    done = run.directory.stage(NAME).reader()
    ingest, annotate = (run.directory.stage(s).reader() for s in ("ingest", "annotate"))
    documents, measured = edited_documents(ingest, [done]), edited_annotations(annotate, [done])
    out = {}
    for part in [p.name for p in run.manifests["filter"].parts]:
        batch = read_part(part, documents, None, done)
        words = read_part(part, measured, ["words"], done)["words"].to_pylist()
        texts = document_text(batch).to_pylist()
        assert words == [len(t.split()) for t in texts]
        out |= {d: t.split("\n\n") for d, t in zip(batch["doc_id"].to_pylist(), texts)}
    return out


@pytest.mark.parametrize(
    ("most", "share", "priority"), [(1, 0.8, ()), (2, 0.8, ("s1", "s0")), (1, 0.3, ("s2",))]
)
def test_boilerplate_is_kept_once_and_distinct_text_stays(tmp_path, small_run, corpus, most, share, priority):
    expected = plain(corpus, share, most, priority)
    run = small_run(tmp_path / "run", corpus, per_part=21)
    manifest = run.run(stage(max_copies=most, max_removed_share=share, priority=priority))
    assert texts_after(run) == {d: ps for d, ps in expected.items() if ps is not None}
    dropped = {d for d, ps in expected.items() if ps is None}
    rejects = run.rejects(NAME)
    assert {r["doc_id"] for r in rejects} == dropped
    assert len(dropped) >= 1
    for r in rejects:
        assert (r["reason"], r["limit"], r["stage"]) == ("duplicate_text", share, NAME)
        assert r["value"] > share
    removed = sum(
        len(d.segments[0].text.split("\n\n")) - len(expected[d.doc_id])
        for d in corpus
        if expected[d.doc_id] is not None
    )
    assert manifest.info["removed_units"] == removed > 3
    assert manifest.info["edits"] == {"duplicate_paragraph": removed}
    assert manifest.counts.documents_in == len(corpus)
    check_owners(run, corpus, expected)


def check_owners(run, corpus, expected) -> None:
    """Every removed paragraph names a surviving document that holds it, and how often it stood in the corpus."""
    everything = [p for d in corpus for p in d.segments[0].text.split("\n\n")]
    by_id = {d.doc_id: d.segments[0].text for d in corpus}
    reader = run.directory.stage(NAME).reader()
    seen = 0
    for part in [p.name for p in run.manifests["filter"].parts]:
        ids = run.directory.stage("ingest").reader().read(part, ["doc_id"])["doc_id"].to_pylist()
        if f"owners/{part}" not in reader:
            continue
        edits = reader.read(f"edits/{part}").to_pylist()
        owners = reader.read(f"owners/{part}").to_pylist()
        assert [(o["row"], o["copies"]) for o in owners] == [(e["row"], e["value"]) for e in edits]
        for o in owners:
            paragraph = by_id[ids[o["row"]]][o["start"] : o["stop"]].strip()
            assert paragraph in expected[o["owner"]]
            assert o["copies"] == everything.count(paragraph)
            seen += 1
    assert seen == run.manifests[NAME].info["removed_units"]


def written(run) -> dict[str, str]:
    return {p.name: p.sha256 for p in [*run.manifests[NAME].parts, *run.manifests[NAME].rejects]}


def test_workers_partitions_and_passes_change_no_byte_and_parts_and_order_no_text(
    tmp_path, small_run, corpus, monkeypatch
):
    one = small_run(tmp_path / "one", corpus, per_part=42)
    one.run(stage())
    two = small_run(tmp_path / "two", corpus, per_part=42)
    two.run(stage(partitions=3), workers=2)
    assert written(two) == written(one)
    many = small_run(tmp_path / "many", corpus, per_part=42)
    monkeypatch.setattr(ParagraphDedupStage, "_passes", lambda self, units: [[*range(5)], [*range(5, 16)]])
    many.run(stage())
    assert written(many) == written(one)
    other = small_run(tmp_path / "other", corpus[::-1], per_part=17)
    other.run(stage(partitions=5), workers=2)
    assert texts_after(other) == texts_after(one)
    keys = ("doc_id", "reason", "value", "detail")
    ledgers = [sorted(tuple(r[k] for k in keys) for r in run.rejects(NAME)) for run in (one, other)]
    assert ledgers[0] == ledgers[1]


def test_the_number_of_passes_follows_the_units():
    def passes(rows: int) -> list[list[int]]:
        units = PartReader(Store(""), {"x": Part("x", "x", rows, 0, "")})
        return stage(units_per_pass=1000)._passes(units)

    assert passes(0) == passes(1000) == [list(range(16))]
    assert passes(2500) == [list(range(6)), list(range(6, 11)), list(range(11, 16))]
    assert passes(10**6) == [[s] for s in range(16)]


def test_an_interrupted_stage_goes_on_from_its_units_and_leaves_no_working_files(tmp_path, small_run, corpus):
    whole = small_run(tmp_path / "whole", corpus, per_part=42)
    whole.run(stage())
    run = small_run(tmp_path / "run", corpus, per_part=42)
    directory = run.directory.stage(NAME)
    directory.begin("key")

    class Interrupted(Exception):
        pass

    class Stopping(StageContext):
        pipelines = 0

        def beam(self, build, units=None):
            if self.pipelines == 2:
                raise Interrupted
            Stopping.pipelines += 1
            super().beam(build, units)

    it = stage()
    arguments = (run.directory, directory, it, RunSettings(), Console(quiet=True), run.manifests)
    with pytest.raises(Interrupted):
        it.execute(Stopping(*arguments))
    assert directory.store.exists("_work")
    Stopping.pipelines = 1  # one more pipeline is allowed
    it.execute(Stopping(*arguments))
    assert not directory.store.exists("_work")
    found = {p.name: p.sha256 for r in directory.units() for p in r.parts}
    assert found == {p.name: p.sha256 for p in whole.manifests[NAME].parts}


def test_what_nothing_repeats_in_is_passed_through(tmp_path, small_run, document, words):
    rng = np.random.default_rng(1)
    documents = [document(" ".join(words(rng, 20)), str(i)) for i in range(5)]
    run = small_run(tmp_path, documents, per_part=2, without=frozenset({documents[0].doc_id}))
    manifest = run.run(stage())
    assert run.survivors(NAME) == {d.doc_id for d in documents[1:]}
    assert manifest.info == {"units": 4, "removed_units": 0, "dropped_documents": 0}
    tables = [
        pq.read_table(pa.BufferReader(run.directory.stage(NAME).store.read(p.file))) for p in manifest.parts
    ]
    assert [t.column_names for t in tables] == [["doc_id", "row"]] * 3
