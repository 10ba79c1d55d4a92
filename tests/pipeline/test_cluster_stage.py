"""Domains and cells of a run in which a sample says little of the sizes: equal documents, documents without words."""

import json
import shutil

import numpy as np
import pytest
from pydantic import TypeAdapter

from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.cluster import Domains
from mixloom.pipeline.cluster_config import ClusterConfig
from mixloom.pipeline.cluster_stage import ClusterStage
from mixloom.pipeline.console import Console
from mixloom.pipeline.decide import FilterConfig, RulePlan
from mixloom.pipeline.embed import vectors_of
from mixloom.pipeline.embed_config import EmbedConfig, TfidfConfig
from mixloom.pipeline.embed_stage import EmbedStage
from mixloom.pipeline.filter_stage import FilterStage
from mixloom.pipeline.ingest.config import SourceConfig
from mixloom.pipeline.ingest_stage import IngestStage
from mixloom.pipeline.run import RunDirectory, StageDirectory
from mixloom.pipeline.stage import RunSettings, run_stage

MOST = 9
WORDS = {
    "sea": [
        "harbour",
        "sailor",
        "anchor",
        "tide",
        "schooner",
        "rope",
        "lantern",
        "gull",
        "herring",
        "lagoon",
    ],
    "sky": [
        "comet",
        "nebula",
        "telescope",
        "orbit",
        "crater",
        "galaxy",
        "meteor",
        "planet",
        "eclipse",
        "probe",
    ],
}


def texts() -> list[tuple[str, str]]:
    """(source, text): varied documents of two subjects, forty equal ones, thirty of digits alone."""
    g = np.random.Generator(np.random.PCG64(4))
    out = [(name, " ".join(g.choice(words, 12))) for name, words in WORDS.items() for _ in range(45)]
    out += [("sea", "the harbour pilot waits for the tide")] * 40
    return out + [("sky", f"{i} 77 {i * i}") for i in range(30)]


