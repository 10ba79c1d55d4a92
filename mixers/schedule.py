"""Which domain is served when: an even, periodic sequence that follows the weights at every prefix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

MAX_PERIOD = 1 << 22  # draws; weights are rounded to multiples of 1 / period, here 2.4e-7


@dataclass(frozen=True, slots=True)
class Schedule:
    """A sequence of domains that repeats after `counts.sum()` draws, each domain `counts[i]` times in it.

    Attributes:
        counts: int64 [n], draws of each domain per period.
        sequence: int32 [draws], the domain of each draw; at most one period.
        ordinal: int64 [draws], how often that domain was drawn before in the period.
    """

    counts: Int64
    sequence: NDArray[np.int32]
    ordinal: Int64

    @property
    def period(self) -> int:
        return int(self.counts.sum())

    def draws(self, start: int, stop: int) -> tuple[NDArray[np.int32], Int64]:
        """Domain and ordinal (draws of that domain before this one) of draws start..stop: int32 [m], int64 [m]."""
        if stop > len(self.sequence) < self.period:  # the compiled loop does not look
            raise IndexError(f"draw {stop - 1} of a schedule made for {len(self.sequence)}")
        return _look_up(start, stop, self.counts, self.sequence, self.ordinal)  # type: ignore[no-any-return]

    def served(self, draws: int) -> Int64:
        """How often each domain is drawn in the first `draws` draws: int64 [n]."""
        rounds, rest = divmod(draws, self.period)
        head = np.bincount(self.sequence[:rest], minlength=len(self.counts)).astype(np.int64)
        return rounds * self.counts + head


def make_schedule(counts: Int64, draws: int) -> Schedule:
    """The chairman-assignment sequence (Tijdeman 1980) for shares counts / sum(counts), as far as `draws` draws.

    At every prefix t each domain has been served t * share to within 1 - 1/(2k - 2), k being the number of
    domains with a share. All arithmetic is on integers, so the sequence is the same on every machine; because
    every credit is back at zero after sum(counts) draws, it repeats, and any draw can be looked up at once.
    """
    some = np.flatnonzero(counts).astype(np.int64)
    sequence, ordinal = _chairman(np.ascontiguousarray(counts[some]), min(draws, int(counts.sum())))
    return Schedule(counts, some[sequence].astype(np.int32), ordinal)


def apportion(shares: NDArray[np.float64], total: int, caps: Int64) -> Int64:
    """Whole numbers that sum to `total`, near shares * total and never above caps: int64 [n] (largest remainder).

    Ties go to the earlier domain; what a cap refuses goes to the domains furthest below their share. The caps of
    the domains with a share must sum to at least `total`.
    """
    exact = shares * total
    counts = np.minimum(np.floor(exact).astype(np.int64), caps)
    while (left := total - int(counts.sum())) > 0:
        open_ = np.flatnonzero((counts < caps) & (shares > 0))
        if not len(open_):
            raise ValueError(f"the caps leave {left} of {total} draws without a domain")
        first = open_[np.argsort(counts[open_] - exact[open_], kind="stable")[:left]]
        counts[first] += 1
    return counts


@njit(cache=True, nogil=True)
def _look_up(start, stop, counts, sequence, ordinal):  # type: ignore[no-untyped-def]
    """Domain int32 [m] and ordinal int64 [m] of draws start..stop of a schedule; see `Schedule` for the arrays."""
    domain = np.empty(stop - start, np.int32)
    place = np.empty(stop - start, np.int64)
    period = counts.sum()
    rounds = start // period
    at = start - rounds * period
    for j in range(stop - start):
        domain[j] = sequence[at]
        place[j] = rounds * counts[sequence[at]] + ordinal[at]
        at += 1
        if at == period:
            at, rounds = 0, rounds + 1
    return domain, place


@njit(cache=True, nogil=True)
def _chairman(counts, draws):  # type: ignore[no-untyped-def]
    """int64 counts [k], all positive -> (int64 domain [draws], int64 ordinal [draws])."""
    k = counts.shape[0]
    period = counts.sum()
    sequence = np.zeros(draws, np.int64)
    ordinal = np.empty(draws, np.int64)
    credit = np.zeros(k, np.int64)  # t * count - period * served; the share is count / period
    served = np.zeros(k, np.int64)
    steps = max(2 * k - 2, 1)
    for t in range(draws):
        best = -1
        best_slack = np.int64(0)
        for i in range(k):
            credit[i] += counts[i]
            # A domain may be served once its credit is 1/(2k-2); the one whose credit would first pass
            # 1 - 1/(2k-2) if left alone goes first. Deadlines are compared as fractions slack / count.
            if credit[i] * steps >= period or k == 1:
                slack = period * (steps - 1) - credit[i] * steps
                if best < 0 or slack * counts[best] < best_slack * counts[i]:
                    best, best_slack = i, slack
        sequence[t] = best
        ordinal[t] = served[best]
        served[best] += 1
        credit[best] -= period
    return sequence, ordinal
