"""`mixloom mix judge`: utilities of sources for skills, from labels that a judge gives their documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixloom.pipeline.errors import UserError, nearest

if TYPE_CHECKING:
    from mixloom.mixers.medu_config import MeduConfig
    from mixloom.mixers.utility import Utilities

JUDGES = ("lexical", "endpoint", "local")
_WIDEST = 12  # skills in one table on the console


def judge_command(
    place: Annotated[
        str, typer.Argument(metavar="RUN_OR_JSONL", help="A run directory, or .jsonl with text and source.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="For example documents_per_source=64 judge.model=NAME."
        ),
    ] = None,
    skill: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH", help="Items of a benchmark; PATH#question,answer names the fields."
        ),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="lexical (offline, counts words), endpoint or local.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with these settings; see docs/medu.md.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="source or domain (of a run).")] = None,
    out: Annotated[Path, typer.Option(help="Where the utilities go.")] = Path("utilities.yaml"),
    work: Annotated[
        Path | None, typer.Option(help="Folder of the ledger and the labels; default: beside --out.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Make calls that leave this machine.")] = False,
    text_field: Annotated[str, typer.Option(help="Field of the text in .jsonl.")] = "text",
    source_field: Annotated[str, typer.Option(help="Field of the source in .jsonl.")] = "source",
    id_field: Annotated[str | None, typer.Option(help="Field of the id in .jsonl.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Judge documents of every source for every skill, and write the mean labels as utilities (0 to 1)."""
    from mixloom.mixers.medu import judged
    from mixloom.pipeline.console import Console

    asked = settings_of(config, settings or [], skill or [], judge, group)
    console = Console(quiet)
    utilities = judged(
        place,
        asked,
        work if work is not None else out.with_suffix(".judge"),
        confirmed=yes,
        console=console,
        text_field=text_field,
        source_field=source_field,
        id_field=id_field,
    )
    written = utilities.save(out)
    if not quiet:
        show(utilities)
        print(f"wrote {written}")


def settings_of(
    config: Path | None, overrides: list[str], skills: list[str], judge: str | None, group: str | None
) -> MeduConfig:
    """The settings of a command: the file, then the options, then key=value.

    Raises:
        UserError: anything that is not allowed.
    """
    from mixloom.mixers.medu_config import MeduConfig
    from mixloom.pipeline.config import apply_overrides, load_config, read_yaml, validate

    tree: dict[str, Any] = {}
    name = "mix judge"
    if config is not None:
        if not config.is_file():
            load_config(MeduConfig, config)  # says what is wrong
        tree, name = read_yaml(config.read_text(encoding="utf-8"), str(config)), str(config)
    for text in skills:
        tree.setdefault("skills", {})
        skill, value = _skill(text)
        tree["skills"][skill] = value
    if judge is not None:
        if judge not in JUDGES:
            raise UserError(
                f"--judge is '{judge}'{nearest(judge, JUDGES)}", fix=f"use one of: {', '.join(JUDGES)}"
            )
        current = tree.get("judge")
        if not isinstance(current, dict) or current.get("kind") != judge:
            tree["judge"] = {"kind": judge}
    elif isinstance(tree.get("judge", {}), dict):
        tree.setdefault("judge", {}).setdefault("kind", "lexical")
    if group is not None:
        tree["group"] = group
    apply_overrides(tree, overrides)
    if not tree.get("skills"):
        raise UserError(
            "there is no skill to judge for",
            fix="give --skill NAME=PATH with items of a benchmark, once for each skill",
        )
    return validate(MeduConfig, tree, name)


def _skill(text: str) -> tuple[str, dict[str, Any]]:
    name, found, path = text.partition("=")
    path, marked, fields = path.partition("#")
    if not (found and name.strip() and path.strip()):
        raise UserError(
            f"--skill '{text}' is not NAME=PATH",
            fix="write for example --skill math=gsm8k.jsonl#question,answer",
        )
    value: dict[str, Any] = {"path": path.strip()}
    if marked:
        value["fields"] = [f.strip() for f in fields.split(",") if f.strip()]
    return name.strip(), value


def show(utilities: Utilities) -> None:
    """Print the table: utility, and its standard error where there is one."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    errors = utilities.details.get("standard_errors", {})
    for start in range(0, len(utilities.skills), _WIDEST):
        skills = utilities.skills[start : start + _WIDEST]
        table = Table(title=Text(f"utilities by method {utilities.method}"), title_justify="left")
        table.add_column("source")
        for s in skills:
            table.add_column(Text(s), justify="right")
        for i, source in enumerate(utilities.sources):
            own = errors.get(source, [None] * len(utilities.skills))
            cells = [_cell(float(utilities.values[i, start + j]), own[start + j]) for j in range(len(skills))]
            table.add_row(Text(source), *cells)
        console.print(table)
    for note in utilities.notes:
        console.print(note, markup=False)


def _cell(value: float, error: float | None) -> str:
    return f"{value:.2f}" if error is None else f"{value:.2f} ±{error:.2f}"
