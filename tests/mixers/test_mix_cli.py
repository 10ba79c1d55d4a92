"""`mixloom mix` from the outside."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mixloom.mixers.cli import app
from mixloom.mixers.mixture import Mixture
from mixloom.pipeline.errors import UserError


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "sizes.csv"
    path.write_text("domain,tokens\n[red]wiki,1000\nweb,8000\ncode,30\n")
    return path


def run(*arguments) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "120"})
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def row(output: str, name: str) -> list[str]:
    line = next(x for x in output.splitlines() if f" {name} " in x)
    return [cell.strip() for cell in line.strip("│┃ ").split("│")]


def test_estimate_shows_every_domain_its_epochs_and_which_caps_bind(csv):
    output = run("estimate", csv, "budget_tokens=3e3")
    assert row(output, "code") == ["code", "30", "0.0400", "120", "4.00", "binds 4"]
    assert row(output, "[red]wiki") == ["[red]wiki", "1,000", "0.4800", "1,440", "1.44", "4"]
    assert "effective number of domains 2.16 of 3; caps bind for 1" in output


def test_without_a_budget_it_is_one_pass_and_says_so(csv):
    output = run("estimate", csv, "method=proportional")
    assert "one pass over all 9,030 tokens" in output
    assert row(output, "web")[5] == "1.00"  # after UniMax's weight


def test_an_estimate_can_be_written_and_shown_again(csv, tmp_path):
    out = tmp_path / "run" / "mixture" / "mixture.yaml"
    output = run("estimate", csv, "budget_tokens=3000", "method=temperature", "temperature=2", "--out", out)
    assert "wrote" in output
    assert Mixture.load(out).settings == {"max_epochs": 4.0, "temperature": 2.0, "min_share": 0.0}
    shown = run("show", tmp_path / "run")
    assert shown.splitlines() == output.splitlines()[: len(shown.splitlines())]


def test_sizes_come_from_a_run_too(shards):
    output = run("estimate", shards, "method=fixed", "weights={aa: 0.5, bb: 0.25, cc: 0.25}", "max_epochs=40")
    assert [row(output, n)[2] for n in ("aa", "bb", "cc")] == ["0.5000", "0.2500", "0.2500"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["max_epoch=2"], r"did you mean 'max_epochs'"),
        (["max_epochs"], r"'max_epochs' is not a setting"),
        (["budget_tokens=1e9"], "cannot be filled"),
        (["weights={"], "is not YAML"),
    ],
)
def test_mistakes_are_told(csv, arguments, said):
    with pytest.raises(UserError, match=said):
        run("estimate", csv, *arguments)


def test_a_run_without_shards_says_what_to_do_first(tmp_path):
    with pytest.raises(UserError, match="run the pipeline first"):
        run("estimate", tmp_path)


def test_the_command_imports_neither_torch_nor_beam_nor_the_compiler():
    code = "import sys, mixloom.mixers.cli; print({'torch', 'apache_beam', 'numba'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"
