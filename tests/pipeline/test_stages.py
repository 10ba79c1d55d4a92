"""The curation stages on real parts: what they say of themselves, and that parts and workers decide nothing."""

import pytest
from pydantic import TypeAdapter

from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.cluster import ClusterConfig
from mixloom.pipeline.cluster_stage import ClusterStage
from mixloom.pipeline.console import Console
from mixloom.pipeline.decide import FilterConfig, RulePlan
from mixloom.pipeline.embed_config import EmbedConfig, TfidfConfig
from mixloom.pipeline.embed_stage import EmbedStage
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.filter_stage import FilterStage
from mixloom.pipeline.ingest.config import SourceConfig
from mixloom.pipeline.ingest_stage import IngestStage
from mixloom.pipeline.order import OrderConfig
from mixloom.pipeline.order_stage import OrderStage
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import RunSettings, run_stage


class World:
    """A run of the curation stages over the words of the small corpus."""

    def __init__(self, corpus, run_dir, parts=10, workers=1):
        self.run = RunDirectory(str(run_dir))
        source = {"name": "notes", "format": "text", "path": "notes"}
        records = {"name": "records", "format": "jsonl", "path": "records"}
        self.sources = [TypeAdapter(SourceConfig).validate_python(s) for s in (source, records)]
        self.roots = {s.name: str(corpus.root / s.path) for s in self.sources}
        self.parts, self.settings, self.manifests = parts, RunSettings(workers=workers), {}

    def do(self, stage):
        """Run a stage; returns whether there was anything to do."""
        manifest, worked = run_stage(stage, self.run, self.settings, Console(quiet=True), self.manifests)
        self.manifests[stage.name] = manifest
        return worked

    def curate(self, sample=20):
        self.do(IngestStage(self.sources, self.roots, self.parts, 1 << 20))
        self.do(AnnotateStage(AnnotateConfig()))
        self.do(FilterStage(RulePlan.load(FilterConfig())))
        self.do(EmbedStage(EmbedConfig(text=TfidfConfig(sample_documents=sample, dim=12)), "filter"))
        self.do(ClusterStage(ClusterConfig(k=3, sample_documents=sample, max_cell=8, min_cell=2)))
        self.do(OrderStage(OrderConfig()))
        return self

    def rows(self, stage, prefix="part-"):
        reader = self.run.stage(stage).reader()
        return [r for n in sorted(reader.parts) if n.startswith(prefix) for r in reader.read(n).to_pylist()]

    def model(self, stage):
        return {p.name: p.sha256 for p in self.manifests[stage].parts if p.name.startswith("model/")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_corpus):
    return make_corpus(tmp_path_factory.mktemp("corpus"), "notes", "records")


@pytest.fixture(scope="module")
def curated(corpus, tmp_path_factory):
    return World(corpus, tmp_path_factory.mktemp("curated")).curate()


def test_every_stage_accounts_for_every_document(curated):
    alive = curated.manifests["ingest"].counts.kept
    for stage in ("annotate", "filter", "embed", "cluster", "order"):
        counts = curated.manifests[stage].counts
        assert counts.conserved
        assert counts.documents_in == alive
        alive = counts.kept


def test_annotations_lie_row_by_row_beside_their_documents(curated):
    pairs = list(zip(curated.rows("ingest"), curated.rows("annotate"), strict=True))
    assert all(d["doc_id"] == a["doc_id"] for d, a in pairs)
    assert all(len(d["segments"][0]["text"].split()) == a["words"] for d, a in pairs)


def test_survivors_name_the_row_of_their_document(curated):
    reader, documents = curated.run.stage("filter").reader(), curated.run.stage("ingest").reader()
    for name in reader.parts:
        ids = documents.read(name, ["doc_id"])["doc_id"].to_pylist()
        assert all(ids[r["row"]] == r["doc_id"] for r in reader.read(name).to_pylist())


