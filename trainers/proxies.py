"""Small trainings behind DoReMi and RegMix, as the tables that `mixers.doremi` and `mixers.regmix` read.

DoReMi (Xie et al., arXiv 2305.10429, algorithm 1): a reference model, then a proxy whose loss weighs the domains by
exponentiated gradient on how much worse than the reference it still is. RegMix (Liu et al., arXiv 2407.01492): many tiny
models on mixtures drawn at random, and what each loses on every skill.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class DoReMiRun:
    """What the proxy of DoReMi found.

    Attributes:
        domains: k names.
        excess: float64 [steps, k], mean over the tokens of a domain of max(proxy - reference, 0), in nats; where a step
            held nothing of a domain, its value of before (0 at first).
        weights: float64 [k], mean of the domain weights over all steps.
    """

    domains: tuple[str, ...]
    excess: Floats
    weights: Floats

    def save(self, path: Path | str) -> Path:
        """The excess losses as CSV: a header `step` and the domains, then a line per step."""
        rows = [[step, *map(repr, row)] for step, row in enumerate(self.excess.tolist())]
        return _write_csv(Path(path), ["step", *self.domains], rows)


def doremi_update(weights: Floats, excess: Floats, step_size: float, smoothing: float) -> Floats:
    """Weights after one step: exponentiated gradient on the excess, then a little of the uniform share: float64 [k]."""
    logs = np.log(weights) + step_size * excess
    grown = np.exp(logs - logs.max())
    return (1 - smoothing) * grown / grown.sum() + smoothing / len(weights)


def doremi_proxy(
    runs: SmallRuns,
    cache: ModelCache,
    *,
    step_size: float = 1.0,
    smoothing: float = 1e-3,
    update: Update = doremi_update,
    s: int = 0,
    advance: Advance | None = None,
) -> DoReMiRun:
    """Train a reference on all domains in proportion to their sizes (cached), then a proxy with group DRO.

    The proxy is served all domains alike; the loss of each token counts k times the weight of its domain.

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
    excess, total = np.zeros((steps, k)), np.zeros(k)
    for step in range(steps):
        batches = proxy.by_domain(stream.batch_arrays(step))
        for d, batch in batches.items():
            latest[d] = proxy.excess(batch)
        weights = update(weights, latest, step_size, smoothing)
        proxy.step(batches, weights * k, step)
        excess[step] = latest
        total += weights
        if advance is not None:
            advance(step + 1, steps)
    return DoReMiRun(tuple(d.name for d in entries), excess, total / steps)


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
                [lengths[r] for r in rows],
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
) -> tuple[Floats, Floats]:
    """Train `count` small models on random mixtures (cached): (weights [count, n], losses [count, k] in bits).

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
    return mixtures, losses


def save_trials(
    path: Path | str, domains: Sequence[str], skills: Sequence[str], mixtures: Floats, losses: Floats
) -> Path:
    """Mixtures [m, n] and losses [m, k] as the CSV that RegMix reads: a column per domain, then `loss:SKILL`."""
    rows = [[*map(repr, w), *map(repr, x)] for w, x in zip(mixtures.tolist(), losses.tolist())]
    return _write_csv(Path(path), [*domains, *(f"loss:{s}" for s in skills)], rows)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(out.getvalue(), encoding="utf-8")
    os.replace(temporary, path)
    return path
