"""Stage `mixture`: the weights of the domains, estimated from the shards' own counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.given import Given, input_hashes
from mixloom.mixers.mixture import MIXTURE_NAME, Mixture
from mixloom.mixers.sources import Sources
from mixloom.mixers.tables import Trace, Trials
from mixloom.mixers.utility import Utilities
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardManifest
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput

UTILITIES_NAME, TRIALS_NAME, EXCESS_NAME = "utilities.yaml", "trials.csv", "excess.csv"
_ROUNDS = 10  # of finding the tokens that a mixture serves, which decide the mixture


def shards_of(ctx: StageContext) -> ShardManifest:
    """The manifest of the shards of this run, unchanged since it was written."""
    ctx.reader("shards").read_bytes("manifest.json")
    return ShardManifest.load(ctx.run.stage("shards").store.root)


def weigh(
    manifest: ShardManifest,
    config: MixtureConfig,
    contexts: int | None,
    given: Given | None = None,
) -> Mixture:
    """Estimate a mixture over the domains of a manifest.

    Args:
        given: tables the method needs, instead of the files of the settings.
        contexts: contexts the training will be served; None: one pass over everything. The budget is their real
            tokens (the mean of the shards), for padding is neither served nor counted.
    """
    if config.group_by != ("domain",):
        raise UserError(
            f"mixture.group_by is {list(config.group_by)}, but the shards are served by domain",
            fix="leave it out; `mixloom mix estimate RUN group_by=source,domain` plans with other groupings",
        )
    totals, sources = manifest.totals, Sources.from_manifest(manifest)
    tokens = totals.tokens if contexts is None else contexts * totals.tokens // totals.contexts
    mixture = estimate(sources, config, tokens, given=given)
    # Contexts of what the mixture prefers may be fuller than the mean of the shards: then they hold more tokens, and
    # caps must be met for those.
    for _ in range(_ROUNDS if contexts is not None and config.budget_tokens == "steps" else 0):
        per_token = sum(mixture.weights[d.name] * d.contexts / d.tokens for d in manifest.domains)
        served = math.ceil((contexts or 0) / per_token)
        if served <= mixture.budget_tokens:
            break
        mixture = estimate(sources, config, served, given=given)
    return mixture


class MixtureStage(Stage):
    """shards -> mixture.yaml.

    Args:
        config: how to weigh.
        contexts: contexts served by the training it is for, when known.
        measured: the stage whose tables are used where the settings name no file of them.
    """

    name = "mixture"
    version = 2
    inputs: tuple[str, ...] = ("shards",)

    def __init__(self, config: MixtureConfig, contexts: int | None, measured: str | None = None) -> None:
        self.config, self.contexts = config, contexts
        self.measured = measured
        if measured is not None:
            self.inputs = (*MixtureStage.inputs, measured)

    def settings(self) -> dict[str, Any]:
        found = {**self.config.model_dump(mode="json"), "contexts": self.contexts}
        files = input_hashes(self.config)
        return {**found, "files": files} if files else found

    def expected_in(self, ctx: StageContext) -> int | None:
        return None  # no document passes through

    def execute(self, ctx: StageContext) -> None:
        given = Given.load(self.config)
        if self.measured is not None:
            given = _measured(ctx, self.measured, given)
        mixture = weigh(shards_of(ctx), self.config, self.contexts, given)

        def save(folder: Path) -> None:
            mixture.save(folder / MIXTURE_NAME)

        files = ctx.save_model("", save)
        info = {"weights": mixture.weights, "epochs": mixture.epochs, "capped": list(mixture.capped)}
        ctx.commit(UnitOutput("mixture", files=files, info=info))


def _measured(ctx: StageContext, stage: str, given: Given) -> Given:
    """The tables given, and where there is none that of a stage before this one, if it made one."""
    store, made = ctx.run.stage(stage).store, {p.name for p in ctx.manifest(stage).parts}
    loads: dict[str, tuple[str, Callable[[str], Any]]] = {
        "utilities": (UTILITIES_NAME, Utilities.load),
        "trials": (TRIALS_NAME, Trials.load),
        "excess": (EXCESS_NAME, Trace.load),
    }
    found = {}
    for field, (name, load) in loads.items():
        if getattr(given, field) is None and name in made:
            ctx.reader(stage).read_bytes(name)  # unchanged since it was written
            found[field] = load(store.url(name))
    return replace(given, **found)