def test_vectors_domains_and_paths_carry_the_rows_of_the_survivors(curated):
    alive = sorted((r["doc_id"], r["row"]) for r in curated.rows("filter"))
    for stage, prefix in (("embed", "part-"), ("cluster", "part-"), ("order", "cell-")):
        assert sorted((r["doc_id"], r["row"]) for r in curated.rows(stage, prefix)) == alive
    domains = {r["doc_id"]: (r["domain"], r["cell"]) for r in curated.rows("cluster")}
    ordered = {r["doc_id"]: (r["domain"], r["cell"]) for r in curated.rows("order", "cell-")}
    assert ordered == domains


def test_every_cell_is_a_path_of_its_own(curated):
    reader = curated.run.stage("order").reader()
    for name in (n for n in reader.parts if "/" not in n):
        rows = reader.read(name).to_pylist()
        beside = reader.read(f"vectors/{name}")
        assert beside["doc_id"].to_pylist() == [r["doc_id"] for r in rows]
        assert beside.schema.field("vector").type.value_type == "halffloat"
        assert [r["rank"] for r in rows] == list(range(len(rows)))
        assert {f"cell-{r['cell']:06d}" for r in rows} == {name}
        assert rows[0]["similarity"] == 0.0


@pytest.mark.parametrize(("parts", "workers"), [(1000, 1), (3, 2)])
def test_parts_and_workers_change_no_model_and_no_decision(curated, corpus, tmp_path, parts, workers):
    other = World(corpus, tmp_path, parts, workers).curate()
    assert len(other.manifests["ingest"].parts) != len(curated.manifests["ingest"].parts)
    assert other.model("embed") == curated.model("embed") != {}
    assert other.model("cluster") == curated.model("cluster") != {}

    def by_id(world, stage, *columns, prefix="part-"):
        return sorted((r["doc_id"], *(r[c] for c in columns)) for r in world.rows(stage, prefix))

    assert by_id(other, "filter") == by_id(curated, "filter")
    assert by_id(other, "embed", "vector") == by_id(curated, "embed", "vector")
    assert by_id(other, "cluster", "domain", "cell", "distance") == by_id(
        curated, "cluster", "domain", "cell", "distance"
    )
    path = ("cell", "rank", "similarity")
    assert by_id(other, "order", *path, prefix="cell-") == by_id(curated, "order", *path, prefix="cell-")


def test_models_are_fitted_on_a_sample_of_about_the_size_asked_for(curated):
    info = curated.manifests["embed"].info["model"]
    assert 8 <= info["sampled_documents"] <= 30
    words = curated.manifests["cluster"].info["model"]["top_words"]
    assert len(words) == 4  # three domains, and the one without text
    assert words[-1] == []
    assert any({"dough", "kitchen"} <= set(w) for w in words)


def test_the_filter_counts_how_often_each_rule_fires_by_itself(curated):
    fired = curated.manifests["filter"].info["fired"]
    assert fired["symbol_noise"] == 1
    assert fired["image_too_small"] == 0
    assert curated.manifests["filter"].counts.dropped == {"symbol_noise": 1}


def test_the_rules_and_not_their_names_make_the_key_of_the_filter(curated, tmp_path):
    text = "description: x\nrules:\n  - {name: short, measure: words, min: 5}\n"
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    before = FilterStage(RulePlan.load(FilterConfig(rules=[str(file)]))).settings()
    (tmp_path / "copy.yaml").write_text(text)
    assert FilterStage(RulePlan.load(FilterConfig(rules=[str(tmp_path / "copy.yaml")]))).settings() == before
    file.write_text(text.replace("5", "6"))
    assert FilterStage(RulePlan.load(FilterConfig(rules=[str(file)]))).settings() != before


def test_a_rule_set_that_does_not_exist_names_the_ones_that_do():
    with pytest.raises(UserError, match=r"there is no rule set 'basics' \(did you mean 'basic'\?\)"):
        FilterStage(RulePlan.load(FilterConfig(rules=["basics"])))


def test_a_stage_that_is_current_is_not_done_again_in_a_new_process(curated):
    again = World.__new__(World)
    again.run, again.settings, again.manifests = curated.run, RunSettings(), {}
    again.manifests["ingest"] = curated.manifests["ingest"]
    assert not again.do(AnnotateStage(AnnotateConfig()))
    assert not again.do(FilterStage(RulePlan.load(FilterConfig())))
