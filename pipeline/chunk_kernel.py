"""The compiled kernels that find the chunks (what stands between white space) of documents.

Most chunks are plain: ASCII letters, with or without one sign after them. The others are numbered, equal ones alike, and
cut into tokens and segments once per batch by the kernels of `token_kernel` and `segment_kernel`; `gather_kernel` puts
their parts back in the order of the text. Little-endian machines only. Every function a kernel calls is in this file: numba's cache looks at the
changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import characters as ch
from mixloom.pipeline import token_kernel as tk
from mixloom.pipeline.bit_counts import low_zeros
from mixloom.pipeline.code_points import decode
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.raw_bytes import load, turn

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
# What `find_chunks` counts of plain chunks; the last are bits, one for each stop word.
PLAIN_COUNTS = (
    "words",
    "letters",
    "max_word_chars",
    "led",
    "stop_words_alone",
    "stop_words_alone_cased",
    "stop_words",
)
# What a byte is: an ASCII letter, ASCII white space, no ASCII, a sign that may end a plain word, "." or anything else.
LETTER_BYTE, SPACE_BYTE, HIGH_BYTE, SIGN_BYTE, DOT_BYTE = 1, 2, 3, 4, 5
_CHARS, _ALPHA_WORD, _SYMBOL_WORD, _STOP = tk.CHARS, tk.ALPHA_WORD, tk.SYMBOL_WORD, tk.STOP
_STOP_CASED, _LED, _INNER, _WIDE, _WORD_WIDTH = tk.STOP_CASED, tk.LED, tk.INNER, tk.WIDE, tk.WORD_WIDTH
# What bytes a chunk holds, in bits: a letter, "#", a NUL, one that is not ASCII.
_HAS_LETTER, _HAS_HASH, _HAS_NUL, _HAS_HIGH = 1, 2, 4, 8
_ALPHA, _NUMBER, _SPACE = ch.ALPHA, ch.NUMBER, ch.SPACE
_ONE = np.uint64(1)

_START, _STEP = np.uint64(0x243F6A8885A308D3), np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S8, _S27, _S29, _S30, _S31 = np.uint64(8), np.uint64(27), np.uint64(29), np.uint64(30), np.uint64(31)
_ZERO, _ALL = np.uint64(0), np.uint64(2**64 - 1)
_S3, _S56 = np.uint64(3), np.uint64(56)
# Bytes of eight, for arithmetic with all of them at once: the bit of small letters, the low seven bits, the top bit, and
# what lifts "a" and what follows "z" to it.
_SMALL, _LOW7, _TOP = (np.uint64(b * 0x0101010101010101) for b in (0x20, 0x7F, 0x80))
_FROM_A, _PAST_Z = (np.uint64(b * 0x0101010101010101) for b in (0x80 - 0x61, 0x80 - 0x7B))


@njit(**LEAN, inline="always")
def _fold(h, eight):  # type: ignore[no-untyped-def]
    h = (h ^ eight) * _STEP
    return h ^ (h >> _S29)


@njit(**LEAN, inline="always")
def _finish(h, length):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) over the state and the length."""
    h = h ^ np.uint64(length)
    h = (h ^ (h >> _S30)) * _MIX1
    h = (h ^ (h >> _S27)) * _MIX2
    return h ^ (h >> _S31)


@njit(**LEAN, forceinline=True)
def _eight(data, i):  # type: ignore[no-untyped-def]
    """The eight bytes from i on as one uint64, the first lowest, with zeros after the end of the data."""
    if i + 8 <= data.size:
        return load(data, i)
    word = _ZERO
    for k in range(data.size - i):
        word |= np.uint64(data[i + k]) << np.uint64(8 * k)
    return word


@njit(**LEAN, forceinline=True)
def _hash(data, i, j):  # type: ignore[no-untyped-def]
    """64 bits of data[i:j], eight bytes at a time, the first of them highest."""
    h, length = _START, j - i
    while i + 8 <= j:
        h = _fold(h, turn(load(data, i)))
        i += 8
    last = _ZERO
    if i < j:
        last = turn(_eight(data, i)) >> np.uint64(64 - 8 * (j - i))
    return _finish(_fold(h, last), length)


