"""What a run reports: one JSON object per line, and the loss at both ends of the run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]
OnRecord = Callable[[Record], None]


class MetricsLog:
    """Appends records to `metrics.jsonl`; opening it drops the lines after `last_step`, which a resumed run redoes.

    A record has: step (from 1), steps, loss (nats per target), loss_by_modality and targets_by_modality (by
    name), loss_by_domain and targets_by_domain (by number), lr, grad_norm (before clipping), tokens
    (targets), tokens_per_second, data_wait (share of the time), seconds (since the last record).
    """

    def __init__(self, path: Path, *, last_step: int = 0) -> None:
        self.path = path
        kept = [r for r in read_metrics(path) if r["step"] <= last_step]
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("w", encoding="utf-8") as f:
            f.writelines(_line(r) for r in kept)
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(record: Record) -> str:
    return json.dumps(record, sort_keys=True) + "\n"


def read_metrics(path: Path) -> list[Record]:
    """Records of a metrics file; [] when there is none. A last line cut off by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def plain_lines(every: int = 10) -> OnRecord:
    """A callback for records that prints one line every so many steps."""

    def show(record: Record) -> None:
        step, steps = record["step"], record["steps"]
        if step != 1 and step != steps and step % every:
            return
        parts = " ".join(f"{k} {v:.3f}" for k, v in record["loss_by_modality"].items() if v is not None)
        print(
            f"step {step}/{steps}  loss {record['loss']:.3f}  {parts}  lr {record['lr']:.2e}  "
            f"{record['tokens_per_second']:,.0f} tokens/s",
            flush=True,
        )

    return show


@dataclass(frozen=True)
class Ends:
    """Loss per target over the first and last part of a run; modalities without a target there are None."""

    steps: int
    first: float
    last: float
    first_by_modality: dict[str, float | None]
    last_by_modality: dict[str, float | None]


def ends(records: Sequence[Record], names: Sequence[str]) -> Ends:
    """Losses at both ends, each over 10 logged steps or 5% of them, whichever is more, and never past the middle.

    Weighted by targets, so a step with three image tokens counts for three. A modality's ends are those of the
    steps that had targets of it, for a rare one is missing from most steps.

    Raises:
        ValueError: no records.
    """
    if not records:
        raise ValueError("no logged step")
    head, tail = _edges(records)
    by_modality = {n: _edges([r for r in records if r["targets_by_modality"].get(n, 0)]) for n in names}
    return Ends(
        steps=len(head),
        first=_mean(head, None) or 0.0,
        last=_mean(tail, None) or 0.0,
        first_by_modality={name: _mean(first, name) for name, (first, _) in by_modality.items()},
        last_by_modality={name: _mean(last, name) for name, (_, last) in by_modality.items()},
    )


def _edges(records: Sequence[Record]) -> tuple[Sequence[Record], Sequence[Record]]:
    window = max(1, min(max(10, len(records) // 20), len(records) // 2))
    return records[:window], records[-window:]


def _mean(records: Sequence[Record], name: str | None) -> float | None:
    total, count = 0.0, 0
    for r in records:
        targets = r["tokens"] if name is None else r["targets_by_modality"].get(name, 0)
        loss = r["loss"] if name is None else r["loss_by_modality"].get(name)
        if targets and loss is not None:
            total += loss * targets
            count += targets
    return total / count if count else None
