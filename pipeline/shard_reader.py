"""Random access to the contexts of a run's shards, straight from the memory-mapped tars."""

from __future__ import annotations

import json
import mmap
import resource
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardManifest, find_manifest, token_dtype
from mixloom.pipeline.shard_table import ShardTable, copy_rows
from mixloom.pipeline.shards import check_size, damaged_sample

Tokens = NDArray[np.unsignedinteger[Any]]
Int64 = NDArray[np.int64]


class ShardReader:
    """Contexts by (domain, number). Opening is cheap: indexes and tars are read when first asked for.

    Contexts of a domain are numbered from 0 over its shards in name order. Views are read-only and stay valid
    after the reader is gone. Safe to use from several threads, and after a fork; a copy sent to another process
    opens the files there.

    Args:
        path: the shards directory, its manifest.json, or the run directory; local.
        verify: compare every sample with its checksum when it is first read.

    Raises:
        UserError: no manifest, a manifest that is not local; when used: a missing, truncated or foreign tar, and with
            `verify` a damaged sample, named with its shard.
    """

    def __init__(self, path: str | Path, *, verify: bool = False) -> None:
        file = find_manifest(path)
        fs, inside = fsspec.core.url_to_fs(file)
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        if protocol not in ("file", "local"):
            raise UserError(
                f"{file} is not on a local disk", fix="copy the shards directory here: tars are memory-mapped"
            )
        self.manifest = ShardManifest.load(file)
        self.directory = inside.rsplit("/", 1)[0]
        self.verify = verify
        self._fs = fs
        self._dtype = token_dtype(self.manifest.vocabulary)
        self._number = {d.name: i for i, d in enumerate(self.manifest.domains)}
        self._sizes = np.array([d.contexts for d in self.manifest.domains], np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)  # context of each domain
        self._table: ShardTable | None = None
        self._bases = np.zeros(
            len(self.manifest.shards), np.int64
        )  # address of a tar in memory, 0: not mapped
        self._maps: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        # Each mapping holds a file descriptor, of which a process commonly has 1024.
        self._most_maps = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._checked = np.zeros(0, bool)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.directory, self.verify)

    @property
    def domains(self) -> list[str]:
        """Names of the domains, in manifest order."""
        return list(self._number)

    def contexts(self, domain: str) -> int:
        """Number of contexts of a domain."""
        return int(self._sizes[self._domain(domain)])

    def context(self, domain: str, i: int) -> tuple[Tokens, NDArray[np.int32]]:
        """One context: (input_ids uint16|uint32 [seq_len], doc_lengths int32 [pieces]), views without a copy."""
        sample, row = self._locate(domain, i)
        ids, lengths = self._arrays(sample)
        return ids[row], lengths[row, : int(np.count_nonzero(lengths[row]))]

    def batch(
        self, domains: ArrayLike, contexts: ArrayLike, out: Tokens | None = None
    ) -> tuple[Tokens, list[NDArray[np.int32]]]:
        """Many contexts at once, copied into one array.

        Args:
            domains: integers [n], places in `domains`; or one for all.
            contexts: integers [n], numbers inside their domains.
            out: uint16 or uint32 [n, seq_len] to write into, C-contiguous; a new array by default.

        Returns:
            (input_ids [n, seq_len], per context its doc_lengths int32 [pieces]).

        Raises:
            IndexError: a domain or context that is not there.
        """
        sample, row = self._find(domains, contexts)
        table, held = self._loaded(), self._hold(sample)
        base, seq_len = self._bases_of(sample, held), self.manifest.seq_len
        ids = np.empty((len(sample), seq_len), self._dtype) if out is None else out
        if ids.shape != (len(sample), seq_len) or ids.dtype != self._dtype or not ids.flags.c_contiguous:
            raise ValueError(
                f"out is {ids.dtype} {ids.shape}, not {self._dtype} {(len(sample), seq_len)} in C order"
            )
        copy_rows(base + table.ids[sample] + row * (seq_len * self._dtype.itemsize), ids.view(np.uint8))
        lengths = self._lengths(base, sample, row)
        return ids, lengths

    def blocks(self, domain: str) -> Iterator[tuple[Tokens, NDArray[np.int32]]]:
        """The contexts of a domain sample by sample: views (input_ids [n, seq_len], doc_lengths [n, most pieces])."""
        number = self._domain(domain)
        table = self._loaded()
        low, high = np.searchsorted(table.first, self._first[number : number + 2])
        for sample in range(int(low), int(high)):
            yield self._arrays(sample)

    def info(self, domain: str, i: int) -> dict[str, Any]:
        """Where a context comes from: doc_ids, sources, starts (one per piece), domain, shard, key, row."""
        sample, row = self._locate(domain, i)
        table, shard = self._loaded(), int(self._loaded().shard[sample])
        self._hold(np.array([sample]))
        begin = int(table.info[sample])
        text = self._map(shard)[begin : begin + int(table.info_size[sample])].tobytes()
        about: dict[str, Any] = json.loads(text)["contexts"][row]
        name = self.manifest.shards[shard].name
        return {**about, "domain": domain, "shard": name, "key": table.keys[sample], "row": row}

    def context_tokens(self, domain: str) -> Int64:
        """Real tokens of every context of a domain: int64 [contexts]. Reads all its document lengths."""
        sums = [lengths.sum(axis=1, dtype=np.int64) for _, lengths in self.blocks(domain)]
        return np.concatenate([*sums, np.zeros(0, np.int64)])

    def _domain(self, name: str) -> int:
        if name not in self._number:
            self.manifest.domain(name)  # raises with the nearest name
        return self._number[name]

    def _loaded(self) -> ShardTable:
        if self._table is None:
            table = ShardTable.load(self.directory, self.manifest)
            self._checked = np.full(len(table.keys), not self.verify)
            self._table = table
        return self._table

    def _locate(self, domain: str, i: int) -> tuple[int, int]:
        number = self._domain(domain)
        if not 0 <= i < self._sizes[number]:
            raise IndexError(f"context {i} of domain '{domain}', which has {int(self._sizes[number])}")
        table, context = self._loaded(), int(self._first[number]) + i
        sample = int(np.searchsorted(table.first, context, side="right")) - 1
        return sample, context - int(table.first[sample])

    def _find(self, domains: ArrayLike, contexts: ArrayLike) -> tuple[Int64, Int64]:
        """Sample and row of each context: int64 [n] both."""
        domain, number = np.asarray(domains, np.int64), np.asarray(contexts, np.int64).reshape(-1)
        if domain.size and not (domain.min() >= 0 and domain.max() < len(self._sizes)):
            raise IndexError(f"domains from {domain.min()} to {domain.max()} of {len(self._sizes)}")
        if bool(np.any((number < 0) | (number >= self._sizes[domain]))):
            raise IndexError(f"contexts from {number.min()} to {number.max()} of a domain with fewer")
        table, context = self._loaded(), self._first[domain] + number
        sample = np.searchsorted(table.first, context, side="right") - 1
        return sample, context - table.first[sample]

    def _arrays(self, sample: int) -> tuple[Tokens, NDArray[np.int32]]:
        table = self._loaded()
        self._hold(np.array([sample]))
        data, n = self._map(int(table.shard[sample])), int(table.first[sample + 1] - table.first[sample])
        seq_len, width = self.manifest.seq_len, int(table.width[sample])
        ids = np.frombuffer(data, self._dtype, n * seq_len, int(table.ids[sample])).reshape(n, seq_len)
        lengths = np.frombuffer(data, "<i4", n * width, int(table.lengths[sample])).reshape(n, width)
        return ids, lengths

    def _lengths(self, base: Int64, sample: Int64, row: Int64) -> list[NDArray[np.int32]]:
        table = self._loaded()
        width = table.width[sample]
        most = int(width.max(initial=0))
        out = np.zeros((len(sample), most), np.int32)
        for w in np.unique(width).tolist():  # samples differ in the most pieces of a context
            own = np.flatnonzero(width == w)
            rows = np.empty((len(own), w), np.int32)
            copy_rows(base[own] + table.lengths[sample[own]] + row[own] * (4 * w), rows.view(np.uint8))
            out[own, :w] = rows
        counts = np.count_nonzero(out, axis=1).tolist()
        return [lengths[:n] for lengths, n in zip(out, counts)]

    def _hold(self, sample: Int64) -> list[NDArray[np.uint8]]:
        """The tars of these samples, mapped for as long as the list lives; new samples are checked if asked for."""
        shard = self._loaded().shard[sample]
        few = len(self._bases) <= self._most_maps
        if few and bool(self._bases[shard].all()):
            held: list[NDArray[np.uint8]] = []  # no mapping is ever dropped
        else:
            held = [self._map(s) for s in np.unique(shard).tolist()]
        if not bool(self._checked[sample].all()):
            for s in np.unique(sample[~self._checked[sample]]).tolist():
                self._check(s)
        return held

    def _bases_of(self, sample: Int64, held: list[NDArray[np.uint8]]) -> Int64:
        shard = self._loaded().shard[sample]
        if not held:
            return self._bases[shard]
        place = np.unique(shard, return_inverse=True)[1]
        return np.array([m.ctypes.data for m in held], np.int64)[place]

    def _check(self, sample: int) -> None:
        """Compare a sample with its checksum, once."""
        table = self._loaded()
        entry = self.manifest.shards[int(table.shard[sample])]
        begin, size = int(table.start[sample]), int(table.size[sample])
        data = self._map(int(table.shard[sample]))[begin : begin + size]
        if zlib.crc32(data.data) != int(table.crc32[sample]):
            raise damaged_sample(entry, table.keys[sample])
        self._checked[sample] = True

    def _map(self, shard: int) -> NDArray[np.uint8]:
        found = self._maps.get(shard)
        if found is not None:
            return found
        entry = self.manifest.shards[shard]
        path = f"{self.directory}/{entry.name}"
        check_size(self._fs, path, entry)
        with open(path, "rb") as f:
            mapped = np.frombuffer(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        self._maps[shard] = mapped
        self._bases[shard] = mapped.ctypes.data
        # Dropping a mapping never closes it under a view: the view holds it until the view itself is gone.
        while len(self._maps) > self._most_maps:
            dropped, _ = self._maps.popitem(last=False)
            self._bases[dropped] = 0
        return mapped


def _reopened(directory: str, verify: bool) -> ShardReader:
    return ShardReader(directory, verify=verify)
