"""The benchmark scripts have the options they promise, and their README is what their results say."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables, recording = load("tables"), load("recording")

RESULT = {
    "name": "speed",
    "command": "python benchmarks/speed.py --data DATA",
    "quick": True,
    "versions": {"python": "3.11.7", "numpy": "2.4"},
    "machine": {"system": "Linux", "processor": "A processor", "cores": 2, "memory_gib": 23.5},
    "figures": {
        "documents": 123456,
        "wrong": [],
        "steps": [
            {"step": "cut | join", "documents_per_s": 12345.6, "share": 0.12345, "cpu_s": 1.0},
            {"step": "judge", "documents_per_s": 0.004567, "share": 0.9991, "new": True},
        ],
        "sets": {"news": {"load_seconds": 2, "found": {"email": 3}}, "code": {"load_seconds": 10_000}},
        "index": {"items": 7, "by_set": {"one": {"rows": 1}, "two": {"rows": 2}}},
    },
}

EXPECTED = """\
### speed

How fast is it?

`python benchmarks/speed.py --data DATA` (quick run), on A processor, 2 cores, 23.5 GiB, Linux; python 3.11.7, numpy 2.4.

documents: 123 456; wrong: none.

*steps*

| step | documents/s | share | CPU s | new |
|---|---:|---:|---:|---:|
| cut \\| join | 12 346 | 0.123 | 1 |  |
| judge | 0.00457 | 0.9991 |  | yes |

*sets*

|  | load (s) | found |
|---|---:|---|
| news | 2 | email 3 |
| code | 10 000 |  |

*index*

items: 7.

*index, by set*

|  | rows |
|---|---:|
| one | 1 |
| two | 2 |"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "speed.py").write_text(
        '"""How fast is it?\n\nMore.\n"""\nif __name__ == "__main__":\n    pass\n'
    )
    (tmp_path / "unmeasured.py").write_text('"""Is it?"""\nif __name__ == "__main__":\n    pass\n')
    (tmp_path / "shared.py").write_text('"""No script."""\n')
    (tmp_path / "results").mkdir()
    (tmp_path / "results/speed.json").write_text(json.dumps(RESULT))
    return tmp_path


def test_a_result_becomes_a_section_with_facts_and_tables(folder: Path) -> None:
    assert tables.section(folder / "speed.py", RESULT) == EXPECTED


def test_every_script_has_a_section_and_those_without_a_result_say_so(folder: Path) -> None:
    text = tables.generated(folder / "results", folder)
    assert EXPECTED in text
    assert "### unmeasured\n\nIs it?\n\nNot measured: run `python benchmarks/unmeasured.py --help`." in text
    assert "shared" not in text


def test_check_tells_a_stale_readme_and_writing_mends_it(tmp_path: Path) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "results"
    results.mkdir()
    readme.write_text(f"# Before\n\n{tables.BEGIN}\nold\n{tables.END}\n\nAfter.\n")
    command = [sys.executable, str(FOLDER / "tables.py"), "--readme", str(readme), "--results", str(results)]
    stale = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert stale.returncode == 1
    assert "run python benchmarks/tables.py" in stale.stdout
    subprocess.run(command, check=True)
    assert subprocess.run([*command, "--check"], check=False).returncode == 0
    text = readme.read_text()
    assert text.startswith("# Before\n\n")
    assert text.endswith("\n\nAfter.\n")
    assert "Not measured" in text


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="has no lines"):
        tables.updated("# Nothing here\n", "text")


def test_the_readme_is_what_the_results_say() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert tables.updated(readme, tables.generated(FOLDER / "results")) == readme, "run `make bench-tables`"


def test_results_belong_to_scripts_and_are_complete() -> None:
    names = {s.stem for s in tables.scripts()}
    for path in (FOLDER / "results").glob("*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        assert path.stem == result["name"]
        assert path.stem in names
        assert set(result) == {"name", "command", "quick", "versions", "machine", "figures"}
        assert "/" not in result["command"].removeprefix("python benchmarks/"), "a path of some machine"


@pytest.mark.parametrize("script", tables.scripts(), ids=lambda p: p.stem)
def test_every_script_takes_json_and_quick_and_saves_its_figures(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert {"options_parser", "save"} <= called
    assert tables.question(script)
    assert f"python benchmarks/{script.name}" in (ast.get_docstring(tree) or ""), "how to run it"


def test_the_shared_options_are_json_and_quick() -> None:
    options = recording.options_parser("doc").parse_args(["--data", "x", "--json", "y", "--quick"])
    assert (options.data, options.json, options.quick) == (Path("x"), Path("y"), True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--json", "/tmp/a.json", "--data", "/where/it/is", "--quick"], "--data DATA --quick"),
        (
            ["--json=/tmp/a.json", "--peer-python=/x/python", "--sizes", "10"],
            "--peer-python PEER_PYTHON --sizes 10",
        ),
        (["--quick", "--json", "a.json"], "--quick"),
    ],
)
def test_a_command_is_told_without_paths(arguments: list[str], told: str) -> None:
    assert recording.command(["/some/where/mot.py", *arguments]) == f"python benchmarks/mot.py {told}"
