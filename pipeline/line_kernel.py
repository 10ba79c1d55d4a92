"""The compiled kernel that measures lines; `mixloom.pipeline.lines` says what a line is and calls it.

Every function it calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import characters as ch
from mixloom.pipeline import line_measures as lm

# Columns of the table that `line_kernel` returns. `end` is where the line break begins; `again` says what `_scan` has seen
# that is to be looked at again.
COLUMNS = (
    *("text", "start", "stop", "next", "line_break", "end", "again"),
    *("chars", "upper", "digits", "words", "alnum_words", "max_word_chars", "sentences", "phrases", "ends"),
)
HAS_BRACKET, HAS_CART = 1, 2  # bits of `again`: "[", and "items in cart"
_WIDTH = len(COLUMNS)

_ALPHA, _NUMBER, _DIGIT, _UPPER = ch.ALPHA, ch.NUMBER, ch.DIGIT, ch.UPPER
_PUNCTUATION, _SYMBOL, _SPACE, _TERMINAL = ch.PUNCTUATION, ch.SYMBOL, ch.SPACE, ch.TERMINAL
_LETTER = ch.ALPHA | ch.NUMBER
_REPLACEMENT, _ELLIPSIS, _APOSTROPHE = 0xFFFD, 0x2026, 0x2019
_END_OF_TEXT, _NEWLINE, _CARRIAGE = lm.END_OF_TEXT, lm.NEWLINE, lm.CARRIAGE_NEWLINE
_OTHER_BREAK = lm.OTHER_BREAK
_LOREM, _JAVASCRIPT, _BRACKET = lm.PHRASES["lorem ipsum"], lm.PHRASES["javascript"], lm.PHRASES["{"]
_TERMS, _PRIVACY = lm.PHRASES["terms of use"], lm.PHRASES["privacy policy"]
_COOKIE, _USES = lm.PHRASES["cookie policy"], lm.PHRASES["uses cookies"]
_USE_OF, _USE = lm.PHRASES["use of cookies"], lm.PHRASES["use cookies"]
_E_PERIOD, _E_QUESTION = lm.ENDS["ends_in_period"], lm.ENDS["ends_in_question_mark"]
_E_EXCLAMATION, _E_DOUBLE = lm.ENDS["ends_in_exclamation_mark"], lm.ENDS["ends_in_double_quote"]
_E_SINGLE, _E_DOTS = lm.ENDS["ends_in_single_quote"], lm.ENDS["ends_in_three_dots"]
_E_ELLIPSIS, _E_OTHER = lm.ENDS["ends_in_ellipsis"], lm.ENDS["ends_in_other_terminal"]
_STEP = np.uint64(0x9E3779B97F4A7C15)
_START = np.uint64(0x243F6A8885A308D3)
_S29 = np.uint64(29)


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


_T_LOREM, _T_JAVASCRIPT, _T_TERMS = _bytes("lorem ipsum"), _bytes("javascript"), _bytes("terms of use")
_T_PRIVACY, _T_COOKIE, _T_USES = _bytes("privacy policy"), _bytes("cookie policy"), _bytes("uses cookies")
_T_USE_OF, _T_USE, _T_CART = _bytes("use of cookies"), _bytes("use cookies"), _bytes("items in cart")
# ASCII characters that `_scan` stops at: line breaks 2, those that may belong to a phrase 1.
_STOPS = np.zeros(128, np.uint8)
_STOPS[[10, 11, 12, 13, 28, 29, 30]] = 2
_STOPS[[ord(c) for c in " vV{["]] = 1
# ASCII characters that spaCy splits off a word: 1 at its beginning, 2 at its end.
_AFFIX = np.zeros(128, np.uint8)
_AFFIX[[ord(c) for c in "!\"#&'()*,:;<>?[]_`{}"]] = 3
_AFFIX[[ord(c) for c in "%=+$"]] = 1


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


@njit(cache=True, nogil=True)
def _at(data, i, stop):  # type: ignore[no-untyped-def]
    """The code point that starts at byte i < stop and its width."""
    code = np.int64(data[i])
    if code < 128:
        return code, np.int64(1)
    return _decode(data, i, stop)


@njit(cache=True, nogil=True)
def _before(data, low, i):  # type: ignore[no-untyped-def]
    """The code point that ends at byte i > low and its width."""
    code = np.int64(data[i - 1])
    if code < 128:
        return code, np.int64(1)
    for width in range(2, 5):
        if i - width < low:
            break
        if np.int64(data[i - width]) & 0xC0 != 0x80:
            found, wide = _decode(data, i - width, i)
            if wide == width:
                return found, wide
            break
    return np.int64(_REPLACEMENT), np.int64(1)


@njit(cache=True, nogil=True)
def _is(data, low, stop, i, text):  # type: ignore[no-untyped-def]
    """Whether `text` (lower case) stands at byte i of data[low:stop], whatever the case of ASCII letters there."""
    if i < low or i + text.size > stop:
        return False
    for k in range(text.size):
        c = data[i + k]
        if 65 <= c <= 90:
            c |= 32
        if c != text[k]:
            return False
    return True


@njit(cache=True, nogil=True)
def word_hash(data, i, stop):  # type: ignore[no-untyped-def]
    """A 64-bit hash of data[i:stop]."""
    h = _START
    for k in range(i, stop):
        h = (h ^ np.uint64(data[k])) * _STEP
        h ^= h >> _S29
    return h


@njit(cache=True, nogil=True)
def _is_quote(code, f):  # type: ignore[no-untyped-def]
    return code in (39, 34, 96, 44, 0xB4) or (code >= 128 and f & _PUNCTUATION != 0)


@njit(cache=True, nogil=True)
def _splits(code, f, side):  # type: ignore[no-untyped-def]
    """Whether spaCy splits this character off the beginning (side 1) or the end (side 2) of a word."""
    if code < 128:
        return _AFFIX[code] & side != 0
    return f & (_PUNCTUATION | _SYMBOL) != 0


@njit(cache=True, nogil=True)
def _period_splits(data, low, i, flags):  # type: ignore[no-untyped-def]
    """Whether a single "." at byte i is split off the end of the word data[low:i]."""
    if i <= low:
        return False
    code, width = _before(data, low, i)
    f = np.int64(flags[code])
    if f & _UPPER != 0:
        if i - width <= low:
            return False
        earlier, _ = _before(data, low, i - width)
        return np.int64(flags[earlier]) & _UPPER != 0
    if code < 128:
        return f & _LETTER != 0 or code in (37, 43, 45, 124) or (_AFFIX[code] & 2 != 0)
    return f & (_ALPHA | _PUNCTUATION) != 0 or code == 0xB2 or code == 0xB4


@njit(cache=True, nogil=True)
def _listed(table, h):  # type: ignore[no-untyped-def]
    low, high = 0, table.size
    while low < high:
        middle = (low + high) // 2
        if table[middle] < h:
            low = middle + 1
        else:
            high = middle
    return low < table.size and table[low] == h


@njit(cache=True, nogil=True)
def _affix_token(code, f, sentences, seen):  # type: ignore[no-untyped-def]
    """One split-off character: it may end a sentence, be skipped as punctuation, or begin the next sentence."""
    if f & _TERMINAL != 0:
        return sentences, True
    if f & _PUNCTUATION == 0 and seen:
        return sentences + 1, False
    return sentences, seen


@njit(cache=True, nogil=True)
def _chunk(data, a, b, flags, whole, sentences, seen):  # type: ignore[no-untyped-def]
    """The tokens of the word data[a:b], as far as they end or begin a sentence: (sentences so far, seen).

    `seen`: a sentence has ended and the next has not begun. `whole`: hashes of the words with a final period that are
    one token. Characters are split off at both ends as spaCy does, then the rest is looked at.
    """
    s, e = a, b
    one_token = False
    while s < e:
        if data[e - 1] == 46 and _listed(whole, word_hash(data, s, e)):
            one_token = True
            break
        first, width = _at(data, s, e)
        f = np.int64(flags[first])
        run = 0
        while s + run < e and data[s + run] == 46:
            run += 1
        cut_first = 0
        if run >= 2:
            cut_first = run
        elif _splits(first, f, 1):
            digit_next = s + 1 < e and 48 <= data[s + 1] <= 57
            cut_first = 0 if first == 43 and digit_next else width
            if cut_first > 0:
                sentences, seen = _affix_token(first, f, sentences, seen)
        if cut_first > 0:
            s += cut_first
            continue  # what is left may be one of `whole`
        last, width = _before(data, s, e)
        f = np.int64(flags[last])
        cut_last = 0
        if last == 46:
            run = 0
            while e - run > s and data[e - 1 - run] == 46:
                run += 1
            if run >= 2:
                cut_last = run
            elif _period_splits(data, s, e - 1, flags):
                cut_last = 1
        elif _splits(last, f, 2):
            cut_last = width
        elif (last == 115 or last == 83) and e - 1 > s:
            mark, wide = _before(data, s, e - 1)
            if mark == 39 or mark == _APOSTROPHE:
                cut_last = 1 + wide
        e -= cut_last
        if cut_last == 0:
            break
    if s < e:
        if e - s == 1 and data[s] == 46:
            seen = True
        else:
            visible, address, mail, lower_end = False, one_token, False, False
            i = s
            while i < e:
                code, width = _at(data, i, e)
                visible = visible or np.int64(flags[code]) & _PUNCTUATION == 0
                address = address or (code == 58 and i + 2 < e and data[i + 1] == 47)
                mail = mail or code == 64
                if code == 46 and i + 1 < e:
                    lower_end = 97 <= data[i + 1] <= 122
                i += width
            address = address or (mail and lower_end)  # spaCy knows top-level domains in lower case only
            if visible:
                if seen:
                    sentences, seen = sentences + 1, False
                if not address:
                    for i in range(s + 1, e - 1):
                        if data[i] == 46 and data[i - 1] != 46 and data[i + 1] != 46:
                            code, _ = _before(data, s, i)
                            after, _ = _at(data, i + 1, e)
                            f, g = np.int64(flags[code]), np.int64(flags[after])
                            low = (f & _ALPHA != 0 and f & _UPPER == 0) or _is_quote(code, f)
                            if low and (g & _UPPER != 0 or _is_quote(after, g)):
                                sentences += 1
    i = e
    while i < b:
        code, width = _at(data, i, b)
        if code == 46 and i + 1 < b and data[i + 1] == 46:
            while i < b and data[i] == 46:
                i += 1
            continue
        sentences, seen = _affix_token(code, np.int64(flags[code]), sentences, seen)
        i += width
    return sentences, seen


@njit(cache=True, nogil=True)
def _phrases(data, low, stop, i):  # type: ignore[no-untyped-def]
    """The phrases around the character at byte i, one of " vV{", and whether "items in cart" is there."""
    code = data[i]
    if code == 123:
        return _BRACKET, 0
    if code != 32:
        return (_JAVASCRIPT if _is(data, low, stop, i - 2, _T_JAVASCRIPT) else 0), 0
    if i + 1 >= stop:
        return 0, 0
    following = data[i + 1] | 32
    found, more = 0, 0
    if following == 105:  # i
        found |= _LOREM if _is(data, low, stop, i - 5, _T_LOREM) else 0
        more |= HAS_CART if _is(data, low, stop, i - 5, _T_CART) else 0
    elif following == 111:  # o
        found |= _TERMS if _is(data, low, stop, i - 5, _T_TERMS) else 0
        found |= _USE_OF if _is(data, low, stop, i - 3, _T_USE_OF) else 0
    elif following == 112:  # p
        found |= _PRIVACY if _is(data, low, stop, i - 7, _T_PRIVACY) else 0
        found |= _COOKIE if _is(data, low, stop, i - 6, _T_COOKIE) else 0
    elif following == 99:  # c
        found |= _USES if _is(data, low, stop, i - 4, _T_USES) else 0
        found |= _USE if _is(data, low, stop, i - 3, _T_USE) else 0
    return found, more


@njit(cache=True, nogil=True)
def _scan(data, begin, stop, flags, whole, keep_ends, row):  # type: ignore[no-untyped-def]
    """Measure the line that begins at byte `begin` and ends at a line break or at `stop`; fill `row`.

    row int64 [_WIDTH]: all of `COLUMNS` but the first and the last. `keep_ends`: white space at the end is a token for
    the sentences, as it is for spaCy.
    """
    i = begin
    start, last_stop = begin, begin
    chars, upper, digits, words, alnum_words, longest = 0, 0, 0, 0, 0, 0
    sentences, seen, phrases, again = 0, False, 0, 0
    word, word_begin, plain, last_letter = 0, begin, False, False
    gap = begin  # where the white space behind the last word began
    kind = _END_OF_TEXT
    end = stop
    after = stop
    while i < stop:
        code = np.int64(data[i])
        width = np.int64(1)
        if code < 128:
            mark = _STOPS[code]
            if mark != 0:
                if mark == 2:
                    end, after, kind = i, i + 1, _OTHER_BREAK
                    if code == 10:
                        kind = _NEWLINE
                    elif code == 13 and after < stop and data[after] == 10:
                        kind = _CARRIAGE
                        after += 1
                    break
                if code == 91:
                    again |= HAS_BRACKET
                else:
                    found, more = _phrases(data, begin, stop, i)
                    phrases |= found
                    again |= more
        else:
            code, width = _decode(data, i, stop)
            if code == 0x85 or code == 0x2028 or code == 0x2029:
                end, after, kind = i, i + width, _OTHER_BREAK
                break
        f = np.int64(flags[code])
        chars += 1
        if f & _SPACE != 0:
            if word > 0:
                longest = max(longest, word)
                if plain and last_letter:
                    sentences += seen
                    seen = False
                else:
                    sentences, seen = _chunk(data, word_begin, i, flags, whole, sentences, seen)
                word = 0
                last_stop = i
                gap = i
        else:
            letter = f & _LETTER != 0
            if word == 0:
                if words == 0:
                    start = i
                    sentences = 1
                elif seen and (i - gap != 1 or data[gap] != 32):
                    sentences, seen = sentences + 1, False  # more than one space is a token of its own
                words += 1
                alnum_words += letter
                word_begin = i
                plain = letter
            elif code == 46:
                plain = False
            word += 1
            last_letter = letter
            upper += (f & _UPPER) != 0
            digits += (f & _DIGIT) != 0
        i += width
    if word > 0:
        longest = max(longest, word)
        if plain and last_letter:
            sentences += seen
        else:
            sentences, seen = _chunk(data, word_begin, end, flags, whole, sentences, seen)
        last_stop = end
    elif keep_ends and seen and words > 0 and (end - gap != 1 or data[gap] != 32):
        sentences += 1
    if words == 0:
        start, last_stop = begin, begin
    row[1], row[2], row[3], row[4], row[5], row[6] = start, last_stop, after, kind, end, again
    row[7], row[8], row[9], row[10], row[11] = chars, upper, digits, words, alnum_words
    row[12], row[13], row[14] = longest, sentences, phrases


@njit(cache=True, nogil=True)
def _ends(data, i, stop, flags):  # type: ignore[no-untyped-def]
    """With what data[i:stop] ends, as bits of `line_measures.ENDS`."""
    if i >= stop:
        return 0
    code, _ = _before(data, i, stop)
    if code == 46:
        dots = stop - i >= 3 and data[stop - 2] == 46 and data[stop - 3] == 46
        return _E_PERIOD | (_E_DOTS if dots else 0)
    if code == 63:
        return _E_QUESTION
    if code == 33:
        return _E_EXCLAMATION
    if code == 34:
        return _E_DOUBLE
    if code == 39:
        return _E_SINGLE
    if code == _ELLIPSIS:
        return _E_ELLIPSIS
    return _E_OTHER if np.int64(flags[code]) & _TERMINAL != 0 else 0


@njit(cache=True, nogil=True)
def line_kernel(data, offsets, flags, whole, keep_ends):  # type: ignore[no-untyped-def]
    """The kernel behind `lines.line_table`.

    data uint8, offsets int64 [n+1], flags uint16 [0x110000], whole uint64 sorted: `word_hash` of the words with a final
    period that are one token. keep_ends: white space at the end of a line counts, for `sentences` and `ends`. Returns the
    table int32 [lines, len(COLUMNS)]; its offsets are from the beginning of each text.
    """
    table = np.empty((64, _WIDTH), np.int32)
    row = np.zeros(_WIDTH, np.int64)
    n = 0
    for d in range(offsets.size - 1):
        base, stop = offsets[d], offsets[d + 1]
        i = base
        while i < stop:
            if n == table.shape[0]:
                bigger = np.empty((2 * n, _WIDTH), np.int32)
                bigger[:n] = table
                table = bigger
            _scan(data, i, stop, flags, whole, keep_ends, row)
            ends = _ends(data, i, row[5], flags) if keep_ends else _ends(data, row[1], row[2], flags)
            following = row[3]
            row[0], row[15] = d, ends
            for k in range(_WIDTH):
                table[n, k] = row[k] - base if 1 <= k <= 5 and k != 4 else row[k]
            n += 1
            i = following
    return table[:n]
