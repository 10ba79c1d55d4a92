"""Stages `pack` and `shards`: ordered token documents -> packed contexts -> WebDataset shards per domain.

Packing plans with ids and lengths only; tokens move once, from the row groups of their cell into the shard of
their context. Contexts are shuffled by a hash of their place, never by what a worker happened to finish first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.packing import Plan, cut_positions, pack
from mixloom.pipeline.run import Part, PartReader, StageDirectory
from mixloom.pipeline.shards import INDEX_SUFFIX, Context, key_prefix, shard_name, write_shard
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.pipeline.storage import sha256_hex
from mixloom.tokenizers.stages import ShardsConfig, domain_name

PIECE = pa.struct(
    [
        pa.field("doc_id", pa.string()),
        pa.field("part", pa.string()),  # part of `tokenize` that holds the document
        pa.field("row", pa.int32()),  # its row there
        pa.field("start", pa.int32()),  # tokens start..stop of the document
        pa.field("stop", pa.int32()),
    ]
)

CONTEXTS = pa.schema(
    [
        pa.field("domain", pa.int32(), nullable=False),
        pa.field("cell", pa.int32(), nullable=False),
        pa.field("context", pa.int32(), nullable=False),  # number along the path of the cell
        pa.field("key", pa.uint64(), nullable=False),  # decides the shard and the place in it
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("pieces", pa.list_(PIECE), nullable=False),
    ]
)


def shuffle_keys(seed: int, cell: int, count: int) -> np.ndarray:
    """A uniform key per context of a cell: uint64 [count], by splitmix64 (Steele et al. 2014) over its place."""
    with np.errstate(over="ignore"):
        place = (np.uint64(cell) << np.uint64(32)) + np.arange(count, dtype=np.uint64)
        x = place + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        for _ in range(2):  # two rounds: neighbouring places share most of their bits
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return x


@dataclass(frozen=True, slots=True)
class _Found:
    """Where the tokens of a document lie."""

    part: str
    row: int
    length: int
    images: list[tuple[int, int]]


def _tokens_of_cell(
    tokens: PartReader, cell: int, parts: list[str], config: ShardsConfig
) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for part in parts:
        table, first = tokens.read_where(part, "cell", cell, ["doc_id", "length", "spans"])
        if not table.num_rows:
            continue
        lengths, spans = np.asarray(table["length"]), table["spans"].combine_chunks()
        # Only a document that will be cut needs to know where its images are.
        cut = np.ones(len(lengths), bool) if config.window == 1 else lengths > config.seq_len
        for i, doc_id in enumerate(table["doc_id"].to_pylist()):
            images = (
                [(s["start"], s["stop"]) for s in spans[i].as_py() if s["kind"] == "image"] if cut[i] else []
            )
            found[doc_id] = _Found(part, first + i, int(lengths[i]), images)
    return found


def pack_cell(order: pa.Table, tokens: PartReader, config: ShardsConfig, seed: int) -> UnitOutput:
    """Pack the documents of one cell, in path order, into contexts (schema `CONTEXTS`)."""
    started = time.perf_counter()
    cell = order["cell"][0].as_py()
    parts = sorted(set(order["part"].to_pylist()))
    found = _tokens_of_cell(tokens, cell, parts, config)
    path = [
        d for d in order["doc_id"].to_pylist() if d in found
    ]  # what failed to tokenize is in the ledger already
    where = [found[d] for d in path]
    plan = pack(
        [w.length for w in where],
        config.seq_len,
        config.window,
        lambda d: cut_positions(where[d].length, where[d].images),
    )
    table = _contexts_table(plan, path, where, order["domain"][0].as_py(), cell, seed)
    info = {
        "domain": order["domain"][0].as_py(),
        "contexts": len(plan),
        "fill": plan.fill,
        "forced_cuts": plan.forced_cuts,
    }
    name = f"cell-{cell:06d}"
    return UnitOutput(
        name, (OutputTable(name, table),), None, len(path), (), info, time.perf_counter() - started
    )


def _contexts_table(
    plan: Plan, path: list[str], where: list[_Found], domain: int, cell: int, seed: int
) -> pa.Table:
    n = len(plan)
    pieces = [
        [
            {"doc_id": path[d], "part": where[d].part, "row": where[d].row, "start": start, "stop": stop}
            for d, start, stop in plan.pieces(c)
        ]
        for c in range(n)
    ]
    columns = {
        "domain": pa.array([domain] * n, pa.int32()),
        "cell": pa.array([cell] * n, pa.int32()),
        "context": pa.array(np.arange(n, dtype=np.int32)),
        "key": pa.array(shuffle_keys(seed, cell, n)),
        "tokens": pa.array(plan.fills.astype(np.int32)),
        "pieces": pa.array(pieces, pa.list_(PIECE)),
    }
    return pa.table(columns, schema=CONTEXTS)


class PackCells(beam.PTransform):
    """Names of cells -> one `UnitOutput` of contexts per cell."""

    def __init__(self, order: PartReader, tokens: PartReader, config: ShardsConfig, seed: int) -> None:
        super().__init__()
        self._args = (order, tokens, config, seed)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | "Spread" >> beam.Reshuffle() | "Pack" >> beam.ParDo(_PackDoFn(*self._args))


class _PackDoFn(beam.DoFn):
    def __init__(self, order: PartReader, tokens: PartReader, config: ShardsConfig, seed: int) -> None:
        self._order, self._tokens, self._config, self._seed = order, tokens, config, seed

    def process(self, cell: str) -> Iterator[UnitOutput]:
        yield pack_cell(self._order.read(cell), self._tokens, self._config, self._seed)


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
        yield UnitOutput(spec.unit, (), None, entry.documents, files, info, time.perf_counter() - started)


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
