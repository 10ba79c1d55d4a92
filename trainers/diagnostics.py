"""What goes on inside a model in training, and what a rising loss means."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mixloom.trainers.attention import Kind
from mixloom.trainers.data import Batch
from mixloom.trainers.metrics import Record
from mixloom.trainers.model import Attend, Model


@dataclass
class _Listener:
    """Attention that keeps, layer by layer, a bound of its logits: the longest query times the longest key."""

    inner: Attend
    heads: int
    bounds: list[Tensor] = field(default_factory=list)

    def attend(self, qkv_TE: Tensor, layer: int) -> Tensor:
        dim = qkv_TE.shape[1] // 3
        qkv_T3NH = qkv_TE.view(-1, 3, self.heads, dim // self.heads)
        longest_2N = qkv_T3NH[:, :2].float().norm(dim=3).amax(0)
        self.bounds.append((longest_2N[0] * longest_2N[1]).amax() / math.sqrt(dim // self.heads))
        return self.inner.attend(qkv_TE, layer)


@torch.no_grad()
def look(model: Model, batch: Batch, kind: Kind, dtype: torch.dtype) -> dict[str, Any]:
    """Activations of a batch that is on the device of the model, from a forward pass of its own.

    Returns:
        attention_logits: for each layer an upper bound of the attention logits (Cauchy-Schwarz over the whole batch).
        residual_rms: for each layer the root mean square of what leaves it.
    """
    rows = model.rows(batch, kind, dtype)
    listener = _Listener(rows.attention, model.config.heads)
    sizes: list[Tensor] = []

    def keep(module: Any, args: Any, out: list[Tensor]) -> None:
        sizes.append(torch.cat([x.detach() for x in out[0]]).float().square().mean().sqrt())

    hooks = [block.register_forward_hook(keep) for block in model.blocks]
    try:
        with torch.compiler.set_stance("force_eager"):
            model(replace(rows, attention=listener), dtype)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        "attention_logits": torch.stack(listener.bounds).tolist(),
        "residual_rms": torch.stack(sizes).tolist(),
    }


class Watchman:
    """Placeholder until the rule is settled by experiment."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self._state = state or {}

    def see(self, record: Record) -> str | None:
        return None

    def state(self) -> dict[str, Any]:
        return self._state
