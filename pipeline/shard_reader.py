"""Random access to the contexts of a run's shards, straight from the memory-mapped tars."""

from __future__ import annotations

import json
import math
import mmap
from collections import OrderedDict
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardEntry, ShardManifest, find_manifest
from mixloom.pipeline.shards import check_size, load_index

_OPEN_MAPS = 256  # each mapping holds a file descriptor; the common limit for a process is 1024


class _ArrayAt:
    """Where the data of an array lies in a tar."""

    __slots__ = ("count", "dtype", "offset", "shape")

    def __init__(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.offset, self.dtype, self.shape = offset, dtype, shape
        self.count = math.prod(shape)


class _Shard:
    """The index of one shard as arrays: samples in order, with the number of the first row of each."""

    __slots__ = ("entry", "first_row", "samples")

    def __init__(self, directory: str, entry: ShardEntry) -> None:
        index = load_index(directory, entry)
        self.entry = entry
        self.samples: list[dict[str, Any]] = index["samples"]
        rows = np.array([s["rows"] for s in self.samples], dtype=np.int64)
        self.first_row = np.concatenate([[0], np.cumsum(rows)])
        for s in self.samples:
            s["json"] = (int(s["json"]["offset"]), int(s["json"]["bytes"]))
            for member in ("input_ids", "doc_lengths"):
                m = s[member]
                a = _ArrayAt(m["offset"], np.dtype(m["dtype"]).newbyteorder("<"), tuple(m["shape"]))
                s[member] = a
                inside = 0 <= a.offset <= a.offset + a.count * a.dtype.itemsize <= entry.bytes
                if a.shape[0] != s["rows"] or not inside:
                    raise UserError(
                        f"the index of {entry.name} places {member} of sample {s['key']} outside the tar",
                        fix="copy the index again, or write the shards again",
                    )


class ShardReader:
    """Contexts by (domain, number). Opening is cheap: indexes and tars are read when first asked for.

    Contexts of a domain are numbered from 0 over its shards in name order. Views are read-only and stay valid
    after the reader is gone. Safe to use from several threads, and after a fork.

    Args:
        path: the shards directory, its manifest.json, or the run directory; local.

    Raises:
        UserError: no manifest, a manifest that is not local, or (when used) a missing, truncated or foreign tar.
    """

    def __init__(self, path: str | Path) -> None:
        file = find_manifest(path)
        fs, inside = fsspec.core.url_to_fs(file)
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        if protocol not in ("file", "local"):
            raise UserError(
                f"{file} is not on a local disk", fix="copy the shards directory here: tars are memory-mapped"
            )
        self.manifest = ShardManifest.load(file)
        self.directory = inside.rsplit("/", 1)[0]
        self._fs = fs
        self._entries: dict[str, list[ShardEntry]] = {d.name: [] for d in self.manifest.domains}
        for entry in self.manifest.shards:
            self._entries[entry.domain].append(entry)
        self._first = {
            name: np.concatenate([[0], np.cumsum([e.contexts for e in entries])]).astype(np.int64)
            for name, entries in self._entries.items()
        }
        self._shards: dict[str, _Shard] = {}
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()

    @property
    def domains(self) -> list[str]:
        """Names of the domains, in manifest order."""
        return list(self._entries)

    def contexts(self, domain: str) -> int:
        """Number of contexts of a domain."""
        return int(self._bounds(domain)[-1])

    def context(self, domain: str, i: int) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.int32]]:
        """One context: (input_ids uint16|uint32 [seq_len], doc_lengths int32 [pieces]), views without a copy."""
        shard, sample, row = self._locate(domain, i)
        lengths = self._array(shard, sample["doc_lengths"])[row]
        return self._array(shard, sample["input_ids"])[row], lengths[: int(np.count_nonzero(lengths))]

    def info(self, domain: str, i: int) -> dict[str, Any]:
        """Where a context comes from: doc_ids, sources, starts (one per piece), domain, shard, key, row."""
        shard, sample, row = self._locate(domain, i)
        offset, size = sample["json"]
        text = self._map(shard.entry)[offset : offset + size]
        about: dict[str, Any] = json.loads(text)["contexts"][row]
        return {**about, "domain": domain, "shard": shard.entry.name, "key": sample["key"], "row": row}

    def context_tokens(self, domain: str) -> NDArray[np.int64]:
        """Real tokens of every context of a domain: int64 [contexts]. Reads all its document lengths."""
        sums = [
            self._array(shard, sample["doc_lengths"]).sum(axis=1, dtype=np.int64)
            for shard in map(self._shard, self._entries_of(domain))
            for sample in shard.samples
        ]
        return np.concatenate(sums)

    def _entries_of(self, domain: str) -> list[ShardEntry]:
        if domain not in self._entries:
            self.manifest.domain(domain)  # raises with the nearest name
        return self._entries[domain]

    def _bounds(self, domain: str) -> NDArray[np.int64]:
        self._entries_of(domain)
        return self._first[domain]

    def _locate(self, domain: str, i: int) -> tuple[_Shard, dict[str, Any], int]:
        first = self._bounds(domain)
        if not 0 <= i < first[-1]:
            raise IndexError(f"context {i} of domain '{domain}', which has {int(first[-1])}")
        s = int(np.searchsorted(first, i, side="right")) - 1
        shard = self._shard(self._entries[domain][s])
        row = i - int(first[s])
        b = int(np.searchsorted(shard.first_row, row, side="right")) - 1
        return shard, shard.samples[b], row - int(shard.first_row[b])

    def _shard(self, entry: ShardEntry) -> _Shard:
        shard = self._shards.get(entry.name)
        if shard is None:
            shard = self._shards[entry.name] = _Shard(self.directory, entry)
        return shard

    def _array(self, shard: _Shard, at: _ArrayAt) -> NDArray[Any]:
        return np.frombuffer(self._map(shard.entry), at.dtype, at.count, at.offset).reshape(at.shape)

    def _map(self, entry: ShardEntry) -> mmap.mmap:
        found = self._maps.get(entry.name)
        if found is not None:
            return found
        path = f"{self.directory}/{entry.name}"
        check_size(self._fs, path, entry)
        with open(path, "rb") as f:
            mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps[entry.name] = mapped
        # Dropping a mapping never closes it under a view: the view holds it until the view itself is gone.
        while len(self._maps) > _OPEN_MAPS:
            self._maps.popitem(last=False)
        return mapped
