"""Every configuration we ship, and every one the README shows, loads; every rule set loads."""

import re
from pathlib import Path

import pytest

from mixloom.pipeline.config import load_config, read_yaml, validate
from mixloom.pipeline.rules import load_ruleset, ruleset_names
from mixloom.trainers.recipe import RunConfig, TrainRecipe

ROOT = Path(__file__).resolve().parent.parent
RUNS = ["conf/demo/demo.yaml", "conf/real/shared.yaml", "conf/real/utilities.yaml", "conf/web/fineweb.yaml"]
TRAININGS = ["conf/real/train.yaml"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_configuration_loads(name):
    config = load_config(RunConfig, ROOT / name, ["run_dir=elsewhere", "workers=2"])
    assert (config.run_dir, config.workers) == ("elsewhere", 2)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_configuration_loads_and_becomes_dense_as_its_comment_says(name):
    text = (ROOT / name).read_text()
    override = re.search(r"model\.untie=\S+", text)
    assert override is not None
    assert load_config(TrainRecipe, ROOT / name).model.untie == ("attention", "ffn", "norm")
    assert load_config(TrainRecipe, ROOT / name, [override[0]]).model.untie == ()


def test_no_configuration_is_left_out_here():
    apart = ("rules", "prompts")  # they are no runs, and have tests of their own
    found = {str(p.relative_to(ROOT)) for p in (ROOT / "conf").rglob("*.yaml") if p.parent.name not in apart}
    assert found == {*RUNS, *TRAININGS}


def test_every_rule_set_loads_and_names_its_rules_once():
    assert {"basic", "media", "gopher@datatrove", "fineweb@code"} <= set(ruleset_names())
    for name in ruleset_names():
        names = load_ruleset(name).names
        assert names
        assert len(set(names)) == len(names)


def test_the_configuration_in_the_readme_loads():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    assert blocks
    for block in blocks:
        validate(RunConfig, read_yaml(block, "README.md"), "README.md")


def test_every_command_the_readme_shows_exists():
    from mixloom.cli import COMMANDS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^    mixloom (\w+)", readme, re.MULTILINE)) <= set(COMMANDS)


def test_every_page_the_readme_and_the_docs_link_to_exists():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+?)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
