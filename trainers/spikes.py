"""Which updates are spikes, decided on the device before their update is applied, and which contexts carry one.

The loss of an update is held against what it should be: every modality against the median of its own last losses
(an eighth of the window, so that a falling loss is followed), weighed by this update's targets, so that an update with
many images is no spike because images cost more. What is left over, the excess, is a spike where it lies `sigmas`
robust standard deviations above its last median, or above zero where that is below (the loss falls), and 5 % of the
loss besides. The noise is that of the window, by the differences of neighbours, which a trend only shifts. A gradient
norm is one where it lies as far above its median and at ten times it; and so is anything that is not finite. Looking
back on a window of updates, with 6 deviations and half a window of patience, follows the SkipStep optimisers of
OLMo-core (Groeneveld et al., OLMo, arXiv 2402.00838, and its code); medians in the place of means, so that one spike
does not hide the next.

The verdict stays on the device as a number that fused AdamW reads (`found_inf`): an update that is left out touches
neither weights nor moments, and nothing is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixloom.trainers.watch_config import SpikeConfig

LEAST_RISE = 0.05  # of the expected loss; less is no spike however quiet the window
NORM_FACTOR = 10.0  # times the median: a gradient norm is clipped anyway, so only gross ones count
_SCALE = 1.4826  # standard deviations in a median absolute deviation of a normal distribution


@dataclass(frozen=True)
class Level:
    """What the window says is normal, on the host.

    by_modality: nats per target, NaN where a modality has not been seen [K]. limit: largest normal excess over
    it, nats per target; inf while the window is too young. norm: median gradient norm.
    """

    by_modality: NDArray[np.float64]
    limit: float
    norm: float


class _Window:
    """The last W values of C columns on a device; a column that is not pushed keeps its values."""

    def __init__(self, length: int, columns: int, device: torch.device) -> None:
        self.values = torch.full((length, columns), math.inf, dtype=torch.float64, device=device)
        self.seen = torch.zeros(columns, dtype=torch.int64, device=device)

    def push(self, values: Tensor, which: Tensor) -> None:
        """values float64 [C], which bool [C]."""
        moved = torch.cat([self.values[1:], values[None]])
        self.values = torch.where(which, moved, self.values)
        self.seen = (self.seen + which).clamp(max=len(self.values))

    def median(self, newest: int | None = None) -> Tensor:
        """Lower median of the newest values that have been seen, float64 [C]; inf before."""
        rows = self.values if newest is None else self.values[-newest:]
        return _median(rows, self.seen.clamp(max=len(rows)))

    def deviation(self) -> Tensor:
        """Standard deviation of the noise, float64 [C]: from the differences of neighbours, which a trend only shifts."""
        unseen = torch.isinf(self.values[:-1])
        steps = self.values.diff(dim=0).masked_fill(unseen, math.inf)
        seen = (self.seen - 1).clamp(min=0)
        off = (steps - _median(steps, seen)).abs().masked_fill(unseen, math.inf)
        return _SCALE * _median(off, seen) / math.sqrt(2)

    def state(self) -> dict[str, Any]:
        rows = self.values.cpu().numpy()
        return {
            "seen": self.seen.tolist(),
            "values": [[None if math.isinf(x) else x for x in row] for row in rows.tolist()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Values of a window of any length: the newest that fit."""
        length = len(self.values)
        rows = [[math.inf if x is None else x for x in row] for row in state["values"]][-length:]
        self.values.fill_(math.inf)
        if rows:
            self.values[-len(rows) :] = torch.tensor(rows, dtype=torch.float64)
        self.seen.copy_(torch.tensor(state["seen"]).clamp(max=len(rows)))


