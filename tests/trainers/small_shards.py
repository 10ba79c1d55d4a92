"""Shards whose domains are languages of their own: each counts through its ids in another stride."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.skills import SkillSet, packed_skill

SEQ_LEN = 32
FIRST, IDS = 256, 64
MODEL = ModelConfig(dim=16, layers=1, heads=2, untie=(), tie_embeddings=True, init_std=0.1)
TRAIN = TrainConfig(
    steps=12, batch_contexts=4, lr=2e-2, min_lr=2e-3, warmup=2, threads=1, device="cpu", log_every=4
)


def sentence(stride: int, start: int, length: int) -> np.ndarray:
    return (FIRST + (start + stride * np.arange(length)) % IDS).astype(np.uint16)


def write_domains(
    root: Path, strides: Mapping[str, int], vocabulary: dict[str, Any], contexts: int = 24
) -> ShardReader:
    """Domains that count in the given strides; what one holds does not depend on the others."""
    entries = []
    for d, (name, stride) in enumerate(sorted(strides.items())):
        rng = np.random.Generator(np.random.PCG64(stride))
        rows = []
        for i in range(contexts):
            own = sentence(stride, int(rng.integers(IDS)), SEQ_LEN - i % 5)
            rows.append(Context(own, [len(own)], [f"{stride}-{i}"], ["s"], [0]))
        shard = shard_name(name, 0, 1)
        entries.append(
            write_shard(
                root, shard, name, rows, prefix=key_prefix(d, 0), seq_len=SEQ_LEN, vocabulary=vocabulary
            )
        )
    build_manifest(entries, vocabulary, seq_len=SEQ_LEN).save(root)
    return ShardReader(root)


def skill(name: str, stride: int, documents: int = 4) -> SkillSet:
    """Held-out sentences in one stride."""
    made = [sentence(stride, 7 * i, SEQ_LEN) for i in range(documents)]
    return packed_skill(name, made, [len(m) for m in made], SEQ_LEN, "uint16")
