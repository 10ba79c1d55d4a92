"""The forward pass of a fastText classifier over many documents, compiled and without the interpreter lock.

A document is its words between white space, then the end-of-line word that fastText adds. Each word gives its
own row (and, with character n-grams, theirs), each run of up to `word_ngrams` words a hashed row; the mean of
all rows is the hidden vector (Joulin et al. 2016, arXiv 1607.01759). Hashes are fastText's: 32-bit FNV-1a with
signed bytes, and 64-bit multiplicative hashes of word n-grams.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_OFFSET, _PRIME = np.uint32(2166136261), np.uint32(16777619)
_SIGN = np.uint32(0xFFFFFF00)
_NGRAM = np.uint64(116049371)
_EOS = np.array([60, 47, 115, 62], np.uint8)  # </s>
_LABEL = np.frombuffer(b"__label__", np.uint8).copy()
_OPEN, _CLOSE = np.uint8(60), np.uint8(62)  # < and > around a word whose characters are cut


@njit(cache=True, nogil=True, inline="always")
def _step(h, byte):  # type: ignore[no-untyped-def]
    x = np.uint32(byte)
    if byte >= 128:  # fastText's bytes are signed
        x = x | _SIGN
    return np.uint32((h ^ x) * _PRIME)


@njit(cache=True, nogil=True)
def _hash(data, start, stop):  # type: ignore[no-untyped-def]
    h = _OFFSET
    for i in range(start, stop):
        h = _step(h, data[i])
    return h


@njit(cache=True, nogil=True)
def build_table(word_bytes, word_bounds):  # type: ignore[no-untyped-def]
    """Open-addressed table of word numbers (int32, -1 empty), a power of two of at least twice the words."""
    words = word_bounds.size - 1
    size = 16
    while size < 2 * words:
        size *= 2
    table = np.full(size, -1, np.int32)
    for w in range(words):
        slot = np.int64(_hash(word_bytes, word_bounds[w], word_bounds[w + 1])) & (size - 1)
        while table[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        table[slot] = w
    return table


@njit(cache=True, nogil=True)
def _find(data, start, stop, h, table, word_bytes, word_bounds):  # type: ignore[no-untyped-def]
    """The number of the word data[start:stop], or -1."""
    mask = table.size - 1
    slot = np.int64(h) & mask
    length = stop - start
    while table[slot] >= 0:
        w = table[slot]
        first = word_bounds[w]
        if word_bounds[w + 1] - first == length:
            same = True
            for k in range(length):
                if word_bytes[first + k] != data[start + k]:
                    same = False
                    break
            if same:
                return np.int64(w)
        slot = (slot + 1) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _row(bucket, words, places):  # type: ignore[no-untyped-def]
    """The matrix row of a bucket: -1 when it was pruned away."""
    if places.size == 0:
        return words + bucket
    place = np.int64(places[bucket])
    return words + place if place >= 0 else np.int64(-1)


@njit(cache=True, nogil=True)
def _add(total, matrix, row):  # type: ignore[no-untyped-def]
    for k in range(total.size):
        total[k] += matrix[row, k]


@njit(cache=True, nogil=True)
def _add_characters(  # type: ignore[no-untyped-def]
    data, start, stop, minn, maxn, bucket, words, places, matrix, total
):
    """Add the rows of the character n-grams of <data[start:stop]>; returns how many."""
    length = stop - start + 2
    added = 0
    for i in range(length):
        first = _OPEN if i == 0 else (_CLOSE if i == length - 1 else data[start + i - 1])
        if (first & 0xC0) == 0x80:
            continue
        h = _OFFSET
        j = i
        for n in range(1, maxn + 1):
            if j >= length:
                break
            more = True
            while more:
                byte = _OPEN if j == 0 else (_CLOSE if j == length - 1 else data[start + j - 1])
                h = _step(h, byte)
                j += 1
                more = j < length - 1 and (data[start + j - 1] & 0xC0) == 0x80
            if n >= minn and not (n == 1 and (i == 0 or j == length)):
                row = _row(np.int64(h) % bucket, words, places)
                if row >= 0:
                    _add(total, matrix, row)
                    added += 1
    return added


@njit(cache=True, nogil=True)
def known_words(  # type: ignore[no-untyped-def]
    word_bytes, word_bounds, minn, maxn, bucket, places, matrix
):
    """The sum of the rows of every known word with its character n-grams, and how many rows that is.

    Returns float32 [words, columns] and int32 [words].
    """
    words = word_bounds.size - 1
    sums = np.zeros((words, matrix.shape[1]), np.float32)
    rows = np.ones(words, np.int32)
    total = np.zeros(matrix.shape[1], np.float64)
    for w in range(words):
        total[:] = 0.0
        _add(total, matrix, w)
        start, stop = word_bounds[w], word_bounds[w + 1]
        end = stop - start == 4
        for k in range(4):
            end = end and word_bytes[start + k] == _EOS[k]
        if maxn > 0 and bucket > 0 and not end:
            rows[w] += _add_characters(
                word_bytes, start, stop, minn, maxn, bucket, words, places, matrix, total
            )
        for k in range(total.size):
            sums[w, k] = np.float32(total[k])
    return sums, rows


@njit(cache=True, nogil=True, inline="always")
def _is_space(byte):  # type: ignore[no-untyped-def]
    return byte == 32 or (9 <= byte <= 13) or byte == 0


@njit(cache=True, nogil=True)
def _starts_as(data, start, stop, prefix):  # type: ignore[no-untyped-def]
    if stop - start < prefix.size:
        return False
    for k in range(prefix.size):  # noqa: SIM110 (the compiler knows no any())
        if data[start + k] != prefix[k]:
            return False
    return True


@njit(cache=True, nogil=True)
def forward(  # type: ignore[no-untyped-def]
    data, offsets, table, word_bytes, word_bounds, sums, sum_rows,
    matrix, minn, maxn, bucket, word_ngrams, places,
):  # fmt: skip
    """The mean row of n documents.

    Args:
        data, offsets: uint8 and int64 [n+1], the UTF-8 of the documents.
        table, word_bytes, word_bounds: `build_table` and what it was built from.
        sums, sum_rows: `known_words`.
        matrix: float32 [rows, columns].
        places: int32 [bucket], the row of each bucket behind the words, -1 where it was pruned; or empty: all have one.

    Returns:
        float32 [n, columns], and int64 [n]: words of each document (without the end of line that is added).
    """
    n = offsets.size - 1
    words = word_bounds.size - 1
    out = np.zeros((n, matrix.shape[1]), np.float32)
    found = np.zeros(n, np.int64)
    total = np.zeros(matrix.shape[1], np.float64)
    recent = np.zeros(max(1, word_ngrams - 1), np.uint64)
    buckets = np.uint64(bucket)
    eos = _hash(_EOS, 0, 4)
    for d in range(n):
        total[:] = 0.0
        rows = np.int64(0)
        seen = np.int64(0)
        at, last = offsets[d], offsets[d + 1]
        ended = False
        while not ended:
            while at < last and _is_space(data[at]):
                at += 1
            ended = at >= last
            start = at
            h = _OFFSET
            while at < last and not _is_space(data[at]):
                h = _step(h, data[at])
                at += 1
            if ended:
                h = eos
                word = _find(_EOS, 0, 4, eos, table, word_bytes, word_bounds)
            else:
                found[d] += 1
                if _starts_as(data, start, at, _LABEL) or (at - start == 4 and h == eos):
                    continue  # to fastText a label and the end of the document; text may not say so
                word = _find(data, start, at, h, table, word_bytes, word_bounds)
            if word >= 0:
                _add(total, sums, word)
                rows += sum_rows[word]
            elif not ended and maxn > 0 and bucket > 0:
                rows += _add_characters(data, start, at, minn, maxn, bucket, words, places, matrix, total)
            if word_ngrams > 1 and bucket > 0:
                signed = np.uint64(np.int64(np.int32(h)))
                # recent[k] is the hash of the words from k+1 before this one on; each makes an n-gram that ends here.
                for k in range(seen):
                    recent[k] = recent[k] * _NGRAM + signed
                    row = _row(np.int64(recent[k] % buckets), words, places)
                    if row >= 0:
                        _add(total, matrix, row)
                        rows += 1
                if seen < recent.size:
                    seen += 1
                for k in range(seen - 1, 0, -1):
                    recent[k] = recent[k - 1]
                recent[0] = signed
        if rows > 0:
            for k in range(total.size):
                out[d, k] = np.float32(total[k] / rows)
    return out, found


@njit(cache=True, nogil=True)
def tree_probabilities(hidden, output, left, right):  # type: ignore[no-untyped-def]
    """Probabilities of the leaves of a Huffman tree of binary classifiers (hierarchical softmax).

    hidden: float32 [n, dim]. output: float32 [labels, dim], row i belongs to the inner node labels + i.
    left, right: int32 [2 labels - 1], the children of each node (-1 at a leaf). Returns float32 [n, labels].
    """
    labels = output.shape[0]
    out = np.zeros((hidden.shape[0], labels), np.float32)
    share = np.zeros(2 * labels - 1, np.float64)
    for d in range(hidden.shape[0]):
        share[2 * labels - 2] = 1.0
        for node in range(2 * labels - 2, labels - 1, -1):
            dot = 0.0
            for k in range(hidden.shape[1]):
                dot += np.float64(hidden[d, k]) * output[node - labels, k]
            p = 1.0 / (1.0 + np.exp(-dot))
            share[left[node]] = share[node] * (1.0 - p)
            share[right[node]] = share[node] * p
        for k in range(labels):
            out[d, k] = np.float32(share[k])
    return out


@njit(cache=True, nogil=True)
def products(hidden, output):  # type: ignore[no-untyped-def]
    """hidden [n, dim] @ output [labels, dim].T as float64 [n, labels], summed in one fixed order."""
    out = np.zeros((hidden.shape[0], output.shape[0]), np.float64)
    for d in range(hidden.shape[0]):
        for label in range(output.shape[0]):
            dot = 0.0
            for k in range(hidden.shape[1]):
                dot += np.float64(hidden[d, k]) * output[label, k]
            out[d, label] = dot
    return out
