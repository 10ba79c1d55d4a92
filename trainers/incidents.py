"""Updates that were left out: their documents are named, their contexts excluded from then on, or the run stopped.

What is told apart, and how:

    data      without a few of its contexts (a quarter at most) the update would have been no spike: the weights
              read everything else as well as before, so the fault lies in these contexts
    weights   more than `patience` updates in a row were left out, and not because of a few contexts: nothing was
              applied in between, so different data meet the same weights, and the weights are at fault (learning
              rate too high, warmup too short); or activations had grown too far already
              (`diagnostics.Watchman`): then contexts are named, but neither blamed nor excluded
    unclear   an update whose contexts are all bad, or whose gradient alone is

Spikes of bad data go away when the batch is left out, others come again: Chowdhery et al., PaLM (arXiv 2204.02311,
section 5.1) skipped batches for the first kind; for the second, Wortsman et al. (arXiv 2309.14322).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mixloom.pipeline.errors import UserError
from mixloom.trainers.data import StreamLike
from mixloom.trainers.distributed import World
from mixloom.trainers.spikes import Level, locate
from mixloom.trainers.totals import Skipped
from mixloom.trainers.watch_config import SpikeConfig

FILE = "spikes.jsonl"
Row = tuple[int, int]  # an update and the number of a context in it


@runtime_checkable
class Excluding(Protocol):
    """A stream that can leave out contexts from some update on."""

    def exclude(self, from_step: int, rows: Sequence[Row], reason: str, *, write: bool) -> list[str]:
        """Serve the contexts that stood at `rows` no more from update `from_step` on; returns their documents.

        Args:
            rows: (update, number of the context in its batch). write: also into the log on disk; one rank does.

        Raises:
            UserError: too little would be left.
        """
        ...


@runtime_checkable
class Naming(Protocol):
    """A stream that knows the documents of every context."""

    def context_documents(self, step: int) -> list[list[str]]:
        """Ids of the documents of each context of update `step` from 0."""
        ...


class Incidents:
    """Deals with updates that were left out, the same way on every rank; rank 0 writes.

    Args:
        stream: of all ranks. last_step: lines of spikes.jsonl after it are dropped, for a run that goes on redoes them.
        state: of an earlier call, from its checkpoint.
    """

    def __init__(
        self,
        config: SpikeConfig,
        stream: StreamLike,
        out_dir: Path,
        world: World,
        *,
        last_step: int,
        state: dict[str, int] | None = None,
    ) -> None:
        self.config, self._stream, self._world = config, stream, world
        self.path = out_dir / FILE
        state = state or {"last": 0, "streak": 0}
        self._last, self.streak = state["last"], state["streak"]
        if world.first and self.path.exists():
            kept = [line for line in read_incidents(self.path) if line["step"] <= last_step]
            _write(self.path, kept, "w")

    def deal(self, skipped: Sequence[Skipped], level: Level, step: int, caution: str | None = None) -> bool:
        """Name, write down and exclude; returns whether later batches have changed.

        Args:
            step: updates made so far; the next batch that can change is that of update `step` from 0.
            caution: what the activations say.

        Raises:
            UserError: the run has to stop: `action: stop`, or too many in a row.
        """
        changed = False
        for one in skipped:
            found = locate(one.sums, one.counts, level)
            # What the weights do not read any more is no fault of the contexts that show it first.
            blamed = found if caution is None else None
            if one.step != self._last:
                self.streak = 0
            self._last = one.step + 1
            self.streak = 0 if blamed else self.streak + 1
            incident = self._describe(one, found, level, caution)
            quarantined = bool(blamed) and self.config.action == "skip" and self.config.quarantine
            if quarantined and isinstance(self._stream, Excluding):
                reason = f"spike in update {one.step + 1}: loss {one.loss:.4g}"
                rows = [(one.step, row) for row in found or []]
                try:
                    self._stream.exclude(step, rows, reason, write=self._world.first)
                    incident["excluded_from"] = step + 1
                    changed = True
                except UserError as error:  # a cap on epochs: training goes on with the contexts in
                    incident["not_excluded"] = error.what
            if self._world.first:
                _write(self.path, [incident], "a")
            self._stop_if(incident)
        return changed

    def state(self) -> dict[str, int]:
        """The last update that was left out, and how many in a row were up to it, not because of a few contexts."""
        return {"last": self._last, "streak": self.streak}

    def _describe(
        self, one: Skipped, found: list[int] | None, level: Level, caution: str | None
    ) -> dict[str, Any]:
        rows = self._rows(one, found)
        weights = caution is not None or self.streak > self.config.patience
        cause = "data" if found and caution is None else ("weights" if weights else "unclear")
        finite = math.isfinite(one.loss) and math.isfinite(one.grad_norm)
        expected = _finite(_expected(one, level))
        return {
            "step": one.step + 1,
            "kind": "spike" if finite else "nonfinite",
            "cause": cause,
            "loss": _finite(one.loss),
            "loss_expected": expected,
            "grad_norm": _finite(one.grad_norm),
            "grad_norm_usual": _finite(level.norm),
            "in_a_row": self.streak,
            "contexts": rows,
            "documents": [] if rows else self._stream.documents(one.step),
        }

    def _rows(self, one: Skipped, found: list[int] | None) -> list[dict[str, Any]]:
        if not found:
            return []
        known = self._stream.context_documents(one.step) if isinstance(self._stream, Naming) else None
        sums, counts = one.sums.sum(1), one.counts.sum(1)
        return [
            {
                "context": row,
                "loss": _finite(float(sums[row] / max(1, counts[row]))),
                "targets": int(counts[row]),
                "documents": known[row] if known is not None else self._stream.documents(one.step),
            }
            for row in found
        ]

    def _stop_if(self, incident: dict[str, Any]) -> None:
        step, where = incident["step"], self.path
        what = f"the loss ({incident['loss']}) or gradient norm ({incident['grad_norm']}) "
        what += "is not finite" if incident["kind"] == "nonfinite" else "is a spike"
        if self.streak > self.config.patience:
            raise UserError(
                f"{what} at step {step}, the last of {self.streak} in a row that were left out, in all their "
                f"contexts: the weights are at fault, not the data; documents of the last: {_named(incident)} "
                f"(all in {where})",
                fix="lower train.lr, raise train.warmup or set model.qk_norm, and train in a new folder; "
                f"`mixloom train CONFIG --replay {step}` shows the update; the last checkpoint is sound",
            )
        stop = self.config.action == "stop" or (
            self.config.action == "off" and incident["kind"] == "nonfinite"
        )
        if stop:
            raise UserError(
                f"{what} at step {step}; it was not applied; documents in it: {_named(incident)} (all in {where})",
                fix="look at those documents with 'mixloom explain'; set train.spike.action to skip to go on "
                "without them; lower train.lr or raise train.warmup if they are sound",
            )


def _expected(one: Skipped, level: Level) -> float:
    counts = one.counts.sum(0)
    base = np.where(counts > 0, level.by_modality, 0.0)
    return float((base * counts).sum() / max(1, counts.sum()))


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _named(incident: dict[str, Any], most: int = 20) -> str:
    found = [d for row in incident["contexts"] for d in row["documents"]] or incident["documents"]
    names = list(dict.fromkeys(found))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _write(path: Path, incidents: Sequence[dict[str, Any]], mode: str) -> None:
    with path.open(mode, encoding="utf-8") as f:
        f.writelines(json.dumps(x, sort_keys=True) + "\n" for x in incidents)


def read_incidents(path: Path) -> list[dict[str, Any]]:
    """Lines of a spikes.jsonl; [] when there is none. A last line cut off by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
