"""Image deduplication as a stage of a run: no image is opened, all was measured when documents were annotated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.image_dedup_config import ImageDedupConfig
from mixloom.pipeline.overlay import MEDIA_FOLDER
from mixloom.pipeline.stage import Stage, StageContext

if TYPE_CHECKING:
    from mixloom.pipeline.run import UnitRecord

WORK = "_work"


class ImageDedupStage(Stage):
    """Survivors and media measures -> survivors, and edits that remove repeated images.

    Args:
        config: what counts as repeated, and what happens to it.
        survivors: the deciding stage before this one.
        annotate: how documents were measured; those that lose an image are measured again.
    """

    name = "dedup_images"
    version = 1

    def __init__(self, config: ImageDedupConfig, survivors: str, annotate: AnnotateConfig) -> None:
        self.config, self.annotate = config, annotate
        self.inputs = (survivors, "annotate", "ingest")

    def settings(self) -> dict[str, Any]:
        neutral = {"partitions": True, "near": {"max_rounds"}}  # how, not what
        return self.config.model_dump(mode="json", exclude=neutral)  # type: ignore[arg-type]

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit
        from mixloom.pipeline.image_dedup_transforms import ReadImageUses, search_images
        from mixloom.pipeline.image_settle import SettleImages

        parts = sorted(ctx.part_names(self.inputs[0]))
        todo = ctx.todo(parts)
        if todo:
            self._check_measured(ctx, parts)
            media, survivors, annotations = ctx.media(), ctx.reader(self.inputs[0]), ctx.annotations()

            def uses(pipeline: beam.Pipeline) -> Any:
                return pipeline | ReadImageUses(parts, media, annotations, survivors, self.config)

            work = ctx.directory.store.child(f"{WORK}/{self.config.partitions}")
            find = search_images(uses, media, parts, self.config, work, ctx.beam)
            readers = (ctx.documents(), annotations, media, survivors)
            settle = SettleImages(parts, todo, readers, self.config, self.annotate, self.name)
            ctx.beam(lambda p: uses(p) | find | settle | Commit(ctx.directory), len(parts))
        ctx.directory.store.remove(WORK)

    def _check_measured(self, ctx: StageContext, parts: list[str]) -> None:
        measured = ctx.reader("annotate").parts
        if any(f"{MEDIA_FOLDER}/{part}" not in measured for part in parts):
            raise UserError(
                "dedup_images needs the measures of images, and annotate has not made any",
                fix="add 'media: {}' to the annotate section, or leave image deduplication out",
            )

    def info_of(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Images, repeated images and overused images, over all parts, and the edits by reason."""
        from mixloom.pipeline.edited import total_info

        return total_info([r.info for r in records])
