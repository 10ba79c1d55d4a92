"""Stage `annotate`: which parts are read, which transform is applied, what is written.

Beam and the compiled kernels are imported only when a stage has work to do, so that a run which is up to
date says so at once. The same holds for every module `*_stage.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixloom.pipeline.annotate_config import SIGNATURES
from mixloom.pipeline.stage import Stage, StageContext

if TYPE_CHECKING:
    from mixloom.pipeline.annotate_config import AnnotateConfig

MODEL = "model"


class AnnotateStage(Stage):
    """ingest -> one row of measures per document, same parts, same order; lines and media beside them."""

    name = "annotate"
    version = 5
    inputs = ("ingest",)

    def __init__(self, config: AnnotateConfig, roots: dict[str, str] | None = None) -> None:
        self.config = config
        self.roots = roots or {}  # where sources lie; moving them changes nothing

    def settings(self) -> dict[str, Any]:
        settings = {**self.config.model_dump(mode="json"), "signatures": SIGNATURES}
        if self.config.language is not None:
            from mixloom.pipeline.language import language_fingerprint

            settings["language_model"] = language_fingerprint(self.config.language)
        if self.config.quality:
            from mixloom.pipeline.quality.classifier import quality_fingerprint

            named = sorted(self.config.quality.items())
            settings["quality_models"] = {name: quality_fingerprint(q) for name, q in named}
        return settings

    def execute(self, ctx: StageContext) -> None:
        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.graph import Given
        from mixloom.pipeline.transforms import Annotate

        parts = ctx.part_names("ingest")
        ctx.beam(
            lambda p: (
                p
                | Given(ctx.todo(parts), spread=False)
                | ReadParts(ctx.reader("ingest"), ["doc_id", "source", "segments"])
                | Annotate(self.config, self.roots)
                | Commit(ctx.directory)
            ),
            len(parts),
        )
