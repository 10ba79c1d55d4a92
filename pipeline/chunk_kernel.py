"""The compiled kernels that find the chunks (what stands between white space) of documents and put them in order.

Most chunks are plain: ASCII letters, with or without one sign after them. The others are numbered, equal ones alike, and
cut into tokens and segments once per batch by the kernels of `token_kernel` and `segment_kernel`; `gather` puts their
parts back in the order of the text. Every function a kernel calls is in this file: numba's cache looks at the
changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import characters as ch

# The columns of `chunks.Chunks.counts`, in the order the kernel writes them.
CHUNK_COUNTS = (
    "words",
    "word_chars",
    "max_word_chars",
    "alpha_words",
    "symbol_words",
    "stop_words_alone",
    "stop_words_alone_cased",
    "alnum_words",
    "tokens",
    "alpha_tokens",
    "word_tokens",
    "word_token_chars",
    "stop_tokens_distinct",
    "segments",
    "segment_chars",
)
_WIDTH = len(CHUNK_COUNTS)
# What a byte is: an ASCII letter, ASCII white space, no ASCII, a sign that may end a plain word, "." or anything else.
LETTER_BYTE, SPACE_BYTE, HIGH_BYTE, SIGN_BYTE, DOT_BYTE = 1, 2, 3, 4, 5
# The columns of `words`: what each distinct chunk is as a word.
_CHARS, _ALPHA_WORD, _SYMBOL_WORD, _STOP, _STOP_CASED, _LED, _INNER = 0, 1, 2, 3, 4, 5, 6
_ALPHA, _NUMBER, _SPACE = ch.ALPHA, ch.NUMBER, ch.SPACE
_ONE = np.uint64(1)

_START, _STEP = np.uint64(0x243F6A8885A308D3), np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S8, _S27, _S29, _S30, _S31 = np.uint64(8), np.uint64(27), np.uint64(29), np.uint64(30), np.uint64(31)
_ZERO = np.uint64(0)
_REPLACEMENT = 0xFFFD


@njit(cache=True, nogil=True, inline="always")
def _fold(h, eight):  # type: ignore[no-untyped-def]
    h = (h ^ eight) * _STEP
    return h ^ (h >> _S29)


@njit(cache=True, nogil=True, inline="always")
def _finish(h, length):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) over the state and the length."""
    h = h ^ np.uint64(length)
    h = (h ^ (h >> _S30)) * _MIX1
    h = (h ^ (h >> _S27)) * _MIX2
    return h ^ (h >> _S31)


@njit(cache=True, nogil=True, forceinline=True)
def _hash(data, i, j):  # type: ignore[no-untyped-def]
    """64 bits of data[i:j], eight bytes at a time."""
    h, eight, k = _START, _ZERO, 0
    for p in range(i, j):
        eight = (eight << _S8) | np.uint64(data[p])
        k += 1
        if k == 8:
            h, eight, k = _fold(h, eight), _ZERO, 0
    return _finish(_fold(h, eight), j - i)


@njit(cache=True, nogil=True)
def _decode(data, i, stop):  # type: ignore[no-untyped-def]
    """The code point that starts at byte i (not ASCII) and its width; (U+FFFD, 1) where it is malformed."""
    b = np.int64(data[i])
    if 0xC2 <= b < 0xE0:
        width, code = 2, b & 0x1F
    elif 0xE0 <= b < 0xF0:
        width, code = 3, b & 0x0F
    elif 0xF0 <= b < 0xF5:
        width, code = 4, b & 0x07
    else:
        return np.int64(_REPLACEMENT), np.int64(1)
    if i + width > stop:
        return np.int64(_REPLACEMENT), np.int64(1)
    for k in range(1, width):
        c = np.int64(data[i + k])
        if c & 0xC0 != 0x80:
            return np.int64(_REPLACEMENT), np.int64(1)
        code = (code << 6) | (c & 0x3F)
    if code > 0x10FFFF:
        return np.int64(_REPLACEMENT), np.int64(1)
    return np.int64(code), np.int64(width)


