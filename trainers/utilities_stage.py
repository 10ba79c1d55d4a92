"""Stage `utilities`: shards -> how much each domain is worth for each skill, by small trainings."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixloom.mixers.stage import EXCESS_NAME, TRIALS_NAME, UTILITIES_NAME, shards_of
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput
from mixloom.pipeline.storage import resolve
from mixloom.trainers.utilities_config import ShardSkill, UtilitiesConfig

if TYPE_CHECKING:
    from mixloom.mixers.tables import Trace, Trials
    from mixloom.pipeline.console import Advance
    from mixloom.trainers.ablate import SmallRuns
    from mixloom.trainers.model_cache import ModelCache

CACHE_NAME = "utilities-cache"
Save = Callable[[Path], None]  # writes files into a folder


def skill_settings(config: UtilitiesConfig, data_root: str) -> list[dict[str, Any]]:
    """What decides the held-out sets: their settings and the files they are read from, wherever these lie."""
    from mixloom.pipeline.ingest.plan import fingerprint
    from mixloom.pipeline.ingest.readers import reader_settings
    from mixloom.pipeline.manifest import ShardManifest

    out = []
    for s in config.skills:
        path, told = resolve(data_root, s.path), s.model_dump(mode="json", exclude={"path"})
        if isinstance(s, ShardSkill):
            out.append({**told, "files": ShardManifest.load(path).fingerprint})
        else:
            out.append({**told, **reader_settings(s), "files": fingerprint(s, path)})
    return out


def small_settings(config: UtilitiesConfig, data_root: str) -> dict[str, Any]:
    """Everything in the section that may change what small trainings find."""
    fixed = config.train.model_dump(mode="json", exclude={"seed", *config.train.free_to_change()})
    rest = config.model_dump(mode="json", exclude={"skills", "train", "cache", "compare"})
    return {**rest, "train": fixed, "skills": skill_settings(config, data_root)}


def small_runs(ctx: StageContext, config: UtilitiesConfig, data_root: str, contexts: int | None) -> SmallRuns:
    """What the small trainings of a run share; the held-out sets are read and tokenised here.

    Args:
        contexts: contexts the training of the run is served; None: one pass over everything.

    Raises:
        UserError: a run directory that is not local, or as `load_skills`.
    """
    from mixloom.pipeline.shard_reader import ShardReader
    from mixloom.trainers.ablate import SmallRuns
    from mixloom.trainers.skills import load_skills

    if not ctx.run.store.local:
        raise UserError(
            f"small models are trained in a local run directory, and {ctx.run.store.root} is not one",
            fix="copy the run to a local disk, or give the mixture its utilities as a file",
        )
    manifest = shards_of(ctx)
    tokenizer = ctx.run.stage("tokenizer").store
    skills = load_skills(config, data_root, tokenizer, manifest.vocabulary, manifest.seq_len)
    reader = ShardReader(ctx.run.stage("shards").store.root)
    run_contexts = (contexts or manifest.totals.contexts) if config.simulate_epochs else None
    train = config.train.model_copy(update={"seed": config.seed})
    return SmallRuns(reader, skills, config.model, train, run_contexts, config.seeds)


def small_cache(ctx: StageContext, config: UtilitiesConfig) -> ModelCache:
    """Where the small models of a run are kept: beside its stages, so that no changed setting removes them."""
    from mixloom.trainers.model_cache import ModelCache

    return ModelCache(config.cache or ctx.run.store.url(CACHE_NAME))


class SmallRunStage(Stage):
    """A stage that trains small models on the shards and judges them by held-out sets; both kinds share this loop.

    Args:
        config: what to train and what to judge by.
        data_root: against which the paths of the held-out sets are resolved.
        contexts: contexts served by the training of the run, when known.
    """

    def __init__(self, config: UtilitiesConfig, data_root: str, contexts: int | None) -> None:
        self.config, self.data_root, self.contexts = config, data_root, contexts

    def settings(self) -> dict[str, Any]:
        contexts = self.contexts if self.config.simulate_epochs else None
        return {**small_settings(self.config, self.data_root), "contexts": contexts}

    def expected_in(self, ctx: StageContext) -> int | None:
        return None  # no document passes through

    def execute(self, ctx: StageContext) -> None:
        started = time.perf_counter()
        runs, cache = (
            small_runs(ctx, self.config, self.data_root, self.contexts),
            small_cache(ctx, self.config),
        )
        save, info = self.find(ctx, runs, cache)
        files = () if save is None else ctx.save_model("", save)
        ctx.commit(UnitOutput(self.name, files=files, info=info, seconds=time.perf_counter() - started))

    @abstractmethod
    def find(
        self, ctx: StageContext, runs: SmallRuns, cache: ModelCache
    ) -> tuple[Save | None, dict[str, Any]]:
        """Train and judge: what writes the findings into a folder (None: there are none), and the info of the stage."""


class UtilitiesStage(SmallRunStage):
    """Shards and held-out sets -> utilities.yaml; arguments are those of `SmallRunStage`."""

    name = "utilities"
    version = 1
    inputs = ("shards", "tokenizer")

    def find(
        self, ctx: StageContext, runs: SmallRuns, cache: ModelCache
    ) -> tuple[Save | None, dict[str, Any]]:
        from mixloom.trainers.ablate import ablation_losses, utilities_of
        from mixloom.trainers.merging import merge_losses, merge_utilities
        from mixloom.trainers.proxies import save_table

        with ctx.steps(self.name) as advance:
            if self.config.method == "ablation":
                found = utilities_of(ablation_losses(runs, cache, advance=advance), runs)
            else:
                steps = self.config.branch_steps
                found = merge_utilities(
                    merge_losses(runs, cache, branch_steps=steps, advance=advance), runs, steps
                )
            tables = self._tables(runs, cache, advance)
        ctx.console.say(
            f"{self.name}: {cache.trained} small models trained, {cache.evaluated} evaluations;"
            " what was known already was not done again"
        )

        def save(folder: Path) -> None:
            found.save(folder / UTILITIES_NAME)
            for name, table in tables.items():
                save_table(folder / name, table)

        return save, {"method": found.method, "skills": list(found.skills), "sources": len(found.sources)}

    def _tables(self, runs: SmallRuns, cache: ModelCache, advance: Advance) -> dict[str, Trace | Trials]:
        """What RegMix and DoReMi need, where it is asked for, by the name of its file."""
        from mixloom.trainers.proxies import doremi_proxy, regmix_trials

        out: dict[str, Trace | Trials] = {}
        if self.config.trials:
            out[TRIALS_NAME] = regmix_trials(
                runs, cache, self.config.trials, seed=self.config.seed, advance=advance
            )
        if self.config.excess:
            out[EXCESS_NAME] = doremi_proxy(runs, cache, advance=advance)
        return out
