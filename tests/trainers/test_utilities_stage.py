"""A run that measures utilities, weighs by them, trains, and compares with UniMax: one configuration."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mixloom.mixers.heldout import HeldOut
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.utility import Utilities
from mixloom.pipeline.config import validate
from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.run import RunDirectory
from mixloom.trainers.recipe import RunConfig, run_recipe
from mixloom.trainers.report import write_report
from mixloom.trainers.skills import load_skills
from mixloom.trainers.utilities_config import UtilitiesConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import prose

SMALL = {
    "skill_tokens": 600,
    "model": {"dim": 16, "layers": 1, "heads": 2, "untie": []},
    "train": {"steps": 4, "batch_contexts": 4, "lr": 0.01, "warmup": 1, "threads": 1},
    "compare": 2,
}


class Said(Console):
    """Keeps what a run says."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def do(tree):
    """Run a configuration; returns what it said."""
    said = Said()
    run_recipe(validate(RunConfig, tree, "test"), said)
    return said.lines


def line(lines, start):
    return next(x for x in lines if x.startswith(start))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_corpus, make_tree):
    tmp = tmp_path_factory.mktemp("utilities")
    make_corpus(tmp / "corpus", "notes")
    for topic in ("sea", "sky"):
        rows = [json.dumps({"text": prose(topic, 100 + i)}) for i in range(6)]
        (tmp / "corpus" / f"{topic}.jsonl").write_text("\n".join(rows) + "\n")
    skills = [{"name": t, "format": "jsonl", "path": f"{t}.jsonl"} for t in ("sea", "sky")]
    tree = make_tree(tmp / "corpus", tmp / "run", ["notes"])
    tree |= {
        "utilities": {"skills": skills, **SMALL},
        "mixture": {"method": "utilimax", "max_epochs": 100},
        "cluster": {"k": 3, "min_cell": 0},
        "model": {**tree["model"], "untie": []},
    }
    return tmp, tree, do(tree)


def test_one_file_gives_utilities_a_mixture_a_model_and_its_losses(finished):
    tmp, tree, lines = finished
    domains = Mixture.load(tmp / "run").names
    found = Utilities.load(tmp / "run" / "utilities" / "utilities.yaml")
    assert list(found.sources) == list(domains)
    assert found.skills == ("sea", "sky")
    assert found.loss_only
    mixture = Mixture.load(tmp / "run")
    assert mixture.estimator == "utilimax"
    assert mixture.record["given"]["utilities"]["fingerprint"] == found.fingerprint
    heldout = HeldOut.load(tmp / "run" / "heldout" / "heldout.json", mixture.fingerprint)
    assert set(heldout.by_skill) == {"sea", "sky"}
    assert len(heldout.seeds) == 2
    info = RunDirectory(tree["run_dir"]).stage("heldout").manifest().info["heldout"]
    assert set(info["trained"]) == {"sea", "sky"}
    assert all(0 < x < 20 for x in info["trained"].values())
    assert f"{len(domains)} small models trained, {2 * len(domains)} evaluations" in line(lines, "utilities:")


def test_the_report_shows_the_matrix_the_losses_and_the_verdict(finished):
    tmp, tree, _ = finished
    page = Path(write_report(tree["run_dir"])).read_text(encoding="utf-8")
    found = Utilities.load(tmp / "run" / "utilities" / "utilities.yaml")
    for value in found.values.ravel():
        assert f">{value:.2f}</span>" in page
    assert "Held-out losses of the small models, in bits per byte" in page
    assert "Rests on losses alone" in page
    assert "against UniMax over 2 seeds" in page


def test_a_skill_more_trains_no_model_and_a_second_run_does_nothing(finished):
    tmp, tree, _ = finished
    assert do(tree) == []
    rows = [json.dumps({"text": prose("kitchen", 200 + i)}) for i in range(4)]
    (tmp / "corpus" / "kitchen.jsonl").write_text("\n".join(rows) + "\n")
    more = {"name": "kitchen", "format": "jsonl", "path": "kitchen.jsonl"}
    skills = [*tree["utilities"]["skills"], more]
    lines = do({**tree, "utilities": {**tree["utilities"], "skills": skills, "compare": 0}})
    domains = Mixture.load(tmp / "run").names
    assert f"utilities: 0 small models trained, {len(domains)} evaluations" in line(lines, "utilities:")


