"""Stage `embed`: fit an embedder on a sample of the survivors, and write a vector for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixloom.pipeline.sample_parts import collect_sample
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    from mixloom.pipeline.tfidf import EmbedConfig

MODEL = "model"


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

        from mixloom.pipeline.embed_transform import Embed
        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.tfidf import TfidfSvd
        from mixloom.pipeline.transforms import rows_output, sample_texts

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


def vector_parts(ctx: StageContext) -> list[str]:
    """Names of the parts of `embed` that hold vectors (not its model, not its sample)."""
    return [n for n in ctx.part_names("embed") if n.startswith("part-")]
