"""Where every context of a run's shards lies: the indexes of all tars as arrays, to look up many contexts at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from mixloom.pipeline.ascending import last_at_most
from mixloom.pipeline.beside_tokens import DURATIONS, PATCHES, places
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardEntry, ShardManifest, token_dtype
from mixloom.pipeline.shards import load_index

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ShardTable:
    """All samples of all shards, in the order of the manifest. Contexts are numbered through, over all domains.

    Attributes:
        keys: the key of each sample.
        first: int64 [samples + 1], number of the first context of each sample.
        shard: int64 [samples], its shard.
        start, size: int64 [samples], where it lies in the tar, with its headers.
        crc32: int64 [samples].
        ids, lengths: int64 [samples], where the data of the two arrays start in the tar.
        width: int64 [samples], most pieces of a context: the columns of doc_lengths.
        info, info_size: int64 [samples], where its JSON lies.
        patches, patches_width: int64 [samples], where its patch lengths lie, and their columns; -1 where there are none.
        durations: int64 [samples], where its durations lie; -1 where there are none.
    """

    keys: list[str]
    first: Int64
    shard: Int64
    start: Int64
    size: Int64
    crc32: Int64
    ids: Int64
    lengths: Int64
    width: Int64
    info: Int64
    info_size: Int64
    patches: Int64
    patches_width: Int64
    durations: Int64

    @classmethod
    def load(cls, directory: str, manifest: ShardManifest) -> ShardTable:
        """Read the index of every shard.

        Raises:
            UserError: an index is missing, not of its tar, or points outside it.
        """
        keys: list[str] = []
        rows: list[tuple[int, ...]] = []
        for number, entry in enumerate(manifest.shards):
            for sample in load_index(directory, entry)["samples"]:
                rows.append((number, *_places(sample, entry, manifest)))
                keys.append(str(sample["key"]))
        columns = np.array(rows, np.int64).reshape(len(rows), 13).T.copy()
        first = np.concatenate([[0], np.cumsum(columns[1])]).astype(np.int64)
        return cls(keys, first, columns[0], *columns[2:])


def _places(sample: dict[str, Any], entry: ShardEntry, manifest: ShardManifest) -> tuple[int, ...]:
    ids, lengths, info = sample["input_ids"], sample["doc_lengths"], sample["json"]
    token = token_dtype(manifest.vocabulary)
    n, width = int(sample["rows"]), int(lengths["shape"][1])
    spans = (
        (ids["offset"], n * manifest.seq_len * token.itemsize),
        (lengths["offset"], n * width * 4),
        (info["offset"], info["bytes"]),
        (sample["offset"], sample["bytes"]),
    )
    shapes = ids["shape"] == [n, manifest.seq_len] and lengths["shape"] == [n, width]
    types_ = ids["dtype"] == token.name and lengths["dtype"] == "int32"
    try:
        (patches, patches_width), (durations, _) = (
            places(sample, name, entry.bytes) for name in (PATCHES, DURATIONS)
        )
    except (KeyError, TypeError, ValueError):
        types_ = False
    if not (shapes and types_ and all(at >= 0 and at + size <= entry.bytes for at, size in spans)):
        raise UserError(
            f"the index of {entry.name} places sample {sample['key']} outside the tar, or in another form than the"
            f" manifest ({manifest.seq_len} tokens of {manifest.dtype})",
            fix="copy the index again, or write the shards again",
        )
    return (
        n,
        int(sample["offset"]),
        int(sample["bytes"]),
        int(sample["crc32"]),
        int(ids["offset"]),
        int(lengths["offset"]),
        width,
        int(info["offset"]),
        int(info["bytes"]),
        patches,
        patches_width,
        durations,
    )


@intrinsic
def _copy(typingctx, target, source, size):  # type: ignore[no-untyped-def]
    """Copy bytes from one address to another."""

    def made(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointers = [builder.inttoptr(a, cgutils.voidptr_t) for a in arguments[:2]]
        cgutils.raw_memcpy(builder, pointers[0], pointers[1], arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), made


@njit(cache=True, nogil=True)
def find(domains, numbers, domain_first, first, shard, width, bases, checked, contexts, sample):  # type: ignore[no-untyped-def]
    """Find contexts by domain and number; writes contexts, numbered through, and their samples, both int64 [n].

    Args:
        domains: int64 [n], or [1] for all; numbers: int64 [n].
        domain_first: int64 [domains + 1], first context of each domain.
        first, shard, width: as in `ShardTable`.
        bases: int64 [shards], 0 for a tar that is not mapped.
        checked: bool [samples].

    Returns:
        (largest width of the samples or -1 where a context does not exist, whether all tars are mapped, whether all samples
        are checked).
    """
    most, mapped, known = 0, True, True
    for i in range(numbers.shape[0]):
        d = domains[i] if domains.shape[0] > 1 else domains[0]
        if d < 0 or d >= domain_first.shape[0] - 1:
            return -1, False, False
        context = domain_first[d] + numbers[i]
        if numbers[i] < 0 or context >= domain_first[d + 1]:
            return -1, False, False
        low = last_at_most(first, first.shape[0], context)
        contexts[i], sample[i] = context, low
        most = max(most, width[low])
        mapped = mapped and bases[shard[low]] != 0
        known = known and checked[low]
    return most, mapped, known


@njit(cache=True, nogil=True)
def copy_contexts(contexts, sample, bases, first, shard, ids, lengths, width, out, out_lengths):  # type: ignore[no-untyped-def]
    """Copy contexts out of mapped tars.

    Args:
        contexts, sample: int64 [n], from `find`.
        bases: int64 [shards], addresses of the tars.
        first, shard, ids, lengths, width: as in `ShardTable`.
        out: uint8 [n, bytes of a context].
        out_lengths: int32 [n, m], with m at least the width of every sample; zeros on the right.
    """
    size, n, i = out.shape[1], contexts.shape[0], 0
    while i < n:
        s, j = sample[i], i + 1
        while j < n and sample[j] == s and contexts[j] == contexts[j - 1] + 1:
            j += 1  # what lies together is copied at once
        row, base = contexts[i] - first[s], bases[shard[s]]
        _copy(out[i].ctypes.data, base + ids[s] + row * size, (j - i) * size)  # type: ignore[call-arg]  # typing takes it for the intrinsic
        source = base + lengths[s] + row * 4 * width[s]
        for k in range(i, j):
            _copy(out_lengths[k].ctypes.data, source + (k - i) * 4 * width[s], 4 * width[s])
            out_lengths[k, width[s] :] = 0
        i = j
