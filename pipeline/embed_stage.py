"""Stage `embed`: make the embedder of the run, fitted on a sample where it learns, and write a vector per document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mixloom.pipeline.embed_config import EmbedConfig, TfidfConfig
from mixloom.pipeline.embed_files import config_files
from mixloom.pipeline.embedder import Embedder, LoadImageModel, Surroundings
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    from mixloom.pipeline.run import UnitRecord

MODEL = "model"


class EmbedStage(Stage):
    """Survivors -> one unit vector per document, of its text, its images, or both.

    Args:
        survivors: the stage whose survivors are embedded.
        roots: where each source lies, by name; images are read there.
        image_models: kinds of image models beside those of this folder, by name (`embedder.Surroundings`).
    """

    name = "embed"
    version = 2

    def __init__(
        self,
        config: EmbedConfig,
        survivors: str,
        roots: Mapping[str, str] | None = None,
        image_models: Mapping[str, LoadImageModel] | None = None,
    ) -> None:
        self.config = config
        self.inputs = (survivors, "ingest")
        self.around = Surroundings(dict(roots or {}), dict(image_models or {}))

    def settings(self) -> dict[str, Any]:
        """The configuration, what lies at its paths, and the seed only where something draws."""
        out = self.config.model_dump(mode="json", exclude={"seed", "image_weight"})
        if isinstance(self.config.text, TfidfConfig):
            out["seed"] = self.config.seed
        if self.config.text is not None and self.config.image is not None:
            out["image_weight"] = self.config.image_weight
        files = config_files(self.config)
        return {**out, "files": files} if files else out

    def info_of(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """What the model says of itself, and how many documents have a zero vector."""
        info = {r.unit: r.info for r in records if r.unit == MODEL}
        return {**info, "zero_vectors": sum(r.info.get("zero_vectors", 0) for r in records)}

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.embed_transform import Embed, vectors_output
        from mixloom.pipeline.engine import Commit, ReadParts

        survivors = self.inputs[0]
        if ctx.todo([MODEL]):
            ctx.commit(self._make(ctx))
        parts = ctx.part_names(survivors)
        model = ctx.directory.store.child(MODEL)
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts), reshuffle=False)
                | ReadParts(ctx.documents(), ["doc_id", "source", "segments"], ctx.reader(survivors))
                | Embed(model, self.around)
                | "Rows" >> beam.Map(vectors_output).with_output_types(UnitOutput)
                | Commit(ctx.directory)
            ),
            2 * len(parts) + 1,
        )

    def _make(self, ctx: StageContext) -> UnitOutput:
        from mixloom.pipeline.embed_joint import JointEmbedder

        info: dict[str, Any] = {}
        text, image = self._text(ctx, info), self._image()
        if text is not None and image is not None:
            embedder: Embedder = JointEmbedder(text, image, self.config.image_weight)
        else:
            [embedder] = [e for e in (text, image) if e is not None]
        kinds = [c.kind for c in (self.config.text, self.config.image) if c is not None]
        info |= {"embedder": "+".join(kinds), "dim": embedder.dim, "fingerprint": embedder.fingerprint}
        return UnitOutput(MODEL, files=ctx.save_model(MODEL, embedder.save), info=info)

    def _text(self, ctx: StageContext, info: dict[str, Any]) -> Embedder | None:
        config = self.config.text
        if config is None:
            return None
        if isinstance(config, TfidfConfig):
            from mixloom.pipeline.tfidf_sample import fit_on_sample

            model, info["sampled_documents"] = fit_on_sample(ctx, config, self.config.seed, self.inputs[0])
            return model
        from mixloom.pipeline.encoder import TextEncoder

        return TextEncoder.open(config)

    def _image(self) -> Embedder | None:
        if self.config.image is None:
            return None
        from mixloom.pipeline.encoder_images import ImageEmbedder

        return ImageEmbedder.open(self.config.image.model_dump(mode="json"), self.around)


def vector_parts(ctx: StageContext) -> list[str]:
    """Names of the parts of `embed` that hold vectors (not its model, not its sample)."""
    return [n for n in ctx.part_names("embed") if n.startswith("part-")]
