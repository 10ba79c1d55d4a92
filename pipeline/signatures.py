"""Word shingles as 64-bit hashes, and MinHash signatures of them.

A shingle is n consecutive terms (`mixloom.pipeline.words`): lower-cased words of letters and numbers, so neither
punctuation nor spacing counts. A document with fewer than n terms has no shingle, no signature (null, never a value
that two documents could share) and an empty shingle set, which is similar to nothing.

The permutations are h(x) = (a x + b) mod 2^32 with a odd, each one to one on the 32-bit numbers; x is the upper half of
the shingle's hash, and that these are uniform is what makes so plain a family do. The share of equal least values of two
documents estimates the Jaccard similarity of their shingle sets (Broder 1997). Of each least value the lower 16 bits are
kept: two that differ agree there once in 65,536 times (b-bit minwise hashing; Li and Koenig 2010).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from mixloom.pipeline.annotate_config import MinHashConfig
from mixloom.pipeline.doc_ids import mix as mix_all
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.splitmix import mix
from mixloom.pipeline.words import Cuts, TermCuts, cut_terms

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_S32 = np.uint64(32)
_TOP = np.uint32(0xFFFFFFFF)
__all__ = ["MinHashConfig", "cut_signatures", "jaccard", "permutations", "shingle_sets", "signatures"]

_ONE, _LOW = np.uint64(1), np.uint32(0xFFFF)
_BUCKETS, _LONG = 1 << 16, 1 << 20  # where shingles are sorted; those of a longer document would crowd there
_BLOCK = 256  # shingles hashed at a time, a multiple of four: their keys stay in the first-level cache


@njit(**LEAN)
def _shingles(term_hashes, first, last, ngram, out):  # type: ignore[no-untyped-def]
    """Hash every window of `ngram` terms of term_hashes[first:last] into out; returns how many.

    Term by term over all windows, not window by window: the processor then works on several at a time.
    """
    count = max(0, last - first - ngram + 1)
    out[:count] = np.uint64(ngram)
    for k in range(ngram):
        terms = term_hashes[first + k : first + k + count]
        for i in range(count):
            h = out[i]
            out[i] = (h ^ (h >> _S32)) * _GOLDEN + terms[i]
    for i in range(count):
        out[i] = mix(out[i])
    return count


@njit(**LEAN)
def _lower(keys, count, a, b, least):  # type: ignore[no-untyped-def]
    """Lower `least` to the values of `count` keys, a multiple of four, under each of the permutations."""
    for i in range(0, count, 4):
        w, x, y, z = keys[i], keys[i + 1], keys[i + 2], keys[i + 3]
        for p in range(a.size):
            a_p, b_p = a[p], b[p]
            one, two = min(np.uint32(w * a_p + b_p), np.uint32(x * a_p + b_p)), np.uint32(y * a_p + b_p)
            least[p] = min(least[p], min(one, min(two, np.uint32(z * a_p + b_p))))


@njit(cache=True, nogil=True)
def _sign(offsets, term_hashes, ngram, a, b):  # type: ignore[no-untyped-def]
    n = offsets.size - 1
    out = np.zeros((n, a.size), np.uint16)
    hashes, keys = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint32)
    least = np.empty(a.size, np.uint32)
    for d in range(n):
        least[:] = _TOP
        last = offsets[d + 1]
        for first in range(offsets[d], last - ngram + 1, _BLOCK):
            count = _shingles(term_hashes, first, min(last, first + _BLOCK + ngram - 1), ngram, hashes)
            for i in range(count):
                keys[i] = hashes[i] >> _S32
            padded = (count + 3) // 4 * 4
            keys[count:padded] = keys[0]  # which changes no minimum
            _lower(keys, padded, a, b, least)
        if last - offsets[d] >= ngram:
            for p in range(a.size):
                out[d, p] = least[p] & _LOW
    return out


@njit(**LEAN)
def _sort_uniform(values, out, ends):  # type: ignore[no-untyped-def]
    """`values`, sorted, into `out`: uniform numbers lie near their place once they are ordered by their highest bits."""
    n = values.size
    buckets, shift = 2, np.uint64(63)
    while 2 * buckets <= min(n, ends.size):
        buckets, shift = 2 * buckets, shift - _ONE
    ends[:buckets] = 0
    for i in range(n):
        ends[values[i] >> shift] += 1
    total = 0
    for k in range(buckets):
        total += ends[k]
        ends[k] = total
    for i in range(n - 1, -1, -1):
        k = values[i] >> shift
        ends[k] -= 1
        out[ends[k]] = values[i]
    for i in range(1, n):
        x, j = out[i], i
        while j > 0 and out[j - 1] > x:
            out[j] = out[j - 1]
            j -= 1
        out[j] = x


@njit(cache=True, nogil=True)
def _shingle_sets(offsets, term_hashes, ngram):  # type: ignore[no-untyped-def]
    n = offsets.size - 1
    total = most = 0
    for d in range(n):
        count = offsets[d + 1] - offsets[d]
        total += max(0, count - ngram + 1)
        most = max(most, count)
    values, bounds = np.empty(total, np.uint64), np.zeros(n + 1, np.int64)
    own, ordered, ends = np.empty(most, np.uint64), np.empty(most, np.uint64), np.empty(_BUCKETS, np.int64)
    used = 0
    for d in range(n):
        count = _shingles(term_hashes, offsets[d], offsets[d + 1], ngram, own)
        part = ordered[:count]
        if count > _LONG:
            part = np.sort(own[:count])
        else:
            _sort_uniform(own[:count], part, ends)
        for i in range(count):
            if i == 0 or part[i] != part[i - 1]:
                values[used] = part[i]
                used += 1
        bounds[d + 1] = used
    return bounds, values[:used].copy()


@njit(cache=True, nogil=True)
def _intersection(a, b):  # type: ignore[no-untyped-def]
    i, j, common = 0, 0, 0
    while i < a.size and j < b.size:
        if a[i] == b[j]:
            common += 1
            i += 1
            j += 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return common


def permutations(num_perm: int, seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The multipliers a (odd) and the shifts b of `num_perm` permutations, uint32 [num_perm] each.

    They are the upper halves of outputs 1, 2, ... of SplitMix64 started at `seed`, so they depend on no library's generator.
    """
    with np.errstate(over="ignore"):
        state = np.uint64(seed) + _GOLDEN * np.arange(1, 2 * num_perm + 1, dtype=np.uint64)
    drawn = (mix_all(state) >> _S32).astype(np.uint32)
    return drawn[:num_perm] | np.uint32(1), drawn[num_perm:].copy()


