"""Filter stages in steps: edits are decided from annotations, applied for later stages, and judged again."""

import json

import pyarrow as pa
import pytest
import yaml
from pydantic import TypeAdapter

from mixloom.cli import main
from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.console import Console
from mixloom.pipeline.decide import FilterConfig, RulePlan
from mixloom.pipeline.engine import one_batch
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.explain import explain
from mixloom.pipeline.filter_stage import FilterStage
from mixloom.pipeline.ingest.config import SourceConfig
from mixloom.pipeline.ingest_stage import IngestStage
from mixloom.pipeline.overlay import edited_annotations, edited_documents
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import RunSettings, run_stage

PAGES = [
    "A good line of some words.\nMENU MENU\nAnother good line, a longer one.\n",
    "Nothing is wrong with this line.\n",
    "HOME\nSHOP\n",  # nothing is left of it
    "TOP\nOne short line.\n",  # what is left is too short for the set after the edits
]
LINES = {"lines": [{"name": "capitals", "measure": "upper_share", "max": 0.5}]}
AFTER = {"rules": [{"name": "too_short", "measure": "words", "min": 4}]}


class World:
    def __init__(self, folder, part_documents=10, workers=1, annotate=None):
        source = folder / "pages"
        source.mkdir(exist_ok=True)
        for i, page in enumerate(PAGES):
            (source / f"{i}.txt").write_text(page)
        for name, rules in (("capitals", LINES), ("length", AFTER)):
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(rules))
        made = TypeAdapter(SourceConfig).validate_python(
            {"name": "pages", "format": "text", "path": "pages", "glob": "*.txt"}
        )
        self.folder = folder
        self.run = RunDirectory(str(folder / f"run-{part_documents}-{workers}"))
        self.run.store.write("config.yaml", b"{}\n")
        self.settings = RunSettings(workers=workers)
        self.manifests = {}
        self.do(IngestStage([made], {"pages": str(source)}, part_documents, 1 << 20))
        self.do(AnnotateStage(annotate or AnnotateConfig()))

    def do(self, stage):
        manifest, _ = run_stage(stage, self.run, self.settings, Console(quiet=True), self.manifests)
        self.manifests[stage.name] = manifest
        return manifest

    def rules(self, *names, **more):
        config = FilterConfig(rules=[str(self.folder / f"{n}.yaml") for n in names], **more)
        plan = RulePlan.load(config)
        return [self.do(FilterStage(plan, step)) for step in range(plan.stages)]

    def reader(self, stage):
        return self.run.stage(stage).reader()

    def texts(self, stages):
        """The text of the survivors of the last stage, as the next one reads it, by file name."""
        readers = [self.reader(s) for s in stages]
        documents = edited_documents(self.reader("ingest"), readers)
        out = {}
        for part in sorted(p for p in self.reader(stages[-1]).parts if "/" not in p):
            rows = self.reader(stages[-1]).read(part, ["row"])["row"]
            table = documents.read(part).take(rows)
            for locator, text in zip(
                table["locator"].to_pylist(), document_text(one_batch(table)).to_pylist()
            ):
                out[locator["uri"]] = text
        return out


def test_lines_go_and_the_next_rules_see_what_is_left(tmp_path):
    world = World(tmp_path)
    first, second = world.rules("capitals", "length")
    assert first.counts.kept == 4
    assert first.info["edits"] == {"capitals": 4}
    assert first.info["edited_documents"] == 3
    assert second.counts.dropped == {"nothing_left": 1, "too_short": 1}
    assert world.texts(["filter", "filter_2"]) == {
        "0.txt": "A good line of some words.\nAnother good line, a longer one.",
        "1.txt": "Nothing is wrong with this line.",
    }


def test_a_changed_document_is_measured_again_and_the_rest_is_not(tmp_path):
    world = World(tmp_path)
    world.rules("capitals", "length")
    stages = [world.reader("filter"), world.reader("filter_2")]
    after = edited_annotations(world.reader("annotate"), stages).read("part-00000-0000")
    before = world.reader("annotate").read("part-00000-0000")
    assert after["words"].to_pylist()[:2] == [12, 6]
    assert before["words"].to_pylist()[:2] == [14, 6]
    assert after["content_hash"][0] != before["content_hash"][0]
    assert after["content_hash"][1] == before["content_hash"][1]


