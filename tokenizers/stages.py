"""Stages `tokenize`, `pack` and `shards` of a run. Beam and the codecs are imported only when there is work."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.overlay import surviving
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput


class ShardsConfig(BaseModel):
    """Contexts and the shards they are written to."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    seq_len: int = Field(1024, ge=16, le=1 << 20, description="tokens of a context")
    window: int = Field(
        64,
        ge=1,
        description="documents that packing may look ahead; 1: concatenate and cut (docs/shards.md has the price)",
    )
    block: int = Field(64, ge=1, le=4096, description="contexts in one sample of a shard")
    contexts_per_shard: int = Field(8192, ge=1, description="contexts in one shard, about")
    seed: int = Field(0, ge=0, description="seed of the shuffle of contexts")


def domain_name(domain: int) -> str:
    return f"domain-{domain:03d}"


class TokenizeStage(Stage):
    """Documents, domains and fitted tokenizers -> token ids."""

    name = "tokenize"
    version = 1
    inputs: tuple[str, ...] = ("cluster", "ingest", "tokenizer")

    def __init__(self, roots: dict[str, str], survivors: str | None = None) -> None:
        self.roots = roots  # where sources lie; moving them changes nothing
        self.survivors = survivors
        if survivors is not None:  # a stage that dropped documents after they had their cells
            self.inputs = (survivors, *TokenizeStage.inputs)

    def settings(self) -> dict[str, Any]:
        return {}  # everything that matters is in the fitted tokenizers, which are an input

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit, ReadParts
        from mixloom.tokenizers.transform import Tokenize

        parts = [n for n in ctx.part_names("cluster") if n.startswith("part-")]
        alive = ctx.reader(self.survivors) if self.survivors is not None else None
        assignments = surviving(ctx.reader("cluster"), alive)
        tokenizer = ctx.run.stage("tokenizer").store
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(parts), reshuffle=False)
                | ReadParts(ctx.documents(), ["doc_id", "source", "segments"], assignments)
                | Tokenize(tokenizer, assignments, self.roots)
                | Commit(ctx.directory)
            ),
            len(parts),
        )


class PackStage(Stage):
    """Paths and token lengths -> packed contexts, as lists of pieces (no token is read)."""

    name = "pack"
    version = 1
    inputs = ("tokenize", "order")

    def __init__(self, config: ShardsConfig) -> None:
        self.config = config

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", include={"seq_len", "window", "seed"})

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit
        from mixloom.tokenizers.pack import PackCells

        cells = ctx.part_names("order")
        order, tokens = ctx.reader("order"), ctx.reader("tokenize")
        ctx.beam(
            lambda p: (
                p
                | beam.Create(ctx.todo(cells))
                | PackCells(order, tokens, self.config, self.config.seed)
                | Commit(ctx.directory)
            ),
            len(cells),
        )


class ShardsStage(Stage):
    """Contexts and tokens -> WebDataset shards per domain, their indexes and the manifest."""

    name = "shards"
    version = 1
    inputs = ("pack", "tokenize", "tokenizer")

    def __init__(self, config: ShardsConfig) -> None:
        self.config = config

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def execute(self, ctx: StageContext) -> None:
        import apache_beam as beam

        from mixloom.pipeline.engine import Commit
        from mixloom.tokenizers.pack import ShardSpec, WriteShards

        by_domain: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for cell, info in sorted(ctx.manifest("pack").info.items()):
            by_domain[info["domain"]].append((cell, info["contexts"]))
        specs = []
        for domain, cells in sorted(by_domain.items()):
            shards = max(1, round(sum(n for _, n in cells) / self.config.contexts_per_shard))
            names = tuple(cell for cell, _ in cells)
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
        from mixloom.pipeline.manifest import ShardEntry, build_manifest
        from mixloom.pipeline.stage import stage_key

        entries = [
            ShardEntry.model_validate(r.info["entry"]) for r in ctx.directory.units() if "entry" in r.info
        ]
        key = stage_key(self, {name: ctx.manifest(name).fingerprint for name in self.inputs})
        manifest = build_manifest(entries, vocabulary, seq_len=self.config.seq_len, config_fingerprint=key)
        manifest.save(ctx.directory.store.root)
        file = ctx.directory.write_file("manifest.json", ctx.directory.store.read("manifest.json"))
        return UnitOutput("manifest", files=(file,), info={"totals": manifest.totals.model_dump(mode="json")})
