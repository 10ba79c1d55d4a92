"""Utilities and candidate scores by modular merging: one model per partition, and averages of their weights.

Scalable data ablations (Na et al., arXiv 2410.15661): a model trained on a union of partitions is stood in for by the average
of models trained on each of them, all branched from one. A partition more costs one training; a mixture more, one average
and its evaluation. The average stands for no training exactly: how well it ranks mixtures is measured
(`benchmarks/mixtures.py`), not assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixloom.mixers.utility import Utilities
from mixloom.trainers.ablate import ALONE, Advance, Floats, SmallRuns, utilities_of
from mixloom.trainers.averaging import State, average
from mixloom.trainers.config import TrainConfig
from mixloom.trainers.model import Model
from mixloom.trainers.model_cache import ModelCache, Small, bits
from mixloom.trainers.skills import context_nats
from mixloom.trainers.subset import Subset

LIFT = 0.5  # of a partition whose utility is measured: half of the average is its own


class Merged:
    """One model per partition, branched from a common one, and what their averages lose on every skill.

    Args:
        runs: partitions (the domains of its shards), skills and settings. s: number of the seed.
        cache: where trained models are kept. branch_steps: of the common model, which reads all partitions alike.

    Raises:
        UserError: as `ModelCache.model`.
    """

    def __init__(
        self,
        runs: SmallRuns,
        cache: ModelCache,
        *,
        branch_steps: int,
        s: int = 0,
        advance: Advance | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self.runs = runs
        self.partitions = list(runs.reader.domains)
        own = runs.seeded(s)
        rest = {"steps": branch_steps, "warmup": min(own.warmup, branch_steps)}
        common = TrainConfig.model_validate({**own.model_dump(), **rest})
        even = dict.fromkeys(self.partitions, 1 / len(self.partitions))
        seed_run = Small(runs.together(s), even, runs.filled(), common)
        total = branch_steps + len(self.partitions) * own.steps
        start = cache.model(seed_run, progress=_from(advance, 0, total), should_stop=should_stop).state_dict()
        self.states: list[State] = []
        for i, domain in enumerate(self.partitions):
            subset = Subset(runs.reader, {domain: runs.chosen(domain, own.seed)}, {domain: ALONE})
            branched = Small(subset, {ALONE: 1.0}, runs.filled(), own, start)
            told = _from(advance, branch_steps + i * own.steps, total)
            self.states.append(cache.model(branched, progress=told, should_stop=should_stop).state_dict())
        self._model = Model(runs.filled())

    def merged(self, weights: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """The average of the models in these shares: a `state_dict`. Partitions not named have no share.

        Raises:
            ValueError: shares that are negative, all zero, or of a partition that is not there.
        """
        unknown = set(weights) - set(self.partitions)
        if unknown:
            raise ValueError(f"no partition is called {sorted(unknown)[0]!r}")
        return average(self.states, [weights.get(p, 0.0) for p in self.partitions])

    def losses(self, weights: Mapping[str, float]) -> Floats:
        """Losses of the merged model on every skill, bits per byte or token: float64 [k]."""
        self._model.load_state_dict(self.merged(weights))
        vocabulary = self.runs.reader.manifest.vocabulary
        return bits(
            [context_nats(self._model.eval(), s, vocabulary) for s in self.runs.skills], self.runs.skills
        )

    def scores(self, candidates: Sequence[Mapping[str, float]]) -> Floats:
        """Losses for each of m candidate mixtures: float64 [m, k]; no training."""
        return np.stack([self.losses(c) for c in candidates])

    def lifted(self, lift: float = LIFT) -> Floats:
        """Losses where one partition after the other has `lift` of the average more than its even share: [n, k]."""
        n = len(self.partitions)
        even = dict.fromkeys(self.partitions, (1 - lift) / n)
        return self.scores([{**even, p: even[p] + lift} for p in self.partitions])


def merge_losses(
    runs: SmallRuns,
    cache: ModelCache,
    *,
    branch_steps: int,
    lift: float = LIFT,
    advance: Advance | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Floats:
    """Losses of averages in which one source has more: float64 [seeds, n, k]."""
    every = branch_steps + len(runs.reader.domains) * runs.train.steps
    out = []
    for s in range(runs.seeds):
        told = None if advance is None else _shifted(advance, s * every, runs.seeds * every)
        made = Merged(runs, cache, branch_steps=branch_steps, s=s, advance=told, should_stop=should_stop)
        out.append(made.lifted(lift))
    return np.stack(out)


def merge_utilities(
    losses: NDArray[np.float64], runs: SmallRuns, branch_steps: int, lift: float = LIFT
) -> Utilities:
    """Losses [seeds, n, k] of averages with one source lifted, as utilities in 0..1."""
    details: dict[str, Any] = {"branch_steps": branch_steps, "lift": lift}
    return utilities_of(losses, runs, "merge", details)


def _from(advance: Advance | None, done: int, total: int) -> Callable[[int, int], None] | None:
    return None if advance is None else lambda step, of: advance(done + step, total)


def _shifted(advance: Advance, done: int, total: int) -> Advance:
    return lambda step, of: advance(done + step, total)
