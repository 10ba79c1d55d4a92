"""Utilities by ablation: a small model per source, judged on every skill.

Held et al. (UtiliMax, arXiv 2501.11747) train a model of reduced scale on each data set alone, cut so that it repeats as
in the full run (`subset.simulated_contexts`). How they bring scores to 0..1 could not be read; here, per skill, the best
source gets 1 and the worst 0 (`mixers.utility.normalised`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.utility import Method, Utilities, normalised
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.model import Model
from mixloom.trainers.model_cache import ModelCache, Small, bits
from mixloom.trainers.skills import SkillSet
from mixloom.trainers.subset import Int64, Subset, chosen_contexts, simulated_contexts

Floats = NDArray[np.float64]
Advance = Callable[[int, int | None], None]
ALONE = "source"  # what the only domain of a one-source subset is called, so that a new name costs nothing


@dataclass(frozen=True)
class SmallRuns:
    """What all small trainings of one estimate share.

    Attributes:
        reader: the shards. skills: k held-out sets.
        model, train: of every small training; `train.seed` is that of the first.
        run_contexts: contexts of the run they stand for; None: no epochs are simulated.
        seeds: trainings per source.
    """

    reader: ShardReader
    skills: Sequence[SkillSet]
    model: ModelConfig
    train: TrainConfig
    run_contexts: int | None
    seeds: int = 1

    @property
    def contexts(self) -> int:
        """Contexts that one small training is served."""
        return self.train.steps * self.train.batch_contexts

    def filled(self) -> ModelConfig:
        """The model with the sizes of these shards."""
        manifest = self.reader.manifest
        return self.model.filled(vocab_size=int(manifest.vocabulary["size"]), seq_len=manifest.seq_len)

    def seeded(self, s: int) -> TrainConfig:
        """The training under seed number `s` from 0."""
        return self.train.model_copy(update={"seed": self.train.seed + s})

    def chosen(self, domain: str, seed: int) -> Int64:
        """The contexts of a domain that small trainings may read."""
        there = self.reader.contexts(domain)
        wanted = simulated_contexts(there, self.contexts, self.run_contexts)
        return chosen_contexts(there, wanted, seed)

    def alone(self, domain: str, s: int) -> Small:
        """The training on one domain."""
        config = self.seeded(s)
        subset = Subset(self.reader, {domain: self.chosen(domain, config.seed)}, {domain: ALONE})
        return Small(subset, {ALONE: 1.0}, self.filled(), config)

    def together(self, s: int) -> Subset:
        """The same contexts of every domain, in one subset."""
        seed = self.seeded(s).seed
        return Subset(self.reader, {d: self.chosen(d, seed) for d in self.reader.domains})

    def mixed(self, weights: Mapping[str, float], s: int, subset: Subset | None = None) -> Small:
        """The training on a mixture of the domains."""
        return Small(subset or self.together(s), dict(weights), self.filled(), self.seeded(s))


def ablation_losses(
    runs: SmallRuns,
    cache: ModelCache,
    *,
    advance: Advance | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Floats:
    """Losses of a model trained on each source alone, bits per byte or token: float64 [seeds, n, k].

    Models and losses that are in the cache are not made again.

    Raises:
        UserError: as `ModelCache.model`.
    """
    domains = runs.reader.domains
    total, steps = runs.seeds * len(domains), runs.train.steps
    out = np.zeros((runs.seeds, len(domains), len(runs.skills)))
    for s in range(runs.seeds):
        for i, domain in enumerate(domains):
            done = s * len(domains) + i
            out[s, i] = losses_of(
                runs.alone(domain, s), runs.skills, cache, _offset(advance, done, total, steps), should_stop
            )
    return out


def losses_of(
    small: Small,
    skills: Sequence[SkillSet],
    cache: ModelCache,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Floats:
    """Losses of one small training on every skill, bits per byte or token: float64 [k]."""
    held: list[Model] = []

    def model() -> Model:
        if not held:
            held.append(cache.model(small, progress=progress, should_stop=should_stop))
        return held[0]

    return bits([cache.nats(small, skill, model) for skill in skills], skills)


def utilities_of(
    losses: Floats, runs: SmallRuns, method: Method = "ablation", details: Mapping[str, Any] | None = None
) -> Utilities:
    """Losses [seeds, n, k] as utilities in 0..1, with what they rest on in `details`."""
    mean = losses.mean(axis=0)
    domains = runs.reader.domains
    facts: dict[str, Any] = {
        "losses": {d: [round(float(x), 6) for x in row] for d, row in zip(domains, mean)},
        "units": {s.name: f"bits per {s.unit}" for s in runs.skills},
        "skills": {
            s.name: {"documents": s.documents, "tokens": s.tokens, "bytes": s.bytes, "sha256": s.fingerprint}
            for s in runs.skills
        },
        "contexts": {d: len(runs.chosen(d, runs.train.seed)) for d in domains},
        "small_contexts": runs.contexts,
        "run_contexts": runs.run_contexts,
        "seeds": runs.seeds,
        "model": runs.filled().model_dump(mode="json"),
        "train": runs.train.model_dump(mode="json", exclude=set(runs.train.free_to_change())),
        **(details or {}),
    }
    if runs.seeds > 1:
        deviation = losses.std(axis=0, ddof=1) / np.sqrt(runs.seeds)
        facts["standard_errors"] = {
            d: [round(float(x), 6) for x in row] for d, row in zip(domains, deviation)
        }
    flat = [s.name for s, column in zip(runs.skills, mean.T) if np.ptp(column) == 0]
    notes = [f"all sources are equal for the skill '{name}': it has no say" for name in flat]
    return Utilities(
        sources=tuple(domains),
        skills=tuple(s.name for s in runs.skills),
        values=normalised(mean, higher_is_better=False),
        method=method,
        loss_only=True,
        notes=tuple(notes),
        details=facts,
    )


def _offset(advance: Advance | None, done: int, total: int, steps: int) -> Callable[[int, int], None] | None:
    if advance is None:
        return None
    return lambda step, of: advance(done * steps + step, total * steps)