def cut_signatures(cuts: Cuts | TermCuts, config: MinHashConfig) -> pa.FixedSizeListArray:
    """`signatures` of documents that are already cut."""
    a, b = permutations(config.num_perm, config.seed)
    values = _sign(cuts.term_offsets, cuts.term_hashes, config.ngram, a, b)
    missing = np.diff(cuts.term_offsets) < config.ngram
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1), pa.uint16()), config.num_perm, mask=pa.array(missing, pa.bool_())
    )


def signatures(texts: pa.Array, config: MinHashConfig) -> pa.FixedSizeListArray:
    """MinHash signatures of n texts: fixed_size_list<uint16>[num_perm] of length n; null under `ngram` words.

    Value p of a signature is the lower half of the least h_p over the shingles. Band j is the values j * rows to (j + 1) * rows - 1.
    Raises TypeError unless `texts` is a string or large_string array.
    """
    return cut_signatures(cut_terms(texts), config)


def shingle_sets(texts: pa.Array, ngram: int = 5) -> pa.LargeListArray:
    """The shingle set of each of n texts: large_list<uint64>, sorted and distinct; empty under `ngram` words.

    Raises TypeError unless `texts` is a string or large_string array, ValueError for ngram < 1.
    """
    if ngram < 1:
        raise ValueError(f"ngram is {ngram}; a shingle has at least one word")
    cuts = cut_terms(texts)
    bounds, values = _shingle_sets(cuts.term_offsets, cuts.term_hashes, ngram)
    return pa.LargeListArray.from_arrays(pa.array(bounds, pa.int64()), pa.array(values, pa.uint64()))


def jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """|a & b| / |a | b| of two sorted distinct uint64 arrays; 0.0 when both are empty."""
    common = int(_intersection(a, b))
    union = len(a) + len(b) - common
    return common / union if union else 0.0
