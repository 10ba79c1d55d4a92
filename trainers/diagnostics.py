"""What goes on inside a model in training, and what a loss that does not fall means."""

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

LOOKS = 4  # that are compared
FALL = 0.98  # of the loss: less has fallen
GROWTH = 2.0  # of logits or residual stream: more has grown
LOGITS = 1e4
LARGE_LOGITS, LARGE_UPDATE = 1e3, 0.02  # together: the latter as a share of the weights


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
    """Tells a learning rate that is too high from a loss that has levelled out, by looks some updates apart (`look`).

    The rule: over the last four looks the loss has not fallen by 2 % (mean of the last two stretches against that of
    the first two), while the attention logits or the residual stream have doubled. A model that has learnt what it can
    stands still inside as well; one whose rate is too high goes on growing. A rate may also be too high while the loss still
    falls: logits of 1,000 together with updates of 2 % of the weights (of the tower with the largest) are told of. In
    trainings of small models with sound rates logits stayed below 30 and updates soon fell under 2 %; at thirty times the
    rate both were passed in every one. Logits from about 10,000 on are told of
    whatever else is seen: there Wortsman et al. found runs to become unstable. That attention logits grow before a run
    diverges, and that norms drift apart in mixed-modal ones, is from Wortsman et al. (arXiv 2309.14322, section
    3.1) and the Chameleon team (arXiv 2405.09818, section 2.2); the numbers are ours.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        state = state or {"looks": [], "loss": 0.0, "tokens": 0}
        # Looks of an earlier version have no size of the update.
        self._looks: list[list[float]] = [[*x, 0.0][:4] for x in state["looks"]]
        self._loss, self._tokens = float(state["loss"]), int(state["tokens"])

    def see(self, record: Record) -> str | None:
        """Take in a record; returns a caution, or None where there is nothing to say or nothing new was looked at."""
        self._loss += record["loss"] * record["tokens"]
        self._tokens += record["tokens"]
        if "attention_logits" not in record:
            return None
        mean = self._loss / max(1, self._tokens)
        self._loss, self._tokens = 0.0, 0
        moved = max(record.get("update_to_weight", {}).values(), default=0.0)
        now = [mean, max(record["attention_logits"]), max(record["residual_rms"]), moved]
        self._looks = [*self._looks, now][-LOOKS:]
        return self.caution()

    def caution(self) -> str | None:
        """What the last looks say."""
        if len(self._looks) < LOOKS:
            return None
        if self._looks[-1][1] >= LOGITS:
            reach = self._looks[-1][1]
            return f"the learning rate may be too high: attention logits reach {reach:.3g}; model.qk_norm bounds them"
        reach, moved = self._looks[-1][1], self._looks[-1][3]
        if reach >= LARGE_LOGITS and moved >= LARGE_UPDATE:
            return (
                f"the learning rate may be too high: attention logits reach {reach:.3g} and one update moves weights by "
                f"{100 * moved:.2g} % of their size"
            )
        half = LOOKS // 2
        losses, logits, residual, _ = (list(column) for column in zip(*self._looks))
        fell = sum(losses[half:]) < FALL * sum(losses[:half])
        if fell or max(logits[-1] / logits[0], residual[-1] / residual[0]) < GROWTH:
            return None
        return (
            f"the learning rate may be too high: the loss does not fall, but attention logits went from "
            f"{logits[0]:.3g} to {logits[-1]:.3g} and the residual stream from {residual[0]:.3g} to {residual[-1]:.3g}"
        )

    def state(self) -> dict[str, Any]:
        """JSON value for a checkpoint."""
        return {"looks": self._looks, "loss": self._loss, "tokens": self._tokens}
