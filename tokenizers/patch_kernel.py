"""Compiled loops of patching: entropies of contexts, entropies along a text, and the cuts they give.

A context is the last k bytes packed into an integer, the latest lowest; its key adds k in the highest byte, so
that contexts of all lengths share one table. Entropies are integers, 1024 to the bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Bytes = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.uint64]
Entropies = npt.NDArray[np.uint16]

BIT = 1024  # of an entropy, in stored units
EMPTY = 0xFFFFFFFFFFFFFFFF  # no context has 255 bytes


@njit(cache=True, nogil=True)
def _home(key, mask):  # type: ignore[no-untyped-def]
    """First slot of a key (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) & mask


@njit(cache=True, nogil=True)
def fill_table(keys: Keys, entropies: Entropies, slots: Keys, values: Entropies) -> None:
    """Put keys [n] with their entropies into an open-addressed table of 2^m slots (all EMPTY before)."""
    mask = np.uint64(len(slots) - 1)
    for i in range(len(keys)):
        at = _home(keys[i], mask)
        while slots[at] != np.uint64(EMPTY):
            at = (at + np.uint64(1)) & mask
        slots[at] = keys[i]
        values[at] = entropies[i]


@njit(cache=True, nogil=True)
def next_byte_entropies(data: Bytes, order: int, slots: Keys, values: Entropies) -> Entropies:
    """Entropy uint16 [n] of what the model expects at each byte of data [n], from the longest context it knows."""
    out = np.empty(len(data), np.uint16)
    mask = np.uint64(len(slots) - 1)
    window = np.uint64(0)
    for i in range(len(data)):
        for k in range(min(i, order), -1, -1):
            context = window & ((np.uint64(1) << np.uint64(8 * k)) - np.uint64(1))
            key = context | (np.uint64(k) << np.uint64(56))
            at = _home(key, mask)
            while slots[at] != key and slots[at] != np.uint64(EMPTY):
                at = (at + np.uint64(1)) & mask
            if slots[at] == key:
                out[i] = values[at]
                break
        window = (window << np.uint64(8)) | np.uint64(data[i])
    return out


@njit(cache=True, nogil=True)
def cut_by_entropy(
    entropies: Entropies, threshold: int, monotonic: bool, longest: int
) -> npt.NDArray[np.uint16]:
    """Lengths uint16 [p] of patches: one starts where the entropy is (or rises by) more than the threshold."""
    n = len(entropies)
    out = np.empty(n, np.uint16)
    patches, start = 0, 0
    for i in range(1, n):
        value = np.int64(entropies[i]) - (np.int64(entropies[i - 1]) if monotonic else 0)
        if value > threshold or i - start == longest:
            out[patches] = i - start
            patches += 1
            start = i
    if n:
        out[patches] = n - start
        patches += 1
    return out[:patches].copy()


@njit(cache=True, nogil=True)
def cut_at_spaces(data: Bytes, longest: int) -> npt.NDArray[np.uint16]:
    """Lengths uint16 [p] of patches: a word with what follows it, or one character of three or four bytes."""
    n = len(data)
    out = np.empty(n, np.uint16)
    patches, start = 0, 0
    before = False
    for i in range(n):
        b = data[i]
        word = (48 <= b <= 57) or (65 <= b <= 90) or (97 <= b <= 122) or b >= 128
        if i and ((word and not before) or b >= 0xE0 or i - start == longest):
            out[patches] = i - start
            patches += 1
            start = i
        before = word
    if n:
        out[patches] = n - start
        patches += 1
    return out[:patches].copy()


@njit(cache=True, nogil=True)
def context_entropies(
    order: int,
    contexts: Keys,
    context_bounds: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    followers: Bytes,
    counts: npt.NDArray[np.int64],
) -> Entropies:
    """Entropy of the byte after each context, of the distribution interpolated over all its suffixes.

    P_k(b | c) = (n(c, b) + d(c) P_{k-1}(b | c')) / (n(c) + d(c)) with n counts, d(c) the number of distinct bytes
    seen after c, c' the context without its oldest byte (Witten and Bell 1991, method C), P_{-1} uniform.

    Args:
        contexts: uint64 [c], packed, those of order k sorted at context_bounds[k]..context_bounds[k+1].
        starts: int64 [c+1] into followers uint8 [f] and counts int64 [f].
    """
    out = np.empty(len(contexts), np.uint16)
    chance = np.empty(256, np.float64)
    for k in range(order + 1):
        for c in range(context_bounds[k], context_bounds[k + 1]):
            chance[:] = 1.0 / 256.0
            for j in range(k + 1):
                suffix = contexts[c] & ((np.uint64(1) << np.uint64(8 * j)) - np.uint64(1))
                low, high = context_bounds[j], context_bounds[j + 1]
                while low < high:
                    middle = (low + high) // 2
                    if contexts[middle] < suffix:
                        low = middle + 1
                    else:
                        high = middle
                first, last = starts[low], starts[low + 1]
                total = 0
                for f in range(first, last):
                    total += counts[f]
                distinct = last - first
                chance *= distinct / (total + distinct)
                for f in range(first, last):
                    chance[followers[f]] += counts[f] / (total + distinct)
            bits = 0.0
            for b in range(256):
                bits -= chance[b] * np.log2(chance[b])
            out[c] = np.uint16(min(8 * BIT, max(0, round(bits * BIT))))
    return out
