"""Terms of ASCII letters and digits hashed many at once, and stop words counted among hashes.

For `cut_kernel`. Numba's cache looks at the changes of a kernel's own file only: after a change here, delete the cached
kernels.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.bit_counts import popcount
from mixloom.pipeline.bit_places import same
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.raw_bytes import load
from mixloom.pipeline.splitmix import mix

START = np.uint64(0x243F6A8885A308D3)  # the hash of nothing, before `mix`
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_S29 = np.uint64(29)
_U0, _U1, _U3, _U8, _U16 = (np.uint64(k) for k in (0, 1, 3, 8, 16))
_LOW8, _ALL = np.uint64(0xFF), np.uint64(2**64 - 1)
_SMALL = np.uint64(0x2020202020202020)  # of eight bytes: what makes letters small and leaves digits alone
_LANES = np.uint64(7)  # terms hashed in one go, less one
_BLOCK = np.uint64(64)  # hashes compared with a stop word in one go
_FEW = 16  # with more stop words than this, a table says which one a term may be


@njit(**LEAN, inline="always")
def step(h, code):  # type: ignore[no-untyped-def]
    h = (h ^ np.uint64(code)) * _FACTOR
    return h ^ (h >> _S29)


@njit(**LEAN, forceinline=True)
def _part(data, i, size):  # type: ignore[no-untyped-def]
    """The bytes data[i:i+size], at most 8 of them, as one uint64; behind them anything."""
    if i + 8 <= data.size:
        return load(data, i)
    word = _U0
    for k in range(min(size, 8)):
        word |= np.uint64(data[i + k]) << np.uint64(8 * k)
    return word


@njit(**LEAN)
def read_terms(data, begin, starts, ends, count, low_bytes, sizes, longs):  # type: ignore[no-untyped-def]
    """The first eight bytes and the sizes of `count` terms; longs: which have more. Returns how many these are."""
    found = _U0
    if count == _U0:
        return found
    if begin + np.int64(starts[count - _U1]) + 16 <= data.size:
        for t in range(count):
            size = ends[t] - starts[t]
            low_bytes[t], sizes[t], longs[found] = load(data, begin + np.int64(starts[t])), size, t
            found += np.uint64(size > _U8)
    else:
        for t in range(count):
            size = ends[t] - starts[t]
            low_bytes[t] = _part(data, begin + np.int64(starts[t]), np.int64(size))
            sizes[t], longs[found] = size, t
            found += np.uint64(size > _U8)
    return found


@njit(**LEAN, forceinline=True)
def _byte(h, word, shift, size, after):  # type: ignore[no-untyped-def]
    g = (h ^ ((word >> shift) & _LOW8)) * _FACTOR
    g = g ^ (g >> _S29)
    return g if size > after else h


@njit(**LEAN, forceinline=True)
def _eight(h, word, size):  # type: ignore[no-untyped-def]
    """The hash h with the bytes of a word that are below `size`, each as `step`."""
    h = _byte(h, word, np.uint64(0), size, np.uint64(0))
    h = _byte(h, word, np.uint64(8), size, np.uint64(1))
    h = _byte(h, word, np.uint64(16), size, np.uint64(2))
    h = _byte(h, word, np.uint64(24), size, np.uint64(3))
    h = _byte(h, word, np.uint64(32), size, np.uint64(4))
    h = _byte(h, word, np.uint64(40), size, np.uint64(5))
    h = _byte(h, word, np.uint64(48), size, np.uint64(6))
    return _byte(h, word, np.uint64(56), size, np.uint64(7))


@njit(**LEAN, forceinline=True)
def _capitals(word, size):  # type: ignore[no-untyped-def]
    """Not 0 if one of the first `size` bytes of a word of letters and digits, at most 8, is a capital."""
    return ~word & _SMALL & (_ALL >> ((_U8 - min(size, _U8)) << _U3))


@njit(**LEAN)
def hash_terms(low_bytes, sizes, states, hashes, capitals, count):  # type: ignore[no-untyped-def]
    """Hash up to eight bytes of each of `count` terms, many at once. states: before `mix`, for those that go on."""
    for t in range((count + _LANES) & ~_LANES):
        word, size = low_bytes[t], sizes[t]
        h = _eight(START, word | _SMALL, size)
        states[t], hashes[t] = h, mix(h)
        capitals[t] = _capitals(word, size)


@njit(**LEAN)
def hash_longs(data, begin, starts, sizes, states, hashes, capitals, longs, count, parts, rests, outs):  # type: ignore[no-untyped-def]
    """Go on with the `count` terms longs, which have more than eight bytes."""
    over = _U0
    for j in range(count):
        t = longs[j]
        outs[j], rests[j] = states[t], sizes[t] - _U8
        parts[j] = _part(data, begin + np.int64(starts[t]) + 8, np.int64(sizes[t]) - 8)
        over |= np.uint64(sizes[t] > _U16)
    for j in range((count + _LANES) & ~_LANES):
        word, rest = parts[j], rests[j]
        h = _eight(outs[j], word | _SMALL, rest)
        outs[j], rests[j], parts[j] = mix(h), _capitals(word, rest), h
    for j in range(count):
        t = longs[j]
        hashes[t] = outs[j]
        capitals[t] |= rests[j]
    if over == _U0:
        return
    for j in range(count):
        t = longs[j]
        if sizes[t] > _U16:
            i, h = begin + np.int64(starts[t]), parts[j]
            for k in range(i + 16, i + np.int64(sizes[t])):
                h = step(h, data[k] | 32)
                capitals[t] |= np.uint64(data[k] & 32 == 0)
            hashes[t] = mix(h)


@njit(cache=True, nogil=True)
def stop_table(stop_words):  # type: ignore[no-untyped-def]
    """Where to look for a stop word: (slots uint8, shift), no two in the same slot.

    A hash h can only be stop_words[slots[(h >> shift) % slots.size] - 1], and none where the slot is 0.
    """
    slots = np.zeros(256, np.uint8)
    while True:
        for shift in range(40):
            slots[:] = 0
            clash = False
            for s in range(stop_words.size):
                at = (stop_words[s] >> np.uint64(shift)) & np.uint64(slots.size - 1)
                clash |= slots[at] != 0
                slots[at] = s + 1
            if not clash:
                return slots, np.uint64(shift)
        slots = np.zeros(2 * slots.size, np.uint8)


@njit(**LEAN, inline="always")
def find(h, stop_words, slots, shift):  # type: ignore[no-untyped-def]
    """Whether the hash h is a stop word (1 or 0) and which; without a branch, since nothing foretells it."""
    slot = np.uint64(slots[(h >> shift) & np.uint64(slots.size - 1)])
    which = slot - np.uint64(slot != _U0)
    return np.uint64(slot != _U0) & np.uint64(stop_words[which] == h), which


@njit(**LEAN)
def count_stops(hashes, capitals, count, stops, stop_words, slots, shift, seen):  # type: ignore[no-untyped-def]
    """Add to `seen`, uint64: how many of `count` terms are stop words, and which of these are in lower case."""
    stop_count, stop_seen = seen[0], seen[1]
    if stops <= _FEW:
        for k in range((count + _BLOCK - _U1) // _BLOCK):
            first = k * _BLOCK
            left = count - first
            inside = _ALL if left >= _BLOCK else (_U1 << left) - _U1
            small = same(capitals, first, _U0)
            for s in range(np.uint64(stops)):
                found = same(hashes, first, stop_words[s]) & inside
                stop_count += np.uint64(popcount(found))
                stop_seen |= np.uint64(found & small != _U0) << s
    else:
        for t in range(count):
            one, which = find(hashes[t], stop_words, slots, shift)
            stop_count += one
            stop_seen |= (one & np.uint64(capitals[t] == _U0)) << which
    seen[0], seen[1] = stop_count, stop_seen
