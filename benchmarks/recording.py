"""What every benchmark script shares: its options, what is known of the machine, and the file its figures go to."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def options_parser(doc: str, data: bool = True) -> argparse.ArgumentParser:
    """A parser with --json, --quick and (where the script reads real sets) --data; `doc` is the script's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--quick", action="store_true", help="smaller: a few minutes on two cores")
    if data:
        parser.add_argument(
            "--data", type=Path, required=True, metavar="ROOT", help="folder of the real data sets"
        )
    return parser


def machine() -> dict[str, Any]:
    """Processor, cores and memory of this machine."""
    out: dict[str, Any] = {"system": platform.system(), "arch": platform.machine(), "cores": os.cpu_count()}
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        out["processor"] = next(
            x.split(":")[1].strip() for x in info.splitlines() if x.startswith("model name")
        )
        memory = Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
        out["memory_gib"] = round(int(memory) / 2**20, 1)
    except (OSError, StopIteration, ValueError):
        pass
    return out


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's version and that of each package that is installed."""
    out = {"python": platform.python_version()}
    for name in packages:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def command(arguments: Sequence[str]) -> str:
    """A command line (sys.argv) as it is told: without --json, and paths by the names of their options."""
    script, *rest = arguments
    shown = ["python", f"benchmarks/{Path(script).name}"]
    option = ""
    for word in (x for argument in rest for x in _split(argument)):
        if word.startswith("--"):
            option = word
        if option == "--json":
            continue
        where = not word.startswith("--") and os.sep in word  # where things lie is nobody's business
        shown.append(option.lstrip("-").replace("-", "_").upper() if where and option else word)
    return " ".join(shown)


def _split(argument: str) -> list[str]:
    return argument.split("=", 1) if argument.startswith("--") else [argument]


def save(path: Path | None, quick: bool, figures: Any, packages: Iterable[str] = ()) -> None:
    """Write what a script has found, with the command, the versions and the machine it was found on.

    Args:
        path: the file; None writes nothing.
        figures: JSON values by name: tables are lists of rows with equal keys, the rest are facts.
        packages: names of the packages whose versions matter.
    """
    if path is None:
        return
    result = {
        "name": Path(sys.argv[0]).stem,
        "command": command(sys.argv),
        "quick": quick,
        "versions": versions(packages),
        "machine": machine(),
        "figures": figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