@njit(cache=True, nogil=True, forceinline=True)
def _stop_word(data, i, j, chars, stops, worth, lower):  # type: ignore[no-untyped-def]
    """Which stop word data[i:j] is in lower case (-1: none), and whether it stands in lower case."""
    if chars >= worth.shape[0] or not worth[chars, data[i]]:
        return -1, False
    for s in range(stops.shape[0]):
        if stops[s, 0] != chars:
            continue
        p, k, same = i, 1, True
        while p < j:
            code, width = np.int64(data[p]), np.int64(1)
            if code >= 128:
                code, width = _decode(data, p, j)
            folded = np.int64(lower[code]) if code < lower.size else code
            if folded != stops[s, k]:
                break
            same = same and folded == code
            p += width
            k += 1
        if p == j:
            return s, same
    return -1, False


@njit(cache=True, nogil=True, forceinline=True)
def _listed(h, keys, mask, listed):  # type: ignore[no-untyped-def]
    """Whether this is the hash of an entry of the table."""
    low = np.int64(h & np.uint64(0xFFFF))
    if (listed[low >> 3] >> (low & 7)) & 1 == 0:
        return False
    at = np.int64(h & mask)
    while keys[at] != _ZERO:
        if keys[at] == h:
            return True
        at = np.int64(np.uint64(at + 1) & mask)
    return False


@njit(cache=True, nogil=True)
def _reserve(a, used, more):  # type: ignore[no-untyped-def]
    """`a` with room for `more` items after the first `used` (memory that is never touched costs nothing)."""
    if used + more <= a.size:
        return a
    bigger = np.empty(max(2 * a.size, used + more), a.dtype)
    bigger[:used] = a[:used]
    return bigger


@njit(cache=True, nogil=True)
def _place(keys, numbers, h):  # type: ignore[no-untyped-def]
    """Where h is, or belongs, in a table of distinct chunks; a number of -1 is an empty place."""
    mask = np.uint64(keys.size - 1)
    at = np.int64(h & mask)
    while numbers[at] >= 0 and keys[at] != h:
        at = np.int64(np.uint64(at + 1) & mask)
    return at


@njit(cache=True, nogil=True)
def find_chunks(data, offsets, bytes_, flags, special, listed, hashes, bares, begins, letters):  # type: ignore[no-untyped-def]
    """Find the chunks of n documents and number the distinct ones that are not plain.

    data uint8, offsets int64 [n+1], bytes_ uint8 [256], flags uint16 (`characters`). special: uint64 hashes of what
    must not be taken as plain, open addressing; listed: uint8 [8192], a bit for each by the low bits of its hash.
    Fills, for each chunk: its hash uint64, the hash of its letters uint64, the byte where it begins int64, and int32 its
    number of letters where it is plain, else -1 - its number. Returns chunk offsets int64 [n+1] and, for each distinct
    chunk, the bytes where it starts and stops, int64.
    """
    n = offsets.size - 1
    bounds = np.zeros(n + 1, np.int64)
    keys, numbers = np.empty(1 << 12, np.uint64), np.full(1 << 12, -1, np.int64)
    starts, stops = np.empty(1 << 11, np.int64), np.empty(1 << 11, np.int64)
    c, distinct = 0, 0
    mask = np.uint64(special.size - 1)
    for d in range(n):
        i, stop = offsets[d], offsets[d + 1]
        while i < stop:
            if bytes_[data[i]] == SPACE_BYTE:
                i += 1
                continue
            first, h, eight, k = i, _START, _ZERO, 0
            while i < stop and bytes_[data[i]] == LETTER_BYTE:
                eight = (eight << _S8) | np.uint64(data[i])
                k += 1
                if k == 8:
                    h, eight, k = _fold(h, eight), _ZERO, 0
                i += 1
            count = i - first
            kind = bytes_[data[i]] if i < stop else SPACE_BYTE
            plain = count > 0 and (
                kind == SPACE_BYTE
                or (kind >= SIGN_BYTE and (i + 1 == stop or bytes_[data[i + 1]] == SPACE_BYTE))
            )
            # A full stop is split off after a small letter, or after two capitals.
            if plain and kind == DOT_BYTE and data[i - 1] < 97 and (count < 2 or data[i - 2] >= 97):
                plain = False
            if plain:
                whole = bare = _finish(_fold(h, eight), count)
                plain = not _listed(bare, special, mask, listed)
                if kind != SPACE_BYTE:
                    eight = (eight << _S8) | np.uint64(data[i])
                    whole = _fold(h, eight)
                    whole = _finish(_fold(whole, _ZERO) if k == 7 else whole, count + 1)
                    plain = plain and not _listed(whole, special, mask, listed)
                    i += plain
            if plain:
                hashes[c], bares[c], begins[c], letters[c] = whole, bare, first, count
                c += 1
                continue
            while i < stop and bytes_[data[i]] != SPACE_BYTE:
                if bytes_[data[i]] == HIGH_BYTE:
                    code, width = _decode(data, i, stop)
                    if flags[code] & _SPACE != 0:
                        break
                    i += width
                else:
                    i += 1
            if i == first:  # white space that is not ASCII
                i += _decode(data, i, stop)[1]
                continue
            whole = _hash(data, first, i)
            at = _place(keys, numbers, whole)
            if numbers[at] < 0:
                keys[at], numbers[at] = whole, distinct
                starts, stops = _reserve(starts, distinct, 1), _reserve(stops, distinct, 1)
                starts[distinct], stops[distinct] = first, i
                distinct += 1
            hashes[c], bares[c], begins[c], letters[c] = whole, whole, first, -1 - numbers[at]
            c += 1
            if 2 * distinct > keys.size:
                old_keys, old_numbers = keys, numbers
                keys, numbers = (
                    np.empty(4 * old_keys.size, np.uint64),
                    np.full(4 * old_keys.size, -1, np.int64),
                )
                for k in range(old_keys.size):
                    if old_numbers[k] >= 0:
                        at = _place(keys, numbers, old_keys[k])
                        keys[at], numbers[at] = old_keys[k], old_numbers[k]
        bounds[d + 1] = c
    return bounds, starts[:distinct], stops[:distinct]


