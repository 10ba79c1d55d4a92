"""One update: batches in, gradients, weights out, on one device or on several ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.trainers.attention import Kind, choose
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import IGNORE, Arrays, Batch, micro_batches, modality_names, modality_table
from mixloom.trainers.distributed import World, forget_gathered, shard, synchronise
from mixloom.trainers.flow import by_row, scaled_vectors, with_flow
from mixloom.trainers.latent_speech import with_ends
from mixloom.trainers.loss import Losses, chunked_cross_entropy
from mixloom.trainers.model import Model, compile_blocks
from mixloom.trainers.optim import Towers, build_optimizer, learning_rate, skip_absent
from mixloom.trainers.recompute import recompute
from mixloom.trainers.spikes import SpikeWatch
from mixloom.trainers.totals import Totals

__all__ = ["Run", "Totals", "Update", "batch_losses", "names_of", "pick_device", "token_losses"]


class Update(NamedTuple):
    """An update: its learning rate, gradient norm before clipping (float64) and whether it was left out (float32, 1 or 0),
    both on the device."""

    rate: float
    norm: Tensor
    skipped: Tensor


class Run:
    """State of one call of `train`: the model on its device and how to compute with it.

    Args:
        world: the ranks that train together. start: weights to begin with, whole; else fresh ones.
        image_vectors: float32 [codes, C], what the image codec decodes each code from; for a model with a flow loss.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        vocabulary: dict[str, Any],
        *,
        world: World | None = None,
        start: Mapping[str, Tensor] | None = None,
        image_vectors: np.ndarray | None = None,
    ) -> None:
        self.world = world or World()
        self.config = config
        self.device = pick_device(config)
        auto = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.dtype = auto if config.dtype == "auto" else getattr(torch, config.dtype)
        self.chunk = config.loss_chunk or (4096 if self.device.type == "cuda" else 256)
        self.vocabulary = vocabulary
        self.table = modality_table(vocabulary)
        self.names = names_of(vocabulary, model_config.modalities)
        compiled = self.device.type == "cuda" if config.compile == "auto" else config.compile
        self.kind = choose(self.device, model_config.head_dim, compiled=compiled)
        self.model = Model(model_config, seed=config.seed)
        if image_vectors is not None and self.model.flow is not None:
            self.model.flow.vectors.data.copy_(torch.from_numpy(scaled_vectors(image_vectors)))
        if start is not None:
            self.model.load_state_dict(start)
        recompute(self.model, config.activation_checkpointing)
        if compiled:
            compile_blocks(self.model)
        if self.world.size > 1:
            shard(self.model, self.world, config, self.dtype)
        self.model = self.model.to(self.device)
        self.optimizer = build_optimizer(self.model, config)
        self.towers = Towers(self.model, self.world.replicas)
        self.watch = SpikeWatch(config.spike, model_config.modalities, self.device)

    def batches(self, arrays: Arrays, parts: int) -> list[Batch]:
        """Contexts as this model reads them, in `parts` batches."""
        config = self.model.config
        mask = config.document_mask
        return micro_batches(arrays, parts, self.table, len(self.names), document_mask=mask, config=config)

    def losses(self, batch: Batch, *, causal: bool = False, salt: int = 0) -> Losses:
        """Losses of one batch that is on the device; see `batch_losses`."""
        return batch_losses(self.model, batch, self.kind, self.dtype, self.chunk, causal=causal, salt=salt)

    def update(self, batches: list[Batch], step: int, totals: Totals) -> Update:
        """One update with this rank's batches. One that is a spike is left out: weights and moments stay as they are.

        Nothing here waits for the device.
        """
        own = np.stack([np.sum([b.target_counts for b in batches], 0), np.sum([b.sizes for b in batches], 0)])
        counts, sizes = self.world.sum_numbers(own.astype(np.int64))
        targets = max(1, int(counts.sum()))
        self.optimizer.zero_grad(set_to_none=True)
        sums = []
        for i, batch in enumerate(batches):
            synchronise(self.model, i == len(batches) - 1)
            on_device = batch.to(self.device)
            losses = self.losses(on_device, salt=step + 1)
            # Ranks average their gradients, and each is divided by the targets of all.
            (losses.total * self.world.size / targets).backward()
            totals.add(batch, on_device, losses, self.model.order(on_device))
            sums.append(losses.sums)
        skip_absent(self.model, sizes.tolist())
        squares = self.towers.squares()
        both = self.world.sum_on_device(torch.cat([squares, torch.stack(sums).double().sum(0)]))
        squares, by_modality = both.split([squares.shape[0], len(counts)])
        norm = squares.sum().sqrt()
        targeted = torch.tensor(counts, dtype=torch.float64).to(self.device, non_blocking=True)
        skipped = self.watch.judge(by_modality, targeted, norm)
        if self.config.grad_clip:
            self.towers.clip(norm, self.config.grad_clip)
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.found_inf = skipped  # type: ignore[attr-defined]  # read by fused AdamW
        self.optimizer.step()
        totals.close(step, by_modality, counts, squares, skipped)
        return Update(rate, norm, skipped)

    @torch.no_grad()
    def evaluate(self, arrays: Arrays) -> dict[str, float | None]:
        """Loss per target on fixed contexts, by name of modality and "all"."""
        world = self.world
        height = max(1, self.config.batch_contexts // self.config.grad_accumulation // world.size)
        both = np.zeros((2, len(self.names)))
        for start in range(0, arrays[0].shape[0], height * world.size):
            first = start + height * world.rank
            ours = (
                first < arrays[0].shape[0]
            )  # a rank without rows computes along, for weights are gathered together
            rows = slice(first, first + height) if ours else slice(0, 1)
            own: Any = tuple(a if a is None else a[rows] for a in arrays)
            for batch in self.batches(own, 1):
                sums = self.losses(batch.to(self.device), causal=True).sums.double().cpu().numpy()
                if ours:
                    both += np.stack([sums, np.asarray(batch.target_counts)])
        forget_gathered(self.model)
        sums, counts = world.sum_numbers(both)
        result: dict[str, float | None] = {
            n: float(s / c) if c else None for n, s, c in zip(self.names, sums, counts)
        }
        result["all"] = float(sums.sum() / counts.sum()) if counts.sum() else None
        return result


def batch_losses(
    model: Model,
    batch: Batch,
    kind: Kind,
    dtype: torch.dtype,
    chunk: int,
    *,
    causal: bool = False,
    salt: int = 0,
) -> Losses:
    """Losses of a batch that is on the device of the model, rows in the order of the residual stream.

    Where experts choose among all tokens of the batch (not `causal`), the total holds the loss of foretelling their choice
    as well, as much for every target as it is per token; the sums and the losses per token never do. With a flow loss,
    what stands for a target that is an image code is the squared error of its velocity, and the total weighs it. With speech
    in patches, a target after a unit costs also what it costs to say whether the patch ends before it.

    Args:
        chunk: tokens whose logits exist at one time.
        causal: let no choice of experts depend on other tokens; what is reported of held-out data is.
        salt: another one gives other noise on images; held-out data has that of 0.
    """
    rows = model.rows(batch, kind, dtype, causal=causal, salt=salt)
    hidden = model(rows, dtype)
    order = model.order(batch)
    targets, modality = batch.targets, batch.target_modality
    if model.flow is not None:
        targets = torch.where(model.flow.is_image(targets), IGNORE, targets)
    if order is not None:
        targets, modality = targets[order], modality[order]
    losses = chunked_cross_entropy(
        hidden, model.head_weight, targets, modality, modalities=model.config.modalities, chunk=chunk
    )
    if model.flow is not None:
        noised = rows.noised
        if noised is not None and rows.tokens is not None:  # of the rows that the states come from
            noised = by_row(noised, rows.tokens.source.clamp(max=noised.image.shape[0] - 1))
        assert noised is not None
        losses = with_flow(losses, model.flow, hidden, noised, order, batch)
    if rows.tokens is not None:
        losses = with_ends(losses, rows.ends[0], rows.tokens, modality)
    if causal or not rows.foretold:
        return losses
    return replace(losses, total=losses.total + torch.stack(rows.foretold).sum() * batch.targets_total)


@torch.no_grad()
def token_losses(model: Model, batch: Batch, kind: Kind, dtype: torch.dtype, chunk: int) -> Tensor:
    """Nats of every target of a batch, float32 [T] in sequence order; 0 where there is none."""
    per_token = batch_losses(model, batch, kind, dtype, chunk, causal=True).per_token
    return per_token if model.order(batch) is None else per_token[batch.inverse]


def names_of(vocabulary: dict[str, Any], modalities: int) -> list[str]:
    """Names of all modalities of a model; those that the vocabulary does not have go by their number."""
    known = modality_names(vocabulary)
    return [*known, *(f"modality{m}" for m in range(len(known), modalities))][:modalities]


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
