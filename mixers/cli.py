"""`mixloom mix`: estimate weights from sizes and what else is known, and show what a mixture will do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from mixloom.mixers.compare import compare, compared
from mixloom.mixers.estimate import ESTIMATORS, estimate, reproduce
from mixloom.mixers.heldout import HELDOUT_NAME, HeldOut
from mixloom.mixers.medu_cli import judge_command
from mixloom.mixers.mix_config import parse_settings
from mixloom.mixers.mix_tables import show, show_comparison
from mixloom.mixers.mixture import Mixture, find_mixture
from mixloom.mixers.sources import load_sources
from mixloom.pipeline.errors import UserError

app = typer.Typer(help="Estimate and show mixture weights.", no_args_is_help=True, add_completion=False)
app.command("judge")(judge_command)

_Heldout = Annotated[
    Path | None,
    typer.Option(help="Held-out losses of this mixture and of UniMax (JSON, docs/mixtures.md)."),
]
_Strict = Annotated[bool, typer.Option(help="Exit with 1 where the mixture loses to UniMax.")]


@app.command("estimate")
def estimate_command(
    source: Annotated[
        str, typer.Argument(metavar="RUN_OR_MANIFEST_OR_CSV", help="Where the sizes come from.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="For example method=temperature max_epochs=2 budget_tokens=2e9."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the mixture to this YAML file.")] = None,
    side_by_side: Annotated[
        bool, typer.Option("--compare", help="Show every method that can be computed, side by side.")
    ] = False,
    heldout: _Heldout = None,
    strict: _Strict = False,
) -> None:
    """Find the weights of the domains. Without budget_tokens the budget is one pass over all tokens."""
    config = parse_settings(_parse(settings or []))
    sources = load_sources(source, config.group_by)
    console = Console()
    one_pass = sum(sources.tokens)
    if config.exclude != type(config.exclude)():
        from mixloom.mixers.limits import left_out

        gone = left_out(sources, config)
        one_pass = sum(d.tokens for d in sources.domains if d.name not in gone)
    if config.budget_tokens == "steps":
        console.print(f"budget_tokens not given: one pass over all {one_pass:,} tokens", markup=False)
    if side_by_side:
        show_comparison(compare(sources, config, one_pass), console)
        if out is None and heldout is None:
            return
    mixture = estimate(sources, config, one_pass)
    show(mixture, console)
    if out is not None:
        console.print(f"wrote {mixture.save(out)}", markup=False)
    _judge(mixture, heldout, strict, console)


@app.command("show")
def show_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or a mixture.yaml.")],
    picture: Annotated[
        Path | None, typer.Option(help="Draw weights, epochs, modalities and methods into this SVG file.")
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--compare", help="Show every method on what the mixture records.")
    ] = False,
    heldout: _Heldout = None,
    strict: _Strict = False,
) -> None:
    """Show a mixture: tokens, weight and epochs of each domain beside UniMax, and which caps bind."""
    console = Console()
    mixture = Mixture.load(run)
    show(mixture, console)
    if side_by_side:
        rows = compared(mixture)
        if not rows:
            raise UserError(
                "the mixture does not record what it was estimated from, so nothing can be compared",
                fix="estimate it again: mixloom mix estimate RUN --out PATH",
            )
        show_comparison(rows, console)
    if picture is not None:
        from mixloom.mixers.picture import standalone

        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(standalone(mixture, compared(mixture)), encoding="utf-8")
        console.print(f"wrote {picture}", markup=False)
    file = find_mixture(run)
    beside = (file.with_name(HELDOUT_NAME), file.parent.parent / "heldout" / HELDOUT_NAME)
    _judge(mixture, heldout or next((p for p in beside if p.is_file()), None), strict, console)


@app.command("methods")
def methods_command() -> None:
    """List the methods, and what each needs beside the sizes."""
    for name, method in ESTIMATORS.items():
        wants = f" (needs {method.wants})" if method.needs else ""
        print(f"{name:<13} {method.about}{wants}")


@app.command("reproduce")
def reproduce_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A mixture.yaml, or a run directory.")],
    out: Annotated[Path | None, typer.Option(help="Write the mixture made again to this file.")] = None,
) -> None:
    """Make a mixture again from its file alone, and compare. Exit code 1 where it differs."""
    path = find_mixture(file)
    found = Mixture.load(path)
    again = reproduce(found)
    if out is not None:
        again.save(out)
        print(f"wrote {out}")
    if again.to_yaml() == path.read_text(encoding="utf-8"):
        print(f"{path}: the same bytes")
        return
    if again == found:
        print(f"{path}: the same mixture; the file is written in another way")
        return
    worst = max(found.names, key=lambda n: abs(found.weights[n] - again.weights[n]))
    print(
        f"{path} differs from what it records: made again, '{worst}' gets {again.weights[worst]:.6g},"
        f" the file says {found.weights[worst]:.6g}"
    )
    raise typer.Exit(1)


def _beside(mixture: Path) -> Path | None:
    """Held-out losses that lie beside a mixture, or were measured by the run it belongs to."""
    for file in (mixture.with_name(HELDOUT_NAME), mixture.parent.parent / "heldout" / HELDOUT_NAME):
        if file.is_file():
            return file
    return None


def _judge(mixture: Mixture, heldout: Path | None, strict: bool, console: Console) -> None:
    """Say how the mixture does against UniMax, where that was measured."""
    if heldout is None:
        if strict:
            raise UserError(
                "--strict needs held-out losses of the mixture and of UniMax",
                fix=f"give --heldout FILE, or put {HELDOUT_NAME} beside the mixture",
            )
        return
    found = HeldOut.load(heldout, mixture.fingerprint)
    console.print(found.verdict(), markup=False, soft_wrap=True)
    if strict and found.loses:
        raise typer.Exit(1)


def _parse(settings: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in settings:
        name, found, text = item.partition("=")
        if not found or not name:
            raise UserError(
                f"'{item}' is not a setting", fix="write settings as key=value, for example max_epochs=2"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(
                f"the value of {name} is not YAML: {text}", fix="quote it, for example name='{a: 0.5}'"
            ) from None
        if name == "budget_tokens":
            value = _whole(text, value)
        if name == "group_by" and isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        values[name] = value
    return values


def _whole(text: str, value: Any) -> Any:
    """2e9 as an integer: YAML reads it as text, and a budget is often written so."""
    try:
        number = float(text)
    except ValueError:
        return value
    return int(number) if number.is_integer() else value
