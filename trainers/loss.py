"""Next-token cross-entropy that never holds the logits of all tokens, split by the modality of the target.

T tokens; D width; V vocabulary; C tokens of one chunk; K modalities
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """total: sum over all targets, differentiable. sums [K], counts [K]: by modality of the target, no gradient.

    per_token: float32 (float64 for float64) [T], 0 where the target is ignored, no gradient. Nats throughout.
    """

    total: Tensor
    sums: Tensor
    counts: Tensor
    per_token: Tensor


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropies of `hidden @ weight.T`, a chunk of rows at a time.

    The gradient of a chunk is formed while its probabilities exist, so nothing is computed twice and one
    buffer [C, V] serves all chunks. Works because the result is a sum: its gradient is known up to a factor.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        want_hidden, want_weight = ctx.needs_input_grad[:2]
        tokens, dtype = hidden.shape[0], hidden.dtype
        weight_VD = weight.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        per_token = torch.zeros(tokens, dtype=wide, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if want_hidden else None
        grad_weight = torch.zeros_like(weight) if want_weight else None
        buffer = torch.empty(min(chunk, tokens), weight.shape[0], dtype=dtype, device=hidden.device)
        for start in range(0, tokens, chunk):
            rows = slice(start, min(start + chunk, tokens))
            h_CD = hidden[rows]
            target_C1 = targets[rows, None]
            valid_C1 = target_C1 >= 0
            target_C1 = target_C1.clamp(min=0).long()
            logits_CV = torch.mm(h_CD, weight_VD.t(), out=buffer[: h_CD.shape[0]]).to(wide)
            hit_C1 = logits_CV.gather(1, target_C1)
            top_C1 = logits_CV.amax(1, keepdim=True)
            exp_CV = logits_CV.sub_(top_C1).exp_()
            sum_C1 = exp_CV.sum(1, keepdim=True)
            per_token[rows] = torch.where(valid_C1, top_C1 + sum_C1.log() - hit_C1, 0.0).squeeze(1)
            if grad_hidden is None and grad_weight is None:
                continue
            # softmax - one_hot, still times the sum; the division is done on the narrow side.
            slope_CV = exp_CV.scatter_add_(1, target_C1, -sum_C1).to(dtype)
            scale_C1 = (valid_C1 / sum_C1).to(dtype)
            if grad_hidden is not None:
                torch.mm(slope_CV, weight_VD, out=grad_hidden[rows]).mul_(scale_C1)
            if grad_weight is not None:
                scaled_CD = h_CD * scale_C1
                if dtype == grad_weight.dtype:
                    grad_weight.addmm_(slope_CV.t(), scaled_CD)
                else:
                    grad_weight.add_(slope_CV.t() @ scaled_CD)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(per_token)
        return per_token.sum(), per_token

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        factor = grads[0]
        return (
            None if grad_hidden is None else grad_hidden * factor.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight * factor,
            None,
            None,
        )


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, target_modality: Tensor, *, modalities: int, chunk: int
) -> Losses:
    """Cross-entropy of the next token for every row.

    Args:
        hidden: float32 or bfloat16 [T, D], after the last norm.
        weight: float32 [V, D], the head.
        targets: int32 or int64 [T]; negative: ignored.
        target_modality: integers [T]; read only where the target counts.
        chunk: rows whose logits exist at one time.
    """
    total, per_token = _ChunkedCrossEntropy.apply(hidden, weight, targets, chunk)
    valid = targets >= 0
    with torch.no_grad():
        # One pass per modality: no addition by index, so the sums have one order on every device.
        ours = [valid & (target_modality == m) for m in range(modalities)]
        sums = torch.stack([torch.where(mine, per_token, 0.0).sum() for mine in ours])
        counts = torch.stack([mine.sum() for mine in ours])
    return Losses(total, sums, counts, per_token)
