"""The `mixloom` command: one table of sub-commands, each imported only when it is the one called."""

from __future__ import annotations

import sys
from importlib import import_module

INTERRUPTED = 130  # exit code of a process stopped by Ctrl+C

# name: (module, function or typer app in it, what it does)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": (
        "mixloom.trainers.cli",
        "demo",
        "Write a small mixed-modal corpus, run every stage on it, train, score the result",
    ),
    "run": (
        "mixloom.trainers.cli",
        "run",
        "Run a configuration: documents in, shards and a mixture (and a model) out",
    ),
    "train": ("mixloom.trainers.cli", "train", "Train a model on the shards of a run"),
    "status": (
        "mixloom.pipeline.cli",
        "status",
        "Where a run stands: in, kept, dropped and failed per stage",
    ),
    "verify": (
        "mixloom.pipeline.verify_cli",
        "verify",
        "Find damaged, truncated and missing files of a run or of shards",
    ),
    "explain": ("mixloom.pipeline.cli", "explain", "The whole life of one document"),
    "rules": (
        "mixloom.pipeline.rules_cli",
        "app",
        "List rule sets; decide again about a run, without its text",
    ),
    "quality": ("mixloom.pipeline.quality_cli", "app", "Fit a quality classifier, score a run with it"),
    "tokenizer": ("mixloom.tokenizers.cli", "app", "Fit tokenizers and codecs, and look at them"),
    "inspect": (
        "mixloom.tokenizers.inspect_cli",
        "inspect",
        "Contexts as a model will see them: a page, a terminal view, or a local server with search",
    ),
    "served": (
        "mixloom.trainers.model_cli",
        "served",
        "Contexts of one update of a training as the model gets them, objectives applied",
    ),
    "losses": (
        "mixloom.trainers.losses",
        "losses",
        "Losses of documents under trained models (for PreSelect)",
    ),
    "evaluate": (
        "mixloom.trainers.model_cli",
        "evaluate",
        "Losses of a trained model on held-out shards, per modality and domain",
    ),
    "generate": (
        "mixloom.trainers.model_cli",
        "generate",
        "Sample text, pictures and speech from a trained model, as files and a page",
    ),
    "export": (
        "mixloom.trainers.model_cli",
        "export",
        "Write a trained model as a Hugging Face style folder with its loader",
    ),
    "experts": (
        "mixloom.trainers.model_cli",
        "experts",
        "Branch, train, merge: an expert per domain of a run, one model of them all, their ensemble",
    ),
    "report": ("mixloom.trainers.cli", "report", "Write report.html for a run"),
    "mix": ("mixloom.mixers.cli", "app", "Estimate and show mixture weights"),
}


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, _, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mixloom COMMAND ...",
            "",
            "Mixed-modal documents in; curated, ordered, tokenized shards, a mixture and a trained model out.",
            "",
            "commands:",
            *lines,
            "",
            "`mixloom COMMAND --help` tells more. Start with `mixloom demo`.",
        ]
    )


def _unknown(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return f"mixloom: there is no command '{name}'{hint}\n  fix: use one of: {', '.join(COMMANDS)}"


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command.

    Returns:
        The exit code: 0 done, 2 a mistake in what was asked for (told without a traceback), 130 interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if args[0] in ("-V", "--version"):
        from mixloom import __version__

        print(f"mixloom {__version__}")
        return 0
    if args[0] not in COMMANDS:
        print(_unknown(args[0]), file=sys.stderr)
        return 2
    return _call(args[0], args[1:])


def _call(name: str, args: list[str]) -> int:
    import logging
    import os

    # Before OpenMP is loaded: threads that spin at its barriers take the processor from other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    import typer

    from mixloom.pipeline.errors import UserError
    from mixloom.pipeline.interrupts import noticed

    # Libraries warn about optional parts of their own; nobody here can act on it.
    logging.basicConfig(level=logging.ERROR)
    module, attribute, _ = COMMANDS[name]
    app = getattr(import_module(module), attribute)
    if not isinstance(app, typer.Typer):
        command, app = app, typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(command)
    try:
        with noticed():
            result = app(args, prog_name=f"mixloom {name}", standalone_mode=False)
    except UserError as e:
        print(f"mixloom {name}: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        result = INTERRUPTED
    except Exception as e:
        if hasattr(e, "format_message") and hasattr(
            e, "exit_code"
        ):  # a usage error of the command line library
            # A group without its command shows its help, and has nothing to add.
            told = e.format_message()
            if told:
                print(f"mixloom {name}: {told}\n  fix: see `mixloom {name} --help`", file=sys.stderr)
            return int(e.exit_code)
        raise
    if result == INTERRUPTED:  # the command line library swallows the interrupt and returns the code
        print(
            f"mixloom {name}: interrupted; finished parts are kept, the same command goes on", file=sys.stderr
        )
        return INTERRUPTED
    return int(result or 0)


def entry() -> None:
    """The console command: `main`, and then the end of the process.

    A pipeline that still works in its thread after an error or an interrupt cannot be stopped, and Python would
    take its modules away from under it, and hang or crash. So the process ends at once; what the thread was
    writing has a temporary name and is removed by the next run.
    """
    import os
    import threading

    code = main()
    if any(t.name == "beam" for t in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    entry()
