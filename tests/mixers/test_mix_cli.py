"""`mixloom mix` from the outside."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mixloom.mixers.cli import app
from mixloom.mixers.estimators import ESTIMATORS
from mixloom.mixers.heldout import HeldOut
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


@pytest.fixture
def utilities(tmp_path):
    path = tmp_path / "u.csv"
    path.write_text("source,reading,coding\n[red]wiki,0.9,0.1\nweb,0.4,0.3\ncode,0.1,1\n")
    return path


def test_all_methods_are_shown_side_by_side_and_the_others_say_what_they_need(csv, utilities):
    output = run("estimate", csv, "budget_tokens=3e3", f"utilities={utilities}", "risk=0.1", "--compare")
    header = next(x for x in output.splitlines() if " domain " in x)
    assert [c.strip() for c in header.strip("┃").split("┃")][2:] == [
        "unimax",
        "uniform",
        "proportional",
        "temperature",
        "utilimax",
    ]
    assert row(output, "code")[:4] == ["code", "30", "0.0400", "0.0400"]
    assert row(output, "effective number")[2] == "2.16"
    assert row(output, "apart from UniMax")[2] == "0.0%"
    assert "regmix: the lowest loss" in output
    assert "not computed: needs trials=FILE" in output


def test_an_estimate_by_utilities_shows_unimax_beside_it(csv, utilities):
    output = run(
        "estimate", csv, "budget_tokens=3e3", "method=utilimax", f"utilities={utilities}", "risk=0.05"
    )
    assert row(output, "[red]wiki")[3] == "0.4800"
    assert "(UniMax 2.16)" in output
    assert "expected utility" in output


def test_a_grouping_can_be_asked_for(shards):
    output = run("estimate", shards, "group_by=source,domain")
    assert row(output, "s/aa")[0] == "s/aa"


def test_methods_are_listed():
    lines = run("methods").splitlines()
    assert [line.split()[0] for line in lines] == list(ESTIMATORS)


def test_a_mixture_is_drawn_and_made_again_from_its_file(csv, tmp_path):
    out = tmp_path / "m.yaml"
    run("estimate", csv, "budget_tokens=3000", "final_phase={shares: {code: 0.03}}", "--out", out)
    assert "the same bytes" in run("reproduce", out, "--out", tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == out.read_bytes()
    run("show", out, "--compare", "--picture", tmp_path / "m.svg")
    assert (tmp_path / "m.svg").read_text().startswith("<?xml")


def test_a_mixture_that_was_edited_is_not_made_again(csv, tmp_path):
    out = tmp_path / "m.yaml"
    run("estimate", csv, "budget_tokens=3000", "--out", out)
    assert "written in another way" in again(out, out.read_text() + "\n# looked at\n", 0)
    changed = out.read_text().replace("max_epochs: 4.0\n  min", "max_epochs: 3.0\n  min")
    assert "differs from what it records" in again(out, changed, 1)


def again(path, text: str, code: int) -> str:
    path.write_text(text)
    result = CliRunner().invoke(app, ["reproduce", str(path)])
    assert result.exit_code == code
    return result.output


def test_strict_fails_where_the_mixture_loses_and_only_there(csv, tmp_path):
    out = tmp_path / "run" / "mixture.yaml"
    run("estimate", csv, "budget_tokens=3000", "--out", out)
    found = HeldOut(
        mixture=Mixture.load(out).fingerprint, method="unimax", seeds=(0, 1), loss=(2, 2), unimax=(3, 3.1)
    )
    beside = found.save(out.with_name("heldout.json"))
    assert "better than UniMax" in run("show", out, "--strict")
    found.model_copy(update={"loss": (4.0, 4.1)}).save(beside)
    assert "warning: unimax loses" in run("show", out)
    result = CliRunner().invoke(app, ["show", str(out), "--strict"])
    assert result.exit_code == 1
    beside.unlink()
    with pytest.raises(UserError, match="--strict needs held-out losses"):
        run("show", out, "--strict")


@pytest.mark.parametrize("sizes", ["csv", "shards"])
def test_an_estimate_loads_neither_torch_nor_beam_nor_the_compiler(request, sizes):
    path = request.getfixturevalue(sizes)
    code = (
        "import sys; from mixloom.cli import main\n"
        f"assert main(['mix', 'estimate', {str(path)!r}, 'max_epochs=40', '--compare']) == 0\n"
        "print('loaded', sorted({'torch', 'apache_beam', 'numba', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "loaded []"


def test_the_command_imports_neither_torch_nor_beam_nor_the_compiler():
    code = "import sys, mixloom.mixers.cli; print({'torch', 'apache_beam', 'numba'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"