@njit(**LEAN, forceinline=True)
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
                code, width = decode(data, p, j)
            folded = np.int64(lower[code]) if code < lower.size else code
            if folded != stops[s, k]:
                break
            same = same and folded == code
            p += width
            k += 1
        if p == j:
            return s, same
    return -1, False


def stop_place(key: int) -> int:
    """Where `find_chunks` begins to look for a stop word in its table of 256 places."""
    return (key * int(_STEP) % 2**64) >> 56


@njit(**LEAN, forceinline=True)
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


@njit(**LEAN, forceinline=True)
def _place(keys, numbers, h):  # type: ignore[no-untyped-def]
    """Where h is, or belongs, in a table of distinct chunks; a number of -1 is an empty place."""
    mask = np.uint64(keys.size - 1)
    at = np.int64(h & mask)
    while numbers[at] >= 0 and keys[at] != h:
        at = np.int64(np.uint64(at + 1) & mask)
    return at


@njit(**LEAN, forceinline=True)
def _letters(word):  # type: ignore[no-untyped-def]
    """How many of the eight bytes, from the lowest on, are ASCII letters."""
    low = (word | _SMALL) & _LOW7
    letter = (low + _FROM_A) & ~(low + _PAST_Z) & ~word & _TOP
    other = letter ^ _TOP
    return low_zeros(other) >> 3 if other != _ZERO else np.int64(8)


@njit(**LEAN, forceinline=True)
def _stop_letters(word, count, keys, numbers):  # type: ignore[no-untyped-def]
    """As `_stop_word`, of the first `count` of eight bytes, which are letters, by a table of stop words of up to eight."""
    word &= _ALL >> np.uint64(64 - 8 * count)
    low = (word | _SMALL) & (_ALL >> np.uint64(64 - 8 * count))
    at = np.int64((low * _STEP) >> _S56)
    while keys[at] != low:
        if keys[at] == _ZERO:
            return np.int64(-1), False
        at = (at + 1) & 255
    return np.int64(numbers[at]), word == low


@njit(cache=True, nogil=True)
def _wider(keys, numbers):  # type: ignore[no-untyped-def]
    """The table of distinct chunks with twice as many places."""
    new_keys, new_numbers = np.empty(2 * keys.size, np.uint64), np.full(2 * keys.size, -1, np.int32)
    for k in range(keys.size):
        if numbers[k] >= 0:
            at = _place(new_keys, new_numbers, keys[k])
            new_keys[at], new_numbers[at] = keys[k], numbers[k]
    return new_keys, new_numbers


