"""The compiled kernel of the noise gate; `mixloom.pipeline.noise` says what it looks for and calls it.

Every function it calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import noise_symbols as ns
from mixloom.pipeline.code_points import decode

_NEWLINE, _ACCENTED, _OTHER, _OTHER_SCRIPT = ns.NEWLINE, ns.ACCENTED, ns.OTHER, ns.OTHER_SCRIPT
_CONTROL = ns.CONTROL  # and REPLACEMENT after it

# Runs that are scored: the alphabets of `noise_model.alphabets`, then these three.
ALPHABETS = 8
BAD, MOJIBAKE, HEX = 8, 9, 10
RUNS = 11
UNIT = 16  # scores are in sixteenths of a bit
_NO_SURPRISE = -UNIT // 2  # for a character that repeats or belongs to a hash
HEX_UNIT = 20  # and of hexadecimal words in twentieths of a digit

_COMBINING, _COMBINING_END = 0x300, 0x370  # accents written apart from their letter
_LEGACY_WORD = 4  # characters beyond ASCII in a row that make a word of another encoding

_SHORTEST_HASH = 16  # hexadecimal digits; from here on a word of them is judged by its length alone


@njit(cache=True, nogil=True, inline="always")
def _alnum(b):  # type: ignore[no-untyped-def]
    return 48 <= b <= 57 or 65 <= b <= 90 or 97 <= b <= 122


@njit(cache=True, nogil=True, inline="always")
def _hex(b):  # type: ignore[no-untyped-def]
    return 48 <= b <= 57 or 65 <= b <= 70 or 97 <= b <= 102


@njit(cache=True, nogil=True, inline="always")
def _escape(data, i):  # type: ignore[no-untyped-def]
    """Whether a "x", "u" or "U" after a backslash is at i."""
    return (data[i] == 120 or data[i] == 117 or data[i] == 85) and i > 0 and data[i - 1] == 92


@njit(cache=True, nogil=True)
def _escaped(data, i, stop):  # type: ignore[no-untyped-def]
    """The end of the escape "xHH", "uHHHH" or "UHHHHHHHH" at i; i + 1 where the digits are missing."""
    digits = 2 if data[i] == 120 else 4 if data[i] == 117 else 8
    for p in range(i + 1, i + 1 + digits):
        if p >= stop or not _hex(data[p]):
            return i + 1
    return i + 1 + digits


@njit(cache=True, nogil=True)
def _hex_word(data, i, stop):  # type: ignore[no-untyped-def]
    """The word of ASCII letters and digits at i: its end, its hexadecimal digits (0: other signs too), how many are letters.

    A leading "0x", or "x" after a backslash, does not count; after "\\u" and "\\U" stand characters, no bytes.
    """
    begin = i
    if _escape(data, i):
        return _escaped(data, i, stop), 0, 0
    if data[i] == 48 and i + 2 < stop and (data[i + 1] == 120 or data[i + 1] == 88):
        begin = i + 2
    p, letters, pure = begin, 0, True
    while p < stop and _alnum(data[p]):
        pure = pure and _hex(data[p])
        letters += data[p] > 57
        p += 1
    return p, p - begin if pure else 0, letters


@njit(cache=True, nogil=True)
def _may_be_hex(data, i, stop):  # type: ignore[no-untyped-def]
    """Whether the word at i is made of two hexadecimal digits or more, or begins as `_hex_word` skips."""
    if not _hex(data[i]):
        return _escape(data, i)
    if data[i] == 48 and i + 2 < stop and (data[i + 1] == 120 or data[i + 1] == 88):
        return True
    p = i + 1
    while p < stop and _hex(data[p]):
        p += 1
    return p - i > 1 and not (p < stop and _alnum(data[p]))


@njit(cache=True, nogil=True)
def _calm(data, i, stop, plain, hot, previous):  # type: ignore[no-untyped-def]
    """The next place where a run may begin, from i on, and the symbol before it; only ASCII is passed over.

    plain uint8 [128]: the symbol of each ASCII character. A loop of its own: it has to be fast.
    """
    while i < stop:
        b = data[i]
        if b >= 128:
            break
        symbol = np.int64(plain[b])
        if symbol == _CONTROL or hot[previous, symbol]:
            break
        if (
            (_hex(b) or b == 120 or b == 117 or b == 85)
            and not _alnum_symbol(previous)
            and _may_be_hex(data, i, stop)
        ):
            break
        previous = symbol
        i += 1
    return i, previous


@njit(cache=True, nogil=True, inline="always")
def _alnum_symbol(symbol):  # type: ignore[no-untyped-def]
    return 16 <= symbol <= 25 or 33 <= symbol <= 58 or 65 <= symbol <= 90


@njit(cache=True, nogil=True)
def _hex_score(digits, letters, bytes_, joined):  # type: ignore[no-untyped-def]
    """What a word adds to a run of hexadecimal words: bytes and machine words, and whole lines that are no hash."""
    if digits == 0 or joined or digits & 1:
        return -10 * bytes_
    word = digits == 2 or digits == 4 or digits == 8
    line = 56 < digits < 96 and digits != 64 and digits != 66
    if not word and not line:
        return -10 * bytes_
    return HEX_UNIT * digits if letters > 0 else -digits


@njit(cache=True, nogil=True)
def _misread(data, i, stop, byte, windows):  # type: ignore[no-untyped-def]
    """Where the characters end that are one UTF-8 sequence read as Windows-1252, the first of byte value `byte`; or i."""
    if 0xC2 <= byte < 0xE0:
        more = 1
    elif 0xE0 <= byte < 0xF0:
        more = 2
    elif 0xF0 <= byte < 0xF5:
        more = 3
    else:
        return i
    p = i + 2  # a lead byte is a character of two bytes
    for _ in range(more):
        if p >= stop or data[p] < 0xC2:
            return i
        code, width = decode(data, p, stop)
        if code >= windows.size or not 0x80 <= windows[code] < 0xC0:
            return i
        p += width
    return p


@njit(cache=True, nogil=True)
def _legacy(data, i, stop, windows):  # type: ignore[no-untyped-def]
    """Where the run of characters of bytes 0xA1 to 0xFF ends that begins at i, and whether it is a word of another encoding.

    Languages in Latin letters seldom write three of these in a row, and hardly ever four; Cyrillic, Greek, Hebrew,
    Arabic or Chinese bytes read as Latin-1 are hardly anything else. Half must be letters; neither a drawn line nor a
    table of characters (one that repeats the one before, or is the next in code) is a word.
    """
    p, chars, letters, dull = i, 0, 0, 0
    before = np.int64(0)
    while p < stop and data[p] >= 0xC2:
        code, width = decode(data, p, stop)
        byte = np.int64(windows[code]) if code < windows.size else np.int64(0)
        if byte < 0xA1:
            break
        chars += 1
        if byte >= 0xC0 and byte != 0xD7 and byte != 0xF7:
            letters += 1
        if byte == before or byte == before + 1:
            dull += 1
        before = byte
        p += width
    return p, chars >= _LEGACY_WORD and 2 * letters >= chars and 2 * dull < chars


@njit(cache=True, nogil=True, inline="always")
def _repeats(data, i, low, code):  # type: ignore[no-untyped-def]
    """Whether one of the four bytes before i is this ASCII character."""
    n = i - low
    near = (n > 0 and data[i - 1] == code) or (n > 1 and data[i - 2] == code)
    return near or (n > 2 and data[i - 3] == code) or (n > 3 and data[i - 4] == code)


@njit(cache=True, nogil=True)
def symbols_kernel(data, start, stop, table):  # type: ignore[no-untyped-def]
    """The symbols of data[start:stop], uint8, one per character."""
    out = np.empty(stop - start, np.uint8)
    n, i, script = 0, start, np.int64(-1)
    while i < stop:
        code, width = np.int64(data[i]), np.int64(1)
        if code >= 128:
            code, width = decode(data, i, stop)
        entry = np.int64(table[code])
        symbol = entry & 255
        if symbol == _OTHER:
            own = entry >> 8
            if own != 0:
                symbol = np.int64(_OTHER_SCRIPT) if 0 <= script != own else symbol
                script = own
        out[n] = symbol
        n += 1
        i += width
    return out[:n]


@njit(cache=True, nogil=True)
def _emit(spans, used, document, k, state):  # type: ignore[no-untyped-def]
    if used == spans.shape[0]:
        bigger = np.empty((2 * used, spans.shape[1]), np.int64)
        bigger[:used] = spans
        spans = bigger
    spans[used, 0], spans[used, 1], spans[used, 2] = document, state[k, 1], state[k, 4]
    spans[used, 3], spans[used, 4], spans[used, 5] = k, state[k, 5] - state[k, 2], state[k, 3]
    return spans


@njit(cache=True, nogil=True)
def _add(state, k, score, start, stop, first, last):  # type: ignore[no-untyped-def]
    """Add the score of data[start:stop], characters first to last - 1, to run k (columns: see `noise_kernel`)."""
    if state[k, 0] == 0:
        state[k, 1], state[k, 2], state[k, 3] = start, first, 0
    state[k, 0] += score
    if state[k, 0] > state[k, 3]:
        state[k, 3], state[k, 4], state[k, 5] = state[k, 0], stop, last


@njit(cache=True, nogil=True)
def _close(spans, used, document, k, state, least):  # type: ignore[no-untyped-def]
    """End run k: keep it if it is long, sure and dense enough (least: see `noise_kernel`)."""
    chars = state[k, 5] - state[k, 2]
    best = state[k, 3]
    if best > 0 and chars >= least[k, 0] and best >= least[k, 1] and 100 * best >= least[k, 2] * chars:
        spans = _emit(spans, used, document, k, state)
        used += 1
    state[k, 0], state[k, 3] = 0, 0
    return spans, used


@njit(cache=True, nogil=True)
def _hex_run(data, i, stop, low, chars, hex_chars, drop, document, state, spans, used, least):  # type: ignore[no-untyped-def]
    """Judge the word at byte i for the run of hexadecimal words. Returns its end, whether it is a hash, spans and used."""
    end, digits, letters = _hex_word(data, i, stop)
    escape = _escape(data, i) and end > i + 1
    gain = 0
    if escape:
        # The bytes of "\\x7f\\x45" are a dump like any other.
        gain = 2 * HEX_UNIT if data[i] == 120 else -10 * (end - i)
    if digits > hex_chars and 20 * letters > digits and letters < digits:
        spans, used = _close(spans, used, document, HEX, state, least)
        state[HEX, 1], state[HEX, 2], state[HEX, 3] = i, chars, digits * HEX_UNIT
        state[HEX, 4], state[HEX, 5] = end, chars + end - i
        spans = _emit(spans, used, document, HEX, state)
        used += 1
        state[HEX, 0], state[HEX, 3] = 0, 0
    else:
        joined = i > low and (data[i - 1] == 45 or data[i - 1] == 37)  # - in UUIDs, % in addresses
        if not escape:
            gain = _hex_score(digits, letters, end - i, joined or (end < stop and data[end] == 45))
        if state[HEX, 0] > 0 and state[HEX, 0] + gain <= 0:
            spans, used = _close(spans, used, document, HEX, state, least)
        elif gain > 0 or state[HEX, 0] > 0:
            _add(state, HEX, gain, i, end, chars, chars + end - i)
            if state[HEX, 3] - state[HEX, 0] > drop:
                spans, used = _close(spans, used, document, HEX, state, least)
    return end, digits >= _SHORTEST_HASH or escape, spans, used


@njit(cache=True, nogil=True)
def noise_kernel(data, offsets, table, plain, windows, scores, hot, least, drop, hex_chars):  # type: ignore[no-untyped-def]
    """Runs of noise in n documents.

    data uint8; offsets int64 [n+1]; table uint16 [0x110000], plain uint8 [128] and windows int16: `noise_symbols`; scores
    int16 [106 * 106 * 8]: what a step from one symbol to the next adds to the run of each alphabet; hot bool
    [106, 106]: whether any of them is one bit or more; least int64 [RUNS, 3]: characters, score, and hundredths of a score per
    character that a run needs; drop int64 [RUNS]: it ends where its score has fallen so far below its best; hex_chars: hexadecimal
    digits of the longest word that stays.

    Returns:
        spans int64 [s, 6]: document, start, stop (bytes of `data`), run, characters, score; counts int64 [n, 2]:
        characters, and those in misread UTF-8 sequences.
    """
    n = offsets.size - 1
    spans, used = np.empty((64, 6), np.int64), 0
    counts = np.zeros((n, 2), np.int64)
    # Per run: score now, byte and character it began at, best score, byte and character after the best.
    state = np.zeros((RUNS, 6), np.int64)
    for document in range(n):
        low, stop = offsets[document], offsets[document + 1]
        i = low
        previous, script = np.int64(_NEWLINE), np.int64(-1)
        chars, misread = 0, 0
        active = 0  # runs open among the alphabets
        hash_until, word_until, misread_until, tried_until = i, i, i, i
        while i < stop:
            if active == 0 and i >= hash_until and state[BAD, 0] + state[MOJIBAKE, 0] + state[HEX, 0] == 0:
                moved, previous = _calm(data, i, stop, plain, hot, previous)
                chars += moved - i
                i = moved
                if i >= stop:
                    break
            code, width = np.int64(data[i]), np.int64(1)
            if code >= 128:
                code, width = decode(data, i, stop)
                if _COMBINING <= code < _COMBINING_END:
                    # The accent of the letter before it: decomposed text reads as the text without accents.
                    chars += 1
                    i += width
                    continue
            entry = np.int64(table[code])
            symbol = entry & 255
            if symbol >= _ACCENTED:
                if symbol == _OTHER:
                    if entry >> 8 != 0:
                        symbol = np.int64(_OTHER_SCRIPT) if 0 <= script != entry >> 8 else symbol
                        script = entry >> 8
                elif i >= misread_until and code < windows.size and windows[code] >= 0xC2:
                    misread_until = max(
                        misread_until, _misread(data, i, stop, np.int64(windows[code]), windows)
                    )
                if i >= max(misread_until, tried_until) and code < windows.size and windows[code] >= 0xA1:
                    tried_until, legacy = _legacy(data, i, stop, windows)
                    misread_until = tried_until if legacy else misread_until
            # Words: hashes are nobody's noise; very long ones, and rows of short ones, are.
            at_word = i >= word_until and _alnum_symbol(symbol) and not (i > low and _alnum(data[i - 1]))
            if at_word and (state[HEX, 0] > 0 or _may_be_hex(data, i, stop)):
                word_until, is_hash, spans, used = _hex_run(
                    data, i, stop, low, chars, hex_chars, drop[HEX], document, state, spans, used, least
                )
                hash_until = word_until if is_hash else hash_until
            # Alphabets. A sign that repeats one of the last four is no surprise: lines of "=-=-=-" are drawn by hand.
            if active > 0 or hot[previous, symbol]:
                again = symbol < _ACCENTED and _repeats(data, i, low, code)
                active = 0
                row = (previous * ns.SYMBOLS + symbol) * ALPHABETS
                for k in range(ALPHABETS):
                    score = np.int64(scores[row + k])
                    if i < hash_until or (again and score > _NO_SURPRISE):
                        score = np.int64(_NO_SURPRISE)
                    if state[k, 0] == 0 and score < UNIT:
                        continue  # a run begins with a step of one bit or more
                    if state[k, 0] + score <= 0:
                        spans, used = _close(spans, used, document, k, state, least)
                        continue
                    _add(state, k, score, i, i + width, chars, chars + 1)
                    active += 1
                    if state[k, 3] - state[k, 0] > drop[k]:
                        spans, used = _close(spans, used, document, k, state, least)
                        active -= 1
            # Characters that are never text, and misread ones.
            misread += i < misread_until
            for k in range(BAD, MOJIBAKE + 1):
                hit = i < misread_until if k == MOJIBAKE else symbol >= _CONTROL
                if not hit and state[k, 0] == 0:
                    continue
                score = np.int64(3 * UNIT) if hit else np.int64(-UNIT)
                if state[k, 0] + score <= 0:
                    spans, used = _close(spans, used, document, k, state, least)
                else:
                    _add(state, k, score, i, i + width, chars, chars + 1)
                    if state[k, 3] - state[k, 0] > drop[k]:
                        spans, used = _close(spans, used, document, k, state, least)
            previous = symbol
            chars += 1
            i += width
        for k in range(RUNS):
            spans, used = _close(spans, used, document, k, state, least)
        counts[document, 0], counts[document, 1] = chars, misread
    return spans[:used], counts
