"""Decontamination as a stage of a run: the index, then the matches of every part, then the verdicts.

Text is read once. What an n-gram is worth depends on how common it is in the whole corpus, so the verdicts wait for
the matches of all parts; they are made from the matches alone. Beam and the kernels are imported when there is work.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.decontaminate_config import DecontaminateConfig
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

if TYPE_CHECKING:
    from mixloom.pipeline.evaluation_sets import SetFile
    from mixloom.pipeline.run import PartReader, UnitRecord

INDEX, COUNTS, MATCHES = "index", "counts", "matches"
TOP = 20  # items reported of each set


class DecontaminateStage(Stage):
    """Survivors -> survivors that share nothing with the evaluation sets, or from which it is cut out.

    Args:
        config: the sets, and what counts as contamination.
        survivors: the deciding stage before this one.
        annotate: how documents were measured; those that are cut are measured again.
        data_root: folder or URL against which relative paths of sets are resolved; not part of the key.
    """

    name = "decontaminate"
    version = 2

    def __init__(
        self, config: DecontaminateConfig, survivors: str, annotate: AnnotateConfig, data_root: str = "."
    ) -> None:
        if not config.sets:
            raise UserError(
                "decontaminate.sets is empty, so there is nothing to compare documents with",
                fix="name an evaluation set (see docs/decontamination.md), or leave the section out",
            )
        self.config, self.annotate, self.data_root = config, annotate, data_root
        self.inputs = (survivors, "annotate", "ingest")

    @functools.cached_property
    def files(self) -> list[list[SetFile]]:
        """The files of each set, read."""
        from mixloom.pipeline.evaluation_sets import set_files

        return [set_files(s, self.data_root) for s in self.config.sets]

    def settings(self) -> dict[str, Any]:
        from mixloom.pipeline.evaluation_sets import fingerprint

        # What the sets hold, not where they lie.
        sets = [fingerprint(s, f) for s, f in zip(self.config.sets, self.files, strict=True)]
        return {**self.config.model_dump(mode="json", exclude={"sets"}), "sets": sets}

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.decontaminate_transform import FindMatches, JudgeMatches
        from mixloom.pipeline.edit_writer import EditWriter
        from mixloom.pipeline.engine import Commit

        parts = ctx.part_names(self.inputs[0])
        survivors, units = ctx.reader(self.inputs[0]), 2 * len(parts) + 2
        if ctx.todo([INDEX]):
            ctx.commit(self._index(ctx))
        index = ctx.directory.store.child(INDEX)
        todo = ctx.todo([f"{MATCHES}-{p}" for p in parts])
        if todo:
            ctx.beam(
                lambda p: (
                    p
                    | beam.Create([u.removeprefix(f"{MATCHES}-") for u in todo])
                    | FindMatches(ctx.documents(), survivors, index, self.config)
                    | Commit(ctx.directory)
                ),
                units,
            )
        matches = self._matches(ctx)
        if ctx.todo([COUNTS]):
            ctx.commit(self._counts(ctx, matches))
        counts = ctx.directory.store.child(COUNTS)
        left = ctx.todo(parts)
        writer = EditWriter(ctx.documents(), ctx.media(), survivors, self.annotate, self.name)
        if left:
            ctx.beam(
                lambda p: (
                    p
                    | beam.Create(left)
                    | JudgeMatches(matches, index, counts, self.config, writer)
                    | Commit(ctx.directory)
                ),
                units,
            )

    def _index(self, ctx: StageContext) -> UnitOutput:
        from mixloom.pipeline.evaluation_sets import read_items
        from mixloom.pipeline.overlap_index import build_index

        pairs = zip(self.config.sets, self.files, strict=True)
        index = build_index([item for s, files in pairs for item in read_items(s, files)], self.config)
        return UnitOutput(INDEX, files=ctx.save_model(INDEX, index.save), info={"sets": index.report})

    def _matches(self, ctx: StageContext) -> PartReader:
        from mixloom.pipeline.run import PartReader

        records = [u for u in ctx.directory.units() if u.unit.startswith(f"{MATCHES}-")]
        return PartReader(ctx.directory.store, {p.name: p for r in records for p in r.parts})

    def _counts(self, ctx: StageContext, matches: PartReader) -> UnitOutput:
        import numpy as np

        from mixloom.pipeline.decontaminate import count_documents, top_ngrams
        from mixloom.pipeline.model_store import write_model
        from mixloom.pipeline.overlap_index import OverlapIndex

        index = OverlapIndex.load(ctx.directory.store.url(INDEX))
        documents = np.zeros(index.keys, np.int64)
        for name in sorted(matches.parts):
            documents += count_documents(matches.read(name), index)
        files = ctx.save_model(COUNTS, lambda to: write_model(to, COUNTS, {}, {"documents": documents}))
        return UnitOutput(COUNTS, files=files, info={"top": top_ngrams(index, documents, self.config)})

    def info_of(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """By set: what was indexed, documents and items hit, the items in most documents, the commonest n-grams."""
        from mixloom.pipeline.edited import total_info

        info = {r.unit: r.info for r in records}
        top = info.get(COUNTS, {}).get("top", {})
        out: dict[str, Any] = {}
        for name, indexed in info.get(INDEX, {}).get("sets", {}).items():
            found = [r.info["found"][name] for r in records if name in r.info.get("found", {})]
            items: Counter[str] = Counter()
            for f in found:
                items.update(f["items"])
            ranked = sorted(items.items(), key=lambda x: (-x[1], x[0]))[:TOP]
            out[name] = {
                "indexed": indexed,
                "documents_hit": sum(f["documents"] for f in found),
                "items_hit": len(items),
                "top_items": [{"item": i, "documents": n} for i, n in ranked],
                "top_ngrams": top.get(name, []),
            }
        edits = [{k: v for k, v in r.info.items() if k in ("edits", "edited_documents")} for r in records]
        return {"sets": out, **total_info(edits)}
