"""Small trainings behind DoReMi and RegMix, as the tables that `mixers.doremi` and `mixers.regmix` read.

DoReMi (Xie et al., arXiv 2305.10429, algorithm 1): a reference model, then a proxy whose loss weighs the domains by
exponentiated gradient on how much worse than the reference it still is. RegMix (Liu et al., arXiv 2407.01492): many tiny
models on mixtures drawn at random, and what each loses on every skill.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mixloom.mixers.doremi import doremi_step
from mixloom.mixers.tables import Trace, Trials
from mixloom.pipeline.errors import UserError
from mixloom.trainers.ablate import Advance, Floats, SmallRuns, losses_of
from mixloom.trainers.attention import choose
from mixloom.trainers.data import Batch, make_batch, modality_table
from mixloom.trainers.model import Model
from mixloom.trainers.model_cache import ModelCache
from mixloom.trainers.optim import build_optimizer, learning_rate, skip_absent
from mixloom.trainers.step import batch_losses, pick_device, token_losses

Update = Callable[[Floats, Floats, float, float], Floats]

_CHUNK = 256  # rows whose logits exist at one time
STRENGTHS = tuple(float(x) for x in np.geomspace(0.1, 5.0, 15))  # RegMix's concentrations
_MOST_OF_PRIOR = 15.0  # RegMix: no domain more often than so many times its prior share


def doremi_proxy(
    runs: SmallRuns,
    cache: ModelCache,
    *,
    eta: float = 1.0,
    smoothing: float = 1e-3,
    step: Update = doremi_step,
    s: int = 0,
    advance: Advance | None = None,
) -> Trace:
    """Train a reference on all domains in proportion to their sizes (cached), then a proxy with group DRO.

    The proxy is served all domains alike; the loss of each token counts k times the weight of its domain.

    Args:
        eta, smoothing: as `mixers.doremi.doremi`, which finds the same weights again from what is returned.
        step: the update of the weights.

    Returns:
        Per step and domain the mean over its tokens of max(proxy - reference, 0) in nats; nan where a step held none.

    Raises:
        UserError: a loss that is not finite.
    """
    subset, config, model_config = runs.together(s), runs.seeded(s), runs.filled()
    entries = subset.manifest.domains
    whole = sum(d.tokens for d in entries)
    reference = cache.model(runs.mixed({d.name: d.tokens / whole for d in entries}, s, subset))
    k, steps = len(entries), config.steps
    stream = subset.stream(
        {d.name: 1 / k for d in entries}, seed=config.seed, batch_contexts=config.batch_contexts, steps=steps
    )
    proxy = _Proxy(Model(model_config, seed=config.seed), reference, runs, s)
    weights, latest = np.full(k, 1 / k), np.zeros(k)
    excess = np.full((steps, k), np.nan)
    for t in range(steps):
        batches = proxy.by_domain(stream.batch_arrays(t)[:3])
        for d, batch in batches.items():
            latest[d] = excess[t, d] = proxy.excess(batch)
        weights = step(weights, latest, eta, smoothing)
        proxy.step(batches, weights * k, t)
        if advance is not None:
            advance(t + 1, steps)
    return Trace(tuple(d.name for d in entries), np.arange(steps), excess, "the proxy of DoReMi")


class _Proxy:
    """The model that DoReMi trains, beside its reference."""

    def __init__(self, model: Model, reference: Model, runs: SmallRuns, s: int) -> None:
        self.config = runs.seeded(s)
        self.device = pick_device(self.config)
        self.model, self.reference = model.to(self.device), reference.to(self.device)
        self.table = modality_table(runs.reader.manifest.vocabulary)
        self.kind = choose(self.device, model.config.head_dim, compiled=False)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.optimizer = build_optimizer(model, self.config)
        if self.config.threads:
            torch.set_num_threads(self.config.threads)

    def by_domain(
        self, arrays: tuple[NDArray[np.unsignedinteger], Sequence[NDArray[np.int32]], NDArray[np.int32]]
    ) -> dict[int, Batch]:
        """The contexts of one step, a batch per domain."""
        ids, lengths, domains = arrays
        out = {}
        for d in sorted(set(domains.tolist())):
            rows = np.flatnonzero(domains == d)
            batch = make_batch(
                ids[rows],
                [lengths[r] for r in rows.tolist()],
                self.table,
                modalities=self.model.config.modalities,
                document_mask=self.model.config.document_mask,
            )
            out[int(d)] = batch.to(self.device)
        return out

    @torch.no_grad()
    def excess(self, batch: Batch) -> float:
        """Mean over the targets of how much worse the proxy is than the reference, nowhere below 0, in nats."""
        own = token_losses(self.model, batch, self.kind, self.dtype, _CHUNK)
        base = token_losses(self.reference, batch, self.kind, self.dtype, _CHUNK)
        # Both are 0 where there is no target.
        return float((own - base).clamp(min=0).double().sum() / max(1, batch.targets_total))

    def step(self, batches: Mapping[int, Batch], factors: Floats, step: int) -> None:
        """One update on the loss in which each token of domain d counts factors[d]."""
        targets = max(1, sum(b.targets_total for b in batches.values()))
        self.optimizer.zero_grad(set_to_none=True)
        for d, batch in batches.items():
            losses = batch_losses(self.model, batch, self.kind, self.dtype, _CHUNK)
            (losses.total * (float(factors[d]) / targets)).backward()  # type: ignore[no-untyped-call]
        skip_absent(self.model, np.sum([b.sizes for b in batches.values()], axis=0).tolist())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip or math.inf)
        if not math.isfinite(float(norm)):
            raise UserError(
                f"the proxy of DoReMi: the gradient is not finite at step {step + 1}", fix="lower train.lr"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        self.optimizer.step()


def regmix_mixtures(prior: Floats, count: int, seed: int) -> Floats:
    """Mixtures to train tiny models on: float64 [count, k], rows sum to 1.

    Dirichlet draws around the square root of the prior, in 15 concentrations from 0.1 to 5 in turn; a draw that gives a
    domain more than 15 times its prior is drawn again (RegMix, section 3 and its repository).

    Args:
        prior: [k], shares of the domains by size, all above 0.
    """
    base = np.sqrt(np.asarray(prior, np.float64))
    base /= base.sum()
    rng = np.random.Generator(np.random.PCG64([seed, len(base)]))
    out: list[Floats] = []
    for i in range(count):
        strength = STRENGTHS[i % len(STRENGTHS)]
        for _ in range(1000):
            drawn = rng.dirichlet(np.maximum(strength * base, 1e-3))
            if np.isfinite(drawn).all() and (drawn <= _MOST_OF_PRIOR * prior).all():
                break
        else:
            drawn = base
        out.append(drawn / drawn.sum())
    return np.stack(out)


def regmix_trials(
    runs: SmallRuns,
    cache: ModelCache,
    count: int,
    *,
    seed: int = 0,
    advance: Advance | None = None,
) -> Trials:
    """Train `count` small models on random mixtures (cached); losses are bits per byte or token.

    Raises:
        UserError: as `ModelCache.model`.
    """
    subset = runs.together(0)
    sizes = np.array([d.tokens for d in runs.reader.manifest.domains], np.float64)
    mixtures = regmix_mixtures(sizes / sizes.sum(), count, seed)
    losses = np.zeros((count, len(runs.skills)))
    for i, row in enumerate(mixtures):
        weights = dict(zip(runs.reader.domains, map(float, row)))
        losses[i] = losses_of(runs.mixed(weights, 0, subset), runs.skills, cache)
        if advance is not None:
            advance(i + 1, count)
    skills = tuple(skill.name for skill in runs.skills)
    return Trials(tuple(runs.reader.domains), skills, mixtures, losses, "small trainings")


def save_table(path: Path | str, table: Trace | Trials) -> Path:
    """Write excess losses or trials as the CSV that `mixloom mix estimate` reads, whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text("\n".join(table.lines()) + "\n", encoding="utf-8")
    os.replace(temporary, target)
    return target
