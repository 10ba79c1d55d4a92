"""The compiled kernel that counts the sentences of lines; `mixloom.pipeline.lines` says how, and calls it.

Only words with a Sentence_Terminal (found by `line_masks`) can end a sentence; others are looked at only behind one.
Every function it calls is in this file, but for the bit counts: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import english_tokens as en
from mixloom.pipeline.bit_counts import low_zeros
from mixloom.pipeline.code_points import REPLACEMENT, decode
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.line_masks import BREAK, LETTER, MORE, R_TERMINAL, SPACE, UPPER

LONGEST_WHOLE = 8  # the most bytes of a word with a final period that is one token
_SLOTS = 1024  # of the table of these words
_PUNCTUATION, _TERMINAL, _UPPER = en.PUNCTUATION, en.TERMINAL, en.UPPER
_PREFIX, _SUFFIX = en.PREFIX, en.SUFFIX
_DOT_LEFT, _DOT_RIGHT, _DOT_END = en.DOT_LEFT, en.DOT_RIGHT, en.DOT_END
_APOSTROPHE = 0x2019
_ONE, _S8, _S54 = np.uint64(1), np.uint64(8), np.uint64(54)
_STEP = np.uint64(0x9E3779B97F4A7C15)
# ASCII characters that spaCy splits off a word: 1 at its beginning, 2 at its end.
_AFFIX = np.zeros(128, np.uint8)
_AFFIX[[ord(c) for c in "!\"#&'()*,:;<>?[]_`{}"]] = 3
_AFFIX[[ord(c) for c in "%=+$"]] = 1


@njit(**LEAN)
def _at(data, i, stop):  # type: ignore[no-untyped-def]
    """The code point that starts at byte i < stop and its width."""
    code = np.int64(data[i])
    if code < 128:
        return code, np.int64(1)
    return decode(data, i, stop)


@njit(**LEAN)
def _before(data, low, i):  # type: ignore[no-untyped-def]
    """The code point that ends at byte i > low and its width."""
    code = np.int64(data[i - 1])
    if code < 128:
        return code, np.int64(1)
    for width in range(2, 5):
        if i - width < low:
            break
        if np.int64(data[i - width]) & 0xC0 != 0x80:
            found, wide = decode(data, i - width, i)
            if wide == width:
                return found, wide
            break
    return np.int64(REPLACEMENT), np.int64(1)


@njit(**LEAN)
def word_key(data, i, stop):  # type: ignore[no-untyped-def]
    """data[i:stop] as a number, uint64; 0 where it is longer than `LONGEST_WHOLE` bytes."""
    key = np.uint64(0)
    if stop - i <= LONGEST_WHOLE:
        for k in range(i, stop):
            key = (key << _S8) | np.uint64(data[k])
    return key


@njit(**LEAN)
def _slot(key):  # type: ignore[no-untyped-def]
    return np.int64((key * _STEP) >> _S54)


@njit(cache=True, nogil=True)
def key_table(keys):  # type: ignore[no-untyped-def]
    """uint64 [_SLOTS], open addressing, of the keys uint64 [k], none of them 0, k < _SLOTS."""
    table = np.zeros(_SLOTS, np.uint64)
    for key in keys:
        slot = _slot(key)
        while table[slot] != 0 and table[slot] != key:
            slot = (slot + 1) % _SLOTS
        table[slot] = key
    return table


@njit(**LEAN)
def _listed(table, key):  # type: ignore[no-untyped-def]
    slot = _slot(key)
    while table[slot] != 0:
        if table[slot] == key:
            return key != 0
        slot = (slot + 1) % _SLOTS
    return False


@njit(**LEAN)
def _splits(code, f, side):  # type: ignore[no-untyped-def]
    """Whether spaCy splits this character off the beginning (side 1) or the end (side 2) of a word."""
    if code < 128:
        return _AFFIX[code] & side != 0
    return f & (_PREFIX if side == 1 else _SUFFIX) != 0


@njit(**LEAN)
def _period_splits(data, low, i, flags):  # type: ignore[no-untyped-def]
    """Whether a single "." at byte i is split off the end of the word data[low:i]."""
    if i <= low:
        return False
    code, width = _before(data, low, i)
    f = np.int64(flags[code])
    if f & _DOT_END != 0:
        return True
    if f & _UPPER == 0 or i - width <= low:
        return False
    earlier, _ = _before(data, low, i - width)
    return np.int64(flags[earlier]) & _UPPER != 0


@njit(**LEAN)
def _affix_token(code, f, sentences, seen):  # type: ignore[no-untyped-def]
    """One split-off character: it may end a sentence, be skipped as punctuation, or begin the next sentence."""
    if f & _TERMINAL != 0:
        return sentences, True
    if f & _PUNCTUATION == 0 and seen:
        return sentences + 1, False
    return sentences, seen


@njit(**LEAN)
def _chunk(data, a, b, flags, whole, sentences, seen):  # type: ignore[no-untyped-def]
    """The tokens of the word data[a:b], as far as they end or begin a sentence: (sentences so far, seen).

    `seen`: a sentence has ended and the next has not begun. `whole`: hashes of the words with a final period that are
    one token. Characters are split off at both ends as spaCy does, then the rest is looked at.
    """
    s, e = a, b
    one_token = False
    while s < e:
        if data[e - 1] == 46 and _listed(whole, word_key(data, s, e)):
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
        code, width = _at(data, s, e)
        if s + width == e and np.int64(flags[code]) & _TERMINAL != 0:
            seen = True
        else:
            visible, i = False, s
            while i < e and not visible:
                code, width = _at(data, i, e)
                visible = np.int64(flags[code]) & _PUNCTUATION == 0
                i += width
            if visible:
                sentences, seen = sentences + seen, False
                address, mail, lower_end, dots = one_token, False, False, 0
                for i in range(s, e):
                    c = data[i]
                    if c == 46:
                        dots += 1
                        lower_end = 97 <= data[i + 1] <= 122 if i + 1 < e else lower_end
                    elif c == 58:
                        address = address or (i + 2 < e and data[i + 1] == 47)
                    elif c == 64:
                        mail = True
                address = (
                    address or dots == 0 or (mail and lower_end)
                )  # spaCy knows top-level domains in lower case only
                if not address:
                    for i in range(s + 1, e - 1):
                        if data[i] == 46 and data[i - 1] != 46 and data[i + 1] != 46:
                            code, _ = _before(data, s, i)
                            after, _ = _at(data, i + 1, e)
                            if flags[code] & _DOT_LEFT != 0 and flags[after] & _DOT_RIGHT != 0:
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


@njit(**LEAN)
def _ends_letters(text, first, at, classes, flags, whole):  # type: ignore[no-untyped-def]
    """As `_chunk` for letters and numbers text[first:at] with a period behind: whether it ends a sentence."""
    if text[at - 1] >= 128 or (at - 1 > first and text[at - 2] >= 128):
        return _period_splits(text, first, at, flags) and not _listed(whole, word_key(text, first, at + 1))
    if classes[at - 1] & UPPER != 0 and (at - 1 == first or classes[at - 2] & UPPER == 0):
        return False
    return not _listed(whole, word_key(text, first, at + 1))


@njit(**LEAN)
def _is_plain(text, first, behind, classes):  # type: ignore[no-untyped-def]
    """Whether the word text[first:behind] begins and ends with a letter or number and has no period."""
    last = behind - 1
    while last > first and classes[last] & MORE != 0:
        last -= 1
    if classes[first] & classes[last] & LETTER == 0:
        return False
    i = first
    while i < behind and text[i] != 46:
        i += 1
    return i == behind


@njit(**LEAN)
def _between(text, classes, flags, i, end, keep_ends, sentences):  # type: ignore[no-untyped-def]
    """The sentences after those words of text[i:end] which can end none: (sentences so far, seen).

    Byte i is behind a word that ended a sentence; the next has not begun. At `end` a word begins, or the line ends.
    """
    while True:
        gap = i
        while i < end and classes[i] & SPACE != 0:
            i += 1
        if i == end and classes[i] & BREAK != 0:
            more = keep_ends and i > gap and (i - gap != 1 or text[gap] != 32)
            return sentences + (1 if more else 0), True
        if i - gap != 1 or text[gap] != 32:
            return sentences + 1, False  # more than one space is a token of its own
        if i == end:
            return sentences, True
        while i < end and classes[i] & SPACE == 0:
            code, width = _at(text, i, end)
            if np.int64(flags[code]) & _PUNCTUATION == 0:
                return sentences + 1, False
            i += width


@njit(**LEAN)
def _next_word(text, classes, flags, i, end, keep_ends, sentences):  # type: ignore[no-untyped-def]
    """As `_between`; most often a single space and a letter follow."""
    if i + 1 < end and text[i] == 32 and classes[i + 1] & LETTER != 0:
        return sentences + 1, False
    return _between(text, classes, flags, i, end, keep_ends, sentences)


@njit(**LEAN)
def _finished(text, classes, flags, done, end, keep_ends, sentences, seen):  # type: ignore[no-untyped-def]
    """The sentences of a line that ends at byte `end`, with what stands behind byte `done`."""
    if seen:
        sentences, _ = _next_word(text, classes, flags, done, end, keep_ends, sentences)
    return sentences


@njit(**LEAN)
def count_sentences(data, offsets, masks_of, first, ends, flags, whole, keep_ends, counts):  # type: ignore[no-untyped-def]
    """Fill counts int32 [m], the sentences of m lines, where a line has a Sentence_Terminal.

    data uint8, offsets int64 [n+1]; masks_of: what `line_masks` returns; first int64 [n+1], the first line of each text;
    ends int32 [m], where the line break begins, from the beginning of the text; flags: `sentence_flags`; whole:
    `key_table` of the words with a final period that are one token. keep_ends: white space at the end of a line counts.
    """
    all_classes, masks, places = masks_of
    for d in range(offsets.size - 1):
        text, classes = data[offsets[d] : offsets[d + 1]], all_classes[64 * places[d] : 64 * places[d + 1]]
        line = first[d] - 1
        done, end = 0, np.int64(-1)  # behind the last word looked at; where its line ends
        sentences, seen = 1, False
        for k in range(places[d], places[d + 1]):
            x = masks[R_TERMINAL, k]
            while x != 0:
                at = 64 * (k - places[d]) + low_zeros(x)
                x &= x - _ONE
                if at < done:
                    continue
                if at >= end:
                    if end >= 0:
                        counts[line] = _finished(text, classes, flags, done, end, keep_ends, sentences, seen)
                    sentences, seen = 1, False
                    while at >= end:
                        line += 1
                        end = np.int64(ends[line])
                begin, behind = at, at + 1
                while begin > done and classes[begin - 1] & LETTER != 0:
                    begin -= 1
                letters = at - begin
                while begin > done and classes[begin - 1] & SPACE == 0:
                    begin -= 1
                while classes[behind] & (SPACE | BREAK) == 0:
                    behind += 1
                if seen:
                    sentences, seen = _next_word(text, classes, flags, done, begin, False, sentences)
                done = behind
                if (
                    behind == at + 1 and letters == at - begin and letters > 0
                ):  # letters and one mark: most words
                    sentences += seen
                    seen = text[at] != 46 or _ends_letters(text, begin, at, classes, flags, whole)
                elif _is_plain(text, begin, behind, classes):
                    sentences += seen
                    seen = False
                else:
                    sentences, seen = _chunk(text, begin, behind, flags, whole, sentences, seen)
        if end >= 0:
            counts[line] = _finished(text, classes, flags, done, end, keep_ends, sentences, seen)
