"""Ordered documents of a cell to packed contexts: which piece of which document stands where.

Packing plans with ids and lengths only; no token is read. Contexts are shuffled by a hash of their place, never by what
a worker happened to finish first. What filled the emptiest contexts of a cell is set aside, for `tails`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.context_similarity import window_table
from mixloom.pipeline.packing import Blocks, Plan, pack
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.tokenizers.stages import ShardsConfig

PIECE = pa.struct(
    [
        pa.field("doc_id", pa.string()),
        pa.field("part", pa.string()),  # part of `tokenize` that holds the document
        pa.field("row", pa.int32()),  # its row there
        pa.field("start", pa.int32()),  # tokens start..stop of the document
        pa.field("stop", pa.int32()),
        pa.field("copy", pa.int32()),  # 0; from 1 on where the order repeats the document
    ]
)

CONTEXTS = pa.schema(
    [
        pa.field("domain", pa.int32(), nullable=False),
        pa.field("cell", pa.int32(), nullable=False),  # -1: joined from several cells of the domain
        pa.field("context", pa.int32(), nullable=False),  # number along the path of the cell
        pa.field("key", pa.uint64(), nullable=False),  # decides the shard and the place in it
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("pieces", pa.list_(PIECE), nullable=False),
    ]
)


SPANS = pa.list_(pa.struct([pa.field("start", pa.int32()), pa.field("stop", pa.int32())]))

TAILS_FOLDER = "tails"
TAILS = pa.schema(
    [
        *(
            pa.field(PIECE.field(i).name, PIECE.field(i).type, nullable=False)
            for i in range(PIECE.num_fields)
        ),
        pa.field("group", pa.int32(), nullable=False),  # of near duplicates inside the cell, -1: none
        pa.field("blocks", SPANS, nullable=False),  # what may not be cut, counted from the start of the piece
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


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Documents, or pieces of them, in path order: what is packed.

    documents: the columns doc_id, part, row, copy; start and length int64 [n], in tokens; blocks: what may not be cut, counted
    from the start of each; groups: int64 [n], of near duplicates, -1 none.
    """

    documents: pa.Table
    start: np.ndarray
    length: np.ndarray
    blocks: Blocks
    groups: np.ndarray


def _tokenized(tokens: PartReader, cell: int, parts: list[str]) -> pa.Table:
    """Where the documents of a cell lie in `tokenize`: doc_id, part, row, length, images (spans)."""
    tables = []
    for part in parts:
        table, first = tokens.read_where(part, "cell", cell, ["doc_id", "length", "spans"])
        n = table.num_rows
        spans = table["spans"].combine_chunks()
        lengths = np.asarray(spans.value_lengths(), np.int64)
        flat = spans.flatten()
        image = np.asarray(pc.equal(flat.field("kind"), "image"), bool)
        counts = np.bincount(np.repeat(np.arange(n), lengths)[image], minlength=n)
        inside = pa.StructArray.from_arrays(
            [flat.field("start").filter(pa.array(image)), flat.field("stop").filter(pa.array(image))],
            fields=list(SPANS.value_type),
        )
        tables.append(
            pa.table(
                {
                    "doc_id": table["doc_id"],
                    "part": pa.array([part] * n, pa.string()),
                    "row": pa.array(np.arange(first, first + n, dtype=np.int32)),
                    "length": table["length"],
                    "images": list_array(counts, inside),
                }
            )
        )
    return pa.concat_tables(tables)


def list_array(counts: np.ndarray, values: pa.Array) -> pa.ListArray:
    """A list array of lists of these lengths."""
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(counts)].astype(np.int32)), values)


def spans_of(lists: pa.ChunkedArray) -> Blocks:
    """A column of `SPANS` as blocks."""
    array = lists.combine_chunks()
    flat = array.flatten()
    spans = np.stack([np.asarray(flat.field(name), np.int64) for name in ("start", "stop")], axis=1)
    return Blocks(np.r_[0, np.cumsum(np.asarray(array.value_lengths(), np.int64))].astype(np.int64), spans)


