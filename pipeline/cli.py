"""`mixloom status` and `mixloom explain`: questions to a run directory. Neither needs Beam or torch."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mixloom.pipeline.run import RunDirectory

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="The run directory (run_dir of the configuration).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def status(run_dir: RunArgument, as_json: JsonOption = False) -> None:
    """Show every stage of a run: documents in, kept, dropped by reason, failed by error, and seconds."""
    from mixloom.pipeline.status import run_status

    run = RunDirectory.existing(run_dir)
    stages = run_status(run)
    if as_json:
        balanced = all(s.counts.conserved for s in stages if s.state == "finished")
        print(
            json.dumps(
                {"run": run.store.root, "balanced": balanced, "stages": [s.to_json() for s in stages]},
                indent=1,
            )
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=run.store.root, title_justify="left")
    for name, side in (
        ("stage", "left"),
        ("in", "right"),
        ("kept", "right"),
        ("dropped", "left"),
        ("failed", "left"),
    ):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("seconds", justify="right")
    table.add_column("state")
    for s in stages:
        c = s.counts
        state = s.state if s.state == "finished" else f"{s.state}: {s.units} of {s.total or '?'} units"
        slow = (
            f"; slowest {s.slowest['unit']} {s.slowest['seconds']:.1f} s"
            if s.slowest and s.seconds > 5
            else ""
        )
        media = {f"media {k}": v for k, v in c.media.items()}
        table.add_row(
            s.stage,
            str(c.documents_in),
            str(c.kept),
            _list(c.dropped),
            _list({**c.failed, **media}),
            f"{s.seconds:.1f}",
            state + slow,
        )
    Console().print(table)


def _list(counts: dict[str, int]) -> str:
    return "\n".join(f"{n} {reason}" for reason, n in sorted(counts.items(), key=lambda x: (-x[1], x[0])))


def explain(
    run_dir: RunArgument,
    doc_id: Annotated[str, typer.Argument(metavar="DOC_ID", help="A document id, or its first digits.")],
    as_json: JsonOption = False,
) -> None:
    """Tell one document's whole life: where it came from, what each stage measured and decided, where it went."""
    from mixloom.pipeline.explain import explain as facts_of

    facts = facts_of(RunDirectory.existing(run_dir), doc_id)
    if as_json:
        print(json.dumps(facts, indent=1, ensure_ascii=False, default=str))
        return
    print(f"document {facts['doc_id']}")
    for key, value in facts.get("document", {}).items():
        if key != "segments":
            print(f"  {key}: {_plain(value)}")
    for s in facts.get("document", {}).get("segments", []):
        print(f"  - {_plain(s)}")
    for entry in facts["life"]:
        head = f"{entry['stage']}: {entry.get('outcome', '')}"
        rest = {k: v for k, v in entry.items() if k not in ("stage", "outcome")}
        print(f"{head}  {_plain(rest)}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "; ".join(_plain(v) for v in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and " " in value else str(value)
