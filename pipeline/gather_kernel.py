"""The compiled kernel that puts words, tokens and segments in the order of the text; `mixloom.pipeline.chunks` calls it."""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import chunk_kernel as ck
from mixloom.pipeline import token_kernel as tk
from mixloom.pipeline.lean import LEAN

_WIDTH = len(ck.CHUNK_COUNTS)
_CHARS, _ALPHA_WORD, _SYMBOL_WORD, _STOP = tk.CHARS, tk.ALPHA_WORD, tk.SYMBOL_WORD, tk.STOP
_STOP_CASED, _LED, _INNER = tk.STOP_CASED, tk.LED, tk.INNER
_TOKEN_FIRST, _TOKENS, _ALPHA_TOKENS = tk.TOKEN_FIRST, tk.TOKENS, tk.ALPHA_TOKENS
_WORD_TOKENS, _WORD_TOKEN_CHARS = tk.WORD_TOKENS, tk.WORD_TOKEN_CHARS
_SEGMENT_FIRST, _SEGMENTS, _SEGMENT_CHARS = tk.SEGMENT_FIRST, tk.SEGMENTS, tk.SEGMENT_CHARS
_ZERO, _ONE = np.uint64(0), np.uint64(1)


@njit(**LEAN)
def _words(first, last, sums, letters, signs, words, row, out_chars):  # type: ignore[no-untyped-def]
    """The words of one document: the chunks first:last. Fills their characters and what counts them in `row`."""
    total, longest, alpha, symbols = 0, sums[2], sums[0], 0
    led_words, alone, cased = sums[3], sums[4], sums[5]
    for c in range(first, last):
        chars = letters[c]
        if chars >= 0:
            chars += signs[c] != 0
        else:
            k = -1 - chars
            chars = words[k, _CHARS]
            longest = max(longest, chars)
            alpha += words[k, _ALPHA_WORD]
            symbols += words[k, _SYMBOL_WORD]
            alone += words[k, _STOP]
            cased += words[k, _STOP_CASED]
            led_words += words[k, _INNER] + words[k, _LED] * signs[c]
        out_chars[c] = chars
        total += chars
    row[0], row[1], row[2], row[3], row[4] = last - first, total, longest, alpha, symbols
    row[5], row[6], row[7] = alone, cased, led_words


@njit(**LEAN)
def _tokens(  # type: ignore[no-untyped-def]
    first, last, sums, bares, letters, signs, sign_hashes, words, hashes, chars, stops, row, out, out_chars, t
):
    """Append the tokens of the chunks first:last behind the first t; returns how many there are then."""
    begin, seen = t, np.uint64(sums[6])
    alpha_tokens = word_tokens = sums[0]
    word_token_chars = sums[1]
    for c in range(first, last):
        length = letters[c]
        if length >= 0:
            sign = signs[c]
            out[t], out_chars[t] = bares[c], length
            out[t + 1], out_chars[t + 1] = sign_hashes[sign], 1
            t += 1 + (sign != 0)
            continue
        k = -1 - length
        at, count = words[k, _TOKEN_FIRST], words[k, _TOKENS]
        out[t], out_chars[t] = hashes[at], chars[at]
        for i in range(1, count):
            out[t + i], out_chars[t + i] = hashes[at + i], chars[at + i]
        t += count
        alpha_tokens += words[k, _ALPHA_TOKENS]
        word_tokens += words[k, _WORD_TOKENS]
        word_token_chars += words[k, _WORD_TOKEN_CHARS]
        seen |= stops[k]
    row[8], row[9], row[10], row[11] = t - begin, alpha_tokens, word_tokens, word_token_chars
    while seen != _ZERO:
        row[12] += np.int64(seen & _ONE)
        seen >>= _ONE
    return t


@njit(**LEAN)
def _segments(first, last, sums, bares, letters, words, hashes, chars, row, out, out_chars, g):  # type: ignore[no-untyped-def]
    """Append the segments of the chunks first:last behind the first g; returns how many there are then."""
    begin, total = g, sums[1]
    for c in range(first, last):
        length = letters[c]
        if length >= 0:
            out[g], out_chars[g] = bares[c], length
            g += 1
            continue
        k = -1 - length
        at, count = words[k, _SEGMENT_FIRST], words[k, _SEGMENTS]
        for i in range(count):
            out[g + i], out_chars[g + i] = hashes[at + i], chars[at + i]
        g += count
        total += words[k, _SEGMENT_CHARS]
    row[13], row[14] = g - begin, total
    return g


@njit(cache=True, nogil=True)
def gather(  # type: ignore[no-untyped-def]
    bounds, sums, bares, letters, signs, sign_hashes, words,
    token_hashes, token_chars, stop_tokens, segment_hashes, segment_chars,
    out_chars, out_tokens, out_token_chars, out_segments, out_segment_chars,
):  # fmt: skip
    """The words, tokens and segments of n documents in order, from their chunks and the parts of the distinct ones.

    words int32 [k, WORD_WIDTH], see `token_kernel`. sign_hashes: uint64 [256], of a byte alone. out_tokens and
    out_segments, or one of them, may be empty: then those are left out, and what counts them is 0. Both token arrays need
    room for one more than there are.
    Fills the characters of words, the hashes and characters of tokens and those of segments (uint64 and int32). Returns
    counts int64 [n, 15], and the offsets of tokens and of segments, int64 [n+1].
    """
    n = bounds.size - 1
    counts = np.zeros((n, _WIDTH), np.int64)
    token_bounds, segment_bounds = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    t, g = np.int64(0), np.int64(0)
    for d in range(n):
        first, last = bounds[d], bounds[d + 1]
        _words(first, last, sums[d], letters, signs, words, counts[d], out_chars)
        if out_tokens.size > 0:
            t = _tokens(
                first, last, sums[d], bares, letters, signs, sign_hashes, words,
                token_hashes, token_chars, stop_tokens, counts[d], out_tokens,
                out_token_chars, t,
            )  # fmt: skip
        if out_segments.size > 0:
            g = _segments(
                first, last, sums[d], bares, letters, words, segment_hashes,
                segment_chars, counts[d], out_segments, out_segment_chars, g,
            )  # fmt: skip
        token_bounds[d + 1], segment_bounds[d + 1] = t, g
    return counts, token_bounds, segment_bounds
