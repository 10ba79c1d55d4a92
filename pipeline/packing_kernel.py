"""Compiled loops of packing: cutting at allowed places, best fit inside windows, near duplicates kept apart.

Everywhere: `offsets` int64 [n + 1] and `spans` int64 [k, 2] name the token spans of each document that must stay whole
(ascending, disjoint); `groups` int64 [n] its group of near duplicates, -1 where it is alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _last_cut(spans, low, high, start, limit):  # type: ignore[no-untyped-def]
    """The last place in (start, limit] that is inside none of the spans low..high of a document, or -1."""
    left, right = low, high
    while left < right:  # the first span that begins at or after the limit
        middle = (left + right) // 2
        if spans[middle, 0] < limit:
            left = middle + 1
        else:
            right = middle
    if left > low and spans[left - 1, 1] > limit:
        limit = spans[left - 1, 0]
    return limit if limit > start else -1


@njit(cache=True, nogil=True)
def concatenate(sizes, seq_len, offsets, spans, groups, pieces):  # type: ignore[no-untyped-def]
    """Documents one after another, cut where a context ends.

    A document that may not be cut in the rest of a context opens the next one, and so does one whose predecessor there
    is of its group. Writes (doc, start, stop, context) into pieces int64 [p, 4], or only counts where p is 0.

    Returns:
        (pieces, contexts, cuts inside a span that is longer than a context).
    """
    write = pieces.shape[0] > 0
    count, context, room, forced, last = 0, 0, seq_len, 0, -1
    for d in range(sizes.shape[0]):
        size, start = sizes[d], 0
        if room < seq_len and groups[d] >= 0 and groups[d] == last:
            context, room = context + 1, seq_len
        last = groups[d]
        while start < size:
            stop = size
            if size - start > room:
                stop = _last_cut(spans, offsets[d], offsets[d + 1], start, start + room)
                if stop < 0 and room < seq_len:
                    context, room = context + 1, seq_len
                    continue
                if stop < 0:
                    stop, forced = start + seq_len, forced + 1
            if write:
                pieces[count, 0], pieces[count, 1], pieces[count, 2] = d, start, stop
                pieces[count, 3] = context
            count += 1
            room -= stop - start
            start = stop
            if room == 0 or start < size:
                context, room = context + 1, seq_len
    return count, context + (1 if room < seq_len else 0), forced


@njit(cache=True, nogil=True)
def chop(sizes, seq_len, offsets, spans, pieces):  # type: ignore[no-untyped-def]
    """Whole documents, and those longer than a context in as long pieces as may be.

    Writes (doc, start, stop) into pieces int64 [p, 3], or only counts where p is 0.

    Returns:
        (pieces, cuts inside a span that is longer than a context).
    """
    write = pieces.shape[0] > 0
    count, forced = 0, 0
    for d in range(sizes.shape[0]):
        start = 0
        while start < sizes[d]:
            stop = sizes[d]
            if stop - start > seq_len:
                stop = _last_cut(spans, offsets[d], offsets[d + 1], start, start + seq_len)
                if stop < 0:
                    stop, forced = start + seq_len, forced + 1
            if write:
                pieces[count, 0], pieces[count, 1], pieces[count, 2] = d, start, stop
            count += 1
            start = stop
    return count, forced


@njit(cache=True, nogil=True)
def _mark(tree, leaf):  # type: ignore[no-untyped-def]
    """Note a capacity as occupied, up to the root."""
    node = tree.shape[0] // 2 + leaf
    while node >= 1 and tree[node] == 0:
        tree[node] = 1
        node //= 2


@njit(cache=True, nogil=True)
def _unmark(tree, leaf):  # type: ignore[no-untyped-def]
    """Note a capacity as empty; a parent stays occupied while its other child is."""
    node = tree.shape[0] // 2 + leaf
    tree[node] = 0
    while node > 1 and tree[node ^ 1] == 0:
        node //= 2
        tree[node] = 0


@njit(cache=True, nogil=True)
def _at_least(tree, leaf):  # type: ignore[no-untyped-def]
    """The smallest occupied capacity >= leaf, or -1: climb until a right sibling is occupied, then go down left."""
    half = tree.shape[0] // 2
    if leaf >= half:
        return -1
    node = half + leaf
    if tree[node] == 1:
        return leaf
    while node > 1 and (node & 1 == 1 or tree[node + 1] == 0):
        node //= 2
    if node <= 1:
        return -1
    node += 1
    while node < half:
        node = 2 * node if tree[2 * node] == 1 else 2 * node + 1
    return node - half


@njit(cache=True, nogil=True)
def _open(tree, head, below, b, space):  # type: ignore[no-untyped-def]
    """Put a bin on top of those with this much room."""
    below[b] = head[space]
    head[space] = b
    _mark(tree, space)


@njit(cache=True, nogil=True)
def _take(tree, head, below, b, space):  # type: ignore[no-untyped-def]
    """Take a bin from among those with this much room."""
    if head[space] == b:
        head[space] = below[b]
        if head[space] < 0:
            _unmark(tree, space)
        return
    above = head[space]
    while below[above] != b:
        above = below[above]
    below[above] = below[b]


@njit(cache=True, nogil=True)
def _fitting(tree, head, below, held, count, length, mixed):  # type: ignore[no-untyped-def]
    """The open bin with the least room for a piece of a group, or -1: without that group, or (mixed) separable."""
    space = _at_least(tree, length)
    while space >= 0:
        b = head[space]
        while b >= 0:
            if held[b] == 0 or (mixed and 2 * (held[b] + 1) <= count[b] + 2):
                return b
            b = below[b]
        space = _at_least(tree, space + 1)
    return -1


@njit(cache=True, nogil=True)
def best_fit(length, group, bounds, seq_len, carry):  # type: ignore[no-untyped-def]
    """Best-fit-decreasing per window.

    A piece goes into the open bin with the least room that holds it; of several, into the one filled last. A piece of a
    group prefers bins without its group, then bins where the two can be kept apart by others; else it opens a bin.

    Args:
        length: int64 [p], longest first per window.
        group: int64 [p], numbers from 0, or -1.
        bounds: int64 [w + 1], window j owns the pieces bounds[j] to bounds[j + 1].
        carry: so many of the emptiest open bins stay open for the next window.

    Returns:
        The bin of each piece, int64 [p].
    """
    leaves = 1
    while leaves < seq_len + 1:
        leaves *= 2
    n = length.shape[0]
    tree = np.zeros(2 * leaves, np.uint8)
    head = np.full(seq_len + 1, -1, np.int64)  # capacity -> the bin opened or filled last among those with it
    below = np.full(n, -1, np.int64)  # the next bin of the same capacity
    room = np.zeros(n, np.int64)
    count = np.zeros(n, np.int64)  # pieces in a bin
    held = np.zeros(n, np.int64)  # pieces of the group at hand in a bin; zeros between pieces
    bins = np.empty(n, np.int64)
    newest = np.full(
        (group.max() if n else -1) + 1, -1, np.int64
    )  # group -> its last piece that may still matter
    before = np.full(n, -1, np.int64)  # piece -> the one of its group before it
    opened, kept = 0, np.full(carry, -1, np.int64)
    for w in range(bounds.shape[0] - 1):
        first = opened
        for i in range(bounds[w], bounds[w + 1]):
            g = group[i]
            b = -1
            if g >= 0:
                j = newest[g]
                while j >= 0:
                    held[bins[j]] += 1
                    j = before[j]
                b = _fitting(tree, head, below, held, count, length[i], False)
                if b < 0 and newest[g] >= 0:
                    b = _fitting(tree, head, below, held, count, length[i], True)
                j = newest[g]
                while j >= 0:
                    held[bins[j]] = 0
                    j = before[j]
                before[i], newest[g] = newest[g], i
            else:
                space = _at_least(tree, length[i])
                if space >= 0:
                    b = head[space]
            if b < 0:
                b, room[opened] = opened, seq_len
                opened += 1
            else:
                _take(tree, head, below, b, room[b])
            bins[i] = b
            count[b] += 1
            room[b] -= length[i]
            if room[b] > 0:
                _open(tree, head, below, b, room[b])
        _close(tree, head, below, room, kept, first, opened)
        for b in kept:
            if b >= 0 and room[b] > 0:
                _open(tree, head, below, b, room[b])
        _forget(bins, group, newest, before, bounds[w], bounds[w + 1], kept)
    return bins


@njit(cache=True, nogil=True)
def _close(tree, head, below, room, kept, first, opened):  # type: ignore[no-untyped-def]
    """Close all open bins, those kept and first..opened, and choose the emptiest of them into kept, -1 for none."""
    before = kept.copy()
    for k in range(before.shape[0] + opened - first):
        b = before[k] if k < before.shape[0] else first + k - before.shape[0]
        if b >= 0 and room[b] > 0 and head[room[b]] >= 0:
            head[room[b]] = -1
            _unmark(tree, room[b])
    for place in range(kept.shape[0]):
        kept[place] = -1
    for k in range(before.shape[0] + opened - first):
        b = before[k] if k < before.shape[0] else first + k - before.shape[0]
        if b < 0 or room[b] == 0:
            continue
        place = kept.shape[0]  # emptiest first; of equally empty ones that which was opened first
        while place > 0 and (kept[place - 1] < 0 or room[kept[place - 1]] < room[b]):
            place -= 1
        for later in range(kept.shape[0] - 1, place, -1):
            kept[later] = kept[later - 1]
        if place < kept.shape[0]:
            kept[place] = b


@njit(cache=True, nogil=True)
def _forget(bins, group, newest, before, start, stop, kept):  # type: ignore[no-untyped-def]
    """Of the pieces of every group of a window, remember only those in the bins that stay open."""
    for i in range(start, stop):
        g = group[i]
        if g < 0 or newest[g] < start:
            continue  # not of a group, or done already
        j, chain = newest[g], -1
        while j >= 0:
            older = before[j]
            stays = False
            for b in kept:
                stays = stays or b == bins[j]
            if stays:
                before[j] = chain
                chain = j
            j = older
        newest[g] = -1
        while chain >= 0:  # the chain was turned round: turn it back
            older = before[chain]
            before[chain] = newest[g]
            newest[g] = chain
            chain = older


@njit(cache=True, nogil=True)
def separate(group, offsets, order):  # type: ignore[no-untyped-def]
    """Rearrange the pieces of each context so that no two of a group are neighbours; others keep their order.

    Args:
        group: int64 [p], of each piece, contexts one after another; -1 for none.
        offsets: int64 [contexts + 1].
        order: int64 [p], 0, 1, 2, ...; rearranged in place, to be read as "which piece stands here".
    """
    for c in range(offsets.shape[0] - 1):
        low, high = offsets[c], offsets[c + 1]
        touching = False
        for i in range(low + 1, high):
            if group[i] >= 0 and group[i] == group[i - 1]:
                touching = True
        if not touching:
            continue
        free = np.ones(high - low, np.bool_)
        last = np.int64(-1)
        for place in range(low, high):
            rest = high - place
            chosen = -1
            for i in range(low, high):  # the earliest whose group is not the last one
                if free[i - low] and (group[i] < 0 or group[i] != last):
                    if chosen < 0:
                        chosen = i
                    if group[i] < 0:
                        continue
                    same = 0
                    for j in range(low, high):
                        if free[j - low] and group[j] == group[i]:
                            same += 1
                    if 2 * same > rest:  # it must come now, or two of it are left side by side
                        chosen = i
                        break
            if chosen < 0:  # cannot be kept apart; the caller's contexts always can
                for i in range(low, high):
                    if free[i - low]:
                        chosen = i
                        break
            free[chosen - low] = False
            order[place] = chosen
            last = group[chosen]
