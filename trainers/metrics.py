"""What a run reports: one JSON object per line, and the loss at both ends of the run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mixloom.pipeline.console import Console

Record = dict[str, Any]
OnRecord = Callable[[Record], None]


class MetricsLog:
    """Appends records to `metrics.jsonl`; opening it drops the lines after `last_step`, which a resumed run redoes.

    A record has: step (from 1), steps, loss (nats per target), loss_by_modality and targets_by_modality (by
    name), loss_by_domain and targets_by_domain (by number), lr, grad_norm (before clipping) and grad_norm_by_tower
    (both of the last update), tokens (targets), tokens_per_second, data_wait (share of the time), seconds (since the last
    record), flops_per_second, mfu and mfu_full_attention (see `flops`; null where the peak is not known). Some have
    more: eval_loss, skipped (updates that were left out), attention_logits, residual_rms, update_to_weight, caution.
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
    """A callback for records that prints a line every so many steps (see `progress_line`)."""
    left = TimeLeft()

    def show(record: Record) -> None:
        rest = left.after(record)
        step, steps = record["step"], record["steps"]
        if step == 1 or step == steps or not step % every:
            print(progress_line(record, rest), flush=True)

    return show


def said(console: Console, seconds: float = 10.0) -> OnRecord:
    """A callback for records that says a line on the console, the first and last and one every so many seconds."""
    left, last = TimeLeft(), -seconds

    def show(record: Record) -> None:
        nonlocal last
        rest, now = left.after(record), time.monotonic()
        if now - last >= seconds or record["step"] == record["steps"] or "caution" in record:
            last = now
            console.say("  " + progress_line(record, rest))

    return show


class TimeLeft:
    """Seconds to the end of a run, from the time its last updates took.

    Nothing is said before the third record, for the first updates warm up, and only their median counts after that, so
    a pause for a checkpoint or a compilation does not move it.
    """

    def __init__(self, window: int = 50) -> None:
        self._window = window
        self._each: list[float] = []
        self._step: int | None = None

    def after(self, record: Record) -> float | None:
        """Seconds left after a record, None while that is not known."""
        step, before = record["step"], self._step
        self._step = step
        if before is not None and step > before:
            self._each = [*self._each, record["seconds"] / (step - before)][-self._window :]
        if len(self._each) < 2:
            return None
        return float(median(self._each) * (record["steps"] - step))


def progress_line(record: Record, left: float | None = None) -> str:
    """One line on a record: step, losses, rate, speed, MFU where it is known, and the time left."""
    parts = " ".join(f"{k} {v:.3f}" for k, v in record["loss_by_modality"].items() if v is not None)
    items = [
        f"step {record['step']}/{record['steps']}",
        f"loss {record['loss']:.3f}",
        parts,
        f"lr {record['lr']:.2e}",
        f"{record['tokens_per_second']:,.0f} tokens/s",
    ]
    if record.get("mfu") is not None:
        items.append(f"MFU {100 * record['mfu']:.1f} %")
    if left is not None and record["step"] < record["steps"]:
        items.append(f"{_duration(left)} left")
    if record.get("skipped"):
        items.append(f"left out: {', '.join(map(str, record['skipped']))}")
    if record.get("caution"):
        items.append(record["caution"])
    return "  ".join(items)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if whole < 60:
        return f"{whole} s"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


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
