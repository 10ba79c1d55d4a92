"""Contexts and tokens to WebDataset shards, one unit of work per shard.

Tokens move once, from the row groups of their cell into the shard of their context.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

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


def _load_tokens(rows: pa.Table, tokens: PartReader) -> dict[tuple[str, int], tuple[np.ndarray, str]]:
    """(part, row) -> (ids uint32, source) of every document the contexts hold."""
    pieces = rows["pieces"].combine_chunks().flatten()
    parts = np.asarray(pieces.field("part").to_pylist(), dtype=object)
    numbers = np.asarray(pieces.field("row"))
    loaded: dict[tuple[str, int], tuple[np.ndarray, str]] = {}
    for part in sorted(set(parts)):
        wanted = np.unique(numbers[parts == part])
        table = tokens.read_rows(part, wanted, ["source", "input_ids"])
        ids, sources = table["input_ids"].combine_chunks(), table["source"].to_pylist()
        for i, row in enumerate(wanted.tolist()):
            loaded[part, row] = (ids[i].values.to_numpy(), sources[i])
    return loaded


def _contexts(rows: pa.Table, tokens: PartReader, dtype: Any, batch: int) -> Iterator[Context]:
    for begin in range(0, rows.num_rows, batch):  # bounds the tokens held at once
        some = rows.slice(begin, batch)
        loaded = _load_tokens(some, tokens)
        for pieces in some["pieces"].to_pylist():
            found = [loaded[p["part"], p["row"]] for p in pieces]
            ids = [f[0][p["start"] : p["stop"]] for f, p in zip(found, pieces)]
            yield Context(
                np.concatenate(ids).astype(dtype),
                [len(x) for x in ids],
                [p["doc_id"] for p in pieces],
                [f[1] for f in found],
                [p["start"] for p in pieces],
            )


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
        stream = _contexts(rows, self._tokens, self._vocabulary["dtype"], 8 * config.block)
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
