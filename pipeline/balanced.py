"""Balanced assignment: every centre gets the same number of points, at the least total cost.

A transport problem with few sinks, solved exactly. Centres get prices; each point goes to its cheapest centre
(cost + price), which is the cheapest assignment of those sizes. What is still over- or under-full is then moved
along shortest paths between centres, an edge a -> b costing the least any point of a pays for going to b.
(Successive shortest paths; Ahuja, Magnanti and Orlin, Network Flows, 1993, section 9.7.) Costs are fixed-point
integers, so that ties and stopping are exact and the result does not depend on the machine.

c-BTM (arXiv 2303.14177, section 3.1) uses an auction for the same step; it leaves N mod k points to a fallback.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_SCALE_BITS = 40
_FAR = np.int64(2**62)


def balanced_assign(cost: np.ndarray, prices: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest assignment whose sizes differ by at most one, for any n and k (n < k leaves centres empty).

    Args:
        cost: float [n, k], finite; rounded to 2^-40 of its largest magnitude.
        prices: float64 [k] from an earlier call on similar costs; a good start saves time, never changes the cost.

    Returns:
        labels int32 [n] and the final prices float64 [k].

    Raises:
        ValueError: no centre, or a cost that is not finite.
    """
    n, k = cost.shape
    whole, scale = _fixed_point(cost)
    if n == 0:
        return np.zeros(0, np.int32), np.zeros(k)
    start = (
        np.zeros(k, np.int64)
        if prices is None
        else np.rint(np.clip(prices * scale, -(2.0**50), 2.0**50)).astype(np.int64)
    )
    if prices is None and n > k > 1:
        start = _rough_prices(whole, 50)
    labels, end = _transport(whole, n // k, -(-n // k), start)
    return labels, (end - end.min()) / scale


def capped_assign(cost: np.ndarray, most: int, limit: float = math.inf) -> np.ndarray:
    """The cheapest assignment that gives no centre more than `most` points: labels int32 [n] for float [n, k] costs.

    With a `limit`, a centre becomes dearer by at most so much: points stay with an over-full centre when every other
    costs more than that beyond it.

    Raises:
        ValueError: no centre, a cost that is not finite, or fewer than n places in all.
    """
    n, k = cost.shape
    whole, scale = _fixed_point(cost)
    if most * k < n:
        raise ValueError(f"{k} centres with {most} places each cannot take {n} points")
    if n == 0:
        return np.zeros(0, np.int32)
    labels, prices = _transport(whole, 0, most, np.zeros(k, np.int64))
    prices -= prices.min()
    if prices.max() > limit * scale:
        labels = (whole + np.minimum(prices, np.int64(limit * scale))).argmin(axis=1).astype(np.int32)
    return labels


def _fixed_point(cost: np.ndarray) -> tuple[np.ndarray, float]:
    """Costs as integers, int64 [n, k], and how many of them make 1."""
    if cost.shape[1] == 0 or not np.isfinite(cost).all():
        raise ValueError(f"balanced assignment needs a centre and finite costs, got shape {cost.shape}")
    largest = float(np.abs(cost).max(initial=0.0))
    scale = 2.0**_SCALE_BITS / (largest if largest > 1e-30 else 1.0)
    return np.rint(cost.astype(np.float64) * scale).astype(np.int64), scale


@njit("i8[::1](i8[:,::1],i8)", cache=True, nogil=True)
def _rough_prices(cost: np.ndarray, rounds: int) -> np.ndarray:
    """Prices int64 [k] that roughly even out the sizes: raise the crowded centres, lower the empty ones."""
    n, k = cost.shape
    prices = np.zeros(k, np.int64)
    spread = 0.0
    for i in range(n):
        low, second = _FAR, _FAR
        for j in range(k):
            if cost[i, j] < low:
                low, second = cost[i, j], low
            elif cost[i, j] < second:
                second = cost[i, j]
        spread += float(second - low) / n
    for t in range(rounds):
        sizes = np.zeros(k, np.int64)
        for i in range(n):
            best = 0
            for j in range(1, k):
                if cost[i, j] + prices[j] < cost[i, best] + prices[best]:
                    best = j
            sizes[best] += 1
        step = spread / (1.0 + 0.2 * t)
        for j in range(k):
            excess = min(max(float(sizes[j]) * k / n - 1.0, -1.0), 1.0)
            prices[j] += np.int64(step * excess)
    return prices


@njit("void(i8[:,::1],i4[:,::1],i8[::1],i8[::1],i8,i8,i8[:,::1],i4[:,::1])", cache=True, nogil=True)
def _rescan(
    cost: np.ndarray,
    members: np.ndarray,
    sizes: np.ndarray,
    prices: np.ndarray,
    a: int,
    b: int,
    gap: np.ndarray,
    mover: np.ndarray,
) -> None:
    """Find the point of centre a that loses least by going to b (ties: whichever is met first)."""
    gap[a, b] = _FAR
    mover[a, b] = -1
    floor = prices[a] - prices[b]  # no point of a can gain more than this, or it would not be in a
    for m in range(sizes[a]):
        i = members[a, m]
        extra = cost[i, b] - cost[i, a]
        if extra < gap[a, b]:
            gap[a, b] = extra
            mover[a, b] = i
            if extra <= floor:
                return


@njit("Tuple((i8,i8))(i8[:,::1],i8[::1],b1[::1],b1[::1],i8[::1])", cache=True, nogil=True)
def _cheapest_path(
    gap: np.ndarray, prices: np.ndarray, source: np.ndarray, sink: np.ndarray, parent: np.ndarray
) -> tuple[int, int]:
    """Dijkstra on the centres: the sink (-1: none) that is cheapest to reach from any source, and that cost.

    Fills `parent` and lowers `prices` so that no edge becomes cheaper than its price difference.
    """
    k = len(prices)
    base = _FAR
    for a in range(k):
        if source[a] and prices[a] < base:
            base = prices[a]
    dist = np.full(k, _FAR)
    done = np.zeros(k, np.bool_)
    for a in range(k):
        parent[a] = -1
        if source[a]:
            dist[a] = prices[a] - base
    end, cost, reach = np.int64(-1), _FAR, np.int64(0)
    for _ in range(k):
        a = -1
        for j in range(k):
            if not done[j] and dist[j] < _FAR and (a < 0 or dist[j] < dist[a]):
                a = j
        if a < 0:
            break
        done[a] = True
        reach = dist[a]
        if sink[a] and dist[a] - prices[a] + base < cost:
            cost = dist[a] - prices[a] + base
            end = np.int64(a)
        for b in range(k):
            if not done[b] and gap[a, b] < _FAR:
                through = dist[a] + gap[a, b] + prices[b] - prices[a]
                if through < dist[b]:
                    dist[b] = through
                    parent[b] = a
    for j in range(k):
        prices[j] -= min(dist[j], reach)
    return int(end), int(cost)


@njit("i8[::1](i8[:,::1],i8[::1],i4[::1],i4[:,::1],i8[::1])", cache=True, nogil=True)
def _first_choice(
    cost: np.ndarray, prices: np.ndarray, labels: np.ndarray, members: np.ndarray, place: np.ndarray
) -> np.ndarray:
    """Send every point to its cheapest centre at these prices (ties: the lower index); sizes int64 [k]."""
    n, k = cost.shape
    sizes = np.zeros(k, np.int64)
    for i in range(n):
        best = 0
        for j in range(1, k):
            if cost[i, j] + prices[j] < cost[i, best] + prices[best]:
                best = j
        labels[i] = best
        place[i] = sizes[best]
        members[best, sizes[best]] = i
        sizes[best] += 1
    return sizes


@njit("void(i4,i8,i8,i4[::1],i4[:,::1],i8[::1],i8[::1])", cache=True, nogil=True)
def _move(
    i: int, a: int, b: int, labels: np.ndarray, members: np.ndarray, place: np.ndarray, sizes: np.ndarray
) -> None:
    """Move point i from centre a to centre b."""
    last = members[a, sizes[a] - 1]
    members[a, place[i]] = last
    place[last] = place[i]
    sizes[a] -= 1
    members[b, sizes[b]] = i
    place[i] = sizes[b]
    sizes[b] += 1
    labels[i] = b


@njit("Tuple((i4[::1],i8[::1]))(i8[:,::1],i8,i8,i8[::1])", cache=True, nogil=True)
def _transport(cost: np.ndarray, low: int, high: int, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cheapest labels with every size in [low, high] (which must be possible), and prices that prove it."""
    n, k = cost.shape
    prices = start.copy()
    labels, place, members = np.empty(n, np.int32), np.empty(n, np.int64), np.empty((k, n), np.int32)
    sizes = _first_choice(cost, prices, labels, members, place)
    gap, mover = np.full((k, k), _FAR), np.full((k, k), np.int32(-1))
    for a in range(k):
        for b in range(k):
            if a != b:
                _rescan(cost, members, sizes, prices, a, b, gap, mover)
    parent, path, moved = np.empty(k, np.int64), np.empty(k, np.int64), np.empty(k, np.int32)
    while True:
        over, under = bool(np.any(sizes > high)), bool(np.any(sizes < low))
        # Relieve the over-full, then fill the under-full, then let centres trade the places of larger groups.
        source = sizes > (high if over else low)
        sink = sizes < (low if under and not over else high)
        end, price = _cheapest_path(gap, prices, source, sink, parent)
        if end < 0 or not (over or under or price < 0):
            return labels, prices
        hops = 0
        while parent[end] >= 0:
            path[hops], moved[hops] = end, mover[parent[end], end]
            end = parent[end]
            hops += 1
        path[hops] = end
        for h in range(hops):
            _move(moved[h], path[h + 1], path[h], labels, members, place, sizes)
        for h in range(hops + 1):
            a = path[h]
            for b in range(k):
                if b == a:
                    continue
                if h < hops and cost[moved[h], b] - cost[moved[h], a] < gap[a, b]:  # a gained a cheaper mover
                    gap[a, b] = cost[moved[h], b] - cost[moved[h], a]
                    mover[a, b] = moved[h]
                if mover[a, b] >= 0 and labels[mover[a, b]] != a:  # a lost its cheapest mover
                    _rescan(cost, members, sizes, prices, a, b, gap, mover)
