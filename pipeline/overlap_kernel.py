"""The compiled kernels of decontamination: terms with their places, the scan of their n-grams, exact confirmation.

Terms are those of `mixloom.pipeline.words` (hash for hash; a test holds the two together). Every function a kernel
calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import characters as ch
from mixloom.pipeline.code_points import decode
from mixloom.pipeline.splitmix import mix

_ALPHA, _MARK, _NUMBER = ch.ALPHA, ch.MARK, ch.NUMBER
_UNSPACED, _FORMAT = ch.UNSPACED, ch.FORMAT
_STEP = np.uint64(0x9E3779B97F4A7C15)
_START = np.uint64(0x243F6A8885A308D3)
_S6, _S29 = np.uint64(6), np.uint64(29)
_LOW6, _ONE, _NIL = np.uint64(63), np.uint64(1), np.uint64(0)
BASE = np.uint64(0xD1342543DE82EF95)  # odd, so that powers of it never vanish
_NONE, _LETTERS, _LONE = 0, 1, 2


@njit(cache=True, nogil=True)
def _encode(out, at, code):  # type: ignore[no-untyped-def]
    """Write a code point as UTF-8 at out[at:]; returns the byte after it."""
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at], out[at + 1] = 0xC0 | (code >> 6), 0x80 | (code & 0x3F)
        return at + 2
    if code < 0x10000:
        out[at], out[at + 1] = 0xE0 | (code >> 12), 0x80 | ((code >> 6) & 0x3F)
        out[at + 2] = 0x80 | (code & 0x3F)
        return at + 3
    out[at], out[at + 1] = 0xF0 | (code >> 18), 0x80 | ((code >> 12) & 0x3F)
    out[at + 2], out[at + 3] = 0x80 | ((code >> 6) & 0x3F), 0x80 | (code & 0x3F)
    return at + 4


@njit(cache=True, nogil=True)
def hash_terms(data, offsets, flags, lower):  # type: ignore[no-untyped-def]
    """Hashes of the terms of n documents, and nothing else.

    data uint8, offsets int64 [n+1], flags uint16 [0x110000], lower int32. Returns (term offsets int64 [n+1],
    hashes uint64).
    """
    n = offsets.size - 1
    ends = np.zeros(n + 1, np.int64)
    hashes = np.empty(offsets[n] - offsets[0] + 1, np.uint64)  # memory never touched costs nothing
    terms = 0
    for d in range(n):
        i, stop = offsets[d], offsets[d + 1]
        term, h = _NONE, _START
        while i < stop:
            code = np.int64(data[i])
            width = np.int64(1)
            if code >= 128:
                code, width = decode(data, i, stop)
            i += width
            f = np.int64(flags[code])
            if f & _FORMAT != 0 or (f & _MARK != 0 and term == _NONE):
                continue
            letter = f & (_ALPHA | _NUMBER) != 0
            if not (f & _MARK != 0 or (letter and term == _LETTERS and f & _UNSPACED == 0)):
                if term != _NONE:
                    hashes[terms] = mix(h)
                    terms += 1
                term = _NONE
                if not letter:
                    continue
                term = _LETTERS if f & _UNSPACED == 0 else _LONE
                h = _START
            folded = np.int64(lower[code]) if code < lower.size else code
            h = (h ^ np.uint64(folded)) * _STEP
            h = h ^ (h >> _S29)
        if term != _NONE:
            hashes[terms] = mix(h)
            terms += 1
        ends[d + 1] = terms
    return ends, hashes[:terms].copy()


@njit(cache=True, nogil=True)
def locate_terms(data, offsets, flags, lower):  # type: ignore[no-untyped-def]
    """Everything about the terms of n documents; arguments as `hash_terms`.

    Returns (term offsets int64 [n+1], hashes uint64 [t], starts and stops int64 [t] in bytes of the document,
    wordy bool [t]: two letters or more, or one of
    a script without spaces, normal uint8: the terms in lower case without invisible characters,
    one after the other, bounds int64 [t+1] into it).
    """
    n = offsets.size - 1
    size = offsets[n] - offsets[0]
    ends = np.zeros(n + 1, np.int64)
    hashes = np.empty(size + 1, np.uint64)
    starts, stops = np.empty(size + 1, np.int64), np.empty(size + 1, np.int64)
    wordy = np.zeros(size + 1, np.bool_)
    normal = np.empty(2 * size + 4, np.uint8)  # lower case is at most 3 bytes for 2
    bounds = np.zeros(size + 2, np.int64)
    terms, written = 0, np.int64(0)
    for d in range(n):
        first, i, stop = offsets[d], offsets[d], offsets[d + 1]
        term, h, letters = _NONE, _START, 0
        while True:
            at_end = i >= stop
            here = i
            code = np.int64(10)
            width = np.int64(1)
            if not at_end:
                code = np.int64(data[i])
                if code >= 128:
                    code, width = decode(data, i, stop)
            i += width
            f = np.int64(flags[code])
            if f & _FORMAT == 0 and not (f & _MARK != 0 and term == _NONE):
                letter = f & (_ALPHA | _NUMBER) != 0
                if not (f & _MARK != 0 or (letter and term == _LETTERS and f & _UNSPACED == 0)):
                    if term != _NONE:
                        hashes[terms] = mix(h)
                        terms += 1
                        bounds[terms] = written
                    term = _NONE
                    if letter:
                        term = _LETTERS if f & _UNSPACED == 0 else _LONE
                        h = _START
                        starts[terms] = here - first
                        letters = 0
                if term != _NONE:
                    folded = np.int64(lower[code]) if code < lower.size else code
                    h = (h ^ np.uint64(folded)) * _STEP
                    h = h ^ (h >> _S29)
                    written = _encode(normal, written, folded)
                    stops[terms] = i - first
                    letters += f & _ALPHA != 0
                    wordy[terms] = letters > (term == _LETTERS)
            if at_end:
                break
        ends[d + 1] = terms
    return (
        ends,
        hashes[:terms].copy(),
        starts[:terms].copy(),
        stops[:terms].copy(),
        wordy[:terms].copy(),
        normal[:written].copy(),
        bounds[: terms + 1].copy(),
    )


@njit(cache=True, nogil=True)
def gram_hashes(ends, hashes, ngram):  # type: ignore[no-untyped-def]
    """The hash of the n-gram that starts at each term, uint64 [t]; 0 where the document ends before it does."""
    out = np.zeros(hashes.size, np.uint64)
    power = _ONE
    for _ in range(ngram - 1):
        power *= BASE
    for d in range(ends.size - 1):
        if ends[d + 1] - ends[d] < ngram:
            continue
        h = _NIL
        for i in range(ends[d], ends[d] + ngram - 1):
            h = h * BASE + hashes[i]
        for i in range(ends[d], ends[d + 1] - ngram + 1):
            h = h * BASE + hashes[i + ngram - 1]
            out[i] = h
            h -= power * hashes[i]
    return out


@njit(cache=True, nogil=True)
def evident_grams(ends, hashes, wordy, ngram, least):  # type: ignore[no-untyped-def]
    """Whether the n-gram that starts at each term has at least `least` different `wordy` terms, bool [t]."""
    out = np.zeros(hashes.size, np.bool_)
    for d in range(ends.size - 1):
        for i in range(ends[d], ends[d + 1] - ngram + 1):
            found = 0
            for k in range(i, i + ngram):
                new = wordy[k]
                for j in range(i, k):
                    if wordy[j] and hashes[j] == hashes[k]:
                        new = False
                        break
                found += new
            out[i] = found >= least
    return out


@njit(cache=True, nogil=True)
def fill_filter(keys, bits):  # type: ignore[no-untyped-def]
    """Set the bit of every key in `bits`, uint64 [a power of two]."""
    mask = np.uint64(bits.size * 64 - 1)
    for key in keys:
        at = key & mask
        bits[at >> _S6] |= _ONE << (at & _LOW6)


@njit(cache=True, nogil=True)
def scan(ends, hashes, ngram, keys, bits, directory, shift):  # type: ignore[no-untyped-def]
    """Where an n-gram of the index may stand in n documents.

    ends int64 [n+1] and hashes uint64 [t] of the terms; keys uint64 [k], sorted; bits: the filter of the keys;
    directory int64 [2**m + 1]: the keys whose upper m bits are p are directory[p]:directory[p+1]; shift = 64 - m.
    Returns (term int64 [h], key int64 [h]): the first term of each hit and the index of its key. One hash in 2**64
    is wrong: hits are to be confirmed.
    """
    where, which = np.empty(64, np.int64), np.empty(64, np.int64)
    found = 0
    power = _ONE
    for _ in range(ngram - 1):
        power *= BASE
    mask = np.uint64(bits.size * 64 - 1)
    for d in range(ends.size - 1):
        if ends[d + 1] - ends[d] < ngram:
            continue
        h = _NIL
        for i in range(ends[d], ends[d] + ngram - 1):
            h = h * BASE + hashes[i]
        for i in range(ends[d], ends[d + 1] - ngram + 1):
            h = h * BASE + hashes[i + ngram - 1]
            at = h & mask
            if (bits[at >> _S6] >> (at & _LOW6)) & _ONE != _NIL:
                bucket = h >> shift
                for k in range(directory[bucket], directory[bucket + _ONE]):
                    if keys[k] == h:
                        if found == where.size:
                            more, others = np.empty(2 * found, np.int64), np.empty(2 * found, np.int64)
                            more[:found], others[:found] = where, which
                            where, which = more, others
                        where[found], which[found] = i, k
                        found += 1
            h -= power * hashes[i]
    return where[:found].copy(), which[:found].copy()


@njit(cache=True, nogil=True)
def _same(a, a_bounds, i, b, b_bounds, j):  # type: ignore[no-untyped-def]
    """Whether term i of one text and term j of another are the same letters."""
    size = a_bounds[i + 1] - a_bounds[i]
    if b_bounds[j + 1] - b_bounds[j] != size:
        return False
    k = 0
    while k < size and a[a_bounds[i] + k] == b[b_bounds[j] + k]:
        k += 1
    return k == size


@njit(cache=True, nogil=True)
def confirm(  # type: ignore[no-untyped-def]
    hit_doc, hit_term, hit_key, ends, normal, bounds,
    posting_starts, posting_at, posting_text, text_ends, gram_key, item_normal, item_bounds, needed,
):  # fmt: skip
    """Compare hits word by word, and let each grow to the longest run of equal words around it.

    hit_*: int64 [h], document, its term (counted over all documents) and key of each hit; ends, normal, bounds: the terms of the
    documents (`locate_terms`). posting_starts int64 [k+1]: the places of key k are posting_at (term of all items) and
    posting_text; text_ends, item_normal, item_bounds: the terms of the items; gram_key int32: the key of the n-gram
    that starts at each term, -1 for none; needed int64 [items]: equal words from the hit on that make a match.

    Returns int64 [runs, 5]: document, text, first term in the text, first term in the document, terms. Each run once.
    """
    out = np.empty((64, 5), np.int64)
    used = 0
    for h in range(hit_doc.size):
        d, i = hit_doc[h], hit_term[h]
        low, high = ends[d], ends[d + 1]
        for p in range(posting_starts[hit_key[h]], posting_starts[hit_key[h] + 1]):
            j, t = posting_at[p], posting_text[p]
            first, last = text_ends[t], text_ends[t + 1]
            wanted = needed[t]
            length = 0
            while length < wanted and i + length < high and j + length < last:
                if not _same(normal, bounds, i + length, item_normal, item_bounds, j + length):
                    break
                length += 1
            if length < wanted:
                continue  # another n-gram of the same hash
            back = 0
            seen = False  # the run begins before this hit, at another n-gram of the index
            while not seen and i - back > low and j - back > first:
                if not _same(normal, bounds, i - back - 1, item_normal, item_bounds, j - back - 1):
                    break
                back += 1
                seen = gram_key[j - back] >= 0
            if seen:
                continue
            while i + length < high and j + length < last:
                if not _same(normal, bounds, i + length, item_normal, item_bounds, j + length):
                    break
                length += 1
            if used == len(out):
                more = np.empty((2 * used, 5), np.int64)
                more[:used] = out
                out = more
            out[used, 0], out[used, 1], out[used, 2] = d, t, j - back - first
            out[used, 3], out[used, 4] = i - back - low, length + back
            used += 1
    return out[:used].copy()
