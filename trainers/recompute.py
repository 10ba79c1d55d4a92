"""Activation checkpointing: less memory for a backward pass that computes part of the forward pass again.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from mixloom.trainers.model import Model

Mode = Literal["none", "selective", "block"]


def recompute(model: Model, mode: Mode) -> None:
    """Change every block in place, before it is compiled and sharded; names of parameters stay as they are.

    block: only the inputs of a block are kept. selective: results of matrix products and of attention are kept too,
    so that what is computed again is cheap (norms, activations, moves).
    """
    if mode == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if mode == "selective":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _keep)
    for block in model.blocks:
        block.forward = _checkpointed(block, options)


def _checkpointed(block: nn.Module, options: dict[str, Any]) -> Any:
    forward = block.forward

    @functools.wraps(forward)
    def call(*args: Any) -> Any:
        return checkpoint(forward, *args, **options)

    return call


@functools.cache
def _costly() -> frozenset[Any]:
    aten = torch.ops.aten
    costly = {
        *(aten.mm.default, aten.addmm.default, aten.bmm.default),
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    }
    return frozenset({*costly, torch.ops.higher_order.flex_attention})


def _keep(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _costly() else CheckpointPolicy.PREFER_RECOMPUTE
