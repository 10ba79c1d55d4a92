"""Stage `order`: gather the vectors of each cell, and write the path through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixloom.pipeline.embed_stage import vector_parts
from mixloom.pipeline.overlay import surviving
from mixloom.pipeline.stage import Stage, StageContext

if TYPE_CHECKING:
    from mixloom.pipeline.order import OrderConfig


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
        from mixloom.pipeline.order_transform import OrderCells

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
