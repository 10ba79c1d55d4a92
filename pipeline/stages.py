"""The curation stages of a run: which parts are read, which transform is applied, what is written.

Beam and the compiled kernels are imported only when a stage has work to do, so that a run which is up to
date says so at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mixloom.pipeline import sampling
from mixloom.pipeline.overlay import surviving
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    import pyarrow as pa

    from mixloom.pipeline.annotate_config import AnnotateConfig
    from mixloom.pipeline.cluster import ClusterConfig
    from mixloom.pipeline.order import OrderConfig
    from mixloom.pipeline.tfidf import EmbedConfig

MODEL = "model"


class AnnotateStage(Stage):
    """ingest -> one row of measures per document, same parts, same order; lines and media beside them."""

    name = "annotate"
    version = 2
    inputs = ("ingest",)

    def __init__(self, config: AnnotateConfig, roots: dict[str, str] | None = None) -> None:
        self.config = config
        self.roots = roots or {}  # where sources lie; moving them changes nothing

    def settings(self) -> dict[str, Any]:
        settings = self.config.model_dump(mode="json")
        if self.config.language is not None:
            from mixloom.pipeline.language import language_fingerprint

            settings["language_model"] = language_fingerprint(self.config.language)
        if self.config.quality:
            from mixloom.pipeline.quality.classifier import quality_fingerprint

            named = sorted(self.config.quality.items())
            settings["quality_models"] = {name: quality_fingerprint(q) for name, q in named}
        return settings

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.transforms import Annotate

        parts = ctx.part_names("ingest")
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts), reshuffle=False)
                | ReadParts(ctx.reader("ingest"))
                | Annotate(self.config, self.roots)
                | Commit(ctx.directory)
            ),
            len(parts),
        )


def collect_sample(
    ctx: StageContext,
    columns: list[str],
    wanted: int,
    survivors: str,
    select: Callable[..., Any],
) -> pa.Table:
    """Gather about `wanted` of the surviving documents, chosen by their ids alone, in the order of their ids.

    Each part's share is written as a part `sample/<part>` of the stage being run, so a sample is resumable
    and drawn where the data lie. `select` maps the sampled rows (a record batch) to what is kept of them.
    """
    import apache_beam as beam
    import pyarrow as pa

    from mixloom.pipeline.engine import Commit, ReadParts
    from mixloom.pipeline.transforms import sample_output

    parts = ctx.part_names("ingest")
    bound = sampling.threshold(ctx.manifest(survivors).counts.kept, wanted)
    todo = ctx.todo([f"sample-{p}" for p in parts])
    if todo:
        ctx.beam(
            lambda p: (
                p
                | beam.Create([u.removeprefix("sample-") for u in todo], reshuffle=False)
                | ReadParts(ctx.documents(), columns, ctx.reader(survivors))
                | "Sample" >> beam.Map(sample_output, bound=bound, select=select)
                | Commit(ctx.directory)
            ),
            len(parts),
        )
    records = [u for u in ctx.directory.units() if u.unit.startswith("sample-")]
    written = {p.name: p for r in records for p in r.parts}
    reader = PartReader(ctx.directory.store, written)
    return pa.concat_tables([reader.read(name) for name in sorted(written)]).sort_by("doc_id")


class EmbedStage(Stage):
    """Survivors -> one unit vector per document: tf-idf and SVD, fitted on a sample of this corpus."""

    name = "embed"
    version = 1

    def __init__(self, config: EmbedConfig, survivors: str) -> None:
        self.config = config
        self.inputs = (survivors, "ingest")

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.tfidf import TfidfSvd
        from mixloom.pipeline.transforms import Embed, rows_output, sample_texts

        survivors = self.inputs[0]
        columns = ["doc_id", "segments"]
        if ctx.todo([MODEL]):
            wanted = self.config.sample_documents
            sample = collect_sample(ctx, columns, wanted, survivors, sample_texts)
            files = ctx.save_model(MODEL, TfidfSvd.fit(sample["text"].to_pylist(), self.config).save)
            ctx.commit(UnitOutput(MODEL, files=files, info={"sampled_documents": sample.num_rows}))
        parts = ctx.part_names(survivors)
        model = ctx.directory.store.child(MODEL)
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts), reshuffle=False)
                | ReadParts(ctx.documents(), columns, ctx.reader(survivors))
                | Embed(model)
                | "Rows" >> beam.Map(rows_output)
                | Commit(ctx.directory)
            ),
            2 * len(parts) + 1,
        )


class ClusterStage(Stage):
    """Vectors -> a domain and a cell for every document: balanced k-means centres, nearest centre wins."""

    name = "cluster"
    version = 1
    inputs = ("embed", "ingest")

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.transforms import AssignDomains, rows_output

        parts = vector_parts(ctx)
        if ctx.todo([MODEL]):
            ctx.commit(self._fit(ctx))
        model = ctx.directory.store.child(MODEL)
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts), reshuffle=False)
                | ReadParts(ctx.reader("embed"))
                | AssignDomains(model)
                | "Rows" >> beam.Map(rows_output)
                | Commit(ctx.directory)
            ),
            len(parts) + 1,
        )

    def _fit(self, ctx: StageContext) -> UnitOutput:
        import numpy as np
        import pyarrow as pa

        from mixloom.pipeline.cluster import fit_domains
        from mixloom.pipeline.domain_report import top_words
        from mixloom.pipeline.embed import vectors_of
        from mixloom.pipeline.tfidf import TfidfSvd

        reader = ctx.reader("embed")
        bound = sampling.threshold(ctx.manifest("embed").counts.kept, self.config.sample_documents)
        tables = []
        for part in vector_parts(ctx):
            table = reader.read(part, ["doc_id", "vector", "has_text"])
            tables.append(table.filter(sampling.sampled(table["doc_id"], bound)))
        sample = pa.concat_tables(tables).sort_by("doc_id")
        vectors = vectors_of(sample)[np.asarray(sample["has_text"])]
        domains = fit_domains(vectors, self.config, documents=ctx.manifest("embed").counts.kept)
        files = ctx.save_model(MODEL, domains.save)
        words = top_words(TfidfSvd.load(ctx.run.stage("embed").store.url(MODEL)), domains)
        return UnitOutput(MODEL, files=files, info={"top_words": words, "sampled": len(vectors)})


def vector_parts(ctx: StageContext) -> list[str]:
    """Names of the parts of `embed` that hold vectors (not its model, not its sample)."""
    return [n for n in ctx.part_names("embed") if n.startswith("part-")]


class OrderStage(Stage):
    """Vectors and cells -> a path through each cell along which neighbours are related."""

    name = "order"
    version = 1
    inputs: tuple[str, ...] = ("cluster", "embed")

    def __init__(self, config: OrderConfig, survivors: str | None = None) -> None:
        self.config, self.survivors = config, survivors
        if survivors is not None:  # a stage that dropped documents after they had their cells
            self.inputs = (survivors, "cluster", "embed")

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.transforms import OrderCells

        finished = frozenset(u.unit for u in ctx.directory.units())
        alive = ctx.reader(self.survivors) if self.survivors is not None else None
        assignments = surviving(ctx.reader("cluster"), alive)
        vectors = surviving(ctx.reader("embed"), alive)
        ctx.beam(
            lambda p: (
                p
                | beam.Create(vector_parts(ctx), reshuffle=False)
                | ReadParts(vectors, ["doc_id", "row", "vector"])
                | OrderCells(assignments, self.config, finished)
                | Commit(ctx.directory)
            ),
            units=0,
        )
