"""The stream as a torch dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError

if TYPE_CHECKING:
    from torch.utils.data import IterableDataset

    from mixloom.mixers.stream import Stream


def as_iterable_dataset(
    stream: Stream, *, start: int = 0, rank: int = 0, world: int = 1, prefetch: int = 4
) -> IterableDataset[dict[str, Any]]:
    """A torch dataset of whole batches for `DataLoader(batch_size=None)`; torch is imported here.

    Yields dicts: step int, input_ids int32 tensor [b, seq_len], doc_lengths int32 tensor [b, most pieces] with zeros
    on the right (one tensor: each costs a worker process half a millisecond to hand over), domains int32 tensor [b].
    With several workers each takes every n-th step, which the loader puts in order again. A thread reads `prefetch`
    batches ahead (0: none); one thread is faster than worker processes, which copy every batch once more. Its length is
    the number of steps left.

    Raises:
        UserError: a rank that is not in the world or would get less than another, or a start outside the run.
    """
    import torch
    from torch.utils.data import IterableDataset, get_worker_info

    from mixloom.mixers.prefetch import ahead

    check_reader(stream, start, rank, world)

    class Batches(IterableDataset[dict[str, Any]]):
        def __len__(self) -> int:
            return stream.steps - start

        def __iter__(self) -> Iterator[dict[str, Any]]:
            worker = get_worker_info()
            first, stride = (start, 1) if worker is None else (start + worker.id, worker.num_workers)
            steps = range(first, stream.steps, stride)
            for b in ahead((stream.contexts(step, rank, world) for step in steps), prefetch):
                yield {
                    "step": b.step,
                    "input_ids": torch.from_numpy(b.input_ids.astype(np.int32)),
                    "doc_lengths": torch.from_numpy(_padded(b.doc_lengths)),
                    "domains": torch.from_numpy(b.domains),
                    **({} if b.counted is None else {"counted": torch.from_numpy(b.counted)}),
                }

    return Batches()


def check_reader(stream: Stream, start: int, rank: int, world: int) -> None:
    """Raise UserError where a rank would wait for ever: outside its world, with no or fewer contexts, or at no step."""
    stream.check_ranks(world)
    if not 0 <= rank < world:
        raise UserError(
            f"rank {rank} is not one of {world} ranks", fix=f"ranks are numbered from 0 to {world - 1}"
        )
    if not 0 <= start < stream.steps:
        raise UserError(
            f"the run has {stream.steps:,} steps, so nothing is left from step {start:,} on",
            fix="make the stream with more steps, or start at an earlier one",
        )


def _padded(rows: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Rows of different length as one array, zeros on the right."""
    out = np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)
    for own, row in zip(out, rows):
        own[: len(row)] = row
    return out
