"""The house: which folder may import which, what stays light, and whose name is `tokenizers`."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("pipeline", "tokenizers", "mixers", "trainers")  # each may import itself and those before it
BEAM_FREE = (
    "pipeline/schema.py",
    "pipeline/config.py",
    "pipeline/run.py",
    "pipeline/shards.py",
    "pipeline/packing.py",
)


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names a module imports; with `top_level_only`, those paid for when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.update(a.name for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                found.add(child.module or "")
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            if not (top_level_only and lazy):
                visit(child)

    visit(tree)
    return found


def roots(names: set[str]) -> set[str]:
    return {n.split(".")[0] for n in names}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_itself_and_those_to_its_left_only(folder):
    allowed = FOLDERS[: FOLDERS.index(folder) + 1]
    for path in modules(folder):
        for name in imports(path):
            if name.startswith("mixloom."):
                assert name.split(".")[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_imports_a_folder_by_its_bare_name(folder):
    for path in [*modules(folder), *modules("mixloom"), *modules("tests"), *modules("benchmarks")]:
        bare = roots(imports(path)) & {"pipeline", "mixers", "trainers"}
        assert not bare, f"{path.relative_to(ROOT)} imports {bare}; write mixloom.{bare.pop()}"


def test_pipeline_never_imports_torch_at_module_level():
    for path in modules("pipeline"):
        assert "torch" not in roots(imports(path, top_level_only=True)), path


def test_schema_config_run_and_shard_format_never_import_beam():
    for name in BEAM_FREE:
        assert "apache_beam" not in roots(imports(ROOT / name)), name


@pytest.mark.parametrize("folder", ["mixers", "trainers"])
def test_mixers_and_trainers_never_import_beam(folder):
    for path in modules(folder):
        assert "apache_beam" not in roots(imports(path)), path


def test_no_module_is_longer_than_500_lines_and_none_is_a_grab_bag():
    for folder in ("mixloom", *FOLDERS):
        for path in modules(folder):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path
            assert path.stem not in {"util", "utils", "common", "helpers", "misc"}, path


def test_our_tokenizers_folder_is_no_package():
    assert not (ROOT / "tokenizers" / "__init__.py").exists(), "it would shadow Hugging Face's tokenizers"


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_from_the_repository_root_tokenizers_is_hugging_faces():
    code = "import tokenizers; assert tokenizers.Tokenizer; print(tokenizers.__file__)"
    assert "site-packages" in run_python(code)


def test_from_the_repository_root_a_module_run_by_name_gets_hugging_faces_tokenizers():
    done = subprocess.run(
        [sys.executable, "-m", "mixloom.cli", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert run_python("import mixloom.tokenizers.text as t; print(t.Tokenizer.__module__)").startswith(
        "tokenizers"
    )


@pytest.mark.parametrize("heavy", ["torch", "apache_beam", "pyarrow", "numba"])
def test_help_imports_nothing_heavy(heavy):
    code = (
        "import sys, mixloom.cli; mixloom.cli.main(['--help']); "
        f"assert '{heavy}' not in sys.modules, '{heavy} was imported'"
    )
    run_python(code)


def test_a_run_that_is_up_to_date_needs_neither_torch_nor_beam_to_know_it():
    code = (
        "import sys, mixloom.trainers.recipe; "
        "heavy = {'torch', 'apache_beam', 'sklearn', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    run_python(code)


def test_the_package_list_is_the_folders():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = ["mixloom"]
    for folder in (*FOLDERS, "conf"):
        own = ROOT / folder
        inside = {p.parent for p in own.rglob("*") if p.suffix in {".py", ".yaml", ".css", ".js"}} | {own}
        found += [
            "mixloom." + ".".join(p.relative_to(ROOT).parts) for p in inside if "__pycache__" not in p.parts
        ]
    assert sorted(listed) == sorted(found)
