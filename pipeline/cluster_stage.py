"""Stage `cluster`: fit domains on sampled vectors, and give every document its domain and a cell of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixloom.pipeline import sampling
from mixloom.pipeline.embed_stage import MODEL, vector_parts
from mixloom.pipeline.stage import OutputTable, Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    import pyarrow as pa

    from mixloom.pipeline.cell_cuts import KeyRanges
    from mixloom.pipeline.cluster import Domains
    from mixloom.pipeline.cluster_config import ClusterConfig
    from mixloom.pipeline.run import UnitRecord

FIT = "fit"
WORDS = "words"
DESCRIBED = 10_000  # sampled documents whose words and beginnings tell what domains are about


class ClusterStage(Stage):
    """Vectors -> a domain and a cell for every document: balanced k-means centres, nearest centre wins.

    Fit on a sample (`fit`); count what every cell gets and cut those above the bound (`counts`, `model`); assign every
    part; count the words of sampled documents by domain (`words`).
    """

    name = "cluster"
    version = 2
    inputs = ("embed", "ingest")

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def info_of(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """What was fitted, what domains are about, and what of each source they hold."""
        from mixloom.pipeline.domain_report import source_facts

        told = {r.unit: r.info for r in records if r.unit in (FIT, MODEL, WORDS)}
        by_source = [row for r in records if r.unit.startswith("part-") for row in r.info["sources"]]
        model = {**told.get(FIT, {}), **told.get(MODEL, {}), **told.get(WORDS, {})}
        return {MODEL: model, "domains": source_facts(by_source, model.get("k", 0))}

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.cluster_transform import AssignDomains, domains_output
        from mixloom.pipeline.engine import Commit, ReadParts

        parts = vector_parts(ctx)
        if ctx.todo([FIT]):
            ctx.commit(self._fit(ctx))
        if ctx.todo([MODEL]):
            ctx.commit(self._bounded(ctx))
        model, documents = ctx.directory.store.child(MODEL), ctx.reader("ingest")
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts), reshuffle=False)
                | ReadParts(ctx.reader("embed"))
                | AssignDomains(model)
                | "Rows" >> beam.Map(domains_output, documents=documents).with_output_types(UnitOutput)
                | Commit(ctx.directory)
            ),
            len(parts) + 3,
        )
        if ctx.todo([WORDS]):
            ctx.commit(self._words(ctx))

    def _fit(self, ctx: StageContext) -> UnitOutput:
        from dataclasses import asdict

        import numpy as np
        import pyarrow as pa

        from mixloom.pipeline.cluster import fit_domains
        from mixloom.pipeline.embed import vectors_of

        reader, kept = ctx.reader("embed"), ctx.manifest("embed").counts.kept
        bound = sampling.threshold(kept, self.config.sample_documents)
        tables = []
        for part in vector_parts(ctx):
            table = reader.read(part, ["doc_id", "vector", "has_text"])
            tables.append(table.filter(sampling.sampled(table["doc_id"], bound)))
        sample = pa.concat_tables(tables).sort_by("doc_id")
        vectors, text = vectors_of(sample), np.asarray(sample["has_text"])
        domains = fit_domains(vectors[text], self.config, documents=kept)
        domain, _, distance = domains.place(vectors, text)
        placed = pa.table({"doc_id": sample["doc_id"], "domain": domain, "distance": distance})
        info = {"k": domains.k, "sampled": int(text.sum()), "tried": [asdict(t) for t in domains.tried]}
        files = ctx.save_model(FIT, domains.save)
        return UnitOutput(FIT, (OutputTable("fit/sample", placed),), files=files, info=info)

    def _bounded(self, ctx: StageContext) -> UnitOutput:
        """The fitted domains, with every cell cut that holds more than it may."""
        import numpy as np

        from mixloom.pipeline.cell_cuts import KeyRanges
        from mixloom.pipeline.cluster import Domains

        domains = Domains.load(ctx.directory.store.child(FIT).root)
        info: dict[str, Any] = {"cells": domains.cell_count, "cut_cells": 0}
        if ctx.manifest("embed").counts.kept > self.config.max_cell:
            table = self._counted(ctx, "count-0", None)
            sizes = np.zeros(domains.cell_count, np.int64)
            sizes[table["bin"].to_numpy()] = table["documents"].to_numpy()
            ranges = KeyRanges.of(sizes, self.config.max_cell)
            step = 0
            while ranges.open:
                step += 1
                table = self._counted(ctx, f"count-{step}", ranges)
                ranges = ranges.counted(table["bin"].to_numpy(), table["documents"].to_numpy())
            pieces = ranges.pieces()
            domains = domains.with_cuts({j: [first for first, _ in p[1:]] for j, p in pieces.items()})
            whole = [int(n) for j, n in enumerate(sizes) if j not in pieces]
            largest = max([*whole, *(n for p in pieces.values() for _, n in p)], default=0)
            info = {"cells": domains.cell_count, "cut_cells": len(pieces), "largest_cell": largest}
        return UnitOutput(MODEL, files=ctx.save_model(MODEL, domains.save), info=info)

    def _counted(self, ctx: StageContext, unit: str, ranges: KeyRanges | None) -> pa.Table:
        """The table (bin, documents) of a unit of counts, made now if it is not there."""
        import apache_beam as beam

        from mixloom.pipeline.cluster_transform import CountCells
        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.sample_parts import unit_parts

        if ctx.todo([unit]):
            parts, model = vector_parts(ctx), ctx.directory.store.child(FIT)
            ctx.beam(
                lambda p: (
                    p
                    | beam.Create(parts, reshuffle=False)
                    | ReadParts(ctx.reader("embed"), ["doc_id", "vector", "has_text"])
                    | CountCells(model, unit, ranges)
                    | Commit(ctx.directory)
                ),
                len(parts) + 3,
            )
        return unit_parts(ctx, unit).read(f"counts/{unit}")

    def _words(self, ctx: StageContext) -> UnitOutput:
        import pyarrow as pa
        import pyarrow.compute as pc

        from mixloom.pipeline.domain_words import described_output, examples, telling_words
        from mixloom.pipeline.sample_parts import draw_sample, unit_parts
        from mixloom.pipeline.tfidf_counts import FREQUENCIES, merge_frequencies

        wanted = min(DESCRIBED, self.config.sample_documents)
        reader = draw_sample(ctx, ["doc_id", "source", "segments"], wanted, "embed", described_output)
        k, placed = self._domains(ctx).k, unit_parts(ctx, FIT).read("fit/sample")
        named = sorted(reader.parts)
        described = [reader.read(n) for n in named if n.startswith("sample/")]
        if not described:
            return UnitOutput(WORDS, info={"top_words": [[] for _ in range(k + 1)], "examples": []})
        words = merge_frequencies([reader.read(n).cast(FREQUENCIES) for n in named if n.startswith("words/")])
        sample = pa.concat_tables(described).sort_by("doc_id")
        at = pc.index_in(sample["doc_id"], value_set=placed["doc_id"])  # a smaller sample by the same hashes
        domain, distance = (placed[name].take(at).to_numpy() for name in ("domain", "distance"))
        top = telling_words(sample["hashes"], words, domain, k)
        return UnitOutput(
            WORDS, info={"top_words": [*top, []], "examples": examples(sample, domain, distance, k + 1)}
        )

    def _domains(self, ctx: StageContext) -> Domains:
        from mixloom.pipeline.cluster import Domains

        return Domains.load(ctx.directory.store.child(MODEL).root)