def _median(rows: Tensor, seen: Tensor) -> Tensor:
    """Lower median of the `seen` [C] smallest of each column of float64 [W, C]; what is not seen is inf."""
    return rows.sort(0).values.gather(0, ((seen - 1).clamp(min=0) // 2)[None])[0]


class SpikeWatch:
    """Judges updates as they come. `action: off` judges only what is not finite."""

    def __init__(self, config: SpikeConfig, modalities: int, device: torch.device) -> None:
        self.config = config
        self._warm = config.window // 2 if config.warmup is None else min(config.warmup, config.window)
        self._recent = max(8, config.window // 8)
        self._by_modality = _Window(self._recent, modalities, device)
        self._both = _Window(config.window, 2, device)  # excess, gradient norm

    def judge(self, sums: Tensor, counts: Tensor, norm: Tensor) -> Tensor:
        """Whether an update is to be left out: float32 [], 1 for yes; it is remembered unless it is.

        Args:
            sums: nats by modality of the target, float64 [K], over all parts and ranks. counts: targets, float64 [K].
            norm: of the whole gradient, float64, before clipping.
        """
        base = self._base()
        known = torch.where(torch.isfinite(base), base * counts, sums)
        total = counts.sum().clamp(min=1)
        excess = (sums.sum() - known.sum()) / total
        now = torch.stack([excess, norm])
        bad = ~torch.isfinite(now).all()
        if self.config.action != "off":
            middle = self._middle()
            rise = torch.stack([LEAST_RISE * known.sum() / total, (NORM_FACTOR - 1) * middle[1]])
            limit = middle + torch.maximum(self.config.sigmas * self._both.deviation(), rise)
            bad |= ((now > limit) & (self._both.seen >= self._warm)).any()
        sound = ~bad
        self._both.push(now, sound.expand(2))
        self._by_modality.push(sums / counts.clamp(min=1), sound & (counts > 0))
        return bad.float()

    def _middle(self) -> Tensor:
        """Usual excess, not below zero, and gradient norm, float64 [2]."""
        return self._both.median(self._recent).clamp(min=0)

    def _base(self) -> Tensor:
        return self._by_modality.median()

    def level(self) -> Level:
        """What is normal now; waits for the device."""
        middle, off = self._middle(), self._both.deviation()
        base = self._base()
        warm = bool(self._both.seen[0] >= self._warm)
        loss = float(torch.where(torch.isfinite(base), base, 0).mean())
        rise = max(self.config.sigmas * float(off[0]), LEAST_RISE * loss)
        limit = float(middle[0]) + rise if warm else math.inf
        return Level(torch.where(torch.isinf(base), math.nan, base).cpu().numpy(), limit, float(middle[1]))

    def state(self) -> dict[str, Any]:
        """JSON value of all that is remembered, exact."""
        return {"modality": self._by_modality.state(), "both": self._both.state()}

    def load(self, state: dict[str, Any]) -> None:
        self._by_modality.load(state["modality"])
        self._both.load(state["both"])


def locate(sums: NDArray[np.float64], counts: NDArray[np.int64], level: Level) -> list[int] | None:
    """The fewest contexts without which an update is no spike, worst first; None where that takes too many.

    A quarter of the contexts is the most, but one may always be blamed where there are two. Where the loss is no spike as
    it stands (its gradient was), contexts far above the others of the update are blamed, by the same measure and with
    the same share at most; [] where there are none.

    Args:
        sums: nats of each context by modality of the target [B, K]. counts: targets [B, K].
    """
    expected = np.where(counts > 0, counts * level.by_modality, 0.0)
    unknown = (counts > 0) & np.isnan(expected)
    expected[unknown] = sums[unknown]
    excess, targets = (sums - expected).sum(1), counts.sum(1)
    excess = np.where(np.isfinite(excess), excess, np.inf)
    order = np.lexsort((np.arange(len(excess)), -excess))
    most = max(len(excess) // 4, 1 if len(excess) > 1 else 0)
    for taken in range(most + 1):
        rest = order[taken:]
        left, n = float(excess[rest].sum()), int(targets[rest].sum())
        if n and math.isfinite(left) and left / n <= level.limit:
            return [int(i) for i in order[:taken]] if taken else _outliers(excess, targets, level.limit, most)
    return None


def _outliers(excess: NDArray[np.float64], targets: NDArray[np.int64], limit: float, most: int) -> list[int]:
    """Contexts whose excess per target lies far above that of the others, worst first; [] for more than `most`."""
    each = excess / np.maximum(targets, 1)
    middle = np.median(each)
    off = 6.0 * _SCALE * np.median(np.abs(each - middle))
    found = [int(i) for i in np.argsort(-each, kind="stable") if each[i] - middle > max(off, limit)]
    return found if len(found) <= most else []


def shares(excess: Sequence[float]) -> list[float]:
    """Each value's share of the positive ones."""
    total = sum(x for x in excess if x > 0)
    return [max(x, 0.0) / total if total else 0.0 for x in excess]