@njit(**LEAN)
def _scan(  # type: ignore[no-untyped-def]
    data, begin, i, stop, bytes_, flags, lower, special, listed, stop_words, stop_worth, stop_keys, stop_numbers,
    hashes, bares, letters, signs, keys, numbers, starts, stops, found, row,
):  # fmt: skip
    """Find the chunks of data[i:stop], the rest of a document that begins at `begin`: the loop of `find_chunks`.

    found: int64, how many chunks and how many distinct ones there are, brought up to date; row: int64, of the counts.
    Returns the byte after what was read, which is before `stop` where `starts` is full. No array is made or exchanged
    here: numba would count references to it in every round of the loop, which takes longer than all else.
    """
    mask = np.uint64(special.size - 1)
    c, distinct = found[0], found[1]
    plains, in_letters, leds, alone, cased = 0, 0, 0, 0, 0
    longest, seen = row[2], np.uint64(row[6])
    while i < stop:
        if bytes_[data[i]] == SPACE_BYTE:
            i += 1
            continue
        first, h = i, _START
        head = word = _eight(data, i)
        k = min(_letters(word), stop - i)
        while k == 8:
            h = _fold(h, turn(word))
            i += 8
            word = _eight(data, i)
            k = min(_letters(word), stop - i)
        eight = turn(word) >> np.uint64(64 - 8 * k) if k > 0 else _ZERO
        i += k
        count = i - first
        before = np.int64(data[first - 1]) if first > begin else 32
        led = before == 32 or 9 <= before <= 13 or before == 0
        kind = bytes_[data[i]] if i < stop else SPACE_BYTE
        plain = count > 0 and (
            kind == SPACE_BYTE or (kind >= SIGN_BYTE and (i + 1 == stop or bytes_[data[i + 1]] == SPACE_BYTE))
        )
        # A full stop is split off after a small letter, or after two capitals.
        if plain and kind == DOT_BYTE and data[i - 1] < 97 and (count < 2 or data[i - 2] >= 97):
            plain = False
        if plain:
            whole = bare = _finish(_fold(h, eight), count)
            plain = not _listed(bare, special, mask, listed)
            sign = np.int64(0)
            if kind != SPACE_BYTE:
                sign = np.int64(data[i])
                eight = (eight << _S8) | np.uint64(sign)
                whole = _fold(h, eight)
                whole = _finish(_fold(whole, _ZERO) if k == 7 else whole, count + 1)
                plain = plain and not _listed(whole, special, mask, listed)
                i += plain
        if plain:
            hashes[c], bares[c], letters[c], signs[c] = whole, bare, count, sign
            c += 1
            if count <= 8:
                which, same = _stop_letters(head, count, stop_keys, stop_numbers)
            else:
                which, same = _stop_word(data, first, first + count, count, stop_words, stop_worth, lower)
            if which >= 0:
                if same:
                    seen |= _ONE << np.uint64(which)
                alone += sign == 0
                cased += same and sign == 0
            plains += 1
            in_letters += count
            leds += 1 if led else 0
            longest = max(longest, count + 1 if sign != 0 else count)
            continue
        while i < stop and bytes_[data[i]] != SPACE_BYTE:
            if bytes_[data[i]] == HIGH_BYTE:
                code, width = decode(data, i, stop)
                if flags[code] & _SPACE != 0:
                    break
                i += width
            else:
                i += 1
        if i == first:  # white space that is not ASCII
            i += decode(data, i, stop)[1]
            continue
        whole = _hash(data, first, i)
        at = _place(keys, numbers, whole)
        if numbers[at] < 0:
            keys[at], numbers[at] = whole, distinct
            starts[distinct], stops[distinct] = first, i
            distinct += 1
        hashes[c], letters[c], signs[c] = whole, -1 - numbers[at], led
        c += 1
        if distinct == starts.size:
            break
    found[0], found[1] = c, distinct
    row[0] += plains
    row[1] += in_letters
    row[2] = longest
    row[3] += leds
    row[4] += alone
    row[5] += cased
    row[6] = np.int64(seen)
    return i


@njit(cache=True, nogil=True)
def find_chunks(  # type: ignore[no-untyped-def]
    data, offsets, bytes_, flags, lower, special, listed, stop_words, stop_worth, stop_keys, stop_numbers,
    hashes, bares, letters, signs,
):  # fmt: skip
    """Find the chunks of n documents, count the plain ones and number the distinct others.

    data uint8, offsets int64 [n+1], bytes_ uint8 [256], flags uint16 and lower (`characters`). special: uint64 hashes of
    what must not be taken as plain, open addressing; listed: uint8 [8192], a bit for each by the low bits of its hash.
    stop_*: `chunks`' tables of stop words.
    Fills, for each chunk: its hash uint64, the hash of its letters uint64, int32 its number of letters where it is plain,
    else -1 - its number, and uint8 the sign after the letters or 0 (of a chunk that is not plain: whether it is led).
    Returns chunk offsets int64 [n+1], what the plain ones count int64 [n, 7] (`PLAIN_COUNTS`) and, for each distinct
    other chunk, the bytes where it starts and stops, int64.
    """
    n = offsets.size - 1
    bounds = np.zeros(n + 1, np.int64)
    sums = np.zeros((n, len(PLAIN_COUNTS)), np.int64)
    keys, numbers = np.empty(1 << 12, np.uint64), np.full(1 << 12, -1, np.int32)
    starts, stops = np.empty(1 << 11, np.int64), np.empty(1 << 11, np.int64)
    found = np.zeros(2, np.int64)
    for d in range(n):
        i = offsets[d]
        while i < offsets[d + 1]:
            i = _scan(
                data, offsets[d], i, offsets[d + 1], bytes_, flags, lower, special, listed,
                stop_words, stop_worth, stop_keys, stop_numbers,
                hashes, bares, letters, signs, keys, numbers, starts, stops, found, sums[d],
            )  # fmt: skip
            if found[1] == starts.size:
                keys, numbers = _wider(keys, numbers)
                starts, stops = _reserve(starts, found[1], found[1]), _reserve(stops, found[1], found[1])
        bounds[d + 1] = found[0]
    return bounds, sums, starts[: found[1]], stops[: found[1]]


