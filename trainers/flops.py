"""How much of a device's arithmetic a training uses: two definitions, and the peaks of devices.

    useful  active weights without the embedding, real tokens only, and attention between exactly those pairs that
            see each other: 6 N per token and 12 D per pair and layer (Chowdhery et al., PaLM, arXiv 2204.02311,
            appendix B, with the pairs counted instead of L per token)
    full    the usual convention, for comparison with others: all places of a batch, and every place attends to
            every other of its context, no mask counted

Neither counts what activation checkpointing computes twice, so both are model FLOPs, not hardware FLOPs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from mixloom.trainers.config import ModelConfig
from mixloom.trainers.data import Batch

# Dense bfloat16 FLOPs per second, from the data sheets; first match counts.
PEAKS: dict[str, float] = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}


class Work(NamedTuple):
    """FLOPs of forward and backward pass, by both definitions."""

    useful: float
    full: float


def work(config: ModelConfig, *, tokens: int, pairs: int, places: int) -> Work:
    """FLOPs of training on some contexts.

    Args:
        tokens: real tokens, `pairs` of which see each other, out of `places` with padding; where speech is read in patches,
            rows of the trunk, and the local encoder and decoder and the head over the units are left out.
    """
    weights = config.parameters(active=True) + config.vocab_size * config.dim
    attention = 12.0 * config.layers * config.dim
    return Work(
        6.0 * weights * tokens + attention * pairs,
        6.0 * weights * places + attention * places * config.seq_len,
    )


def attended(batch: Batch) -> tuple[int, int]:
    """Real tokens of a batch on the host, and the pairs (query, key) that see each other; padding is left out."""
    lengths = batch.piece_lengths
    starts = np.cumsum(lengths) - lengths
    real = np.add.reduceat(batch.targets.numpy() >= 0, starts) > 0 if len(lengths) else np.zeros(0, bool)
    long = lengths[real].astype(np.int64)
    return int(long.sum()), int((long * (long + 1) // 2).sum())


def peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOPs per second that the device could reach, or None where it is not known (any CPU, float32)."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for key, value in PEAKS.items() if all(word in name for word in key.split())), None)
