"""The curation stages as Beam transforms, each usable on its own in another pipeline.

Every element is an Arrow record batch of one part (see `engine.with_part`). The judgement lies in the pure
functions these transforms call; nothing is decided here.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.annotate import annotate
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.cluster import Domains, assign_batch
from mixloom.pipeline.embed import batch_texts, embed_batch, vectors_of
from mixloom.pipeline.engine import like, one_batch, part_of, seconds_since_start
from mixloom.pipeline.order import ORDER, OrderConfig, order_cell
from mixloom.pipeline.rules import RuleSet, Verdicts, judge
from mixloom.pipeline.sampling import sampled
from mixloom.pipeline.schema import REJECTS, SURVIVORS
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.pipeline.storage import Store
from mixloom.pipeline.tfidf import TfidfSvd

FIRED_KEY = b"mixloom.fired"


class _AnnotateDoFn(beam.DoFn):
    def __init__(self, config: AnnotateConfig) -> None:
        self._config = config

    def process(self, documents: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield like(annotate(documents, self._config), documents)


class Annotate(beam.PTransform):
    """Documents (schema `DOCUMENTS`) -> annotations (schema `ANNOTATIONS`), one row each, same order."""

    def __init__(self, config: AnnotateConfig) -> None:
        super().__init__()
        self._config = config

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_AnnotateDoFn(self._config)).with_output_types(pa.RecordBatch)


def decide(annotations: pa.RecordBatch, rules: dict[str, RuleSet], default: RuleSet) -> pa.RecordBatch:
    """Judge every row by the rules of its source (`default` where `rules` names none).

    Returns:
        One row per document: doc_id, source, keep (bool), reason (null when kept), value, limit. The schema
        metadata tell under `FIRED_KEY` on how many documents each rule fires by itself, as JSON.
    """
    sources = np.asarray(annotations.column("source").to_pylist(), dtype=object)
    n = annotations.num_rows
    keep = np.ones(n, dtype=bool)
    reason: list[str | None] = [None] * n
    value, limit = np.full(n, np.nan), np.full(n, np.nan)
    fired: Counter[str] = Counter()
    for source in sorted(set(sources)):
        ruleset = rules.get(source, default)
        rows = np.flatnonzero(sources == source)
        verdicts: Verdicts = judge(annotations.take(pa.array(rows)), ruleset)
        keep[rows], value[rows], limit[rows] = verdicts.keep, verdicts.value, verdicts.limit
        for row, rule in zip(rows, verdicts.rule):
            reason[row] = ruleset.rules[rule].name if rule >= 0 else None
        fired.update({rule.name: int(n) for rule, n in zip(ruleset.rules, verdicts.fired)})
    dropped = pa.array(keep)
    columns = {
        "doc_id": annotations.column("doc_id"),
        "source": annotations.column("source"),
        "keep": dropped,
        "reason": pa.array(reason, pa.string()),
        "value": pa.array(value, pa.float64(), mask=keep),
        "limit": pa.array(limit, pa.float64(), mask=keep),
    }
    return pa.RecordBatch.from_pydict(
        columns, metadata={FIRED_KEY: json.dumps(fired, sort_keys=True).encode()}
    )


class _DecideDoFn(beam.DoFn):
    def __init__(self, rules: dict[str, RuleSet], default: RuleSet) -> None:
        self._rules, self._default = rules, default

    def process(self, annotations: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield like(decide(annotations, self._rules, self._default), annotations)


class ApplyRules(beam.PTransform):
    """Annotations -> decisions (see `decide`), one row per document, same order."""

    def __init__(self, default: RuleSet, by_source: dict[str, RuleSet] | None = None) -> None:
        super().__init__()
        self._default, self._by_source = default, by_source or {}

    def expand(self, pcoll: Any) -> Any:
        work = _DecideDoFn(self._by_source, self._default)
        return pcoll | beam.ParDo(work).with_output_types(pa.RecordBatch)


def decision_output(decisions: pa.RecordBatch, stage: str) -> UnitOutput:
    """Decisions over whole parts -> survivors (with their row numbers) and the ledger of the dropped."""
    keep = decisions.column("keep")
    rows = pa.array(np.arange(decisions.num_rows, dtype=np.int32))
    survivors = pa.table([decisions.column("doc_id"), rows], schema=SURVIVORS).filter(keep)
    dropped = decisions.filter(pc.invert(keep))
    n = dropped.num_rows
    rejects = pa.table(
        {
            "doc_id": dropped.column("doc_id"),
            "source": dropped.column("source"),
            "locator": pa.nulls(n, REJECTS.field("locator").type),
            "stage": pa.array([stage] * n, pa.string()),
            "scope": pa.array(["document"] * n, pa.string()),
            "outcome": pa.array(["dropped"] * n, pa.string()),
            "reason": dropped.column("reason"),
            "value": dropped.column("value"),
            "limit": dropped.column("limit"),
            "detail": pa.nulls(n, pa.string()),
        },
        schema=REJECTS,
    )
    part = part_of(decisions)
    table = OutputTable(part, survivors)
    info = {"fired": json.loads((decisions.schema.metadata or {}).get(FIRED_KEY, b"{}"))}
    seconds = seconds_since_start(decisions)
    return UnitOutput(part, (table,), rejects, survivors.num_rows, info=info, seconds=seconds)


def rows_output(batch: pa.RecordBatch) -> UnitOutput:
    """One output row per document, nothing dropped."""
    part = part_of(batch)
    table = OutputTable(part, pa.Table.from_batches([batch]))
    return UnitOutput(part, (table,), None, batch.num_rows, seconds=seconds_since_start(batch))


class _EmbedDoFn(beam.DoFn):
    def __init__(self, model: Store) -> None:
        self._store = model
        self._model: TfidfSvd | None = None

    def setup(self) -> None:
        self._model = TfidfSvd.load(self._store.root)

    def process(self, documents: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        assert self._model is not None
        vectors = embed_batch(self._model, documents)
        if "row" in documents.schema.names:
            at = vectors.schema.get_field_index("row")
            vectors = vectors.set_column(at, vectors.schema.field(at), documents.column("row"))
        yield like(vectors, documents)


class Embed(beam.PTransform):
    """Documents -> vectors (`embed.vectors_schema`), by a fitted and saved model; a column `row` is carried over."""

    def __init__(self, model: Store) -> None:
        super().__init__()
        self._model = model

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_EmbedDoFn(self._model)).with_output_types(pa.RecordBatch)


class _AssignDoFn(beam.DoFn):
    def __init__(self, model: Store) -> None:
        self._store = model
        self._model: Domains | None = None

    def setup(self) -> None:
        self._model = Domains.load(self._store.root)

    def process(self, vectors: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        assert self._model is not None
        yield like(assign_batch(self._model, vectors), vectors)


class AssignDomains(beam.PTransform):
    """Vectors -> nearest domain and cell (schema `DOMAINS`), by a fitted and saved model."""

    def __init__(self, model: Store) -> None:
        super().__init__()
        self._model = model

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_AssignDoFn(self._model)).with_output_types(pa.RecordBatch)


def split_by(batch: pa.RecordBatch, keys: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Split a batch by an integer key per row, in key order; rows keep their order."""
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    rows = batch.take(pa.array(order))
    for i, value in enumerate(values):
        stop = starts[i + 1] if i + 1 < len(starts) else len(order)
        yield int(value), rows.slice(int(starts[i]), int(stop - starts[i]))


