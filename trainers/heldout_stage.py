"""Stage `heldout`: what the mixture is worth on held-out sets, against UniMax, and what the trained model loses there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixloom.mixers.heldout import HELDOUT_NAME, HeldOut, SkillLosses
from mixloom.mixers.mixture import Mixture
from mixloom.pipeline.stage import StageContext
from mixloom.trainers.utilities_config import UtilitiesConfig
from mixloom.trainers.utilities_stage import Save, SmallRunStage

if TYPE_CHECKING:
    from mixloom.trainers.ablate import Floats, SmallRuns
    from mixloom.trainers.model_cache import ModelCache
    from mixloom.trainers.stage import TrainStage


class HeldOutStage(SmallRunStage):
    """Mixture and held-out sets (and the trained model, where there is one) -> heldout.json and losses.

    Args:
        config, data_root, contexts: see `SmallRunStage`.
        train: the training of the run, when there is one.
    """

    name = "heldout"
    version = 1

    def __init__(
        self, config: UtilitiesConfig, data_root: str, contexts: int | None, train: TrainStage | None
    ) -> None:
        super().__init__(config, data_root, contexts)
        self.train = train
        self.inputs = ("shards", "tokenizer", "mixture", *([train.name] if train else []))

    def settings(self) -> dict[str, Any]:
        trained = self.train.settings() if self.train else None  # a training leaves no part to go by
        return {**super().settings(), "compare": self.config.compare, "train": trained}

    def find(
        self, ctx: StageContext, runs: SmallRuns, cache: ModelCache
    ) -> tuple[Save | None, dict[str, Any]]:
        mixture = Mixture.load(ctx.run.stage("mixture").store.root)
        info: dict[str, Any] = {"units": {s.name: f"bits per {s.unit}" for s in runs.skills}}
        if self.train is not None:
            info["trained"] = self._trained(ctx, runs)
        unimax = mixture.record.get("unimax")
        if not (self.config.compare and unimax and mixture.estimator != "unimax"):
            return None, info
        with ctx.steps(self.name) as advance:
            found = compare_with_unimax(runs, cache, mixture, unimax, self.config.compare, advance)
        info["verdict"] = found.verdict()
        info["by_skill"] = {k: v.model_dump(mode="json") for k, v in found.by_skill.items()}
        ctx.console.say(f"{self.name}: {info['verdict']}")

        def save(folder: Path) -> None:
            found.save(folder / HELDOUT_NAME)

        return save, info

    def _trained(self, ctx: StageContext, runs: SmallRuns) -> dict[str, float]:
        """Losses of the run's own model by skill."""
        from mixloom.trainers.checkpoint import latest_checkpoint
        from mixloom.trainers.export import load_checkpoint_model
        from mixloom.trainers.model_cache import bits
        from mixloom.trainers.skills import context_nats

        assert self.train is not None
        checkpoint = latest_checkpoint(Path(ctx.run.stage(self.train.name).store.root) / "checkpoints")
        assert checkpoint is not None, "a training that has finished has a checkpoint"
        model = load_checkpoint_model(checkpoint)
        vocabulary = runs.reader.manifest.vocabulary
        losses = bits([context_nats(model, s, vocabulary) for s in runs.skills], runs.skills)
        return {s.name: round(float(x), 6) for s, x in zip(runs.skills, losses)}


def compare_with_unimax(
    runs: SmallRuns,
    cache: ModelCache,
    mixture: Mixture,
    unimax: Mapping[str, float],
    seeds: int,
    advance: Any = None,
) -> HeldOut:
    """Train a small model on the mixture and one on UniMax's weights under each seed, on the same contexts.

    Args:
        unimax: the weights of UniMax under the same caps.
        seeds: the first is that of `runs`; the mixture may have been found with models of the same seeds.

    Raises:
        UserError: as `ModelCache.model`.
    """
    from mixloom.trainers.ablate import losses_of

    found: dict[str, list[Floats]] = {"loss": [], "unimax": []}
    done = 0
    for s in range(seeds):
        subset = runs.together(s)
        for side, weights in (("loss", mixture.weights), ("unimax", unimax)):
            found[side].append(losses_of(runs.mixed(weights, s, subset), runs.skills, cache))
            done += 1
            if advance is not None:
                advance(done, 2 * seeds)
    table = {side: np.stack(rows) for side, rows in found.items()}  # [seeds, skills]
    return HeldOut(
        version=1,
        mixture=mixture.fingerprint,
        method=mixture.estimator,
        seeds=tuple(runs.train.seed + s for s in range(seeds)),
        loss=_rounded(table["loss"].mean(axis=1)),
        unimax=_rounded(table["unimax"].mean(axis=1)),
        by_skill={
            skill.name: SkillLosses(
                loss=_rounded(table["loss"][:, k]), unimax=_rounded(table["unimax"][:, k])
            )
            for k, skill in enumerate(runs.skills)
        },
    )


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(x), 6) for x in values)
