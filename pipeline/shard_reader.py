"""Random access to the contexts of a run's shards, straight from the memory-mapped tars."""

from __future__ import annotations

import json
import mmap
import os
import resource
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixloom.pipeline.beside_tokens import row_durations, row_patches
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardEntry, ShardManifest, find_manifest, modality_table, token_dtype
from mixloom.pipeline.shard_cache import (
    CACHE_BYTES,
    ShardCache,
    default_folder,
    is_local,
    remote_manifest,
)
from mixloom.pipeline.shard_table import ShardTable, copy_contexts, find
from mixloom.pipeline.shards import check_size, damaged_sample

_TRIES = 20  # a copy may be removed by another process between being made and being opened

Tokens = NDArray[np.unsignedinteger[Any]]
Int64 = NDArray[np.int64]


class ShardReader:
    """Contexts by (domain, number). Opening is cheap: indexes and tars are read when first asked for.

    Contexts of a domain are numbered from 0 over its shards in name order. Views are read-only and stay valid
    after the reader is gone. Safe to use from several threads, and after a fork; a copy sent to another process
    opens the files there.

    Args:
        path: the shards directory, its manifest.json, or the run directory: a local path, or an fsspec URL (s3://,
            gs://, https://, memory://), whose tars are copied to `cache` when they are first asked for.
        verify: compare every sample with its checksum when it is first read.
        cache: local folder for the copies of remote shards; by default one in the user's cache folder.
        cache_bytes: most bytes of copied tars to keep there; see `shard_cache.ShardCache`.
        manifest: of remote shards, where it is at hand; fetched by default, once: a copy of a reader takes it along.

    Raises:
        UserError: no manifest there, or one that cannot be read; when used: a missing, truncated or foreign tar, and
            with `verify` a damaged sample, named with its shard.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        verify: bool = False,
        cache: str | Path | None = None,
        cache_bytes: int = CACHE_BYTES,
        manifest: ShardManifest | None = None,
    ) -> None:
        self.cache: ShardCache | None = None
        if is_local(path):
            file = find_manifest(path)
            self.manifest = ShardManifest.load(file)
            self.directory = fsspec.core.url_to_fs(file)[1].rsplit("/", 1)[0]
            self._opening: tuple[Any, ...] = (self.directory, verify, None, cache_bytes, None)
        else:
            url, self.manifest = (str(path), manifest) if manifest is not None else remote_manifest(str(path))
            folder = default_folder() if cache is None else Path(cache)
            self.cache = ShardCache(url, self.manifest, folder, cache_bytes)
            self.directory = str(self.cache.folder)
            self._opening = (url, verify, str(folder), cache_bytes, self.manifest)
        # Whether not all copies may be kept, so that one of them may go at any time.
        self._scarce = self.cache is not None and self.manifest.totals.bytes > cache_bytes
        self.verify = verify
        self._fs = fsspec.filesystem("file")
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
        return _reopened, self._opening

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
    ) -> tuple[Tokens, NDArray[np.int32]]:
        """Many contexts at once, copied into one array.

        Args:
            domains: integers [n], places in `domains`; or one for all.
            contexts: integers [n], numbers inside their domains.
            out: uint16 or uint32 [n, seq_len] to write into, C-contiguous; a new array by default.

        Returns:
            (input_ids [n, seq_len], doc_lengths int32 [n, most pieces] with zeros on the right).

        Raises:
            IndexError: a domain or context that is not there.
        """
        number = np.asarray(contexts, np.int64).reshape(-1)
        domain = np.asarray(domains, np.int64).reshape(-1)
        n, seq_len, table = len(number), self.manifest.seq_len, self._loaded()
        if len(domain) not in (1, n):
            raise ValueError(f"{len(domain)} domains for {n} contexts")
        ids = np.empty((n, seq_len), self._dtype) if out is None else out
        if ids.shape != (n, seq_len) or ids.dtype != self._dtype or not ids.flags.c_contiguous:
            raise ValueError(f"out is {ids.dtype} {ids.shape}, not {self._dtype} {(n, seq_len)} in C order")
        context, sample = np.empty(n, np.int64), np.empty(n, np.int64)
        most, mapped, known = find(
            domain,
            number,
            self._first,
            table.first,
            table.shard,
            table.width,
            self._bases,
            self._checked,
            context,
            sample,
        )
        if most < 0:
            raise IndexError(
                f"contexts {_told(number)} of domains {_told(domain)}, which hold {self._sizes.tolist()[:20]}"
            )
        bases, held = self._bases, None
        if not mapped or self._dropping:
            held = self._mapped(sample)  # for as long as bytes are copied
            bases = np.zeros_like(bases)
            for s, data in held.items():
                bases[s] = data.ctypes.data
        if not known:
            self._check(sample)
        lengths = np.empty((n, most), np.int32)
        copy_contexts(
            context,
            sample,
            bases,
            table.first,
            table.shard,
            table.ids,
            table.lengths,
            table.width,
            ids.view(np.uint8),
            lengths,
        )
        del held
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
        self._check(np.array([sample]))
        about: dict[str, Any] = json.loads(self._info_text(sample))["contexts"][row]
        name = self.manifest.shards[shard].name
        return {**about, "domain": domain, "shard": name, "key": table.keys[sample], "row": row}

    def _info_text(self, sample: int) -> bytes:
        table = self._loaded()
        begin = int(table.info[sample])
        data = self._map(int(table.shard[sample]))
        return data[begin : begin + int(table.info_size[sample])].tobytes()

    def holding(self, documents: Iterable[str]) -> Iterator[tuple[str, int]]:
        """All contexts that hold any of some documents, by domain and number, in order. Reads the JSON of all samples."""
        wanted = set(documents)
        marks = [json.dumps(d, ensure_ascii=False).encode() for d in sorted(wanted)]
        table = self._loaded()
        for number, domain in enumerate(self.domains):
            low, high = np.searchsorted(table.first, self._first[number : number + 2])
            for sample in range(int(low), int(high)):
                text = self._info_text(sample)
                if not any(mark in text for mark in marks):
                    continue
                self._check(np.array([sample]))
                first = int(table.first[sample]) - int(self._first[number])
                for row, about in enumerate(json.loads(text)["contexts"]):
                    if not wanted.isdisjoint(about["doc_ids"]):
                        yield domain, first + row

    def patches(self, domain: str, i: int) -> NDArray[np.uint16] | None:
        """Tokens of each patch of a context, in order: uint16 [p], a view; None where the shards have no patches."""
        sample, row = self._locate(domain, i)
        table = self._checked_table(sample)
        at, width = int(table.patches[sample]), int(table.patches_width[sample])
        return None if at < 0 else row_patches(self._map(int(table.shard[sample])), at, width, row)

    def durations(self, domain: str, i: int) -> NDArray[np.int32] | None:
        """Steps of each speech id of a context, in order: int32 [u], a view; None where they are not known."""
        sample, row = self._locate(domain, i)
        table, at = self._checked_table(sample), int(self._loaded().durations[sample])
        if at < 0:
            return None
        ids, modality = self._arrays(sample)[0], modality_table(self.manifest.vocabulary)
        return row_durations(self._map(int(table.shard[sample])), at, ids, row, modality)

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
            if self.cache is not None:
                self.cache.indexes()
            table = ShardTable.load(self.directory, self.manifest)
            self._checked = np.full(len(table.keys), not self.verify)
            self._table = table
        return self._table

    def _checked_table(self, sample: int) -> ShardTable:
        table = self._loaded()
        self._check(np.array([sample]))
        return table

    def _locate(self, domain: str, i: int) -> tuple[int, int]:
        number = self._domain(domain)
        if not 0 <= i < self._sizes[number]:
            raise IndexError(f"context {i} of domain '{domain}', which has {int(self._sizes[number])}")
        table, context = self._loaded(), int(self._first[number]) + i
        sample = int(np.searchsorted(table.first, context, side="right")) - 1
        return sample, context - int(table.first[sample])

    def _arrays(self, sample: int) -> tuple[Tokens, NDArray[np.int32]]:
        table = self._loaded()
        self._check(np.array([sample]))
        data, n = self._map(int(table.shard[sample])), int(table.first[sample + 1] - table.first[sample])
        seq_len, width = self.manifest.seq_len, int(table.width[sample])
        ids = np.frombuffer(data, self._dtype, n * seq_len, int(table.ids[sample])).reshape(n, seq_len)
        lengths = np.frombuffer(data, "<i4", n * width, int(table.lengths[sample])).reshape(n, width)
        return ids, lengths

    @property
    def _dropping(self) -> bool:
        """Whether there are more tars than may be mapped, so that one of them may go at any time."""
        return len(self._bases) > self._most_maps or self._scarce

    def _mapped(self, sample: Int64) -> dict[int, NDArray[np.uint8]]:
        """The tars of these samples, mapped for as long as they are held."""
        return {s: self._map(s) for s in np.unique(self._loaded().shard[sample]).tolist()}

    def _check(self, samples: Int64) -> None:
        """Compare samples with their checksums, each once."""
        table = self._loaded()
        for sample in np.unique(samples[~self._checked[samples]]).tolist():
            entry = self.manifest.shards[int(table.shard[sample])]
            begin, size = int(table.start[sample]), int(table.size[sample])
            data = self._map(int(table.shard[sample]))[begin : begin + size]
            if zlib.crc32(data.data) != int(table.crc32[sample]):
                raise damaged_sample(entry, table.keys[sample])
            self._checked[sample] = True

    def _map(self, shard: int) -> NDArray[np.uint8]:
        found = self._maps.get(shard)
        if found is not None:
            if self._scarce and self.cache is not None:  # what is in use stays, here and in the folder
                with suppress(KeyError):  # another thread may have dropped it just now
                    self._maps.move_to_end(shard)
                self.cache.used(self.manifest.shards[shard])
            return found
        mapped = self._opened(self.manifest.shards[shard])
        self._maps[shard] = mapped
        self._bases[shard] = mapped.ctypes.data
        # Dropping a mapping never closes it under a view: the view holds it until the view itself is gone.
        while len(self._maps) > self._most_maps or self._too_much():
            dropped, _ = self._maps.popitem(last=False)
            self._bases[dropped] = 0
        return mapped

    def _too_much(self) -> bool:
        """Whether more copies are mapped than may be kept: a removed one takes up the disk while it is mapped."""
        if self.cache is None or not self._scarce or len(self._maps) < 2:
            return False
        return sum(len(m) for m in self._maps.values()) > self.cache.cache_bytes

    def _opened(self, entry: ShardEntry) -> NDArray[np.uint8]:
        path = f"{self.directory}/{entry.name}"
        for _ in range(_TRIES):
            if self.cache is not None:
                self.cache.tar(entry)
            try:
                with open(path, "rb") as f:
                    if os.fstat(f.fileno()).st_size != entry.bytes:
                        check_size(self._fs, path, entry)  # raises
                    return np.frombuffer(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            except FileNotFoundError:
                if self.cache is None:
                    check_size(self._fs, path, entry)
                    raise
        raise UserError(
            f"the copy of {entry.name} is removed from {self.directory} again and again before it can be opened",
            fix="give the cache more bytes, or each process a folder of its own: too many shards are asked for at once",
        )

    def expect(self, domains: ArrayLike, contexts: ArrayLike) -> None:
        """Begin to copy, in a thread, the tars of contexts that will be asked for; does nothing for local shards.

        Args:
            domains: integers [n], places in `domains`.
            contexts: integers [n], numbers inside their domains.
        """
        if self.cache is None:
            return
        table = self._loaded()
        number = self._first[np.asarray(domains, np.int64)] + np.asarray(contexts, np.int64)
        sample = np.searchsorted(table.first, number, side="right") - 1
        shards = np.unique(table.shard[sample]).tolist()
        self.cache.expect(self.manifest.shards[s] for s in shards if s not in self._maps)


def _told(numbers: Int64) -> str:
    return f"{int(numbers.min())} to {int(numbers.max())}"


def _reopened(
    path: str, verify: bool, cache: str | None, cache_bytes: int, manifest: ShardManifest | None
) -> ShardReader:
    return ShardReader(path, verify=verify, cache=cache, cache_bytes=cache_bytes, manifest=manifest)
