"""English prose with known domains: the documentation strings of Python's own standard library.

The source files are parsed, never imported. A family of modules is a domain; families were chosen because
their subjects (and so their words) differ, and nothing is added to the prose. A library that lacks a family
(some distributions leave modules out) gives fewer domains, and the truth file says which are missing.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mixloom.pipeline.demo.shingles import ShingleIndex, words

# Domain: modules and packages, relative to the standard library. A name that does not exist is passed over
# (`_pydatetime` came with 3.12, for example).
FAMILIES: dict[str, tuple[str, ...]] = {
    "arithmetic": ("_pydecimal", "fractions", "numbers"),
    "asyncio": ("asyncio",),
    "imports": ("importlib",),
    "language": ("pydoc_data/topics",),
    "logging": ("logging",),
    "mail": ("email",),
    "markup": ("xml",),
    "turtle": ("turtle",),
}
_SKIP = {"__pycache__", "test", "tests"}
_SHORTEST, _ENOUGH, _LONGEST = 60, 75, 400  # words of a document
_TOO_ALIKE = 0.2  # two documents of the library that share this much are not both taken
_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}  # of the Gopher quality rules


@dataclass(frozen=True, slots=True)
class Prose:
    """A document: its domain, the module it is from (path relative to the library), and its text."""

    domain: str
    module: str
    text: str


def standard_library() -> Path:
    """Folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read_families(library: Path, index: ShingleIndex) -> dict[str, list[Prose]]:
    """Every document of every family, in the order of the files; all are added to `index`.

    No two are more alike than a fifth (shingle Jaccard), also against what `index` held before. A domain
    without documents is left out.
    """
    out: dict[str, list[Prose]] = {}
    for domain, modules in FAMILIES.items():
        found = [
            Prose(domain, file.relative_to(library).as_posix(), text)
            for file in _files(library, modules)
            for text in documents(docstrings(file))
            if index.add_if_new(text, _TOO_ALIKE)
        ]
        if found:
            out[domain] = found
    return out


def _files(library: Path, modules: Iterable[str]) -> Iterator[Path]:
    for name in modules:
        if (file := library / f"{name}.py").is_file():
            yield file
        inside = (library / name).rglob("*.py")
        yield from sorted(f for f in inside if not _SKIP & set(f.relative_to(library).parts))


def docstrings(file: Path) -> list[str]:
    """Cleaned docstrings of a source file, module first, then classes and functions in source order.

    Of the help topics (`pydoc_data/topics.py`, a table of strings and no docstrings) every topic is one.
    A file that does not parse gives none: the library of another Python may use syntax this one lacks.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    if file.parent.name == "pydoc_data":
        return list(_topics(tree))
    return [text for node in _in_order(tree) if (text := _without_sessions(_docstring(node)))]


def _topics(tree: ast.Module) -> Iterator[str]:
    """The help topics without headings, grammar and examples: what is underlined or indented is no prose."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for text in map(ast.literal_eval, node.value.values):
                paragraphs = [p.strip("\n") for p in text.split("\n\n")]
                yield "\n\n".join(
                    p for p in paragraphs if p and p[0] != " " and not re.search(r"^[*=\-~^]{3,}$", p, re.M)
                )


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _in_order(child)


def _docstring(node: ast.AST) -> str:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    return inspect.cleandoc(ast.get_docstring(node, clean=False) or "")


def _without_sessions(text: str) -> str:
    """The text without interpreter sessions (`>>>` to the next empty line): they are code, not prose."""
    kept, inside = [], False
    for line in text.splitlines():
        inside = line.lstrip().startswith(">>>") or (inside and bool(line.strip()))
        if not inside:
            kept.append(line.rstrip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def documents(parts: Iterable[str]) -> Iterator[str]:
    """Documents of 60 to about 400 words from docstrings: short ones are joined, long ones cut between paragraphs."""
    held: list[str] = []
    size = 0
    for part in parts:
        for paragraph in part.split("\n\n"):
            more = len(words(paragraph))
            if size + more > _LONGEST and size >= _SHORTEST:
                yield from _if_prose(held)
                held, size = [], 0
            held.append(paragraph)
            size += more
        if size >= _ENOUGH:
            yield from _if_prose(held)
            held, size = [], 0
    if size >= _SHORTEST:
        yield from _if_prose(held)


def _if_prose(paragraphs: list[str]) -> Iterator[str]:
    text = "\n\n".join(p.strip("\n") for p in paragraphs).strip()
    tokens = text.split()
    lines = [x.strip() for x in text.splitlines() if x.strip()]
    mostly_words = sum(any(c.isalpha() for c in t) for t in tokens) >= 0.85 * len(tokens)
    usual_length = 3 <= sum(map(len, tokens)) / len(tokens) <= 10
    english = len(_STOP_WORDS & set(words(text))) >= 2
    varied = len(set(lines)) >= 0.8 * len(lines) and len({*words(text)}) >= 0.35 * len(words(text))
    if mostly_words and usual_length and english and varied:
        yield text + "\n"
