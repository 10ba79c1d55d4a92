"""Stage `mixture`: the weights of the domains, estimated from the shards' own counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.given import input_hashes
from mixloom.mixers.mixture import MIXTURE_NAME, Mixture
from mixloom.mixers.sources import Sources
from mixloom.mixers.utility import Utilities
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardManifest
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

UTILITIES_NAME = "utilities.yaml"


def shards_of(ctx: StageContext) -> ShardManifest:
    """The manifest of the shards of this run, unchanged since it was written."""
    ctx.reader("shards").read_bytes("manifest.json")
    return ShardManifest.load(ctx.run.stage("shards").store.root)


def weigh(
    manifest: ShardManifest,
    config: MixtureConfig,
    contexts: int | None,
    utilities: Utilities | None = None,
) -> Mixture:
    """Estimate a mixture over the domains of a manifest.

    Args:
        contexts: contexts the training will be served; None: one pass over everything. The budget is their real
            tokens (the mean of the shards), for padding is neither served nor counted.
    """
    if config.group_by != ("domain",):
        raise UserError(
            f"mixture.group_by is {list(config.group_by)}, but the shards are served by domain",
            fix="leave it out; `mixloom mix estimate RUN group_by=source,domain` plans with other groupings",
        )
    totals = manifest.totals
    tokens = totals.tokens if contexts is None else contexts * totals.tokens // totals.contexts
    return estimate(Sources.from_manifest(manifest), config, tokens, utilities=utilities)


class MixtureStage(Stage):
    """shards -> mixture.yaml.

    Args:
        config: how to weigh.
        contexts: contexts served by the training it is for, when known.
        measured: the stage whose utilities are used where the settings name no file of them.
    """

    name = "mixture"
    version = 1
    inputs: tuple[str, ...] = ("shards",)

    def __init__(self, config: MixtureConfig, contexts: int | None, measured: str | None = None) -> None:
        self.config, self.contexts = config, contexts
        self.measured = measured if config.utilities is None else None
        if self.measured is not None:
            self.inputs = (*MixtureStage.inputs, self.measured)

    def settings(self) -> dict[str, Any]:
        found = {**self.config.model_dump(mode="json"), "contexts": self.contexts}
        files = input_hashes(self.config)
        return {**found, "files": files} if files else found

    def expected_in(self, ctx: StageContext) -> int | None:
        return None  # no document passes through

    def execute(self, ctx: StageContext) -> None:
        utilities = None
        if self.measured is not None:
            ctx.reader(self.measured).read_bytes(UTILITIES_NAME)  # unchanged since it was written
            utilities = Utilities.load(ctx.run.stage(self.measured).store.url(UTILITIES_NAME))
        mixture = weigh(shards_of(ctx), self.config, self.contexts, utilities)

        def save(folder: Path) -> None:
            mixture.save(folder / MIXTURE_NAME)

        files = ctx.save_model("", save)
        info = {"weights": mixture.weights, "epochs": mixture.epochs, "capped": list(mixture.capped)}
        ctx.commit(UnitOutput("mixture", files=files, info=info))
