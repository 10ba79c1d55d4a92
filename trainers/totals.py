"""What has happened since the last record: sums of losses on the device, and the record made of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixloom.trainers.config import ModelConfig
from mixloom.trainers.data import Batch
from mixloom.trainers.distributed import World
from mixloom.trainers.flops import attended, work
from mixloom.trainers.loss import Losses
from mixloom.trainers.metrics import Record


class _Part(NamedTuple):
    """A part of an update: its contexts [B], on the device. Losses and targets by modality of the target [B, K]."""

    update: int
    domains: Tensor
    sums: Tensor
    counts: Tensor


class _Done(NamedTuple):
    """An update over all ranks: nats and targets by modality [K], squared gradient norms by tower, left out or not."""

    step: int
    sums: Tensor
    counts: NDArray[np.int64]
    squares: Tensor
    skipped: Tensor

    def loss(self) -> float:
        return float(sum(self.sums.double().tolist()) / max(1, int(self.counts.sum())))


@dataclass(frozen=True)
class Skipped:
    """An update that was left out: nats and targets of every context of all ranks, float64 and int64 [B, K]."""

    step: int
    loss: float
    grad_norm: float
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]


class Totals:
    """Sums since the last record, kept on the device so that only a record waits for it."""

    def __init__(self, modalities: int, world: World | None = None) -> None:
        self._modalities, self._world = modalities, world or World()
        self.reset()

    def reset(self) -> None:
        self.wait = 0.0
        self.began = time.perf_counter()
        self._parts: list[_Part] = []
        self._done: list[_Done] = []
        # Rows of the trunk that are not padding, pairs that see each other, places, and real tokens.
        self._shape = np.zeros(4, dtype=np.int64)

    @property
    def updates(self) -> int:
        return len(self._done)

    def add(self, host: Batch, batch: Batch, losses: Losses, order: Tensor | None) -> None:
        """A part of the update at hand, as it was on the host and on the device."""
        per_token = losses.per_token if order is None else losses.per_token[batch.inverse]
        valid = batch.targets >= 0
        sums, counts = [], []
        for m in range(self._modalities):
            mine = valid & (batch.target_modality == m)
            sums.append(torch.where(mine, per_token, 0.0).view(batch.shape).sum(1))
            counts.append(mine.view(batch.shape).sum(1))
        self._parts.append(
            _Part(len(self._done), batch.domains, torch.stack(sums, 1), torch.stack(counts, 1))
        )
        trunk = host if host.speech is None else host.speech.trunk
        self._shape += (*attended(trunk), trunk.shape[0] * trunk.shape[1], attended(host)[0])

    def close(
        self, step: int, sums: Tensor, counts: NDArray[np.int64], squares: Tensor, skipped: Tensor
    ) -> None:
        """The end of update `step`, with its sums over all ranks."""
        self._done.append(_Done(step, sums, counts, squares, skipped))

    def loss(self, update: int) -> float:
        """Nats per target of the `update`-th update since the last record; waits for the device."""
        return self._done[update].loss()

    def left_out(self) -> list[Skipped]:
        """Updates that were left out, the same on every rank; waits for the device."""
        return [
            Skipped(
                done.step,
                done.loss(),
                float(done.squares.sum().sqrt()),
                *self.contexts(n),
            )
            for n, done in enumerate(self._done)
            if bool(done.skipped)
        ]

    def contexts(self, update: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Nats and targets of every context of the `update`-th update since the last record, over all ranks [B, K]."""
        parts = [p for p in self._parts if p.update == update]
        sums, counts = torch.cat([p.sums for p in parts]), torch.cat([p.counts for p in parts])
        own = sums.double().cpu().numpy(), counts.cpu().numpy().astype(np.int64)
        return self._world.gather(own[0]), self._world.gather(own[1])

    def record(
        self, names: Sequence[str], config: ModelConfig | None = None, peak: float | None = None
    ) -> Record | None:
        """Losses by modality and domain over the updates that were applied; None where there was none.

        Every rank calls this; all get the same losses. Waits for the device.

        Args:
            config: for the MFU. peak: FLOPs per second of all devices together; None: not known.
        """
        bad = torch.stack([d.skipped for d in self._done]).bool().reshape(-1).cpu().numpy()
        sound = [d for d, skip in zip(self._done, bad) if not skip]
        by_domain = self._by_domain(bad)
        rows, pairs, places, tokens = self._world.sum_numbers(self._shape).tolist()
        if not sound:
            return None
        seconds = time.perf_counter() - self.began
        sums = torch.stack([d.sums for d in sound]).double().sum(0).tolist()
        counts = np.sum([d.counts for d in sound], axis=0)
        targets = int(counts.sum())
        towers = [*(["shared"] if len(sound[-1].squares) > len(names) else []), *names]
        norms = sound[-1].squares.sqrt().tolist()
        record: Record = {
            "loss": sum(sums) / max(1, targets),
            "loss_by_modality": {n: s / int(c) if c else None for n, s, c in zip(names, sums, counts)},
            "targets_by_modality": {n: int(c) for n, c in zip(names, counts)},
            **by_domain,
            "grad_norm": float(sound[-1].squares.sum().sqrt()),
            "grad_norm_by_tower": dict(zip(towers, norms)),
            "tokens": targets,
            "seconds": round(seconds, 6),
            "tokens_per_second": round(targets / seconds, 1),
            "data_wait": round(self.wait / seconds, 4),
        }
        if config is not None:
            done = work(config, tokens=rows, pairs=pairs, places=places)
            record["flops_per_second"] = round(done.useful / seconds)
            record["mfu"] = round(done.useful / seconds / peak, 4) if peak else None
            record["mfu_full_attention"] = round(done.full / seconds / peak, 4) if peak else None
        if config is not None and config.speech_patches is not None:
            record["rows_per_token"] = round(rows / max(1, tokens), 4)
        if bad.any():
            record["skipped"] = [d.step + 1 for d, skip in zip(self._done, bad) if skip]
        return record

    def _by_domain(self, bad: NDArray[np.bool_]) -> Record:
        parts = [p for p in self._parts if not bad[p.update]]
        domains = np.concatenate([p.domains.cpu().numpy() for p in parts] or [np.zeros(0, np.int64)])
        size = self._world.largest(int(domains.max(initial=0))) + 1
        weights: NDArray[np.float64] = np.zeros(size)
        counted: NDArray[np.float64] = np.zeros(size)
        if parts:
            sums = torch.cat([p.sums.double().sum(1) for p in parts]).cpu().numpy()
            counts = torch.cat([p.counts.sum(1) for p in parts]).cpu().numpy()
            weights += np.bincount(domains, sums, size)
            counted += np.bincount(domains, counts, size)
        both = self._world.sum_numbers(np.stack([weights, counted]))
        weights, counted = both[0], both[1]
        seen = np.flatnonzero(counted)
        return {
            "loss_by_domain": {str(d): float(weights[d] / counted[d]) for d in seen},
            "targets_by_domain": {str(d): int(counted[d]) for d in seen},
        }
