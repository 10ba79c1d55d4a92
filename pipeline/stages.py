"""The curation stages of a run: which parts are read, which transform is applied, what is written.

Beam and the compiled kernels are imported only when a stage has work to do, so that a run which is up to
date says so at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from mixloom.pipeline import sampling
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    import pyarrow as pa

    from mixloom.pipeline.annotate_config import AnnotateConfig
    from mixloom.pipeline.cluster import ClusterConfig
    from mixloom.pipeline.order import OrderConfig
    from mixloom.pipeline.run import UnitRecord
    from mixloom.pipeline.tfidf import EmbedConfig

MODEL = "model"


class FilterConfig(BaseModel):
    """Which rules decide. Thresholds are data: change them and only the deciding is done again."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rules: list[str] = Field(
        default=["basic", "media"], description="rule sets by name (conf/rules/) or by path, applied in order"
    )
    by_source: dict[str, list[str]] = Field(
        default={}, description="other rule sets for some sources, by source name"
    )


class AnnotateStage(Stage):
    """ingest -> one row of measures per document, same parts, same order."""

    name = "annotate"
    version = 1
    inputs = ("ingest",)

    def __init__(self, config: AnnotateConfig) -> None:
        self.config = config

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.transforms import Annotate, rows_output

        parts = ctx.part_names("ingest")
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts))
                | ReadParts(ctx.reader("ingest"))
                | Annotate(self.config)
                | "Rows" >> beam.Map(rows_output)
                | Commit(ctx.directory)
            ),
            len(parts),
        )


class FilterStage(Stage):
    """annotate -> survivors, and a reason for every document dropped."""

    name = "filter"
    version = 1
    inputs = ("annotate",)

    def __init__(self, config: FilterConfig) -> None:
        from mixloom.pipeline.rules import combine, load_ruleset

        self.config = config
        self.default = combine([load_ruleset(r) for r in config.rules])
        self.by_source = {
            s: combine([load_ruleset(r) for r in rs]) for s, rs in sorted(config.by_source.items())
        }

    def settings(self) -> dict[str, Any]:
        # The rules themselves, not their names: an edited rule file redoes the stage.
        by_source = {s: r.to_json() for s, r in self.by_source.items()}
        return {"default": self.default.to_json(), "by_source": by_source}

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.transforms import ApplyRules, decision_output

        parts = ctx.part_names("annotate")
        rulesets = [self.default, *self.by_source.values()]
        columns = sorted({"doc_id", "source"}.union(*(r.measures for r in rulesets)))
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts))
                | ReadParts(ctx.reader("annotate"), columns)
                | ApplyRules(self.default, self.by_source)
                | "Survivors" >> beam.Map(decision_output, stage=self.name)
                | Commit(ctx.directory)
            ),
            len(parts),
        )

    def info_of(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """`fired`: on how many documents each rule fires by itself, whatever the others say."""
        fired: Counter[str] = Counter()
        for record in records:
            fired.update(record.info.get("fired", {}))
        return {"fired": dict(sorted(fired.items()))}


def collect_sample(
    ctx: StageContext,
    stage: str,
    columns: list[str],
    wanted: int,
    survivors: str | None,
    select: Callable[..., Any],
) -> pa.Table:
    """Gather about `wanted` documents of a stage, chosen by their ids alone, in the order of their ids.

    Each part's share is written as a part `sample/<part>` of the stage being run, so a sample is resumable
    and drawn where the data lie. `select` maps the sampled rows (a record batch) to what is kept of them.
    """
    import apache_beam as beam
    import pyarrow as pa

    from mixloom.pipeline.engine import Commit, ReadParts
    from mixloom.pipeline.transforms import sample_output

    parts = ctx.part_names(stage)
    total = ctx.manifest(survivors or stage).counts.kept
    bound = sampling.threshold(total, wanted)
    alive = ctx.reader(survivors) if survivors else None
    todo = ctx.todo([f"sample-{p}" for p in parts])
    if todo:
        ctx.beam(
            lambda p: (
                p
                | beam.Create([u.removeprefix("sample-") for u in todo])
                | ReadParts(ctx.reader(stage), columns, alive)
                | "Sample" >> beam.Map(sample_output, bound=bound, select=select)
                | Commit(ctx.directory)
            ),
            len(parts),
        )
    records = [u for u in ctx.directory.units() if u.unit.startswith("sample-")]
    written = {p.name: p for r in records for p in r.parts}
    reader = type(ctx.reader(stage))(ctx.directory.store, written)
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
            sample = collect_sample(ctx, "ingest", columns, wanted, survivors, sample_texts)
            files = ctx.save_model(MODEL, TfidfSvd.fit(sample["text"].to_pylist(), self.config).save)
            ctx.commit(UnitOutput(MODEL, files=files, info={"sampled_documents": sample.num_rows}))
        parts = ctx.part_names(survivors)
        model = ctx.directory.store.child(MODEL)
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts))
                | ReadParts(ctx.reader("ingest"), columns, ctx.reader(survivors))
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
                | beam.Create(ctx.todo(parts))
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
    inputs = ("cluster", "embed")

    def __init__(self, config: OrderConfig) -> None:
        self.config = config

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.pipeline.transforms import OrderCells

        finished = frozenset(u.unit for u in ctx.directory.units())
        assignments = ctx.reader("cluster")
        ctx.beam(
            lambda p: (
                p
                | beam.Create(vector_parts(ctx))
                | ReadParts(ctx.reader("embed"), ["doc_id", "row", "vector"])
                | OrderCells(assignments, self.config, finished)
                | Commit(ctx.directory)
            ),
            units=0,
        )