def _pieces_of_cell(order: pa.Table, tokens: PartReader) -> tuple[Pieces, np.ndarray]:
    """The documents of a cell in path order, and their places on it (what failed to tokenize has left a gap)."""
    cell = order["cell"][0].as_py()
    found = _tokenized(tokens, cell, sorted(set(order["part"].to_pylist())))
    at = pc.index_in(order["doc_id"].combine_chunks(), found["doc_id"].combine_chunks())
    place = np.flatnonzero(np.asarray(at.is_valid()))
    table = found.take(at.drop_null())
    known = {
        name: np.asarray(order[name]) for name in ("near_duplicates", "copy") if name in order.column_names
    }
    groups = known.get("near_duplicates", np.full(order.num_rows, -1))[place].astype(np.int64)
    copies = known.get("copy", np.zeros(order.num_rows))[place].astype(np.int32)
    # Copies of one document are near duplicates of each other, whatever the order says.
    alone = groups < 0
    groups[alone] = groups.max(initial=0) + 1 + np.asarray(at.drop_null(), np.int64)[alone]
    length = np.asarray(table["length"], np.int64)
    documents = table.select(["doc_id", "part", "row"]).append_column("copy", pa.array(copies))
    return Pieces(documents, np.zeros(len(place), np.int64), length, spans_of(table["images"]), groups), place


def pack_cell(order: PartReader, tokens: PartReader, name: str, config: ShardsConfig) -> UnitOutput:
    """Pack the documents of one cell, in path order, into contexts (schema `CONTEXTS`), and set tails aside (`TAILS`)."""
    started = time.perf_counter()
    path = order.read(name)
    domain, cell = path["domain"][0].as_py(), path["cell"][0].as_py()
    pieces, place = _pieces_of_cell(path, tokens)
    window = config.window_of(domain)
    plan = pack(pieces.length, config.seq_len, window, pieces.blocks, pieces.groups)
    aside = tail_contexts(plan, config.join_tails, window)
    kept, tails = taken(plan, ~aside), taken(plan, aside)
    documents = pc.sum(pc.equal(pieces.documents["copy"], 0)).as_py() or 0
    info = {
        **facts(kept, domain),
        "cell": cell,
        "documents": documents,
        "tails": len(tails),
        "contexts_alone": len(plan),
        "fill_alone": plan.fill,
    }
    vectors = f"vectors/{name}"
    if config.measure_windows and vectors in order:
        column = order.read(vectors, ["vector"])["vector"].combine_chunks()
        found = np.asarray(column.flatten()).reshape(path.num_rows, -1)[place]
        info["windows"] = window_table(
            pieces.length,
            found,
            config.seq_len,
            config.measure_windows,
            config.seed,
            pieces.blocks,
            pieces.groups,
        )
    tables = [
        OutputTable(
            name, contexts_table(kept, pieces, domain, cell, shuffle_keys(config.seed, cell, len(kept)))
        )
    ]
    if len(tails):
        tables.append(OutputTable(f"{TAILS_FOLDER}/{name}", _tails_table(tails, pieces)))
    seconds = time.perf_counter() - started
    return UnitOutput(name, tuple(tables), None, documents, (), info, seconds)


def facts(plan: Plan, domain: int) -> dict[str, Any]:
    """What the manifest tells of some contexts."""
    return {"domain": domain, "contexts": len(plan), "fill": plan.fill, "forced_cuts": plan.forced_cuts}


