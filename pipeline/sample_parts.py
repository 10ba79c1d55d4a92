"""A sample of the documents of a run, drawn where they lie: for fitting embedders, tokenizers and codecs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mixloom.pipeline import sampling
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.stage import StageContext

if TYPE_CHECKING:
    import pyarrow as pa


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
    from functools import partial

    import pyarrow as pa

    from mixloom.pipeline.transforms import sample_output

    reader = draw_sample(ctx, columns, wanted, survivors, partial(sample_output, select=select))
    return pa.concat_tables([reader.read(name) for name in sorted(reader.parts)]).sort_by("doc_id")


def draw_sample(
    ctx: StageContext, columns: list[str], wanted: int, survivors: str, output: Callable[..., Any]
) -> PartReader:
    """Draw about `wanted` of the surviving documents, chosen by their ids alone, and write what `output` makes of them.

    Args:
        output: called as output(batch, bound=...) for every part; a `UnitOutput` named `sample-<part>` of what it
            takes of the documents that `sampling.sampled` finds below the bound.

    Returns:
        A reader of all that was written.
    """
    import apache_beam as beam

    from mixloom.pipeline.engine import Commit, ReadParts

    parts = ctx.part_names("ingest")
    bound = sampling.threshold(ctx.manifest(survivors).counts.kept, wanted)
    todo = ctx.todo([f"sample-{p}" for p in parts])
    if todo:
        ctx.beam(
            lambda p: (
                p
                | beam.Create([u.removeprefix("sample-") for u in todo], reshuffle=False)
                | ReadParts(ctx.documents(), columns, ctx.reader(survivors))
                | "Sample" >> beam.Map(output, bound=bound)
                | Commit(ctx.directory)
            ),
            len(parts),
        )
    return unit_parts(ctx, "sample-")


def unit_parts(ctx: StageContext, prefix: str) -> PartReader:
    """A reader of what the units whose names begin with `prefix` wrote in the stage being run."""
    records = [u for u in ctx.directory.units() if u.unit.startswith(prefix)]
    return PartReader(ctx.directory.store, {p.name: p for r in records for p in r.parts})