@njit(cache=True, nogil=True)
def describe_words(data, starts, stops, flags, lower, stop_words, stop_worth):  # type: ignore[no-untyped-def]
    """What each of k distinct chunks is as a word: int32 [k, 7].

    Characters; whether it has a letter; whether it has "#" or U+2026; whether it is a stop word in any case, and in
    lower case; whether it begins with a letter or number; how many letters or numbers stand after a NUL in it.
    """
    out = np.zeros((starts.size, 7), np.int32)
    for c in range(starts.size):
        i, m, after = starts[c], 0, False
        while i < stops[c]:
            code, width = np.int64(data[i]), np.int64(1)
            if code >= 128:
                code, width = _decode(data, i, stops[c])
            f = flags[code]
            alnum = f & (_ALPHA | _NUMBER) != 0
            if f & _ALPHA != 0:
                out[c, _ALPHA_WORD] = 1
            if code == 35 or code == 0x2026:
                out[c, _SYMBOL_WORD] = 1
            if m == 0 and alnum:
                out[c, _LED] = 1
            out[c, _INNER] += after and alnum
            after = code == 0
            m += 1
            i += width
        which, same = _stop_word(data, starts[c], stops[c], m, stop_words, stop_worth, lower)
        out[c, _CHARS], out[c, _STOP], out[c, _STOP_CASED] = m, which >= 0, same
    return out


@njit(cache=True, nogil=True)
def find_stop_tokens(data, starts, offsets, chars, ends, lower, stop_words, stop_worth):  # type: ignore[no-untyped-def]
    """Which stop words occur, as they stand, among the tokens of each of k distinct chunks: uint64 [k], bits."""
    out = np.zeros(starts.size, np.uint64)
    for c in range(starts.size):
        i = starts[c]
        for t in range(offsets[c], offsets[c + 1]):
            which, same = _stop_word(data, i, ends[t], chars[t], stop_words, stop_worth, lower)
            if same:
                out[c] |= _ONE << np.uint64(which)
            i = ends[t]
    return out


