"""Write the tables of benchmarks/README.md from the files in benchmarks/results.

    python benchmarks/tables.py [--check] [--results FOLDER] [--readme FILE]

One section for each script: the first line of its docstring, how and on what machine it was run, and its figures. With
--check nothing is written; the exit status is 1 where the README is not what the files say.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- tables: begin (written by benchmarks/tables.py) -->", "<!-- tables: end -->"
TOOLS = ("tables", "noise_table")  # scripts that measure nothing; nor do those of peers, peer_*.py
UNITS = {
    "per_s": "/s",
    "mb_per_s": "MB/s",
    "mb": "MB",
    "mib": "MiB",
    "cpu_s": "CPU s",
    "cpu_seconds": "CPU s",
    "wall_s": "wall s",
    "s": "s",
    "seconds": "s",
    "ms": "ms",
}
LONGEST = 120  # characters of a text in a cell
_UNIT = re.compile("(?:^|_)(" + "|".join(sorted(UNITS, key=len, reverse=True)) + ")$")
Row = dict[str, Any]


def scripts(folder: Path = HERE) -> list[Path]:
    """The benchmark scripts: what can be run and is no tool."""
    runnable = (p for p in sorted(folder.glob("*.py")) if "__main__" in p.read_text(encoding="utf-8"))
    return [p for p in runnable if p.stem not in TOOLS and not p.stem.startswith("peer_")]


def question(script: Path) -> str:
    """The first line of a script's docstring."""
    doc = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def heading(name: str) -> str:
    """A key as words: documents_per_s becomes documents/s, load_seconds becomes load (s)."""
    if " " in name or not name.islower():
        return name
    unit = _UNIT.search(name)
    if unit is None:
        return name.replace("_", " ")
    what, of = name[: unit.start()].replace("_", " "), UNITS[unit[1]]
    if of.startswith("/"):
        return what + of
    return f"{what} ({of})" if what else of if " " in of else name


def cell(value: Any) -> str:
    """A value as it stands in a table: three significant digits, thousands set apart."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        if abs(value) >= 1000:
            return cell(round(value))
        return f"{value:.4f}".rstrip("0") if 0.99 <= abs(value) < 1 else f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{heading(k)} {cell(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(cell(v) for v in value) or "none"
    text = " ".join(str(value).split())
    text = text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."
    return text.replace("|", "\\|").replace("<", "&lt;")


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; the columns in the order in which they first appear."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numbers = [all(isinstance(r.get(n), int | float | None) for r in rows) for n in names]
    lines = ["| " + " | ".join(heading(n) for n in names) + " |"]
    lines += ["|" + "".join("---:|" if number else "---|" for number in numbers)]
    lines += ["| " + " | ".join(cell(row.get(n)) for n in names) + " |" for row in rows]
    return "\n".join(lines)


def _plain(value: Any) -> bool:
    """Whether a value fits into a cell."""
    if isinstance(value, dict):
        return len(value) <= 12 and not any(isinstance(v, dict | list) for v in value.values())
    if isinstance(value, list):
        return not any(isinstance(v, dict | list) for v in value)
    return True


def _alike(value: Row) -> bool:
    """Whether rows by name have keys in common, and values that fit into cells."""
    common = set.intersection(*(set(row) for row in value.values()))
    return bool(common) and all(_plain(v) for row in value.values() for v in row.values())


def blocks(figures: Row, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Figures as Markdown: facts in one paragraph, then every table under its name."""
    facts: list[str] = []
    later: list[tuple[tuple[str, ...], Any]] = []
    for name, value in figures.items():
        at = (*path, name)
        if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            later.append((at, table(value)))
        elif isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
            later.append((at, table([{"": k, **v} for k, v in value.items()]) if _alike(value) else value))
        elif isinstance(value, dict) and not _plain(value):
            later.append((at, value))
        else:
            facts.append(f"{heading(name)}: {cell(value)}")
    title = [f"*{', '.join(heading(p) for p in path)}*"] if path and facts else []
    if facts:
        yield "\n".join([*title, *([""] if title else []), "; ".join(facts) + "."])
    for at, found in later:
        if isinstance(found, str):
            yield f"*{', '.join(heading(p) for p in at)}*\n\n{found}"
        else:
            yield from blocks(found, at)


def told_machine(result: Row) -> str:
    """Machine and versions in one sentence."""
    m = result["machine"]
    parts = [str(m.get("processor") or m.get("arch") or "unknown processor")]
    parts += [f"{m['cores']} cores"] if "cores" in m else []
    parts += [f"{m['memory_gib']} GiB"] if "memory_gib" in m else []
    parts += [str(m[k]) for k in ("gpu", "system") if m.get(k)]
    return f"{', '.join(parts)}; {', '.join(f'{k} {v}' for k, v in result['versions'].items())}."


def section(script: Path, result: Row | None) -> str:
    """Everything about one script."""
    out = [f"### {script.stem}", question(script)]
    if result is None:
        return "\n\n".join([*out, f"Not measured: run `python benchmarks/{script.name} --help`."])
    kind = "quick run" if result["quick"] else "full run"
    out.append(f"`{result['command']}` ({kind}), on {told_machine(result)}")
    return "\n\n".join([*out, *blocks(result["figures"])])


def generated(results: Path, folder: Path = HERE) -> str:
    """The text between the markers."""
    found = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(results.glob("*.json"))}
    parts = [section(s, found.get(s.stem)) for s in scripts(folder)]
    return "\n\n".join([BEGIN, *parts, END])


def updated(readme: str, text: str) -> str:
    """The README with what stands between the markers replaced.

    Raises:
        SystemExit: the markers are not there.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the README has no lines '{BEGIN}' and '{END}' to write between")
    return before + text + after


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where it is stale")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", metavar="FILE")
    options = parser.parse_args()
    old = options.readme.read_text(encoding="utf-8")
    new = updated(old, generated(options.results))
    if options.check:
        if new != old:
            print(f"{options.readme} is not what {options.results} says: run python benchmarks/tables.py")
        return int(new != old)
    if new != old:
        options.readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