def build(root, parts, workers=1, **settings):
    rows: dict[str, list[str]] = {"sea": [], "sky": []}
    for source, text in texts():
        rows[source].append(json.dumps({"text": text}))
    for name, lines in rows.items():
        (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    sources = [
        TypeAdapter(SourceConfig).validate_python({"name": n, "format": "jsonl", "path": f"{n}.jsonl"})
        for n in rows
    ]
    roots = {name: str(root / f"{name}.jsonl") for name in rows}
    run, manifests = RunDirectory(str(root / f"run-{parts}-{workers}")), {}
    config = {"k": 2, "sample_documents": 60, "max_cell": MOST, "min_cell": 2, **settings}
    for stage in (
        IngestStage(sources, roots, parts, 1 << 20),
        AnnotateStage(AnnotateConfig()),
        FilterStage(RulePlan.load(FilterConfig())),
        EmbedStage(EmbedConfig(text=TfidfConfig(dim=8)), "filter"),
        ClusterStage(ClusterConfig(**config)),
    ):
        manifests[stage.name], _ = run_stage(
            stage, run, RunSettings(workers=workers), Console(quiet=True), manifests
        )
    return run, manifests


def rows_of(run) -> dict[str, tuple[int, int, float]]:
    reader = run.stage("cluster").reader()
    tables = [reader.read(n) for n in sorted(reader.parts) if n.startswith("part-")]
    return {r["doc_id"]: (r["domain"], r["cell"], r["distance"]) for t in tables for r in t.to_pylist()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cells"), 20)


def test_no_cell_of_the_corpus_is_larger_than_allowed(made):
    run, manifests = made
    rows = rows_of(run)
    assert len(rows) == 160
    sizes = np.bincount([cell for _, cell, _ in rows.values()])
    assert sizes.max() <= MOST
    model = manifests["cluster"].info["model"]
    assert model["largest_cell"] == sizes.max()
    assert model["cells"] >= len(sizes)
    assert model["cut_cells"] >= 2  # the equal documents, and those without words
    for cell in range(len(sizes)):
        assert len({domain for domain, c, _ in rows.values() if c == cell}) <= 1


def test_a_document_alone_finds_the_domain_and_the_cell_it_has_in_the_corpus(made):
    run, _ = made
    rows, domains = rows_of(run), Domains.load(run.stage("cluster").store.child("model").root)
    reader = run.stage("embed").reader()
    checked = 0
    for name in sorted(n for n in reader.parts if n.startswith("part-")):
        table = reader.read(name)
        vectors, ids = vectors_of(table), table["doc_id"].to_pylist()
        for i in range(0, len(ids), 3):
            text = np.array([table["has_text"][i].as_py()])
            domain, cell, distance = domains.assign(vectors[i : i + 1], text, ids[i : i + 1])
            assert (int(domain[0]), int(cell[0]), float(distance[0])) == rows[ids[i]]
            checked += 1
    assert checked > 50
    with pytest.raises(ValueError, match="doc_ids are needed"):
        domains.assign(np.zeros((1, vectors.shape[1]), np.float32))


def test_parts_and_workers_change_neither_domains_nor_cells_nor_the_model(made, tmp_path):
    run, manifests = made
    other, others = build(tmp_path, 7, workers=2)
    assert rows_of(other) == rows_of(run)
    files = [
        {p.name: p.sha256 for p in m["cluster"].parts if p.name.startswith(("model/", "fit/"))}
        for m in (manifests, others)
    ]
    assert files[0] == files[1] != {}
    assert others["cluster"].info == manifests["cluster"].info


def test_the_manifest_tells_sizes_sources_and_how_well_they_match(made):
    run, manifests = made
    told = manifests["cluster"].info["domains"]
    rows = rows_of(run)
    assert told["sizes"] == np.bincount([d for d, _, _ in rows.values()], minlength=3).tolist()
    assert told["sizes"][2] == 30
    assert sum(told["sources"]["sea"]) == 85
    assert told["purity"] == 1.0
    assert told["nmi"] == pytest.approx(1.0)


def test_the_manifest_tells_words_and_examples_of_every_domain(made):
    info = made[1]["cluster"].info
    model = info["model"]
    sea = int(np.argmax(info["domains"]["sources"]["sea"]))
    assert len(model["top_words"]) == len(model["examples"]) == 3
    assert {"harbour", "tide"} & set(model["top_words"][sea])
    assert set(model["top_words"][1 - sea]) <= set(WORDS["sky"])
    assert model["top_words"][2] == []
    assert all(e["source"] == "sea" and e["text"] for e in model["examples"][sea])
    assert all(len(e) <= 3 for e in model["examples"])
    assert any(c.isdigit() for c in model["examples"][2][0]["text"])


@pytest.mark.parametrize("finished", [1, 2, 4, 9])
def test_an_interrupted_run_goes_on_where_it_stopped(made, tmp_path, monkeypatch, finished):
    run, manifests = made
    copied = tmp_path / "run"
    shutil.copytree(run.store.root, copied)
    shutil.rmtree(copied / "cluster")
    again, before = RunDirectory(str(copied)), {n: m for n, m in manifests.items() if n != "cluster"}
    stage = ClusterStage(ClusterConfig(k=2, sample_documents=60, max_cell=MOST, min_cell=2))
    commit, written = StageDirectory.commit, []

    def stops(self, record):
        if len(written) == finished:
            raise KeyboardInterrupt
        written.append(record.unit)
        commit(self, record)

    monkeypatch.setattr(StageDirectory, "commit", stops)
    with pytest.raises(BaseException):  # noqa: B017 - Beam wraps it where it comes from a worker
        run_stage(stage, again, RunSettings(), Console(quiet=True), before)
    monkeypatch.setattr(StageDirectory, "commit", commit)
    known = set(written)
    assert {u.unit for u in again.stage("cluster").units()} == known
    manifest, _ = run_stage(stage, again, RunSettings(), Console(quiet=True), before)
    assert rows_of(again) == rows_of(run)
    assert manifest.info == manifests["cluster"].info
    assert [(p.name, p.sha256) for p in manifest.parts] == [
        (p.name, p.sha256) for p in manifests["cluster"].parts
    ]


def test_the_number_of_domains_is_suggested_and_what_was_tried_is_told(tmp_path):
    _, manifests = build(tmp_path, 50, k="auto", k_grid=(2, 3, 5), sample_documents=1000)
    tried = manifests["cluster"].info["model"]["tried"]
    assert [t["k"] for t in tried] == [2, 3, 5]
    best = max(tried, key=lambda t: t["silhouette"])["k"]
    assert manifests["cluster"].info["model"]["k"] == best
    assert tried[0]["inertia"] >= tried[-1]["inertia"] >= 0
    assert all(0 <= t["balance"] <= 1 for t in tried)
