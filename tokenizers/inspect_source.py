"""Contexts of shards to look at, read sample by sample and checked, and found by document, source or domain.

Unlike `ShardReader` this needs neither all tars of the manifest nor a local disk: a tar with its index and manifest
beside it is enough. It reads one sample at a time, so a search holds nothing but what it found.
"""

from __future__ import annotations

import json
import posixpath
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from mixloom.pipeline.beside_tokens import DURATIONS, PATCHES, row_durations
from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.manifest import ShardEntry, ShardManifest, modality_table, token_dtype
from mixloom.pipeline.shards import check_size, damaged_sample, load_index

_KEPT_SEARCHES = 8


@dataclass(frozen=True, slots=True)
class Query:
    """Which contexts to show: all that hold a piece of `document` (the beginning of its id) and of `source`, in `domain`."""

    document: str = ""
    source: str = ""
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Context `row` of sample `sample` of a shard, which is context `number` of its domain."""

    entry: ShardEntry
    sample: int
    row: int
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredContext:
    """One context as it is stored, and where: ids unsigned [seq_len], lengths int32 [pieces]; `pieces` is its JSON.

    `patches` uint16 [p]: tokens of each patch. `durations` int32 [u]: steps of each speech id. None: not stored.
    """

    ids: npt.NDArray[Any]
    lengths: npt.NDArray[np.int32]
    pieces: dict[str, Any]
    domain: str
    number: int
    shard: str
    key: str
    row: int
    patches: npt.NDArray[np.uint16] | None = None
    durations: npt.NDArray[np.int32] | None = None


class ContextSource:
    """The contexts of a run, of a folder of shards, or of one tar.

    Args:
        path: a run directory, a shards directory, its manifest.json, or one tar with its index and manifest beside it.

    Raises:
        UserError: no manifest there, or a tar that the manifest does not name.
    """

    def __init__(self, path: str) -> None:
        base = path.rstrip("/")
        tar = posixpath.basename(base) if base.endswith(".tar") else ""
        manifest = posixpath.join(posixpath.dirname(base), "manifest.json") if tar else base
        self.manifest = ShardManifest.load(manifest)
        self.entries = [e for e in self.manifest.shards if not tar or e.name == tar]
        if not self.entries:
            names = [e.name for e in self.manifest.shards]
            raise UserError(
                f"the manifest beside {path} names no shard '{tar}'{nearest(tar, names)}",
                fix="copy the manifest.json that was written with this tar",
            )
        self.directory = _directory(manifest)
        self._first = _numbers(self.manifest)
        self._indexes: dict[str, list[dict[str, Any]]] = {}
        self._sample: tuple[str, int, bytes] = ("", -1, b"")
        self._searches: dict[Query, tuple[list[Place], Iterator[Place]]] = {}

    @property
    def domains(self) -> list[str]:
        """Domains that these shards hold, in manifest order."""
        return list(dict.fromkeys(e.domain for e in self.entries))

    @property
    def sources(self) -> list[str]:
        """Sources that these shards hold, sorted."""
        return sorted({s for e in self.entries for s in e.tokens_by_source})

    @property
    def contexts(self) -> int:
        """Contexts of these shards."""
        return sum(e.contexts for e in self.entries)

    def find(self, query: Query, start: int, stop: int) -> list[Place]:
        """The matching contexts from `start` to `stop` (not included), in stored order; fewer where there are no more.

        Raises:
            UserError: a domain or source that these shards do not hold, or a missing or damaged file.
        """
        self._known(query)
        if not (query.document or query.source):
            return self._slice(query, start, stop)
        if query not in self._searches:
            while len(self._searches) >= _KEPT_SEARCHES:
                self._searches.pop(next(iter(self._searches)))
            self._searches[query] = ([], self._search(query))
        found, more = self._searches[query]
        while len(found) < stop:
            place = next(more, None)
            if place is None:
                break
            found.append(place)
        return found[start:stop]

    def read(self, place: Place) -> StoredContext:
        """A context; its sample is compared with the checksum of the index.

        Raises:
            UserError: a missing, truncated or damaged file, named with shard and sample.
        """
        entry, sample = place.entry, self._index(place.entry)[place.sample]
        data, about = self._bytes(entry, place.sample), sample["json"]
        ids = _row(data, sample, "input_ids", token_dtype(self.manifest.vocabulary), place.row)
        lengths = _row(data, sample, "doc_lengths", np.dtype("<i4"), place.row)
        begin = int(about["offset"]) - int(sample["offset"])
        pieces = json.loads(data[begin : begin + int(about["bytes"])])["contexts"][place.row]
        return StoredContext(
            ids,
            lengths[: int(np.count_nonzero(lengths))],
            pieces,
            entry.domain,
            place.number,
            entry.name,
            str(sample["key"]),
            place.row,
            *self._beside(data, sample, place.row),
        )

    def _beside(
        self, data: bytes, sample: dict[str, Any], row: int
    ) -> tuple[npt.NDArray[np.uint16] | None, npt.NDArray[np.int32] | None]:
        """Patches and durations of a context, where its sample has them."""
        patches = durations = None
        if PATCHES in sample:
            lengths = _row(data, sample, PATCHES, np.dtype("<u2"), row)
            patches = lengths[: int(np.count_nonzero(lengths))]
        if DURATIONS in sample:
            dtype = token_dtype(self.manifest.vocabulary)
            ids = np.stack([_row(data, sample, "input_ids", dtype, r) for r in range(row + 1)])
            at = int(sample[DURATIONS]["offset"]) - int(sample["offset"])
            raw = np.frombuffer(data, np.uint8)
            durations = row_durations(raw, at, ids, row, modality_table(self.manifest.vocabulary))
        return patches, durations

    def _known(self, query: Query) -> None:
        for what, value, there in (
            ("domain", query.domain, self.domains),
            ("source", query.source, self.sources),
        ):
            if value and value not in there:
                raise UserError(
                    f"these shards hold no {what} '{value}'{nearest(value, there)}",
                    fix=f"use one of: {', '.join(there[:20])}{' ...' if len(there) > 20 else ''}",
                )

    def _slice(self, query: Query, start: int, stop: int) -> list[Place]:
        """Without looking into samples: contexts are counted by the manifest and the indexes."""
        out: list[Place] = []
        at = 0
        for entry in self.entries:
            if query.domain and entry.domain != query.domain:
                continue
            low, high = max(start, at), min(stop, at + entry.contexts)
            if low < high:
                out += self._places(entry, low - at, high - at)
            at += entry.contexts
        return out

    def _places(self, entry: ShardEntry, low: int, high: int) -> list[Place]:
        rows = np.cumsum([0, *(int(s["rows"]) for s in self._index(entry))])
        samples = np.searchsorted(rows, np.arange(low, high), side="right") - 1
        first = self._first[entry.name]
        return [
            Place(entry, s, i - int(rows[s]), first + i) for i, s in zip(range(low, high), samples.tolist())
        ]

    def _search(self, query: Query) -> Iterator[Place]:
        for entry in self.entries:
            if query.domain not in ("", entry.domain) or (
                query.source and query.source not in entry.tokens_by_source
            ):
                continue
            number = self._first[entry.name]
            for i, sample in enumerate(self._index(entry)):
                about = sample["json"]
                raw = self._range(entry, int(about["offset"]), int(about["bytes"]))
                try:
                    contexts = json.loads(raw)["contexts"]
                except (ValueError, KeyError):
                    raise damaged_sample(entry, sample["key"]) from None
                for row, pieces in enumerate(contexts):
                    if _matches(pieces, query):
                        yield Place(entry, i, row, number + row)
                number += int(sample["rows"])

    def _index(self, entry: ShardEntry) -> list[dict[str, Any]]:
        if entry.name not in self._indexes:
            fs, root = fsspec.core.url_to_fs(self.directory)
            check_size(fs, f"{root}/{entry.name}", entry)
            self._indexes[entry.name] = load_index(self.directory, entry)["samples"]
        return self._indexes[entry.name]

    def _range(self, entry: ShardEntry, begin: int, count: int) -> bytes:
        fs, root = fsspec.core.url_to_fs(self.directory)
        return bytes(fs.cat_file(f"{root}/{entry.name}", start=begin, end=begin + count))

    def _bytes(self, entry: ShardEntry, number: int) -> bytes:
        """All members of a sample, checked; the last one read is kept."""
        if self._sample[:2] != (entry.name, number):
            sample = self._index(entry)[number]
            data = self._range(entry, int(sample["offset"]), int(sample["bytes"]))
            if zlib.crc32(data) != int(sample["crc32"]):
                raise damaged_sample(entry, sample["key"])
            self._sample = (entry.name, number, data)
        return self._sample[2]


def _matches(pieces: dict[str, Any], query: Query) -> bool:
    """Whether one piece of a context is of the document and the source that are asked for."""
    return any(
        d.startswith(query.document) and query.source in ("", s)
        for d, s in zip(pieces["doc_ids"], pieces["sources"])
    )


def _row(data: bytes, sample: dict[str, Any], name: str, dtype: np.dtype[Any], row: int) -> npt.NDArray[Any]:
    width = int(sample[name]["shape"][1])
    begin = int(sample[name]["offset"]) - int(sample["offset"])
    return np.frombuffer(data, dtype, width, begin + row * width * dtype.itemsize)


def _directory(manifest: str) -> str:
    """The folder of the manifest that was meant by a path."""
    from mixloom.pipeline.manifest import find_manifest

    return posixpath.dirname(find_manifest(manifest)) or "."


def _numbers(manifest: ShardManifest) -> dict[str, int]:
    """The number, inside its domain, of the first context of each shard."""
    out: dict[str, int] = {}
    counted: dict[str, int] = {}
    for entry in manifest.shards:
        out[entry.name] = counted.get(entry.domain, 0)
        counted[entry.domain] = out[entry.name] + entry.contexts
    return out
