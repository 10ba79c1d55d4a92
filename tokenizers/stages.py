"""Stages `tokenize`, `pack` and `shards` of a run. Beam and the codecs are imported only when there is work."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.overlay import surviving
from mixloom.pipeline.run import PartReader, UnitRecord
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput
from mixloom.tokenizers.layout_config import READING_ORDER, LayoutConfig
from mixloom.tokenizers.settings import NO_PATCHES, WHOLE_PART, MicroBatchConfig, SpeechPatchConfig

if TYPE_CHECKING:
    from mixloom.tokenizers.tails import TailSpec


class DomainLayout(BaseModel):
    """How contexts of some domains are packed, where it is not as for the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    window: int = Field(64, ge=1, description="documents that packing may look ahead; 1: concatenate and cut")


class ShardsConfig(BaseModel):
    """Contexts and the shards they are written to."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    seq_len: int = Field(1024, ge=16, le=1 << 20, description="tokens of a context")
    window: int = Field(
        64,
        ge=1,
        description="documents that packing may look ahead; 1: concatenate and cut (docs/shards.md has the price)",
    )
    layout: dict[str, DomainLayout] = Field(
        {},
        description="exceptions by name of the domain (domain-003, domain-0*): {domain-003: {window: 1}}; the first that"
        " fits holds",
    )
    join_tails: int = Field(
        4,
        ge=0,
        le=64,
        description="contexts of a cell, the emptiest, whose documents are packed with those of neighbouring cells; 0: none",
    )
    measure_windows: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 64, 256, 1024),
        description="windows for which likeness inside contexts is measured beside fill; empty: not measured",
    )
    block: int = Field(64, ge=1, le=4096, description="contexts in one sample of a shard")
    contexts_per_shard: int = Field(8192, ge=1, description="contexts in one shard, about")
    seed: int = Field(0, ge=0, description="seed of the shuffle of contexts")

    def window_of(self, domain: int) -> int:
        """The window that documents of a domain are packed with."""
        name = domain_name(domain)
        return next((own.window for like, own in self.layout.items() if fnmatchcase(name, like)), self.window)

    def check_domains(self, domains: Iterable[int]) -> None:
        """Raise UserError where a name in `layout` fits none of the domains."""
        names = [domain_name(d) for d in sorted(domains)]
        for like in self.layout:
            if not any(fnmatchcase(name, like) for name in names):
                raise UserError(
                    f"shards.layout names '{like}', and no domain is called so{nearest(like, names)}",
                    fix=f"domains of this run: {', '.join(names[:20])}; * stands for any characters",
                )


def domain_name(domain: int) -> str:
    return f"domain-{domain:03d}"


class TokenizeStage(Stage):
    """Documents, domains and fitted tokenizers -> token ids."""

    name = "tokenize"
    version = 4
    inputs: tuple[str, ...] = ("cluster", "ingest", "tokenizer")

    def __init__(
        self,
        roots: dict[str, str],
        survivors: str | None = None,
        layout: LayoutConfig = READING_ORDER,
        speech_patches: SpeechPatchConfig = NO_PATCHES,
        micro_batch: MicroBatchConfig = WHOLE_PART,
    ) -> None:
        self.roots = roots  # where sources lie; moving them changes nothing
        self.survivors = survivors
        self.layout = layout
        self.speech_patches = speech_patches
        self.micro_batch = micro_batch  # changes memory and time only
        if survivors is not None:  # a stage that dropped documents after they had their cells
            self.inputs = (survivors, *TokenizeStage.inputs)

    def settings(self) -> dict[str, Any]:
        """Order and speech patches; everything else is in the fitted tokenizers, which are an input."""
        patches = self.speech_patches
        return self.layout.settings() | (
            {} if patches == NO_PATCHES else {"speech_patches": patches.model_dump(mode="json")}
        )

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.tokenizers.tokenize_transform import Tokenize

        parts = [n for n in ctx.part_names("cluster") if n.startswith("part-")]
        alive = ctx.reader(self.survivors) if self.survivors is not None else None
        assignments = surviving(ctx.reader("cluster"), alive)
        tokenizer = ctx.run.stage("tokenizer").store
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts), reshuffle=False)
                | ReadParts(
                    ctx.documents(), ["doc_id", "source", "language", "segments", "meta"], assignments
                )
                | Tokenize(
                    tokenizer, assignments, self.roots, self.layout, self.speech_patches, self.micro_batch
                )
                | Commit(ctx.directory)
            ),
            len(parts),
        )


class PackStage(Stage):
    """Paths and token lengths -> packed contexts, as lists of pieces (no token is read).

    First every cell by itself; then, domain by domain, what filled the emptiest contexts of its cells, cell after cell.
    """

    name = "pack"
    version = 4
    inputs = ("tokenize", "order", "cluster")

    def __init__(self, config: ShardsConfig) -> None:
        self.config = config

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", exclude={"block", "contexts_per_shard"})

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit
        from mixloom.tokenizers.pack import PackCells
        from mixloom.tokenizers.tails import JoinTails

        cells = ctx.part_names("order")
        order, tokens = ctx.reader("order"), ctx.reader("tokenize")
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(cells))
                | PackCells(order, tokens, self.config)
                | Commit(ctx.directory)
            ),
            len(cells),
        )
        done = {u.unit: u for u in ctx.directory.units() if u.unit in set(cells)}
        self.config.check_domains({u.info["domain"] for u in done.values()})
        joins = self._joins(ctx, [u for u in done.values() if u.info["tails"]])
        todo = set(ctx.todo([j.unit for j in joins]))
        if todo:
            tails = PartReader(ctx.directory.store, {p.name: p for u in done.values() for p in u.parts})
            ctx.beam(
                lambda p: (
                    p
                    | beam.Create([j for j in joins if j.unit in todo])
                    | JoinTails(tails, self.config)
                    | Commit(ctx.directory)
                ),
                len(cells) + len(joins),
            )

    def _joins(self, ctx: StageContext, cells: list[UnitRecord]) -> list[TailSpec]:
        """Per domain its cells that left tails, neighbours in a row."""
        import numpy as np

        from mixloom.pipeline.cell_path import cell_path
        from mixloom.pipeline.cluster import Domains
        from mixloom.pipeline.embed_stage import MODEL
        from mixloom.pipeline.storage import local_folder
        from mixloom.tokenizers.tails import TailSpec

        with local_folder(ctx.run.stage("cluster").store, MODEL) as folder:
            domains = Domains.load(folder)
        by_domain: dict[int, list[UnitRecord]] = defaultdict(list)
        for unit in cells:
            by_domain[unit.info["domain"]].append(unit)
        # The one cell of documents without text has no centre.
        centres = np.concatenate([domains.cells, np.zeros((1, domains.cells.shape[1]), np.float32)])
        out = []
        for domain, own in sorted(by_domain.items()):
            own.sort(key=lambda u: u.info["cell"])
            numbers = np.array([u.info["cell"] for u in own])
            path = cell_path(centres[numbers], np.array([u.info["documents"] for u in own], np.int64))
            out.append(TailSpec(domain, tuple(own[i].unit for i in path.tolist())))
        return out


class ShardsStage(Stage):
    """Contexts and tokens -> WebDataset shards per domain, their indexes and the manifest."""

    name = "shards"
    version = 3
    inputs = ("pack", "tokenize", "tokenizer")

    def __init__(self, config: ShardsConfig) -> None:
        self.config = config

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", include={"seq_len", "block", "contexts_per_shard"})

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit
        from mixloom.tokenizers.shard_transform import ShardSpec, WriteShards

        by_domain: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for unit, info in sorted(ctx.manifest("pack").info.items()):
            if info["contexts"]:
                by_domain[info["domain"]].append((unit, info["contexts"]))
        specs = []
        for domain, units in sorted(by_domain.items()):
            shards = max(1, round(sum(n for _, n in units) / self.config.contexts_per_shard))
            names = tuple(unit for unit, _ in units)
            specs += [ShardSpec(domain, i, shards, names) for i in range(shards)]
        if not specs:
            raise UserError(
                "no document reached the shards",
                fix="look at `mixloom status` for the stage that dropped them",
            )
        vocabulary = json.loads(ctx.reader("tokenizer").read_bytes("vocab.json"))
        todo = set(ctx.todo([s.unit for s in specs]))
        contexts, tokens = ctx.reader("pack"), ctx.reader("tokenize")
        ctx.beam(
            lambda p: (
                p
                | beam.Create([s for s in specs if s.unit in todo])
                | WriteShards(ctx.directory, contexts, tokens, self.config, vocabulary)
                | Commit(ctx.directory)
            ),
            len(specs) + 1,
        )
        ctx.commit(self._manifest(ctx, vocabulary))

    def _manifest(self, ctx: StageContext, vocabulary: dict[str, Any]) -> UnitOutput:
        from mixloom.pipeline.manifest import ShardEntry, build_manifest, text_entries
        from mixloom.pipeline.stage import stage_key

        entries = [
            ShardEntry.model_validate(r.info["entry"]) for r in ctx.directory.units() if "entry" in r.info
        ]
        key = stage_key(self, {name: ctx.manifest(name).fingerprint for name in self.inputs})
        manifest = build_manifest(
            entries,
            vocabulary,
            seq_len=self.config.seq_len,
            config_fingerprint=key,
            texts=text_entries(ctx.manifest("tokenize").info),
        )
        manifest.save(ctx.directory.store.root)
        file = ctx.directory.write_file("manifest.json", ctx.directory.store.read("manifest.json"))
        info: dict[str, Any] = {"totals": manifest.totals.model_dump(mode="json")}
        layouts = layout_totals(ctx.manifest("tokenize").info.values())
        if layouts:
            info["layouts"] = layouts
        return UnitOutput("manifest", files=(file,), info=info)


def layout_totals(units: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """What the layouts of all documents met, by source, sorted, from what stage `tokenize` tells of each part."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for unit in units:
        for source, counts in unit.get("layouts", {}).items():
            found[source].update(counts)
    return {source: dict(sorted(found[source].items())) for source in sorted(found)}
