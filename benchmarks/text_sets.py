"""The text of the real data sets, as documents, for the benchmarks: raw, with all markup that is in the files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LINE_SETS = ("text-tatoeba", "text-code-java-cs")  # one document a line, but for the JSON inside
_TEXT = {".txt", ".md", ".xml", ".html", ".htm", ".xhtml", ".cnxml", ".java", ".cs", ""}
_SKIP = {
    "README.txt",
    "README",
    "README.md",
    "LICENSE",
    "LICENSE.md",
    "LICENSE-SUMMARY",
    "SOURCE-README",
    "Data_LICENCE",
}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def documents(folder: Path) -> Iterator[str]:
    """Every document of one set, in the order of its file names; nothing is cleaned."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in _SKIP):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        name = path.name.removesuffix(".gz")
        if name.endswith(".jsonl"):
            for line in raw.splitlines():
                yield "\n".join(_strings(json.loads(line)))
        elif folder.name in LINE_SETS:
            yield from (line for line in _decoded(raw).splitlines() if line.strip())
        elif Path(name).suffix in _TEXT or not Path(name).suffix.removeprefix(".").isalpha():
            yield _decoded(raw)


def sets(root: Path) -> dict[str, Path]:
    """The folders with text among the data sets under `root`, by name."""
    wanted = ("text-", "web-html", "inter-", "decon-")
    found = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and p.name.startswith(wanted)}
    if not found:
        raise SystemExit(f"{root} has no data sets (folders named text-*, web-html*, inter-*, decon-*)")
    return found
