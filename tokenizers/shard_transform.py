"""Contexts and tokens to WebDataset shards, one unit of work per shard.

Tokens move once, from the row groups of their cell into the shard of their context.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.beside_tokens import cut_patches
from mixloom.pipeline.run import Part, PartReader, StageDirectory
from mixloom.pipeline.shards import INDEX_SUFFIX, Context, key_prefix, shard_name, write_shard
from mixloom.pipeline.stage import UnitOutput
from mixloom.pipeline.storage import sha256_hex
from mixloom.tokenizers.stages import ShardsConfig, domain_name


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """One shard to write: contexts of `domain` whose key falls to number `shard` of `shards`."""

    domain: int
    shard: int
    shards: int
    cells: tuple[str, ...]

    @property
    def unit(self) -> str:
        return f"{domain_name(self.domain)}-{self.shard:05d}"


def contexts_of(spec: ShardSpec, contexts: PartReader) -> pa.Table:
    """The contexts of a shard, in the order they are stored."""
    tables = []
    for cell in spec.cells:
        table = contexts.read(cell)
        mine = np.asarray(table["key"]) % np.uint64(spec.shards) == spec.shard
        tables.append(table.filter(pa.array(mine)))
    return pa.concat_tables(tables).sort_by(
        [("key", "ascending"), ("cell", "ascending"), ("context", "ascending")]
    )


class _Stored(NamedTuple):
    """A document as `tokenize` wrote it: ids uint32 [n]; patches uint16 [p] and durations int32 [u], or None."""

    ids: np.ndarray
    source: str
    patches: np.ndarray | None
    durations: np.ndarray | None


def _load_tokens(rows: pa.Table, tokens: PartReader) -> dict[tuple[str, int], _Stored]:
    """(part, row) -> every document the contexts hold."""
    pieces = rows["pieces"].combine_chunks().flatten()
    parts = np.asarray(pieces.field("part").to_pylist(), dtype=object)
    numbers = np.asarray(pieces.field("row"))
    loaded: dict[tuple[str, int], _Stored] = {}
    for part in sorted(set(parts)):
        wanted = np.unique(numbers[parts == part])
        table = tokens.read_rows(part, wanted, ["source", "input_ids", "patch_lengths", "durations"])
        lists = [table[c].combine_chunks() for c in ("input_ids", "patch_lengths", "durations")]
        sources = table["source"].to_pylist()
        for i, row in enumerate(wanted.tolist()):
            patches, durations = (x[i].values.to_numpy() if x[i].is_valid else None for x in lists[1:])
            loaded[part, row] = _Stored(lists[0][i].values.to_numpy(), sources[i], patches, durations)
    return loaded


def _beside(found: list[_Stored], pieces: list[dict[str, Any]], units: tuple[int, int]) -> dict[str, Any]:
    """Patch lengths and durations of the pieces of a context, as `Context` has them; `units` are the ids of speech."""
    patches, durations = [], []
    for one, piece in zip(found, pieces):
        start, stop = piece["start"], piece["stop"]
        if one.patches is not None:
            patches.append(cut_patches(one.patches, start, stop))
        if one.durations is not None:
            spoken = (one.ids[:stop] >= units[0]) & (one.ids[:stop] < units[1])
            before = int(np.count_nonzero(spoken[:start]))
            durations.append(one.durations[before : before + int(np.count_nonzero(spoken[start:]))])
    return {
        "patch_lengths": np.concatenate(patches) if patches else None,
        "durations": np.concatenate(durations) if durations else None,
    }


def _contexts(
    rows: pa.Table, tokens: PartReader, dtype: Any, batch: int, units: tuple[int, int] = (0, 0)
) -> Iterator[Context]:
    for begin in range(0, rows.num_rows, batch):  # bounds the tokens held at once
        some = rows.slice(begin, batch)
        loaded = _load_tokens(some, tokens)
        for pieces in some["pieces"].to_pylist():
            found = [loaded[p["part"], p["row"]] for p in pieces]
            ids = [f.ids[p["start"] : p["stop"]] for f, p in zip(found, pieces)]
            yield Context(
                np.concatenate(ids).astype(dtype),
                [len(x) for x in ids],
                [p["doc_id"] for p in pieces],
                [f.source for f in found],
                [p["start"] for p in pieces],
                **_beside(found, pieces, units),
            )


def _units(vocabulary: dict[str, Any]) -> tuple[int, int]:
    """The ids of speech: first, and last + 1."""
    block = next((r for r in vocabulary["ranges"] if r["name"] == "speech"), {"start": 0, "size": 0})
    return int(block["start"]), int(block["start"]) + int(block["size"])


def _begun(rows: pa.Table) -> int:
    """Documents that begin in these contexts; a repetition of one is not another."""
    pieces = rows["pieces"].combine_chunks().flatten()
    return int(np.sum((np.asarray(pieces.field("start")) == 0) & (np.asarray(pieces.field("copy")) == 0)))


class _ShardDoFn(beam.DoFn):
    def __init__(
        self,
        directory: StageDirectory,
        contexts: PartReader,
        tokens: PartReader,
        config: ShardsConfig,
        vocabulary: dict[str, Any],
    ) -> None:
        self._directory, self._contexts, self._tokens = directory, contexts, tokens
        self._config, self._vocabulary = config, vocabulary

    def process(self, spec: ShardSpec) -> Iterator[UnitOutput]:
        started = time.perf_counter()
        rows = contexts_of(spec, self._contexts)
        if not rows.num_rows:
            yield UnitOutput(spec.unit)
            return
        domain = domain_name(spec.domain)
        name = shard_name(domain, spec.shard, spec.shards)
        config = self._config
        units = _units(self._vocabulary)
        stream = _contexts(rows, self._tokens, self._vocabulary["dtype"], 8 * config.block, units)
        entry = write_shard(
            self._directory.store.root,
            name,
            domain,
            stream,
            prefix=key_prefix(spec.domain, spec.shard),
            seq_len=config.seq_len,
            vocabulary=self._vocabulary,
            block=config.block,
        )
        index_name = name + INDEX_SUFFIX
        index = self._directory.store.read(index_name)
        files = (
            Part(name, name, entry.contexts, entry.bytes, entry.sha256),
            Part(index_name, index_name, 0, len(index), sha256_hex(index)),
        )
        info = {"entry": entry.model_dump(mode="json")}
        documents = _begun(rows)
        yield UnitOutput(spec.unit, (), None, documents, files, info, time.perf_counter() - started)


class WriteShards(beam.PTransform):
    """`ShardSpec` -> one tar with its index, as a `UnitOutput`."""

    def __init__(
        self,
        directory: StageDirectory,
        contexts: PartReader,
        tokens: PartReader,
        config: ShardsConfig,
        vocabulary: dict[str, Any],
    ) -> None:
        super().__init__()
        self._args = (directory, contexts, tokens, config, vocabulary)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | "Spread" >> beam.Reshuffle() | "Write" >> beam.ParDo(_ShardDoFn(*self._args))
