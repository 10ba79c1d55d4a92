"""Stage `cluster`: fit domains on sampled vectors, and give every document its domain and cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixloom.pipeline import sampling
from mixloom.pipeline.embed_stage import MODEL, vector_parts
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    from mixloom.pipeline.cluster import ClusterConfig


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

        from mixloom.pipeline.cluster_transform import AssignDomains
        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.transforms import rows_output

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
        from mixloom.pipeline.embedder import saved_kind
        from mixloom.pipeline.tfidf import KIND, TfidfSvd

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
        embedder = ctx.run.stage("embed").store.url(MODEL)
        words: list[list[str]] = [[] for _ in range(domains.k + 1)]
        if saved_kind(embedder) == KIND:  # other embedders know no words
            words = top_words(TfidfSvd.load(embedder), domains)
        return UnitOutput(MODEL, files=files, info={"top_words": words, "sampled": len(vectors)})
