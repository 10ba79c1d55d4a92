"""`mixloom mix`: estimate weights from sizes, and show what a mixture will do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixloom.mixers.estimate import estimate, parse_settings
from mixloom.mixers.medu_cli import judge_command
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.sources import load_sources
from mixloom.pipeline.errors import UserError

app = typer.Typer(help="Estimate and show mixture weights.", no_args_is_help=True, add_completion=False)

app.command("judge")(judge_command)


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
) -> None:
    """Find the weights of the domains. Without budget_tokens the budget is one pass over all tokens."""
    sources = load_sources(source)
    config = parse_settings(_parse(settings or []))
    one_pass = sum(sources.tokens)
    console = Console()
    mixture = estimate(sources, config, one_pass)
    if config.budget_tokens == "steps":
        console.print(f"budget_tokens not given: one pass over all {one_pass:,} tokens", markup=False)
    show(mixture, console)
    if out is not None:
        console.print(f"wrote {mixture.save(out)}", markup=False)


@app.command("show")
def show_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or a mixture.yaml.")],
) -> None:
    """Show a mixture: tokens, weight and epochs of each domain, and which caps bind."""
    show(Mixture.load(run), Console())


def show(mixture: Mixture, console: Console) -> None:
    """Print a mixture as a table."""
    table = Table(title=Text(f"{mixture.estimator}, {mixture.budget_tokens:,} tokens"), title_justify="left")
    table.add_column("domain")
    for name in ("tokens", "weight", "trained on", "epochs", "cap"):
        table.add_column(name, justify="right")
    weights, epochs, capped = mixture.weights, mixture.epochs, mixture.capped
    for d in mixture.domains:
        binding = "binds" if d.name in capped else ""
        trained = f"{round(weights[d.name] * mixture.budget_tokens):,}"
        cells = (f"{d.tokens:,}", f"{weights[d.name]:.4f}", trained, f"{epochs[d.name]:.2f}")
        table.add_row(Text(d.name), *cells, f"{binding} {d.max_epochs:g}".strip())
    console.print(table)
    console.print(
        f"effective number of domains {mixture.effective_domains:.2f} of {len(mixture.domains)};"
        f" caps bind for {len(capped)}",
        markup=False,
    )
    for note in mixture.notes:
        console.print(note, markup=False)


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
        values[name] = value
    return values


def _whole(text: str, value: Any) -> Any:
    """2e9 as an integer: YAML reads it as text, and a budget is often written so."""
    try:
        number = float(text)
    except ValueError:
        return value
    return int(number) if number.is_integer() else value