@njit(cache=True, nogil=True)
def gather(  # type: ignore[no-untyped-def]
    data, offsets, bounds, bares, begins, letters, words, lower, stop_words, stop_worth,
    token_offsets, token_hashes, token_chars, token_kinds, stop_tokens, segment_offsets, segment_hashes, segment_chars,
    out_chars, out_tokens, out_token_chars, out_segments, out_segment_chars,
):  # fmt: skip
    """The words, tokens and segments of n documents in order, from their chunks and the parts of the distinct ones.

    Fills the characters of words, the hashes and characters of tokens and those of segments (uint64 and int32). Returns
    counts int64 [n, 15], and the offsets of tokens and of segments, int64 [n+1].
    """
    n = bounds.size - 1
    counts = np.zeros((n, _WIDTH), np.int64)
    token_bounds, segment_bounds = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    t, g = 0, 0
    for d in range(n):
        row, seen = counts[d], _ZERO
        total, longest, alpha, symbols, alone, cased, led_words = 0, 0, 0, 0, 0, 0, 0
        alpha_tokens, word_tokens, word_token_chars, segment_total = 0, 0, 0, 0
        for c in range(bounds[d], bounds[d + 1]):
            before = np.int64(data[begins[c] - 1]) if begins[c] > offsets[d] else 32
            led = before == 32 or 9 <= before <= 13 or before == 0
            if letters[c] >= 0:
                size = letters[c]
                out_tokens[t], out_token_chars[t] = bares[c], size
                out_segments[g], out_segment_chars[g] = bares[c], size
                t, g = t + 1, g + 1
                end = begins[c] + size
                sign = (
                    end < offsets[d + 1] and data[end] != 32 and not 9 <= data[end] <= 13 and data[end] > 32
                )
                which, same = _stop_word(data, begins[c], end, size, stop_words, stop_worth, lower)
                if which >= 0:
                    if same:
                        seen |= _ONE << np.uint64(which)
                    alone += not sign
                    cased += same and not sign
                segment_total += size
                word_token_chars += size
                alpha_tokens += 1
                word_tokens += 1
                alpha += 1
                led_words += 1 if led else 0
                chars = size + sign
                if sign:
                    out_tokens[t], out_token_chars[t] = _hash(data, end, end + 1), 1
                    t += 1
            else:
                k = -1 - letters[c]
                chars = words[k, _CHARS] + 0
                alpha += words[k, _ALPHA_WORD]
                symbols += words[k, _SYMBOL_WORD]
                alone += words[k, _STOP]
                cased += words[k, _STOP_CASED]
                led_words += words[k, _INNER] + (words[k, _LED] if led else 0)
                seen |= stop_tokens[k]
                for at in range(token_offsets[k], token_offsets[k + 1]):
                    out_tokens[t], out_token_chars[t] = token_hashes[at], token_chars[at]
                    alpha_tokens += token_kinds[at] & 1
                    if token_kinds[at] & 2 != 0:
                        word_tokens += 1
                        word_token_chars += token_chars[at]
                    t += 1
                for at in range(segment_offsets[k], segment_offsets[k + 1]):
                    out_segments[g], out_segment_chars[g] = segment_hashes[at], segment_chars[at]
                    segment_total += segment_chars[at]
                    g += 1
            out_chars[c] = chars
            total += chars
            longest = max(longest, chars)
        row[0], row[1], row[2], row[3], row[4] = bounds[d + 1] - bounds[d], total, longest, alpha, symbols
        row[5], row[6], row[7], row[8] = alone, cased, led_words, t - token_bounds[d]
        row[9], row[10], row[11] = alpha_tokens, word_tokens, word_token_chars
        row[13], row[14] = g - segment_bounds[d], segment_total
        while seen != _ZERO:
            row[12] += np.int64(seen & _ONE)
            seen >>= _ONE
        token_bounds[d + 1], segment_bounds[d + 1] = t, g
    return counts, token_bounds, segment_bounds


@njit(cache=True, nogil=True)
def hash_spans(data, starts, stops):  # type: ignore[no-untyped-def]
    """The hash of data[starts[c]:stops[c]] for each of k spans, uint64 [k]."""
    out = np.empty(starts.size, np.uint64)
    for c in range(starts.size):
        out[c] = _hash(data, starts[c], stops[c])
    return out
