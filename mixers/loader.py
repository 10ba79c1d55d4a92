"""The stream as a torch dataset, and what is looked at before it is read."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

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
    the number of steps left. The memory of a batch is used again once nothing refers to it any more: a tensor or a view of
    one that is kept, anywhere, keeps it.

    Raises:
        UserError: a rank that is not in the world or would get less than another, or a start outside the run.
    """
    from mixloom.mixers.torch_batches import TorchBatches  # which imports torch

    check_reader(stream, start, rank, world)
    return TorchBatches(stream, start, rank, world, prefetch)


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


def warn_of_small_cache(stream: Stream) -> None:
    """Warn where remote shards are copied to a folder that cannot keep all tars the run reads from.

    The order of a domain goes over all its contexts, so every step asks for tars from all over; those that were removed are
    then copied again.
    """
    reader = stream.reader
    cache = getattr(reader, "cache", None)
    if cache is None:
        return
    served = {e.domain for e in stream.exposure(stream.steps, exact=False) if e.contexts}
    needed = sum(entry.bytes for entry in reader.manifest.shards if entry.domain in served)
    if needed > cache.cache_bytes:
        share = 1 - cache.cache_bytes / needed
        warnings.warn(
            f"the tars this run reads from hold {needed:,} bytes, but cache_bytes is {cache.cache_bytes:,}: about"
            f" {share:.0%} of the contexts will wait for a tar that has to be copied, most of them again and again;"
            f" give ShardReader cache_bytes={needed} and a folder with that much room",
            stacklevel=3,
        )