@njit(**LEAN)
def _describe(data, i, stop, flags, word):  # type: ignore[no-untyped-def]
    """Fill the columns of `word` that count the characters of data[i:stop]."""
    m, after = 0, False
    while i < stop:
        code, width = np.int64(data[i]), np.int64(1)
        if code >= 128:
            code, width = decode(data, i, stop)
        f = flags[code]
        alnum = f & (_ALPHA | _NUMBER) != 0
        if f & _ALPHA != 0:
            word[_ALPHA_WORD] = 1
        if code == 35 or code == 0x2026:
            word[_SYMBOL_WORD] = 1
        if m == 0 and alnum:
            word[_LED] = 1
        word[_INNER] += after and alnum
        after = code == 0
        m += 1
        i += width
    word[_CHARS] = m


@njit(cache=True, nogil=True)
def describe_words(data, starts, stops, flags, lower, stop_words, stop_worth):  # type: ignore[no-untyped-def]
    """What each of k distinct chunks is as a word: int32 [k, WORD_WIDTH], see `token_kernel`.

    Characters; whether it has a letter; whether it has "#" or U+2026; whether it is a stop word in any case, and in
    lower case; whether it begins with a letter or number; how many letters or numbers stand after a NUL in it; whether it
    is more than ASCII. The columns of tokens and segments are 0.
    """
    out = np.zeros((starts.size, _WORD_WIDTH), np.int32)
    has = np.zeros(256, np.uint8)
    has[128:] = _HAS_HIGH
    for b in range(128):
        has[b] = _HAS_LETTER if flags[b] & _ALPHA != 0 else 0
    has[0], has[35] = _HAS_NUL, _HAS_HASH
    for c in range(starts.size):
        seen = np.uint8(0)
        for i in range(starts[c], stops[c]):
            seen |= has[data[i]]
        if seen & (_HAS_HIGH | _HAS_NUL) != 0:
            _describe(data, starts[c], stops[c], flags, out[c])
            out[c, _WIDE] = seen & _HAS_HIGH != 0
        else:
            out[c, _CHARS] = stops[c] - starts[c]
            out[c, _ALPHA_WORD], out[c, _SYMBOL_WORD] = seen & _HAS_LETTER != 0, seen & _HAS_HASH != 0
            out[c, _LED] = flags[data[starts[c]]] & (_ALPHA | _NUMBER) != 0
        which, same = _stop_word(data, starts[c], stops[c], out[c, _CHARS], stop_words, stop_worth, lower)
        out[c, _STOP], out[c, _STOP_CASED] = which >= 0, same
    return out


@njit(cache=True, nogil=True)
def hash_spans(data, starts, stops):  # type: ignore[no-untyped-def]
    """The hash of data[starts[c]:stops[c]] for each of k spans, uint64 [k]."""
    out = np.empty(starts.size, np.uint64)
    for c in range(starts.size):
        out[c] = _hash(data, starts[c], stops[c])
    return out
