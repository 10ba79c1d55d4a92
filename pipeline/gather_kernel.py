"""The compiled kernel that puts words, tokens and segments in the order of the text; `mixloom.pipeline.chunks` calls it."""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import chunk_kernel as ck

_WIDTH = len(ck.CHUNK_COUNTS)
_CHARS, _ALPHA_WORD, _SYMBOL_WORD, _STOP, _STOP_CASED = (
    ck.CHARS,
    ck.ALPHA_WORD,
    ck.SYMBOL_WORD,
    ck.STOP,
    ck.STOP_CASED,
)
_LED, _INNER = ck.LED, ck.INNER
_ZERO, _ONE = np.uint64(0), np.uint64(1)


@njit(cache=True, nogil=True)
def gather(  # type: ignore[no-untyped-def]
    bounds, sums, bares, letters, signs, sign_hashes, words,
    token_offsets, token_hashes, token_chars, token_kinds, stop_tokens, segment_offsets, segment_hashes, segment_chars,
    out_chars, out_tokens, out_token_chars, out_segments, out_segment_chars,
):  # fmt: skip
    """The words, tokens and segments of n documents in order, from their chunks and the parts of the distinct ones.

    sign_hashes: uint64 [256], of a byte alone. out_tokens and out_segments, or one of them, may be empty: then those are
    left out, and what counts them is 0. Both token arrays need room for one more than there are.
    Fills the characters of words, the hashes and characters of tokens and those of segments (uint64 and int32). Returns
    counts int64 [n, 15], and the offsets of tokens and of segments, int64 [n+1].
    """
    n = bounds.size - 1
    counts = np.zeros((n, _WIDTH), np.int64)
    token_bounds, segment_bounds = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    tokens, segments = out_tokens.size > 0, out_segments.size > 0
    t, g = 0, 0
    for d in range(n):
        row, plain = counts[d], sums[d]
        total, longest, alpha, symbols = 0, plain[2], plain[0], 0
        led_words, alone, cased, seen = plain[3], plain[4], plain[5], np.uint64(plain[6])
        alpha_tokens = word_tokens = plain[0]
        word_token_chars = segment_total = plain[1]
        for c in range(bounds[d], bounds[d + 1]):
            chars = letters[c]
            if chars >= 0:
                sign = signs[c]
                if tokens:
                    out_tokens[t], out_token_chars[t] = bares[c], chars
                    out_tokens[t + 1], out_token_chars[t + 1] = sign_hashes[sign], 1
                    t += 1 + (sign != 0)
                if segments:
                    out_segments[g], out_segment_chars[g] = bares[c], chars
                    g += 1
                chars += sign != 0
                out_chars[c] = chars
                total += chars
                continue
            k = -1 - chars
            chars = words[k, _CHARS]
            out_chars[c] = chars
            total += chars
            longest = max(longest, chars)
            alpha += words[k, _ALPHA_WORD]
            symbols += words[k, _SYMBOL_WORD]
            alone += words[k, _STOP]
            cased += words[k, _STOP_CASED]
            led_words += words[k, _INNER] + words[k, _LED] * signs[c]
            if tokens:
                seen |= stop_tokens[k]
                for at in range(token_offsets[k], token_offsets[k + 1]):
                    out_tokens[t], out_token_chars[t] = token_hashes[at], token_chars[at]
                    alpha_tokens += token_kinds[at] & 1
                    word_tokens += (token_kinds[at] >> 1) & 1
                    word_token_chars += token_chars[at] * ((token_kinds[at] >> 1) & 1)
                    t += 1
            if segments:
                for at in range(segment_offsets[k], segment_offsets[k + 1]):
                    out_segments[g], out_segment_chars[g] = segment_hashes[at], segment_chars[at]
                    segment_total += segment_chars[at]
                    g += 1
        row[0], row[1], row[2], row[3], row[4] = bounds[d + 1] - bounds[d], total, longest, alpha, symbols
        row[5], row[6], row[7] = alone, cased, led_words
        if tokens:
            row[8], row[9], row[10], row[11] = (
                t - token_bounds[d],
                alpha_tokens,
                word_tokens,
                word_token_chars,
            )
            while seen != _ZERO:
                row[12] += np.int64(seen & _ONE)
                seen >>= _ONE
        if segments:
            row[13], row[14] = g - segment_bounds[d], segment_total
        token_bounds[d + 1], segment_bounds[d + 1] = t, g
    return counts, token_bounds, segment_bounds
