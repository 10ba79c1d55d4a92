"""`mixloom verify`: whether the files of a run, or a folder of shards, are what was written."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer


def verify(
    path: Annotated[
        str, typer.Argument(metavar="RUN|SHARDS", help="A run directory, or a folder of shards.")
    ],
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that read.")] = min(
        4, os.cpu_count() or 1
    ),
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what is damaged.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> int:
    """Read every file and compare it with what was recorded when it was written; name shard and sample of any damage.

    The exit code is 0 when everything is whole and 1 when something is damaged or missing.
    """
    from mixloom.pipeline.integrity import Checked, check

    def tell(found: Checked) -> None:
        for damage in found.damages:
            print(f"{damage.kind.replace('_', ' ')}: {_plain(damage.what)}", flush=True)

    found = check(path, workers, None if as_json else tell)
    if as_json:
        print(json.dumps({"path": path, **found.to_json()}, indent=1, ensure_ascii=False))
    elif not quiet:
        for stage in found.unfinished:
            print(f"{_plain(stage)} has not finished; what it has recorded so far was checked")
        state = "all whole" if not found.damages else f"{len({d.file for d in found.damages})} not as written"
        print(f"{found.files:,} files, {found.bytes / 1e6:,.1f} MB read: {state}")
        if found.damages:
            print(
                "  fix: copy the files again from where they were written; in a run, remove the stage.json of"
            )
            print("       the stage and run again: it is redone from the stages before it")
    return 1 if found.damages else 0


def _plain(text: str) -> str:
    """Names from files are shown, never obeyed by the terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
