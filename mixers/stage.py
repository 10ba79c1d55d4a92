"""Stage `mixture`: the weights of the domains, estimated from the shards' own counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.mixture import MIXTURE_NAME, Mixture
from mixloom.mixers.sources import Sources
from mixloom.pipeline.manifest import ShardManifest
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput


def shards_of(ctx: StageContext) -> ShardManifest:
    """The manifest of the shards of this run."""
    return ShardManifest.load(ctx.run.stage("shards").store.root)


def weigh(manifest: ShardManifest, config: MixtureConfig, budget_tokens: int | None) -> Mixture:
    """Estimate a mixture over the domains of a manifest; without any budget, for one pass over everything."""
    return estimate(Sources.from_manifest(manifest), config, budget_tokens or manifest.totals.tokens)


class MixtureStage(Stage):
    """shards -> mixture.yaml.

    Args:
        config: how to weigh.
        budget_tokens: length of the training it is for, when known.
    """

    name = "mixture"
    version = 1
    inputs = ("shards",)

    def __init__(self, config: MixtureConfig, budget_tokens: int | None) -> None:
        self.config, self.budget_tokens = config, budget_tokens

    def settings(self) -> dict[str, Any]:
        return {**self.config.model_dump(mode="json"), "training_tokens": self.budget_tokens}

    def expected_in(self, ctx: StageContext) -> int | None:
        return None  # no document passes through

    def execute(self, ctx: StageContext) -> None:
        mixture = weigh(shards_of(ctx), self.config, self.budget_tokens)

        def save(folder: Path) -> None:
            mixture.save(folder / MIXTURE_NAME)

        files = ctx.save_model("", save)
        info = {"weights": mixture.weights, "epochs": mixture.epochs, "capped": list(mixture.capped)}
        ctx.commit(UnitOutput("mixture", files=files, info=info))
