"""One update on one device: batches in, gradients, weights out, and sums of losses for the log."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.trainers.attention import Kind, choose
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import Arrays, Batch, micro_batches, modality_names, modality_table
from mixloom.trainers.loss import Losses, chunked_cross_entropy
from mixloom.trainers.metrics import Record
from mixloom.trainers.model import Model, compile_blocks
from mixloom.trainers.optim import build_optimizer, learning_rate, skip_absent


class Totals:
    """Sums since the last record, kept on the device so that only a record waits for it."""

    def __init__(self, modalities: int) -> None:
        self._modalities = modalities
        self.reset()

    def reset(self) -> None:
        self.updates = 0
        self.sums: list[Tensor] = []
        self.counts = np.zeros(self._modalities, dtype=np.int64)
        self.contexts: list[tuple[Tensor, Tensor, Tensor]] = []
        self.wait = 0.0
        self.began = time.perf_counter()

    def add(self, batch: Batch, losses: Losses, order: Tensor | None) -> None:
        self.sums.append(losses.sums)
        self.counts += np.asarray(batch.target_counts)
        per_token = losses.per_token if order is None else losses.per_token[batch.inverse]
        valid = (batch.targets >= 0).view(batch.shape).sum(1)
        self.contexts.append((batch.domains, per_token.view(batch.shape).sum(1), valid))

    def record(self, names: Sequence[str]) -> Record:
        """Losses by modality and domain; waits for the device."""
        seconds = time.perf_counter() - self.began
        sums = torch.stack(self.sums).double().sum(0).tolist()
        tokens = int(self.counts.sum())
        domains, domain_sums, domain_counts = (torch.cat(part).cpu().numpy() for part in zip(*self.contexts))
        weights = np.bincount(domains, domain_sums.astype(np.float64))
        counted = np.bincount(domains, domain_counts).astype(np.int64)
        seen = np.flatnonzero(counted)
        return {
            "loss": sum(sums) / max(1, tokens),
            "loss_by_modality": {n: s / int(c) if c else None for n, s, c in zip(names, sums, self.counts)},
            "targets_by_modality": {n: int(c) for n, c in zip(names, self.counts)},
            "loss_by_domain": {str(d): float(weights[d] / counted[d]) for d in seen},
            "targets_by_domain": {str(d): int(counted[d]) for d in seen},
            "tokens": tokens,
            "seconds": round(seconds, 6),
            "tokens_per_second": round(tokens / seconds, 1),
            "data_wait": round(self.wait / seconds, 4),
        }


class Run:
    """State of one call of `train`: the model on its device and how to compute with it."""

    def __init__(self, model_config: ModelConfig, config: TrainConfig, vocabulary: dict[str, Any]) -> None:
        self.config = config
        self.device = pick_device(config)
        auto = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.dtype = auto if config.dtype == "auto" else getattr(torch, config.dtype)
        self.chunk = config.loss_chunk or (4096 if self.device.type == "cuda" else 256)
        self.vocabulary = vocabulary
        self.table = modality_table(vocabulary)
        self.names = [*modality_names(vocabulary), *(f"modality{m}" for m in range(model_config.modalities))]
        self.names = self.names[: model_config.modalities]
        compiled = self.device.type == "cuda" if config.compile == "auto" else config.compile
        self.kind = choose(self.device, model_config.head_dim, compiled=compiled)
        self.model = Model(model_config, seed=config.seed).to(self.device)
        self.optimizer = build_optimizer(self.model, config)
        if compiled:
            compile_blocks(self.model)

    def batches(self, arrays: Arrays, parts: int) -> list[Batch]:
        """Contexts as this model reads them, in `parts` batches."""
        mask = self.model.config.document_mask
        return micro_batches(arrays, parts, self.table, len(self.names), document_mask=mask)

    def losses(self, batch: Batch, *, causal: bool = False) -> Losses:
        """Losses of one batch that is on the device; see `batch_losses`."""
        return batch_losses(self.model, batch, self.kind, self.dtype, self.chunk, causal=causal)

    def update(self, batches: list[Batch], step: int, totals: Totals) -> tuple[float, Tensor, bool]:
        """One update; returns its learning rate, the norm of its gradient before clipping, and whether it was sound.

        On a CPU, where looking is free, a gradient that is not finite never reaches the weights; a CUDA device
        is not waited for, so there it is seen at the next record.
        """
        targets = max(1, sum(batch.targets_total for batch in batches))
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            on_device = batch.to(self.device)
            losses = self.losses(on_device)
            (losses.total / targets).backward()
            totals.add(on_device, losses, self.model.order(on_device))
        skip_absent(self.model, np.sum([batch.sizes for batch in batches], axis=0).tolist())
        limit = self.config.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sound = self.device.type == "cuda" or math.isfinite(float(norm))
        if sound:
            self.optimizer.step()
        totals.updates += 1
        return rate, norm, sound

    @torch.no_grad()
    def evaluate(self, arrays: Arrays) -> dict[str, float | None]:
        """Loss per target on fixed contexts, by name of modality and "all"."""
        height = max(1, self.config.batch_contexts // self.config.grad_accumulation)
        sums = np.zeros(len(self.names))
        counts = np.zeros(len(self.names), dtype=np.int64)
        for start in range(0, arrays[0].shape[0], height):
            part = tuple(a[start : start + height] for a in arrays)
            for batch in self.batches(part, 1):  # type: ignore[arg-type]
                sums += self.losses(batch.to(self.device), causal=True).sums.double().cpu().numpy()
                counts += np.asarray(batch.target_counts)
        result: dict[str, float | None] = {
            n: float(s / c) if c else None for n, s, c in zip(self.names, sums, counts)
        }
        result["all"] = float(sums.sum() / counts.sum()) if counts.sum() else None
        return result


def batch_losses(
    model: Model, batch: Batch, kind: Kind, dtype: torch.dtype, chunk: int, *, causal: bool = False
) -> Losses:
    """Losses of a batch that is on the device of the model, rows in the order of the residual stream.

    Where experts choose among all tokens of the batch (not `causal`), the total holds the loss of foretelling their choice
    as well, as much for every target as it is per token; the sums and the losses per token never do.

    Args:
        chunk: tokens whose logits exist at one time.
        causal: let no choice of experts depend on other tokens; what is reported of held-out data is.
    """
    rows = model.rows(batch, kind, dtype, causal=causal)
    hidden = model(rows, dtype)
    order = model.order(batch)
    targets, modality = batch.targets, batch.target_modality
    if order is not None:
        targets, modality = targets[order], modality[order]
    losses = chunked_cross_entropy(
        hidden, model.head_weight, targets, modality, modalities=model.config.modalities, chunk=chunk
    )
    if causal or not rows.foretold:
        return losses
    return replace(losses, total=losses.total + torch.stack(rows.foretold).sum() * batch.targets_total)


@torch.no_grad()
def token_losses(model: Model, batch: Batch, kind: Kind, dtype: torch.dtype, chunk: int) -> Tensor:
    """Nats of every target of a batch, float32 [T] in sequence order; 0 where there is none."""
    per_token = batch_losses(model, batch, kind, dtype, chunk, causal=True).per_token
    return per_token if model.order(batch) is None else per_token[batch.inverse]


def pick_device(config: TrainConfig) -> torch.device:
    """Device of the configuration.

    Raises:
        UserError: cuda asked for where there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "train.device is cuda, but torch finds no CUDA device", fix="set train.device to auto or cpu"
        )
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)
