"""Stage `order`: gather the vectors of each cell, and write the path through it.

Parts: `cell-NNNNNN` (schema `order.ORDER`), and with `keep_vectors` `vectors/cell-NNNNNN` (doc_id, vector in half
precision, row by row beside it).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mixloom.pipeline.embed_stage import vector_parts
from mixloom.pipeline.overlay import surviving
from mixloom.pipeline.stage import Stage, StageContext

if TYPE_CHECKING:
    from mixloom.pipeline.order_config import OrderConfig


AT_ONCE = 500_000  # vectors that the shuffle of a local runner holds in memory at once, about


class OrderStage(Stage):
    """Vectors and cells -> a path through each cell along which neighbours are related."""

    name = "order"
    version = 2
    inputs: tuple[str, ...] = ("cluster", "embed")

    def __init__(self, config: OrderConfig, survivors: str | None = None) -> None:
        self.config, self.survivors = config, survivors
        if survivors is not None:  # a stage that dropped documents after they had their cells
            self.inputs = (survivors, "cluster", "embed")
        if config.questions is not None:
            self.inputs = (*self.inputs, "ingest")
        if config.upsample_long is not None:
            self.inputs = (*self.inputs, "annotate")

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.order_transform import CellShare, OrderCells, OrderInputs

        finished = frozenset(u.unit for u in ctx.directory.units())
        alive = ctx.reader(self.survivors) if self.survivors is not None else None
        inputs = OrderInputs(
            surviving(ctx.reader("cluster"), alive),
            ctx.documents() if self.config.questions is not None else None,
            ctx.annotations() if self.config.upsample_long is not None else None,
        )
        vectors = surviving(ctx.reader("embed"), alive)
        passes = self._passes(ctx)
        for number in range(passes):
            order = OrderCells(inputs, self.config, CellShare(number, passes, finished), ctx.settings.workers)

            def build(p: beam.Pipeline, order: OrderCells = order) -> Any:
                parts = p | beam.Create(vector_parts(ctx), reshuffle=False)
                rows = parts | ReadParts(vectors, ["doc_id", "row", "vector"])
                return rows | order | Commit(ctx.directory)

            ctx.beam(build, units=0)

    def _passes(self, ctx: StageContext) -> int:
        """How often the vectors are read. A local runner keeps in memory what it shuffles: it takes some cells at a time."""
        if any(a.startswith("--runner") for a in ctx.settings.runner_args):
            return 1
        return max(1, math.ceil(ctx.manifest(self.inputs[0]).counts.kept / AT_ONCE))
