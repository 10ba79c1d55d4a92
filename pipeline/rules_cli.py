"""`mixloom rules`: what rule sets there are, and what other rules would decide about a run. No text is read."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mixloom.pipeline.cli import JsonOption, RunArgument

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Rule sets and their decisions.",
)


@app.command("list")
def list_command() -> None:
    """Name the rule sets that come with the package, and what each is for."""
    from mixloom.pipeline.rules import load_ruleset, ruleset_names

    for name in ruleset_names():
        print(f"{name:<20} {load_ruleset(name).description}")


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A rule set, by name or path.")],
) -> None:
    """Print a rule set as YAML: a file of one's own may start from it."""
    import yaml

    from mixloom.pipeline.rules import load_ruleset

    ruleset = load_ruleset(name)
    tree = {
        "description": ruleset.description,
        **ruleset.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }
    print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110), end="")


@app.command("apply")
def apply_command(
    run_dir: RunArgument,
    rules: Annotated[
        list[str],
        typer.Argument(
            metavar="RULES...",
            help="Rule sets by name or path, in order; or the path of a configuration with a `filter` section.",
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Decide again about every document of a run, from its annotations alone.

    Prints what is kept and dropped, what every rule fires on by itself, and what changes against the run's own decision.
    Nothing is written: to make it the decision of the run, name the rule sets in its configuration and run it again, which
    redoes the filter and what comes after it. Rule sets that stand after one that edits judge edited documents; those
    have to be measured again, so they are named here and not asked.
    """
    from mixloom.pipeline.rules_apply import apply_rules, filter_config

    told = apply_rules(run_dir, filter_config(rules))
    if as_json:
        print(json.dumps(told, indent=1))
        return
    _show(told)


def _show(told: dict[str, Any]) -> None:
    print(
        f"{told['documents']} documents: {told['kept']} kept, {told['dropped']} dropped, {told['edited']} kept with edits"
    )
    width = max(map(len, told["rules"]), default=4)
    print(f"  {'rule':<{width}}  {'drops':>9}  {'fires':>9}  {'edits':>9}")
    for name, n in told["rules"].items():
        print(f"  {name:<{width}}  {n['drops']:>9,}  {n['fires']:>9,}  {n['edits']:>9,}")
    change = told["change"]
    if change:
        print(
            f"against the run: {change['now_kept']} more are kept, {change['now_dropped']} more are dropped"
        )
    if told["later_steps"]:
        print(f"not judged here: {', '.join(told['later_steps'])} (they see the edited documents, in a run)")
    print(f"{told['seconds']:.1f} s")