def test_regmix_and_doremi_take_their_tables_from_the_small_trainings(finished):
    tmp, tree, _ = finished
    utilities = {**tree["utilities"], "trials": 5, "excess": True, "compare": 0}
    base = {**tree, "train": None, "utilities": utilities}
    do({**base, "mixture": {"method": "regmix", "max_epochs": 100, "candidates": 200}})
    mixture = Mixture.load(tmp / "run")
    assert mixture.estimator == "regmix"
    assert len(mixture.record["given"]["trials"]["rows"]) == 6  # a header and five mixtures
    lines = do({**base, "mixture": {"method": "doremi", "max_epochs": 100}})
    assert [x.split()[0] for x in lines] == ["mixture"]
    mixture = Mixture.load(tmp / "run")
    assert mixture.estimator == "doremi"
    assert len(mixture.record["given"]["excess"]["rows"]) == 5


def test_a_held_out_set_is_told_in_bytes_of_its_own_text(finished):
    tmp, tree, _ = finished
    run = RunDirectory(tree["run_dir"])
    vocabulary = run.stage("shards").store.read_json("manifest.json")["vocabulary"]
    tokenizer = run.stage("tokenizer").store

    def load(seq_len=128, **changed):
        config = UtilitiesConfig.model_validate({**tree["utilities"], **changed})
        return load_skills(config, tree["data_root"], tokenizer, vocabulary, seq_len)

    sea = load(skill_tokens=10**6)[0]
    texts = [json.loads(x)["text"] for x in (tmp / "corpus" / "sea.jsonl").read_text().splitlines()]
    assert sea.unit == "byte"
    assert sea.documents == 6
    assert sea.bytes == sum(len(t.strip().encode()) for t in texts)
    assert sea.bits(np.log(2) * sea.bytes) == pytest.approx(1)
    few = load(skill_tokens=100, skill_characters=200)[0]
    assert few.bytes == 200 * few.documents
    assert 100 <= few.tokens < 250
    shards = [{"name": "own", "format": "shards", "path": str(tmp / "run")}]
    own = load(skills=shards, skill_tokens=300)[0]
    assert own.unit == "byte"
    assert own.tokens >= 128
    with pytest.raises(UserError, match="'own' names shards of another vocabulary or context length"):
        load(64, skills=shards)


def refused(tree, **changed):
    with pytest.raises(UserError) as caught:
        validate(RunConfig, {**tree, **changed}, "mine.yaml")
    return str(caught.value)


def test_utilimax_without_utilities_is_refused_before_anything_runs(finished):
    tree = {k: v for k, v in finished[1].items() if k != "utilities"}
    assert "mixture.method is utilimax, and no utilities are given" in refused(tree)
    assert "name a file in mixture.utilities, or add a section `utilities`" in refused(tree)


def test_regmix_and_doremi_without_tables_are_refused_before_anything_runs(finished):
    tree = finished[1]
    assert "`trials: 64` or more" in refused(tree, mixture={"method": "regmix"})
    assert "`excess: true`" in refused(tree, mixture={"method": "doremi"})


def test_mistakes_in_the_section_name_the_field_and_what_is_allowed(finished):
    tree, skill = finished[1], {"name": "a", "format": "jsonl", "path": "a.jsonl"}
    assert "utilities.skills" in refused(tree, utilities={"skills": []})
    assert "two skills are named 'a'" in refused(tree, utilities={"skills": [skill, skill]})
    told = refused(tree, utilities={"skills": [skill], "method": "guess"})
    assert "utilities.method" in told
    assert "'ablation' or 'merge'" in told
    assert "utilities.skils" in refused(tree, utilities={"skils": [skill]})


def test_a_held_out_set_that_is_not_there_or_is_broken_is_named(finished, tmp_path):
    tmp, tree, _ = finished
    missing = {"name": "gone", "format": "jsonl", "path": "nowhere.jsonl"}
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        do({**tree, "utilities": {**tree["utilities"], "skills": [missing]}})
    (tmp / "corpus" / "torn.jsonl").write_text('{"text": "never closed\n')
    torn = {"name": "torn", "format": "jsonl", "path": "torn.jsonl"}
    with pytest.raises(UserError, match=r"the skill 'torn': torn\.jsonl: malformed_json"):
        do({**tree, "utilities": {**tree["utilities"], "skills": [torn]}})