def tail_contexts(plan: Plan, most: int, window: int) -> np.ndarray:
    """Contexts to be joined with those of other cells: bool [contexts].

    The emptiest `most` that are not full, and those less than half full, of which there are several only where near
    duplicates were kept apart. Where documents were concatenated, only the last: it alone is cut off by the end of the cell.
    """
    aside = np.zeros(len(plan), bool)
    fills = plan.fills
    chosen = np.argsort(fills, kind="stable")[:most] if window > 1 else np.arange(len(plan))[-min(most, 1) :]
    if most:
        aside[chosen] = fills[chosen] < plan.seq_len
        if window > 1:
            aside |= 2 * fills < plan.seq_len
    return aside


def taken(plan: Plan, keep: np.ndarray) -> Plan:
    """The contexts of a plan for which bool [contexts] says so."""
    counts = np.diff(plan.offsets)
    own = np.repeat(keep, counts)
    offsets = np.r_[0, np.cumsum(counts[keep])].astype(np.int64)
    return Plan(plan.seq_len, plan.doc[own], plan.start[own], plan.stop[own], offsets, plan.forced_cuts)


def contexts_table(plan: Plan, pieces: Pieces, domain: int, cell: int, keys: np.ndarray) -> pa.Table:
    """A plan over pieces as rows of `CONTEXTS`."""
    n = len(plan)
    columns = {
        "domain": pa.array(np.full(n, domain, np.int32)),
        "cell": pa.array(np.full(n, cell, np.int32)),
        "context": pa.array(np.arange(n, dtype=np.int32)),
        "key": pa.array(keys),
        "tokens": pa.array(plan.fills.astype(np.int32)),
        "pieces": list_array(
            np.diff(plan.offsets),
            pa.StructArray.from_arrays(_piece_columns(plan, pieces), fields=list(PIECE)),
        ),
    }
    return pa.table(columns, schema=CONTEXTS)


def _piece_columns(plan: Plan, pieces: Pieces) -> list[pa.Array]:
    named = pieces.documents.take(pa.array(plan.doc))
    moved = pieces.start[plan.doc]
    bounds = [(moved + x).astype(np.int32) for x in (plan.start, plan.stop)]
    first, copy = (
        (named[c].combine_chunks() for c in ("doc_id", "part", "row")),
        named["copy"].combine_chunks(),
    )
    return [*first, *map(pa.array, bounds), copy]


def _tails_table(plan: Plan, pieces: Pieces) -> pa.Table:
    """The pieces of a plan in path order, as rows of `TAILS`."""
    order = np.lexsort((plan.start, plan.doc))
    doc, start, stop = plan.doc[order], plan.start[order], plan.stop[order]
    spans = [pieces.blocks.within(d, a, b) for d, a, b in zip(doc.tolist(), start.tolist(), stop.tolist())]
    flat = np.concatenate([*spans, np.zeros((0, 2), np.int64)]).astype(np.int32)
    blocks = pa.StructArray.from_arrays(
        [pa.array(flat[:, 0]), pa.array(flat[:, 1])], fields=list(SPANS.value_type)
    )
    ordered = Plan(plan.seq_len, doc, start, stop, plan.offsets, 0)
    columns = [
        *_piece_columns(ordered, pieces),
        pa.array(pieces.groups[doc].astype(np.int32)),
        list_array(np.array([len(s) for s in spans]), blocks),
    ]
    return pa.table(columns, schema=TAILS)


class PackCells(beam.PTransform):
    """Names of cells -> one `UnitOutput` of contexts per cell."""

    def __init__(self, order: PartReader, tokens: PartReader, config: ShardsConfig) -> None:
        super().__init__()
        self._args = (order, tokens, config)

    def expand(self, pcoll: Any) -> Any:
        return pcoll | "Spread" >> beam.Reshuffle() | "Pack" >> beam.ParDo(_PackDoFn(*self._args))


class _PackDoFn(beam.DoFn):
    def __init__(self, order: PartReader, tokens: PartReader, config: ShardsConfig) -> None:
        self._order, self._tokens, self._config = order, tokens, config

    def process(self, cell: str) -> Iterator[UnitOutput]:
        yield pack_cell(self._order, self._tokens, cell, self._config)
