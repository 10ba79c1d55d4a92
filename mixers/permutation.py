"""Stateless shuffles: the place of any item in any epoch, without a table and without a generator."""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mixloom.pipeline.splitmix import mix

Int64 = NDArray[np.int64]

_ROUNDS = 8


def stream_key(*parts: str | int) -> int:
    """64 bits of blake2b over length-prefixed parts; equal on every machine."""
    h = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = str(part).encode()
        h.update(len(raw).to_bytes(8, "little") + raw)
    return int.from_bytes(h.digest(), "little")


def place(
    group: NDArray[np.int32], ordinal: Int64, sizes: Int64, keys: NDArray[np.uint64]
) -> tuple[Int64, Int64]:
    """The item each draw gives, when every group is served in a fresh order each epoch.

    A Feistel network over the smallest square power of four above the size, walked along its cycle until it
    lands inside: a permutation for every (key, epoch), computed for one position at a time.

    Args:
        group: int32 [m], the group of each draw.
        ordinal: int64 [m], how many draws of that group came before it; epoch = ordinal // size.
        sizes: int64 [n], items in each group.
        keys: uint64 [n], a key per group.

    Returns:
        (item int64 [m], epoch int64 [m]).
    """
    return _place(group, ordinal, sizes, keys)  # type: ignore[no-any-return]


def find_places(items: Int64, epoch: int, size: int, key: int) -> Int64:
    """The way back: the place inside `epoch` at which each item of one group comes: int64 [m]."""
    return _unplace(np.asarray(items, np.int64), epoch, size, np.uint64(key))  # type: ignore[no-any-return]


@njit(cache=True, nogil=True)
def _place(group, ordinal, sizes, keys):  # type: ignore[no-untyped-def]
    item = np.empty(group.shape[0], np.int64)
    epoch = np.empty(group.shape[0], np.int64)
    golden = np.uint64(0x9E3779B97F4A7C15)
    for j in range(group.shape[0]):
        n = sizes[group[j]]
        epoch[j] = ordinal[j] // n
        half = 4  # bits; tiny groups are walked inside 256 places, where the network still mixes
        while (np.int64(1) << (2 * half)) < n:
            half += 1
        shift, mask = np.uint64(half), (np.uint64(1) << np.uint64(half)) - np.uint64(1)
        key = mix(keys[group[j]] + golden * np.uint64(epoch[j] + 1))
        x = np.uint64(ordinal[j] - epoch[j] * n)
        while True:
            left, right = x >> shift, x & mask
            for r in range(_ROUNDS):
                left, right = right, left ^ (mix(right ^ (key + golden * np.uint64(r))) & mask)
            x = (left << shift) | right
            if x < np.uint64(n):
                break
        item[j] = np.int64(x)
    return item, epoch


@njit(cache=True, nogil=True)
def _unplace(items, epoch, n, key):  # type: ignore[no-untyped-def]
    """The inverse of `_place` for one group: the same rounds from the last to the first, walked the same way."""
    out = np.empty(items.shape[0], np.int64)
    golden = np.uint64(0x9E3779B97F4A7C15)
    half = 4
    while (np.int64(1) << (2 * half)) < n:
        half += 1
    shift, mask = np.uint64(half), (np.uint64(1) << np.uint64(half)) - np.uint64(1)
    own = mix(key + golden * np.uint64(epoch + 1))
    for j in range(items.shape[0]):
        x = np.uint64(items[j])
        while True:
            left, right = x >> shift, x & mask
            for i in range(_ROUNDS):
                r = _ROUNDS - 1 - i
                left, right = right ^ (mix(left ^ (own + golden * np.uint64(r))) & mask), left
            x = (left << shift) | right
            if x < np.uint64(n):
                break
        out[j] = np.int64(x)
    return out
