"""The order in which contexts are served: a pure function of the shards, the mixture, the seed and the step.

Nothing is carried from step to step. The domain of a draw is looked up in a periodic schedule, the context in a
stateless permutation of its domain, so any step can be computed on any rank of any world, and a checkpoint is a
step with the fingerprints of what it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.mixture import Mixture, check_weights
from mixloom.mixers.permutation import place, stream_key
from mixloom.mixers.schedule import MAX_PERIOD, apportion, make_schedule
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.shard_reader import ShardReader

if TYPE_CHECKING:
    from torch.utils.data import IterableDataset

_STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class ContextRef:
    """A context of the shards, and how often its domain had been served in full before it."""

    domain: str
    index: int
    epoch: int


class Exposure(NamedTuple):
    """What a domain has given by some step."""

    domain: str
    contexts: int
    tokens: int  # real tokens
    epochs: float


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """The contexts of one step on one rank.

    Attributes:
        step: the step.
        input_ids: uint16 or uint32 [b, seq_len], padded on the right.
        doc_lengths: per context, int32 [pieces]; their sum is its number of real tokens.
        domains: int32 [b], index into Stream.domains.
        refs: the contexts; Stream.documents(ref) names their documents.
    """

    step: int
    input_ids: NDArray[np.unsignedinteger[Any]]
    doc_lengths: list[NDArray[np.int32]]
    domains: NDArray[np.int32]
    refs: list[ContextRef]


class Stream:
    """Batches of contexts by step.

    Weights are shares of tokens. A context of a domain holds, on average, its own number of real tokens, so
    contexts are drawn in proportion to weight / mean tokens per context. At every prefix each domain has been
    drawn its share to within one context; within an epoch no context of a domain comes twice; and no domain is
    drawn more than max_epochs times its contexts.

    Args:
        reader: the shards.
        mixture: weights for exactly the domains of the shards.
        seed: another seed gives another order inside the domains.
        batch_contexts: contexts per step over all ranks.
        steps: length of the training run. It bounds what may be asked for, and never changes the order.

    Raises:
        UserError: domains of mixture and shards differ, or the run would serve a domain beyond its max_epochs.
    """

    def __init__(
        self, reader: ShardReader, mixture: Mixture, *, seed: int, batch_contexts: int, steps: int
    ) -> None:
        if batch_contexts < 1 or steps < 1:
            raise UserError(
                f"batch_contexts is {batch_contexts} and steps is {steps}; both are at least 1",
                fix="set the contexts per step over all ranks, and the number of steps",
            )
        self.reader, self.mixture = reader, mixture
        self.seed, self.batch_contexts, self.steps = seed, batch_contexts, steps
        entries = reader.manifest.domains
        self.domains: list[str] = [d.name for d in entries]
        check_weights(mixture.weights, self.domains)
        self._sizes = np.array([d.contexts for d in entries], dtype=np.int64)
        self._tokens = np.array([d.tokens for d in entries], dtype=np.int64)
        limits = {d.name: d.max_epochs for d in mixture.domains}
        self._capacity = np.array(
            [math.floor(limits[d.name] * d.contexts + 1e-9) for d in entries], dtype=np.int64
        )
        counts = self._counts()
        self._schedule = make_schedule(counts, steps * batch_contexts)
        manifest = reader.manifest.fingerprint
        self._keys = np.array([stream_key(manifest, seed, d) for d in self.domains], dtype=np.uint64)
        self._check_capacity()

    def _counts(self) -> NDArray[np.int64]:
        """Draws of each domain per period of the schedule: int64 [n].

        The period is the number of contexts in the mixture's budget where that is small enough, so that the
        draws over the whole budget are exact whole numbers and a cap of E epochs can be met to the context.
        """
        w = np.array([self.mixture.weights[name] for name in self.domains])
        per_token = w * self._sizes / self._tokens
        rate = math.fsum(per_token)  # contexts per token of the mixture; fsum: the same on every machine
        shares = per_token / rate
        budget = max(1, math.floor(self.mixture.budget_tokens * rate + 1e-6))
        # A share may miss its cap by the fraction of a context that rounding down costs, and by no more.
        wanted = budget * shares
        if bool(np.any(wanted > self._capacity + 1 + 1e-6 * self._capacity)):
            self._refuse(wanted, f"the mixture's budget of {budget:,} contexts")
        some = shares > 0
        budget = min(budget, int(self._capacity[some].sum()))
        if budget < 1:
            self._refuse(np.maximum(wanted, 1), "any run: not one context fits under the cap")
        period = min(budget, MAX_PERIOD)
        caps = np.array([int(c) * period // budget for c in self._capacity], dtype=np.int64)
        period = min(period, int(caps[some].sum()))
        return apportion(shares, period, caps)

    def _check_capacity(self) -> None:
        total = self.steps * self.batch_contexts
        served = self._schedule.served(total)
        if bool((served <= self._capacity).all()):
            return
        low, high = 0, self.steps  # the most steps that fit: served(low) fits, served(high) does not
        while high - low > 1:
            middle = (low + high) // 2
            fits = bool((self._schedule.served(middle * self.batch_contexts) <= self._capacity).all())
            low, high = (middle, high) if fits else (low, middle)
        run = f"{self.steps:,} steps of {self.batch_contexts:,} contexts"
        self._refuse(served, run, f"train at most {low:,} steps, or ")

    def _refuse(self, wanted: NDArray[Any], run: str, first: str = "") -> None:
        i = int(np.argmax(wanted / np.maximum(self._capacity, 1)))  # the domain furthest beyond its cap
        epochs = float(wanted[i]) / int(self._sizes[i])
        name = self.domains[i]
        limit = next(d.max_epochs for d in self.mixture.domains if d.name == name)
        raise UserError(
            f"domain '{name}' would be served {epochs:.4g} epochs ({int(wanted[i]):,} contexts) in {run};"
            f" allowed: {limit:g} epochs of {int(self._sizes[i]):,} contexts",
            fix=f"{first}estimate the mixture again for this training length and these shards",
        )

    @property
    def rates(self) -> NDArray[np.float64]:
        """Share of the draws (contexts, not tokens) per domain, as served: float64 [n], multiples of 1 / period."""
        return self._schedule.counts / self._schedule.period

    def draws(self, start: int, stop: int) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Draws start..stop of the one global order: (domain int32 [m], context int64 [m], epoch int64 [m])."""
        if not 0 <= start <= stop <= self.steps * self.batch_contexts:
            raise IndexError(f"draws {start} to {stop} of {self.steps * self.batch_contexts}")
        domain, ordinal = self._schedule.draws(start, stop)
        index, epoch = place(domain, ordinal, self._sizes, self._keys)
        return domain, index, epoch

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[ContextRef]:
        """The contexts of a step; rank r of w gets the r-th of w equal runs of the global batch.

        Raises:
            UserError: batch_contexts is not a multiple of world.
            IndexError: a step outside 0..steps, or a rank outside 0..world.
        """
        return self._refs(*self._rows(step, rank, world))

    def contexts(self, step: int, rank: int = 0, world: int = 1) -> StreamBatch:
        """The tokens of a step on a rank (see `batch` for the split and the errors)."""
        domain, index, epoch = self._rows(step, rank, world)
        ids, lengths = self.reader.batch(domain, index)
        pieces = np.count_nonzero(lengths, axis=1).tolist()
        own = [row[:n] for row, n in zip(lengths, pieces)]
        return StreamBatch(step, ids, own, domain, self._refs(domain, index, epoch))

    def documents(self, ref: ContextRef) -> dict[str, Any]:
        """Where a served context comes from: doc_ids, sources, starts, shard, key and row."""
        return self.reader.info(ref.domain, ref.index)

    def _rows(
        self, step: int, rank: int, world: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        if world < 1 or self.batch_contexts % world:
            raise UserError(
                f"batch_contexts {self.batch_contexts} cannot be split evenly over {world} ranks",
                fix="choose a batch size that is a multiple of the number of ranks",
            )
        if not (0 <= step < self.steps and 0 <= rank < world):
            raise IndexError(f"step {step} of {self.steps}, rank {rank} of {world}")
        own = self.batch_contexts // world
        first = step * self.batch_contexts + rank * own
        return self.draws(first, first + own)

    def _refs(
        self, domain: NDArray[np.int32], index: NDArray[np.int64], epoch: NDArray[np.int64]
    ) -> list[ContextRef]:
        rows = zip(domain.tolist(), index.tolist(), epoch.tolist())
        return [ContextRef(self.domains[d], i, e) for d, i, e in rows]

    def exposure(self, step: int, *, exact: bool = True) -> list[Exposure]:
        """What each domain has given in steps 0..step (not including `step`), over all ranks.

        Args:
            step: from 0 to steps.
            exact: count the tokens of a begun epoch context by context (reads all document lengths of the domain
                once) instead of taking the domain's mean.
        """
        if not 0 <= step <= self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        out = []
        for i, served in enumerate(self._schedule.served(step * self.batch_contexts).tolist()):
            full, rest = divmod(served, int(self._sizes[i]))
            tokens = full * int(self._tokens[i]) + rest * int(self._tokens[i]) // int(self._sizes[i])
            if exact and rest:
                ordinal = np.arange(served - rest, served, dtype=np.int64)
                index, _ = place(np.full(rest, i, np.int32), ordinal, self._sizes, self._keys)
                tokens = full * int(self._tokens[i]) + int(
                    self.reader.context_tokens(self.domains[i])[index].sum()
                )
            out.append(Exposure(self.domains[i], served, tokens, served / int(self._sizes[i])))
        return out

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint needs to go on at `step`: plain JSON values, the same for every rank and world."""
        return {
            "version": _STATE_VERSION,
            "step": step,
            "seed": self.seed,
            "batch_contexts": self.batch_contexts,
            "manifest": self.reader.manifest.fingerprint,
            "mixture": self.mixture.fingerprint,
        }

    def check(self, state: Mapping[str, Any]) -> int:
        """The step to go on at. Raises UserError when the state belongs to another stream."""
        mine = self.state(int(state.get("step", 0)))
        for name, value in mine.items():
            if state.get(name) != value:
                raise UserError(
                    f"the checkpoint's stream has {name} {state.get(name)!r}, this one {value!r}",
                    fix="resume with the shards, mixture, seed and batch size the run was started with,"
                    " or start a new run",
                )
        return int(state["step"])


def as_iterable_dataset(
    stream: Stream, *, start: int = 0, rank: int = 0, world: int = 1, prefetch: int = 4
) -> IterableDataset[dict[str, Any]]:
    """A torch dataset of whole batches for `DataLoader(batch_size=None)`; torch is imported here.

    Yields dicts: step int, input_ids int32 tensor [b, seq_len], doc_lengths int32 tensor [b, most pieces] with zeros
    on the right (one tensor: each costs a worker process half a millisecond to hand over), domains int32 tensor [b].
    With several workers each takes every n-th step, which the loader puts in order again. A thread reads `prefetch`
    batches ahead (0: none); one thread is faster than worker processes, which copy every batch once more.
    """
    import torch
    from torch.utils.data import IterableDataset, get_worker_info

    from mixloom.mixers.prefetch import ahead

    class Batches(IterableDataset[dict[str, Any]]):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            worker = get_worker_info()
            first, stride = (start, 1) if worker is None else (start + worker.id, worker.num_workers)
            steps = range(first, stream.steps, stride)
            for b in ahead((stream.contexts(step, rank, world) for step in steps), prefetch):
                yield {
                    "step": b.step,
                    "input_ids": torch.from_numpy(b.input_ids.astype(np.int32)),
                    "doc_lengths": torch.from_numpy(_padded(b.doc_lengths)),
                    "domains": torch.from_numpy(b.domains),
                }

    return Batches()


def _padded(rows: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Rows of different length as one array, zeros on the right."""
    out = np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)
    for own, row in zip(out, rows):
        own[: len(row)] = row
    return out
