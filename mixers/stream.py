"""The order in which contexts are served: a pure function of the shards, the mixture, the seed and the step.

Nothing is carried from step to step. The domain of a draw is looked up in a periodic schedule, the context in a
stateless permutation of its domain, so any step can be computed on any rank of any world, and a checkpoint is a
step with the fingerprints of what it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.contexts import ContextRef, ContextRefs, DocLengths, Exposure, StreamBatch
from mixloom.mixers.loader import as_iterable_dataset, check_reader, warn_of_small_cache
from mixloom.mixers.mixture import Mixture, check_servable
from mixloom.mixers.mixture_log import ExcludeEntry, MixtureEntry, MixtureLog
from mixloom.mixers.permutation import place, stream_key
from mixloom.mixers.plan import Plan
from mixloom.mixers.schedule import MAX_PERIOD
from mixloom.mixers.timeline import Group
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.shard_reader import ShardReader

__all__ = [
    "ContextRef",
    "ContextRefs",
    "Exposure",
    "Stream",
    "StreamBatch",
    "as_iterable_dataset",
    "check_reader",
]

_STATE_VERSION = 1
_LOOK_AHEAD = 4  # steps whose remote shards are copied ahead


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
        log: what was changed during the run; taken as it is now, later entries need a new stream (`amended`).
        like: a stream whose schedules may be taken over where they are the same; it only saves time.

    Raises:
        UserError: domains of mixture and shards differ, a domain with weight has no contexts, or the run would serve
            a domain beyond its max_epochs.
    """

    def __init__(
        self,
        reader: ShardReader,
        mixture: Mixture,
        *,
        seed: int,
        batch_contexts: int,
        steps: int,
        log: MixtureLog | None = None,
        like: Stream | None = None,
    ) -> None:
        if batch_contexts < 1 or steps < 1:
            raise UserError(
                f"batch_contexts is {batch_contexts} and steps is {steps}; both are at least 1",
                fix="set the contexts per step over all ranks, and the number of steps",
            )
        self.reader, self.mixture = reader, mixture
        self.seed, self.batch_contexts, self.steps = seed, batch_contexts, steps
        self.log = MixtureLog() if log is None else log.copy()
        entries = reader.manifest.domains
        self.domains: list[str] = [d.name for d in entries]
        for used in (mixture, *(e.mixture for e in self.log.entries if isinstance(e, MixtureEntry))):
            check_servable(used, self.domains)
        manifest = reader.manifest.fingerprint
        groups = [Group(d.name, d.contexts, d.tokens, stream_key(manifest, seed, d.name)) for d in entries]
        self._sizes = np.array([d.contexts for d in entries], dtype=np.int64)
        self._tokens = np.array([d.tokens for d in entries], dtype=np.int64)
        self._keys = np.array([g.key for g in groups], dtype=np.uint64)
        draws = steps * batch_contexts
        self.plan = Plan(groups, mixture, self.log, batch=batch_contexts, draws=draws, max_period=MAX_PERIOD)
        self._check_capacity()
        if like is None:  # else it has been said
            warn_of_small_cache(self)

    def _check_capacity(self) -> None:
        weights = self.plan.beyond(self.steps * self.batch_contexts)
        if weights is None:
            return
        low, high = 0, self.steps  # the most steps that fit: low fits, high does not
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.plan.beyond(middle * self.batch_contexts) is None
            low, high = (middle, high) if fits else (low, middle)
        run = f"{self.steps:,} steps of {self.batch_contexts:,} contexts"
        served = self.plan.used(self.steps * self.batch_contexts).places
        self.plan.refuse(served, weights, run, first=f"train at most {low:,} steps, or ")

    def rates(self, step: int = 0) -> NDArray[np.float64]:
        """Share of the draws (contexts, not tokens) per domain, as served from `step` on: float64 [n]."""
        return self.plan.rates(step * self.batch_contexts)

    def draws(self, start: int, stop: int) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Draws start..stop of the one global order: (domain int32 [m], context int64 [m], epoch int64 [m])."""
        if not 0 <= start <= stop <= self.steps * self.batch_contexts:
            raise IndexError(f"draws {start} to {stop} of {self.steps * self.batch_contexts}")
        domain, ordinal = self.plan.draws(start, stop)
        index, epoch = place(domain, ordinal, self._sizes, self._keys)
        return domain, index, epoch

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[ContextRef]:
        """The contexts of a step; rank r of w gets the r-th of w equal runs of the global batch.

        Raises:
            UserError: batch_contexts is not a multiple of world.
            IndexError: a step outside 0..steps, or a rank outside 0..world.
        """
        return list(ContextRefs(self.domains, *self._rows(step, rank, world)))

    def contexts(self, step: int, rank: int = 0, world: int = 1) -> StreamBatch:
        """The tokens of a step on a rank (see `batch` for the split and the errors)."""
        domain, index, epoch = self._rows(step, rank, world)
        ids, lengths = self.reader.batch(domain, index)
        self._expect(step, rank, world)
        refs = ContextRefs(self.domains, domain, index, epoch)
        return StreamBatch(step, ids, DocLengths(lengths), domain, refs)

    def _expect(self, step: int, rank: int, world: int) -> None:
        """Tell a reader of remote shards what the next steps will ask for."""
        if getattr(self.reader, "cache", None) is None:
            return
        for later in range(step + 1, min(step + 1 + _LOOK_AHEAD, self.steps)):
            self.reader.expect(*self._rows(later, rank, world)[:2])

    def documents(self, ref: ContextRef) -> dict[str, Any]:
        """Where a served context comes from: doc_ids, sources, starts, shard, key and row."""
        return self.reader.info(ref.domain, ref.index)

    def _rows(
        self, step: int, rank: int, world: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        self.check_ranks(world)
        if not (0 <= step < self.steps and 0 <= rank < world):
            raise IndexError(f"step {step} of {self.steps}, rank {rank} of {world}")
        own = self.batch_contexts // world
        first = step * self.batch_contexts + rank * own
        return self.draws(first, first + own)

    def check_ranks(self, world: int) -> None:
        """Raise UserError where a rank of `world` would get nothing, or less than another, and wait for ever."""
        n = self.batch_contexts
        if world < 1:
            raise UserError(f"world is {world}; it is at least 1", fix="give the number of ranks")
        if world > n:
            raise UserError(
                f"{world} ranks share batch_contexts {n}: {world - n} of them would get no context and hold up the rest",
                fix=f"set batch_contexts to a multiple of {world}, or train on at most {n} ranks",
            )
        if n % world:
            raise UserError(
                f"batch_contexts {n} cannot be split evenly over {world} ranks",
                fix=f"choose a batch size that is a multiple of the number of ranks, for example {n - n % world}",
            )

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
        for i, served in enumerate(self.plan.used(step * self.batch_contexts).served.tolist()):
            tokens = self._served_tokens(i, step * self.batch_contexts, exact)
            out.append(Exposure(self.domains[i], served, tokens, served / max(int(self._sizes[i]), 1)))
        return out

    def _served_tokens(self, i: int, draw: int, exact: bool) -> int:
        """Real tokens domain `i` has given before a draw."""
        used = self.plan.used(draw)
        served, size, total = int(used.served[i]), int(self._sizes[i]), int(self._tokens[i])
        full, rest = divmod(served, size) if size else (0, 0)
        if i not in used.excluded and (not exact or not rest):
            return full * total + (rest * total // size if rest else 0)
        if not exact:
            return served * total // size
        each = self.reader.context_tokens(self.domains[i])
        if i not in used.excluded:
            places = np.arange(served - rest, served, dtype=np.int64)
            index, _ = place(np.full(rest, i, np.int32), places, self._sizes, self._keys)
            return full * total + int(each[index].sum())
        tokens = 0
        for places in self.plan.given_places(i, draw):
            index, _ = place(np.full(len(places), i, np.int32), places, self._sizes, self._keys)
            tokens += int(each[index].sum())
        return tokens

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint needs to go on at `step`: plain JSON values, the same for every rank and world."""
        own = {
            "version": _STATE_VERSION,
            "step": step,
            "seed": self.seed,
            "batch_contexts": self.batch_contexts,
            "manifest": self.reader.manifest.fingerprint,
            "mixture": self.mixture.fingerprint,
        }
        log = self.log.before(step)
        return {**own, "log": log} if log else own

    def check(self, state: Mapping[str, Any]) -> int:
        """The step to go on at.

        Entries of the mixture log that begin at that step or later may have been added since.

        Raises:
            UserError: the state belongs to another stream, or to one with other changes before its step.
        """
        mine = {"log": "", "objectives": "none", **self.state(int(state.get("step", 0)))}
        for name, value in mine.items():
            found = state.get(name, {"log": "", "objectives": "none"}.get(name))
            if found == value:
                continue
            if name == "log":
                raise UserError(
                    f"the mixture log does not say of the steps before {mine['step']} what it said when the checkpoint"
                    " was written",
                    fix="restore the log; an entry may only begin at the checkpoint's step or later",
                )
            raise UserError(
                f"the checkpoint's stream has {name} {found!r}, this one {value!r}",
                fix="resume with the shards, mixture, seed, batch size and objectives the run was started with,"
                " or start a new run",
            )
        return int(state["step"])

    def amended(self, entry: MixtureEntry | ExcludeEntry, *, served: int, write: bool = True) -> Stream:
        """The stream with one more entry in its log, for the steps from `served` on.

        The entry is tried before it is written, so a log never holds one that cannot be followed.

        Args:
            entry: what changes.
            served: steps that have been served already.
            write: append it to the log's file, where it has one; True on one rank only.

        Raises:
            UserError: the entry begins before `served`, or cannot be followed (see `Stream`).
        """
        longer = self.log.extended(entry, served=served)
        made = Stream(
            self.reader,
            self.mixture,
            seed=self.seed,
            batch_contexts=self.batch_contexts,
            steps=self.steps,
            log=longer,
            like=self,
        )
        if write:
            self.log.copy().append(entry, served=served)
        return made

    def without_documents(self, documents: Iterable[str], from_step: int, reason: str = "") -> ExcludeEntry:
        """The entry that leaves out every context that holds any of these documents, from a step on.

        Raises:
            UserError: a document of which the shards hold nothing.
        """
        names = tuple(dict.fromkeys(documents))
        contexts = tuple(self.reader.holding(names))
        held = {doc for domain, i in contexts for doc in self.reader.info(domain, i)["doc_ids"]}
        unknown = [name for name in names if name not in held]
        if unknown or not names:
            what = (
                f"no context of the shards holds document '{unknown[0]}'" if names else "no documents given"
            )
            raise UserError(what, fix="give ids as `mixloom explain` and Stream.documents tell them")
        return ExcludeEntry(from_step=from_step, contexts=contexts, documents=names, reason=reason)

    def quarantine(self, step: int, reason: str = "") -> ExcludeEntry:
        """The entry that leaves out all contexts of a step from that step on, and names their documents."""
        refs = self.batch(step)
        ids = (doc for ref in refs for doc in self.documents(ref)["doc_ids"])
        contexts = tuple(dict.fromkeys((ref.domain, ref.index) for ref in refs))
        return ExcludeEntry(
            from_step=step, contexts=contexts, documents=tuple(dict.fromkeys(ids)), reason=reason
        )
