"""`mixloom run`, `train`, `demo` and `report`: the commands that know every stage."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML configuration file.")]
Rest = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]... [-- BEAM FLAGS]",
        help="Overrides such as workers=2; after --, flags for Beam.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]


def _split(rest: list[str] | None) -> tuple[list[str], list[str]]:
    """Overrides, and the flags for Beam that follow them."""
    items = list(rest or [])
    first = next((i for i, x in enumerate(items) if x.startswith("-")), len(items))
    return items[:first], items[first:]


def run(config: ConfigArgument, rest: Rest = None, quiet: Quiet = False) -> None:
    """Run every stage of a configuration that is not up to date, and write report.html.

    A run can be interrupted at any time; the same command goes on from its finished parts. Stages whose
    inputs, settings and code have not changed are not done again.
    """
    from mixloom.pipeline.config import load_config
    from mixloom.trainers.recipe import RunConfig, run_recipe

    overrides, beam_flags = _split(rest)
    console = Console(quiet)
    started = time.perf_counter()
    settings = load_config(RunConfig, config, overrides)
    worked = run_recipe(settings, console, beam_flags)
    _finish(settings.run_dir, worked, started, console)


def train(
    config: ConfigArgument,
    rest: Rest = None,
    quiet: Quiet = False,
    replay: Annotated[
        int | None,
        typer.Option(min=1, help="Train nothing; make this update again and tell of its documents."),
    ] = None,
) -> None:
    """Train a model on the shards of a finished run; an interrupted training goes on from its last checkpoint.

    On several devices: torchrun --nproc-per-node 8 -m mixloom.cli train CONFIG
    """
    from mixloom.pipeline.config import load_config
    from mixloom.trainers.launch import rank_and_world
    from mixloom.trainers.recipe import TrainRecipe, train_recipe

    overrides, beam_flags = _split(rest)
    if beam_flags:
        raise UserError(
            f"'{beam_flags[0]}' is a flag for Beam, and training does not use Beam", fix="leave it out"
        )
    started = time.perf_counter()
    settings = load_config(TrainRecipe, config, overrides)
    if replay is not None:
        from mixloom.trainers.replay import replay_recipe, told

        print(told(replay_recipe(settings, replay)))
        return
    first = rank_and_world()[0] == 0
    console = Console(quiet or not first)
    worked = train_recipe(settings, console)
    if first:
        _finish(settings.run_dir, worked, started, console)


def _finish(run_dir: str, worked: bool, started: float, console: Console) -> None:
    from mixloom.pipeline.run import RunDirectory

    store = RunDirectory(run_dir).store
    if worked or not store.exists("report.html"):
        from mixloom.trainers.report import write_report

        write_report(run_dir)
    seconds = time.perf_counter() - started
    if worked:
        console.say(f"done in {seconds:.1f} s; see {store.url('report.html')}")
    else:
        console.say(f"nothing to do: every stage of {store.root} is up to date ({seconds:.1f} s)")


def report(run_dir: Annotated[str, typer.Argument(metavar="RUN", help="The run directory.")]) -> None:
    """Write report.html for a run: one self-contained page."""
    from mixloom.trainers.report import write_report

    print(write_report(run_dir))


def demo(
    rest: Rest = None,
    run_dir: Annotated[
        str, typer.Option("--run-dir", help="Where to write the corpus and the run.")
    ] = "runs/demo",
    quiet: Quiet = False,
) -> None:
    """Write a small mixed-modal corpus of our own making, run every stage on it, train, and score the result.

    The corpus has planted duplicates, noise, domains and corrupt files, so the figures printed at the end say
    how much of the truth the pipeline recovered. They are also in summary.json in the run directory.
    """
    from mixloom.trainers.demo import run_demo

    overrides, beam_flags = _split(rest)
    run_demo(run_dir, overrides, beam_flags, Console(quiet))