def test_a_run_that_ends_with_an_editing_set_still_measures_again(tmp_path):
    world = World(tmp_path)
    first, second = world.rules("capitals")
    assert (first.counts.kept, second.counts.kept) == (4, 3)
    assert second.counts.dropped == {"nothing_left": 1}
    assert "annotations/part-00000-0000" in world.reader("filter_2").parts


@pytest.mark.parametrize(("part_documents", "workers"), [(1, 1), (3, 2)])
def test_parts_and_workers_change_nothing(tmp_path, part_documents, workers):
    world = World(tmp_path)
    world.rules("capitals", "length")
    other = World(tmp_path, part_documents, workers)
    other.rules("capitals", "length")
    assert other.texts(["filter", "filter_2"]) == world.texts(["filter", "filter_2"])


def test_explain_shows_what_was_removed(tmp_path):
    world = World(tmp_path)
    world.rules("capitals", "length")
    world.run.save_plan(["ingest", "annotate", "filter", "filter_2"])
    ids = world.reader("ingest").read("part-00000-0000")["doc_id"].to_pylist()
    life = {e["stage"]: e for e in explain(world.run, ids[0])["life"]}
    assert life["filter"]["outcome"] == "kept"
    assert [e["removed"] for e in life["filter"]["edits"] if e["reason"] == "capitals"] == ["MENU MENU\n"]
    last = {e["stage"]: e for e in explain(world.run, ids[3])["life"]}["filter_2"]
    assert (last["outcome"], last["reason"], last["value"], last["limit"]) == (
        "dropped",
        "too_short",
        3.0,
        4.0,
    )


def test_rules_of_a_language_go_to_its_documents_and_a_source_goes_first():
    annotations = pa.record_batch(
        {
            "doc_id": ["a", "b", "c", "d"],
            "source": ["x", "x", "y", "y"],
            "language": ["de", None, "de", "en"],
        }
    )
    plan = RulePlan.load(
        FilterConfig(rules=["basic"], by_source={"y": ["media"]}, by_language={"de": ["basic"]})
    )
    assigned = [(r.names[0], rows.tolist()) for r, rows in plan.assigned(annotations, 0)]
    assert assigned == [("image_too_small", [2, 3]), ("empty_document", [0]), ("empty_document", [1])]


@pytest.mark.parametrize(
    ("config", "annotate", "told", "fix"),
    [
        (
            {"rules": ["c4@datatrove"]},
            {"lines": False},
            "annotate.lines is false",
            "set annotate.lines: true",
        ),
        ({"rules": ["obelics"]}, {}, "were not measured", "annotate: {media: {}}"),
        ({"rules": ["dolma"]}, {"families": ["tokens"]}, "leaves 'word_ngrams' out", "add 'word_ngrams'"),
        (
            {"rules": ["basic"]},
            {"measures": ["words"]},
            "annotate.measures leaves it out",
            "leave annotate.measures out",
        ),
        ({"by_language": {"de": ["basic"]}}, {}, "languages were not identified", "annotate: {language: {}}"),
    ],
)
def test_a_rule_that_asks_for_what_was_not_measured_is_told(tmp_path, config, annotate, told, fix):
    world = World(tmp_path, annotate=AnnotateConfig(**annotate))
    with pytest.raises(UserError) as error:
        world.do(FilterStage(RulePlan.load(FilterConfig(**config))))
    assert told in str(error.value)
    assert fix in str(error.value)


def test_other_rules_are_asked_of_a_run_without_its_text(tmp_path, capsys):
    world = World(tmp_path)
    world.rules("capitals", "length")
    for part in world.run.stage("ingest").store.names():
        world.run.stage("ingest").store.remove(part)
    rules = str(tmp_path / "length.yaml")
    assert main(["rules", "apply", world.run.store.root, rules, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["documents"], told["kept"], told["dropped"]) == (4, 3, 1)
    assert told["rules"] == {"too_short": {"drops": 1, "fires": 1, "edits": 0}}
    assert told["change"] == {"now_kept": 0, "now_dropped": 1}
    assert main(["rules", "apply", world.run.store.root, "c4@datatrov"]) == 2
    assert "did you mean 'c4@datatrove'" in capsys.readouterr().err