class _ByCellDoFn(beam.DoFn):
    """Joins a part's vectors with its cells and sends ids and half-precision vectors to the cells."""

    def __init__(self, assignments: Any, finished: frozenset[str]) -> None:
        self._assignments, self._finished = assignments, finished

    def process(self, vectors: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        part = part_of(vectors)
        table = self._assignments.read(part, ["domain", "cell"])
        half = vectors_of(vectors).astype(np.float16)
        dim = half.shape[1]
        batch = pa.RecordBatch.from_pydict(
            {
                "doc_id": vectors.column("doc_id"),
                "part": pa.array([part] * vectors.num_rows, pa.string()),
                "row": vectors.column("row"),
                "domain": table["domain"].combine_chunks(),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(half.ravel()), dim),
            }
        )
        for cell, rows in split_by(batch, np.asarray(table["cell"])):
            if cell_name(cell) not in self._finished:
                yield cell, rows


def cell_name(cell: int) -> str:
    return f"cell-{cell:06d}"


class _OrderCellDoFn(beam.DoFn):
    def __init__(self, config: OrderConfig) -> None:
        self._config = config

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[UnitOutput]:
        started = time.perf_counter()
        cell, batches = element
        rows = one_batch(pa.Table.from_batches(list(batches)).sort_by("doc_id"))
        vectors = np.asarray(rows.column("vector").flatten()).reshape(rows.num_rows, -1).astype(np.float32)
        # Half precision leaves the vectors a little off unit length; cosine needs them exact.
        norm = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(norm > 0, norm, 1.0)
        order = order_cell(vectors, rows.column("doc_id").to_pylist(), self._config)
        path = rows.take(pa.array(order.path))
        n = rows.num_rows
        table = pa.table(
            {
                "doc_id": path.column("doc_id"),
                "part": path.column("part"),
                "row": path.column("row"),
                "domain": path.column("domain"),
                "cell": pa.array(np.full(n, cell, np.int32)),
                "rank": pa.array(np.arange(n, dtype=np.int32)),
                "similarity": pa.array(order.similarity.astype(np.float32)),
            },
            schema=ORDER,
        )
        info = {**asdict(order.stats), "bound_share": order.stats.bound_share}
        output = OutputTable(cell_name(cell), table)
        yield UnitOutput(cell_name(cell), (output,), None, n, (), info, time.perf_counter() - started)


