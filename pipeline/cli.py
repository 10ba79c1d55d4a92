"""`mixloom status` and `mixloom explain`: questions to a run directory. Neither needs Beam or torch."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.status import StageStatus, run_status

SLOW = 5.0  # seconds above which the slowest unit of a stage is worth naming

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="The run directory (run_dir of the configuration).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def status(run_dir: RunArgument, as_json: JsonOption = False) -> None:
    """Show every stage of a run: documents in, kept, dropped by reason, failed by error, and seconds."""
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
    print(run.store.root)
    width = max((len(s.stage) for s in stages), default=5)
    print(f"{'stage':<{width}}  {'in':>11}  {'kept':>11}  {'seconds':>8}  state")
    for s in stages:
        c = s.counts
        print(f"{s.stage:<{width}}  {c.documents_in:>11,}  {c.kept:>11,}  {s.seconds:>8,.1f}  {_state(s)}")
        for outcome, reasons in (("dropped", c.dropped), ("failed", c.failed), ("media", c.media)):
            for reason, n in sorted(reasons.items(), key=lambda x: (-x[1], x[0])):
                print(f"{'':<{width}}  {n:>11,}  {outcome}: {reason}")
        if s.edited:
            print(f"{'':<{width}}  {s.edited:>11,}  edited")
        for reason, n in sorted(s.edits.items(), key=lambda x: (-x[1], x[0])):
            print(f"{'':<{width}}  {n:>11,}  edits: {reason}")
        if s.note:
            print(f"{'':<{width}}  {s.note}")


def _state(s: StageStatus) -> str:
    state = s.state if s.state == "finished" else f"{s.state}, {s.units:,} of {s.total or '?'} units done"
    if s.slowest and s.seconds > SLOW:
        state += f"; slowest unit: {s.slowest['unit']}, {s.slowest['seconds']:.1f} s"
    return state


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
    if not isinstance(value, str) or (value.isprintable() and " " not in value):
        return str(value)
    # What a document says is shown, never obeyed: a terminal acts on control characters.
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" for c in json.dumps(value, ensure_ascii=False)
    )
