"""Which domain each draw takes, and how far into it: phases, later mixtures and exclusions as one sequence of draws.

A training is a sequence of draws, one context each. It falls into stretches of fixed weights, bounded by the phases of
the mixture and the entries of the mixture log. Inside a stretch a periodic schedule says whose turn it is; what a
domain has given before goes on counting, so its epochs and its cap are those of the whole run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.exclusion import Exclusion
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.mixture_log import ExcludeEntry, MixtureEntry, MixtureLog
from mixloom.mixers.schedule import Schedule, apportion, make_schedule
from mixloom.mixers.timeline import Group, Weights, timeline
from mixloom.pipeline.errors import UserError

Int64 = NDArray[np.int64]

_AT_ONCE = 1 << 20  # places worked out at once where tokens are counted


@dataclass(frozen=True, slots=True, eq=False)
class Used:
    """What the domains have given at some draw, and what may not be given after it.

    Attributes:
        served: int64 [n], contexts of each domain since the run began.
        places: int64 [n], places of each domain's epochs that are used up: given, or passed over.
        excluded: by number of the domain.
    """

    served: Int64
    places: Int64
    excluded: dict[int, Exclusion]

    def left(self, caps: Int64) -> Int64:
        """Contexts each domain may still give under caps on its places: int64 [n]."""
        out = np.maximum(caps - self.places, 0)
        for i, passed in self.excluded.items():
            if out[i] > 0:
                out[i] = passed.open_before(int(caps[i])) - passed.open_before(int(self.places[i]))
        return out

    def after(self, given: Int64) -> tuple[Int64, Int64]:
        """(served, places) once each domain has given so many more contexts, int64 [n] each."""
        places = self.places + given
        for i, passed in self.excluded.items():
            places[i] = passed.after(int(self.places[i]), int(given[i]))
        return self.served + given, places


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Draws from `start` to the next stretch.

    Attributes:
        origin: the draw at which the schedule begins; a stretch may go on with the schedule of the one before.
        before: int64 [n], draws of each domain by the schedule from its origin to `start`.
        used: at `start`.
    """

    start: int
    origin: int
    schedule: Schedule
    weights: Weights
    before: Int64
    used: Used

    def given(self, draw: int) -> Int64:
        """Contexts each domain gives from `start` to `draw`: int64 [n]."""
        return self.schedule.served(draw - self.origin) - self.before

    def draws(self, start: int, stop: int) -> tuple[NDArray[np.int32], Int64]:
        """Domain and place of draws start..stop, which lie in this stretch: int32 [m], int64 [m]."""
        domain, ordinal = self.schedule.draws(start - self.origin, stop - self.origin)
        place = ordinal + (self.used.places - self.before)[domain]
        for i, passed in self.used.excluded.items():
            mine = domain == i
            if mine.any():
                begun = int(self.used.places[i])
                place[mine] = passed.nth(place[mine] - begun + passed.open_before(begun))
        return domain, place

    def fits(self) -> bool:
        """Whether the schedule, taken on to the end of its phase, keeps the caps."""
        counts = self.schedule.counts
        length = max(self.weights.end, self.start) - self.origin
        most = -(-length * counts // self.schedule.period) - self.before
        return bool((most <= self.used.left(self.weights.caps))[counts > 0].all())


class Plan:
    """The stretches of a run.

    Args:
        groups: the domains, in the order of the shards.
        mixture: what holds from the first step.
        log: what changed it later.
        batch: contexts per step.
        draws: length of the run; it bounds what is worked out, and never changes it.
        max_period: longest period of a schedule.
        made: stretches of an earlier plan, whose schedules are taken over where they are the same.

    Raises:
        UserError: a domain that has weight but nothing to give, or weights and caps that cannot be met together.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        mixture: Mixture,
        log: MixtureLog,
        *,
        batch: int,
        draws: int,
        max_period: int,
        made: Sequence[Stretch] = (),
    ) -> None:
        self.groups, self.draws_total, self._max_period = tuple(groups), draws, max_period
        self._number = {g.name: i for i, g in enumerate(groups)}
        self._made = made
        self.stretches: list[Stretch] = []
        self._build(timeline(mixture, self.groups), log, batch)
        self._starts = [s.start for s in self.stretches]

    def _build(self, current: list[Weights], log: MixtureLog, batch: int) -> None:
        total = self.draws_total
        entries = [(e.from_step * batch, e) for e in log.effective() if e.from_step * batch < total]
        changes = [draw for draw, e in entries if isinstance(e, MixtureEntry)]
        excluded: dict[int, Exclusion] = {}
        at = 0
        while at < total:
            for entry in (e for draw, e in entries if draw == at):
                if isinstance(entry, ExcludeEntry):
                    excluded = self._exclude(excluded, entry)
                else:
                    current = timeline(
                        entry.mixture, self.groups, f"the mixture from step {entry.from_step} on"
                    )
            weights = next((w for w in current if at < w.end), current[-1])
            ends = [] if weights.last else [weights.end]
            self._add(at, weights, excluded, min([total, *ends, *(d for d in changes if d > at)]))
            at = min([total, *ends, *(d for d, _ in entries if d > at)])

    def _exclude(self, excluded: dict[int, Exclusion], entry: ExcludeEntry) -> dict[int, Exclusion]:
        out = dict(excluded)
        fix = "train on the shards the log was written for"
        for name in dict.fromkeys(name for name, _ in entry.contexts):
            if name not in self._number:
                raise UserError(f"the mixture log excludes contexts of '{name}', no domain here", fix=fix)
            i = self._number[name]
            group, old = self.groups[i], out.get(i)
            items = np.array([number for domain, number in entry.contexts if domain == name], np.int64)
            if int(items.min()) < 0 or int(items.max()) >= group.contexts:
                raise UserError(
                    f"the mixture log excludes context {int(items.max())} of domain '{name}', which has"
                    f" {group.contexts:,}",
                    fix=fix,
                )
            if old is not None:
                items = np.concatenate([old.items, items])
            out[i] = Exclusion(items, group.contexts, group.key)
        return out

    def _add(self, start: int, weights: Weights, excluded: dict[int, Exclusion], stop: int) -> None:
        """One more stretch, with its schedule worked out as far as `stop`."""
        none = np.zeros(len(self.groups), np.int64)
        old = self.stretches[-1] if self.stretches else None
        served, places = (none, none) if old is None else old.used.after(old.given(start))
        used = Used(served, places, excluded)
        self._check_open(used, weights)
        if old is not None and old.weights is weights:
            # Only what is excluded has changed: whose turn it is stays as it was, where that still fits.
            before = old.schedule.served(start - old.origin)
            same = Stretch(start, old.origin, old.schedule, weights, before, used)
            if same.fits():
                self.stretches.append(same)
                return
        schedule = self._schedule(self._counts(used, weights, start), stop - start)
        self.stretches.append(Stretch(start, start, schedule, weights, none, used))

    def _schedule(self, counts: Int64, draws: int) -> Schedule:
        for schedule in (s.schedule for s in self._made):
            enough = len(schedule.sequence) >= min(draws, schedule.period)
            if enough and np.array_equal(schedule.counts, counts):
                return schedule
        return make_schedule(counts, draws)

    def _check_open(self, used: Used, weights: Weights) -> None:
        for i, passed in used.excluded.items():
            if passed.open < 1 and weights.shares[i] > 0:
                raise UserError(
                    f"the mixture log excludes all {passed.size:,} contexts of domain '{self.groups[i].name}', which"
                    " has weight",
                    fix="add an entry with a mixture that gives the domain weight 0 from the same step on",
                )

    def _counts(self, used: Used, weights: Weights, start: int) -> Int64:
        """Draws of each domain per period of a schedule that begins at `start`: int64 [n].

        The period is the number of draws the phase has left, where that is small enough, so that what each domain
        gives in it is an exact whole number and a cap of E epochs can be met to the context.
        """
        shares, some = weights.shares, weights.shares > 0
        beyond = start >= weights.end  # the run is longer than the budget: as though the phase began anew
        length = weights.length if beyond else weights.end - start
        wanted = np.where(some, used.served + length * shares, 0)
        # A share may miss its cap by what rounding to whole contexts costs, once for each stretch, and by no more.
        slack = 1 + (1 + len(shares)) * len(self.stretches) + 1e-6 * weights.caps
        if not beyond and bool(np.any(wanted > weights.caps + slack)):
            self.refuse(wanted, weights, f"the budget of {weights.where}", start)
        left = used.left(weights.caps)
        length = min(length, int(left[some].sum()))
        if length < 1:
            self.refuse(np.maximum(wanted, 1), weights, "any run: not one context fits under the cap", start)
        period = min(length, self._max_period)
        caps = np.array([int(c) * period // length for c in left], dtype=np.int64)
        period = min(period, int(caps[some].sum()))
        return apportion(shares, period, caps)

    def refuse(
        self, wanted: NDArray[Any], weights: Weights, run: str, start: int = 0, first: str = ""
    ) -> None:
        """Raise the error of the domain furthest beyond its cap; `wanted` are contexts, number [n]."""
        i = int(np.argmax(wanted / np.maximum(weights.caps, 1)))
        group = self.groups[i]
        before = " with what it served before" if start else ""
        again = "estimate the mixture again for this training length and these shards"
        fix = f"lower its weight there, raise its max_epochs, or {again}" if start else again
        raise UserError(
            f"domain '{group.name}' would be served {float(wanted[i]) / group.contexts:.4g} epochs"
            f" ({int(wanted[i]):,} contexts) in {run}{before};"
            f" allowed: {weights.limits[i]:g} epochs of {group.contexts:,} contexts",
            fix=f"{first}{fix}",
        )

    def _at(self, draw: int) -> int:
        return bisect_right(self._starts, draw) - 1

    def draws(self, start: int, stop: int) -> tuple[NDArray[np.int32], Int64]:
        """Domain and place in its epochs of draws start..stop: int32 [m], int64 [m]."""
        first, last = self._at(start), self._at(max(start, stop - 1))
        bounds = [start, *self._starts[first + 1 : last + 1], stop]
        parts = [self.stretches[first + i].draws(*bounds[i : i + 2]) for i in range(len(bounds) - 1)]
        if len(parts) == 1:
            return parts[0]
        domains, places = zip(*parts)
        return np.concatenate(domains), np.concatenate(places)

    def rates(self, draw: int) -> NDArray[np.float64]:
        """Share of the draws of each domain as served at `draw`: float64 [n], multiples of 1 / period."""
        schedule = self.stretches[self._at(draw)].schedule
        return schedule.counts / schedule.period

    def given_places(self, domain: int, draw: int) -> Iterator[Int64]:
        """The places a domain has given before `draw`, in order, some at a time: int64 arrays."""
        for i, stretch in enumerate(self.stretches):
            if stretch.start >= draw:
                return
            count = int(stretch.given(min([draw, *self._starts[i + 1 : i + 2]]))[domain])
            begun, passed = int(stretch.used.places[domain]), stretch.used.excluded.get(domain)
            for low in range(0, count, _AT_ONCE):
                numbers = np.arange(low, min(low + _AT_ONCE, count), dtype=np.int64)
                if passed is None:
                    yield numbers + begun
                else:
                    yield passed.nth(numbers + passed.open_before(begun))

    def used(self, draw: int) -> Used:
        """What has been given before `draw`."""
        stretch = self.stretches[self._at(draw)]
        return Used(*stretch.used.after(stretch.given(draw)), stretch.used.excluded)

    def beyond(self, draw: int) -> Weights | None:
        """What holds in the first stretch in which a domain would pass its cap before `draw`."""
        for i, stretch in enumerate(self.stretches):
            if stretch.start >= draw:
                break
            end = min([draw, *self._starts[i + 1 : i + 2]])
            if bool((stretch.given(end) > stretch.used.left(stretch.weights.caps)).any()):
                return stretch.weights
        return None