class OrderCells(beam.PTransform):
    """Vectors of every part -> one ordered path per cell (schema `ORDER`), as one unit of work per cell.

    Only ids and half-precision vectors go through the shuffle. A cell is bounded by `cluster.max_cell`.
    """

    def __init__(self, assignments: Any, config: OrderConfig, finished: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._assignments, self._config, self._finished = assignments, config, finished

    def expand(self, pcoll: Any) -> Any:
        return (
            pcoll
            | "ByCell"
            >> beam.ParDo(_ByCellDoFn(self._assignments, self._finished)).with_output_types(
                tuple[int, pa.RecordBatch]
            )
            | "Gather" >> beam.GroupByKey()
            | "Order" >> beam.ParDo(_OrderCellDoFn(self._config))
        )


def sample_output(batch: pa.RecordBatch, bound: str, select: Any) -> UnitOutput:
    """What `select(batch, chosen)` takes from one part, as a part `sample/<part>`; `chosen` is the mask of the sample."""
    part = part_of(batch)
    table = pa.Table.from_batches([select(batch, sampled(batch.column("doc_id"), bound))])
    return UnitOutput(
        f"sample-{part}", (OutputTable(f"sample/{part}", table),), seconds=seconds_since_start(batch)
    )


def sample_texts(batch: pa.RecordBatch, chosen: pa.Array) -> pa.RecordBatch:
    """doc_id and the words of each sampled document, for fitting text models."""
    some = batch.filter(chosen)
    texts = pa.array(batch_texts(some), pa.large_string())
    return pa.RecordBatch.from_arrays([some.column("doc_id"), texts], ["doc_id", "text"])


def sample_segments(batch: pa.RecordBatch, chosen: pa.Array, media: int) -> pa.RecordBatch:
    """The texts of the sampled documents, and references to media of any document, for fitting codecs.

    Media are rare in some corpora, so they are drawn apart from the documents: from each part, the `media`
    images and as many clips with the smallest hashes.
    """
    segments = batch.column("segments").flatten()
    of = pa.array(np.repeat(np.arange(batch.num_rows), pc.list_value_length(batch.column("segments"))))
    item = segments.field("media")
    rows = pa.RecordBatch.from_pydict(
        {
            "doc_id": batch.column("doc_id").take(of),
            "source": batch.column("source").take(of),
            "kind": segments.field("kind"),
            "text": segments.field("text"),
            "uri": item.field("uri"),
            "member": item.field("member"),
            "sha256": item.field("sha256"),
            "seconds": item.field("seconds"),
        }
    )
    kinds = rows.column("kind")
    taken = [rows.filter(pc.and_(pc.equal(kinds, "text"), chosen.take(of)))]
    for kind in ("image", "speech"):
        found = rows.filter(pc.equal(kinds, kind)).sort_by([("sha256", "ascending"), ("doc_id", "ascending")])
        taken.append(found.slice(0, media))
    return one_batch(pa.Table.from_batches(taken))
