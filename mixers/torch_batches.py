"""The class behind `loader.as_iterable_dataset`, in a module of its own: torch is imported here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from mixloom.mixers.blocks import Blocks
from mixloom.mixers.contexts import StreamBatch
from mixloom.mixers.prefetch import ahead
from mixloom.mixers.stream import Stream

_HELD = 4  # batches a reader may hold at a time before new memory is taken for each


class TorchBatches(IterableDataset[dict[str, Any]]):
    """Steps of a stream as tensors; see `loader.as_iterable_dataset`. A copy sent to a worker process works there."""

    def __init__(self, stream: Stream, start: int, rank: int, world: int, prefetch: int) -> None:
        self.stream, self.start, self.rank, self.world, self.prefetch = stream, start, rank, world, prefetch

    def __len__(self) -> int:
        return self.stream.steps - self.start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, stride = (self.start, 1) if worker is None else (self.start + worker.id, worker.num_workers)
        steps = range(first, self.stream.steps, stride)
        blocks = Blocks(self.prefetch + _HELD)
        made = (tensors(self.stream.contexts(step, self.rank, self.world), blocks) for step in steps)
        return ahead(made, self.prefetch)


def tensors(batch: StreamBatch, blocks: Blocks) -> dict[str, Any]:
    """What a reader gets of a batch; see `loader.as_iterable_dataset`."""
    ids = blocks.take(batch.input_ids.shape)
    np.copyto(ids, batch.input_ids, casting="unsafe")  # uint32 too: a vocabulary is smaller than 2^31
    return {
        "step": batch.step,
        "input_ids": torch.from_numpy(ids),
        "doc_lengths": torch.from_numpy(batch.doc_lengths.narrow().astype(np.int32)),
        "domains": torch.from_numpy(batch.domains),
        **({} if batch.counted is None else {"counted": torch.from_numpy(batch.counted)}),
    }
