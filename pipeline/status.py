"""Where a run stands: counts per stage, read from the run directory alone, live while it runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mixloom.pipeline import ledger
from mixloom.pipeline.order_facts import told
from mixloom.pipeline.run import RunDirectory, StageDirectory


@dataclass(frozen=True, slots=True)
class StageStatus:
    stage: str
    state: str  # "finished", "running", "interrupted", or "stopped": all is done, and too much of it failed
    counts: ledger.Counts
    seconds: float
    units: int
    total: int | None
    slowest: dict[str, Any]
    bytes: int
    edits: dict[str, int]  # by reason
    edited: int  # documents with any
    note: str = ""  # what else the stage has to say, in one line

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "state": self.state,
            **self.counts.to_json(),
            "balanced": self.counts.conserved,
            "seconds": self.seconds,
            "units": self.units,
            "units_total": self.total,
            "slowest": self.slowest,
            "bytes": self.bytes,
            "edits": self.edits,
            "edited_documents": self.edited,
            "note": self.note,
        }


def _unfinished(directory: StageDirectory, running: bool) -> StageStatus | None:
    progress = directory.progress()
    if progress is None:
        return None
    records = directory.units()
    slowest = max(records, key=lambda r: r.seconds, default=None)
    ended = "stopped" if records and len(records) == progress.get("total") else "interrupted"
    return StageStatus(
        directory.name,
        "running" if running else ended,
        ledger.total(r.counts for r in records),
        round(time.time() - progress["started"], 1) if running else round(sum(r.seconds for r in records), 1),
        max(len(records), progress.get("done", 0)),
        progress.get("total"),
        {"unit": slowest.unit, "seconds": slowest.seconds} if slowest else {},
        sum(p.bytes for r in records for p in r.parts),
        *_edits([r.info for r in records]),
        told(directory.name, [r.info for r in records]),
    )


def _edits(infos: Iterable[dict[str, Any]]) -> tuple[dict[str, int], int]:
    """How many edits there are by reason, and how many documents have any."""
    reasons: Counter[str] = Counter()
    documents = 0
    for info in infos:
        reasons.update(info.get("edits", {}))
        documents += info.get("edited_documents", 0)
    return dict(sorted(reasons.items())), documents


def stage_status(run: RunDirectory, name: str, running: bool) -> StageStatus | None:
    """The status of one stage, or None when it has not begun."""
    directory = run.stage(name)
    m = directory.manifest()
    if m is None:
        return _unfinished(directory, running)
    size = sum(p.bytes for p in m.parts)
    edits = _edits([m.info])
    note = told(name, [v for _, v in sorted(m.info.items()) if isinstance(v, dict)], m.config)
    return StageStatus(name, "finished", m.counts, m.seconds, m.units, m.units, m.slowest, size, *edits, note)


def run_status(run: RunDirectory) -> list[StageStatus]:
    """Every stage that has begun, in the order of the run (saved in `plan.json` when a run starts)."""
    running = run.locked()
    found = [stage_status(run, name, running) for name in run.plan()]
    return [s for s in found if s is not None]
