"""The compiled kernel that cuts documents; `mixloom.pipeline.words` says what the cuts are and calls it.

Every function it calls is in this file: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline import characters as ch

# The columns of `words.Cuts.counts`, in the order the kernel writes them.
COUNTS = (
    "bytes",
    "chars",
    "newlines",
    "upper",
    "digit",
    "punctuation",
    "symbol",
    "space",
    "non_ascii",
    "alpha",
    "replacement",
    "control",
    "repeated",
    "hashes",
    "ellipses",
    "words",
    "word_chars",
    "alpha_words",
    "max_word_chars",
    "terms",
    "term_chars",
    "tokens",
    "alpha_tokens",
    "latin_terms",
    "odd_terms",
    "stop_words_distinct",
    "stop_words",
    "lines",
    "bullet_lines",
    "ellipsis_lines",
    "terminal_lines",
    "short_lines",
    "max_line_chars",
    "paragraphs",
    "latin_letters",
    "vowels",
    "word_tokens",
    "word_token_chars",
    "terminal_line_ends",
)
_WIDTH = len(COUNTS)

_ALPHA, _MARK, _NUMBER, _SPACE = ch.ALPHA, ch.MARK, ch.NUMBER, ch.SPACE
_DIGIT, _UPPER, _PUNCTUATION, _SYMBOL = ch.DIGIT, ch.UPPER, ch.PUNCTUATION, ch.SYMBOL
_UNSPACED, _TERMINAL, _CONTROL, _FORMAT = ch.UNSPACED, ch.TERMINAL, ch.CONTROL, ch.FORMAT
_LATIN, _VOWEL = ch.LATIN, ch.VOWEL
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_START = np.uint64(0x243F6A8885A308D3)
_S27, _S29, _S30, _S31 = np.uint64(27), np.uint64(29), np.uint64(30), np.uint64(31)
# What is open: nothing; letters; one character of an unspaced script; other characters; an address.
_NONE, _LETTERS, _LONE, _OTHER, _ADDRESS = 0, 1, 2, 3, 4
_JOIN, _START_NEW, _OPEN_ADDRESS = 1, 2, 3
_ELLIPSIS, _BULLET, _REPLACEMENT, _APOSTROPHE = 0x2026, 0x2022, 0xFFFD, 0x2019


@njit(cache=True, nogil=True, inline="always")
def _mix(h):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    h = (h ^ (h >> _S30)) * _MIX1
    h = (h ^ (h >> _S27)) * _MIX2
    return h ^ (h >> _S31)


@njit(cache=True, nogil=True, inline="always")
def _step(h, code):  # type: ignore[no-untyped-def]
    h = (h ^ np.uint64(code)) * _STEP
    return h ^ (h >> _S29)


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
def _joint(data, i, stop, flags, previous, code, initial):  # type: ignore[no-untyped-def]
    """What a character other than a letter does to the token of letters or numbers just before it.

    data[i] begins the next character, `previous` and `code` are the code points before it and of it. Joins the token
    to the next letter or number: "_", "@" and "&"; "." unless between lower and upper case; ",", ":", "/" and "-"
    before a number (but "-" not after one). An apostrophe before a letter starts a new token. "://" opens an address.
    A "." after an `initial` (a letter that stands alone, as the J of "J." and the g of "e.g.") belongs to it.
    """
    if code == 46 and initial:
        return _JOIN
    if i >= stop:
        return 0
    if code == 58 and i + 1 < stop and data[i] == 47 and data[i + 1] == 47:
        return _OPEN_ADDRESS
    following = np.int64(data[i])
    if following >= 128:
        following, _ = _decode(data, i, stop)
    before, after = np.int64(flags[previous]), np.int64(flags[following])
    if after & (_ALPHA | _NUMBER) == 0 or after & _UNSPACED != 0:
        return 0
    if code == 95 or code == 64 or code == 38:  # _ @ &
        return _JOIN
    if code == 46:
        sentence_end = before & _ALPHA != 0 and before & _UPPER == 0 and after & _UPPER != 0
        return 0 if sentence_end else _JOIN
    if code == 44 or code == 58 or code == 47 or code == 45:  # , : / -
        between = code == 45 and before & _NUMBER != 0
        return _JOIN if after & _NUMBER != 0 and not between else 0
    if code == 39 or code == _APOSTROPHE:
        return _START_NEW if after & _ALPHA != 0 else 0
    return 0


@njit(cache=True, nogil=True)
def _ends_address(code):  # type: ignore[no-untyped-def]
    """Whether this is one of < > " ( ) [ ] { }."""
    return code in (60, 62, 34, 40, 41, 91, 93, 123, 125)


@njit(cache=True, nogil=True)
def _is_prefix(code):  # type: ignore[no-untyped-def]
    r"""Whether this is one of - . / @ \ ^ | ~."""
    return code in (45, 46, 47, 64, 92, 94, 124, 126)


@njit(cache=True, nogil=True)
def _reserve(a, used, more):  # type: ignore[no-untyped-def]
    """`a` with room for `more` items after the first `used` (memory that is never touched costs nothing)."""
    if used + more <= a.size:
        return a
    bigger = np.empty(max(2 * a.size, used + more), a.dtype)
    bigger[:used] = a[:used]
    return bigger


@njit(cache=True, nogil=True)
def _cut_document(  # type: ignore[no-untyped-def]
    data, i, stop, flags, lower, stop_words, short_line, row, used,
    token_hashes, token_chars, term_hashes, line_hashes, line_chars, para_hashes, para_chars,
):  # fmt: skip
    """Cut data[i:stop]: fill `row` with the counts and append the items behind the `used` ones of each array.

    It is one long loop because every cut reads the same character. Returns how many tokens, terms, lines and
    paragraphs are used now.
    """
    tokens, terms, lines, paras = used
    row[0] = stop - i
    chars, newlines, upper, digit, punct, symbol, space = 0, 0, 0, 0, 0, 0, 0
    non_ascii, alpha, replacement, control, repeated, hashes, ellipses = 0, 0, 0, 0, 0, 0, 0
    words, word_total, alpha_words, max_word = 0, 0, 0, 0
    term_total, alpha_tokens, latin_terms, odd_terms, stop_count = 0, 0, 0, 0, 0
    stop_seen = np.uint64(0)
    bullets, ellipsis_lines, terminal_lines, short_lines, max_line = 0, 0, 0, 0, 0
    first_token, first_term, first_line, first_para = tokens, terms, lines, paras

    latin_letters, all_vowels = 0, 0
    nothing = np.int64(0)
    previous, dots_left, dot_run = np.int64(10), 0, 0
    word, word_alpha = 0, nothing
    term, term_h, term_len, folded = _NONE, _START, 0, False
    kind, token_h, token_len, token_alpha, previous_letter = _NONE, _START, 0, nothing, False
    prefix, segment = False, 0
    word_tokens, word_token_total, terminal_line_ends = 0, 0, 0
    plain, letters, vowels, consonants, worst, changes, case = True, 0, 0, 0, 0, 0, nothing
    line_h, line_len, line_end_h, line_end = _START, 0, _START, 0
    line_first, line_last, line_dots = nothing, nothing, 0
    para_h, para_len, para_end_h, para_end = _START, 0, _START, 0

    while True:
        # A sentinel newline after the last byte closes whatever is open, and is not counted itself.
        at_end = i >= stop
        if at_end:
            code = np.int64(10)
        else:
            code = np.int64(data[i])
            width = np.int64(1)
            if code >= 128:
                code, width = _decode(data, i, stop)
                non_ascii += 1
            i += width
        f = np.int64(flags[code])
        is_space = f & _SPACE != 0
        letter = f & (_ALPHA | _NUMBER) != 0
        marks = f & _MARK != 0

        if not at_end:
            chars += 1
            upper += (f & _UPPER) != 0
            digit += (f & _DIGIT) != 0
            punct += (f & _PUNCTUATION) != 0
            symbol += (f & _SYMBOL) != 0
            space += is_space
            alpha += (f & (_ALPHA | _MARK)) != 0
            control += (f & _CONTROL) != 0
            replacement += code == _REPLACEMENT
            repeated += code == previous and not is_space
            hashes += code == 35
            if code == 46:
                dots_left += 1
                dot_run = dot_run + 1 if previous == 46 else 1
                if dots_left == 3:
                    ellipses += 1
                    dots_left = 0
            else:
                dots_left = 0
                ellipses += code == _ELLIPSIS

        # Words.
        if is_space:
            if word > 0:
                words += 1
                word_total += word
                alpha_words += word_alpha != 0
                max_word = max(max_word, word)
                word, word_alpha = 0, nothing
        else:
            word += 1
            word_alpha |= f & _ALPHA

        # Terms. Does this character extend the open term? If not, that one is complete.
        visible = f & _FORMAT == 0
        if visible and not (marks and term == _NONE):
            if not (marks or (letter and term == _LETTERS and f & _UNSPACED == 0)):
                if term != _NONE:
                    low = _mix(term_h)
                    term_hashes[terms] = low
                    terms += 1
                    term_total += term_len
                    for s in range(stop_words.size):
                        if stop_words[s] == low:
                            stop_count += 1
                            if not folded:
                                stop_seen |= np.uint64(1) << np.uint64(s)
                    latin_letters += letters
                    all_vowels += vowels
                    if plain and letters > 0 and term_len >= 4:
                        latin_terms += 1
                        unspeakable = (vowels == 0 and letters >= 4) or max(worst, consonants) >= 5
                        odd_terms += unspeakable or 2 * changes >= term_len
                term = _NONE
                if letter:
                    term = _LETTERS if f & _UNSPACED == 0 else _LONE
                    term_h, term_len, folded = _START, 0, False
                    plain, letters, vowels, consonants, worst, changes, case = True, 0, 0, 0, 0, 0, nothing
            if term != _NONE:
                folded_code = np.int64(lower[code]) if code < lower.size else code
                term_h = _step(term_h, folded_code)
                term_len += 1
                folded = folded or folded_code != code
                # Latin letters and digits: how pronounceable, and how often it changes between cases and digits.
                if f & (_LATIN | _DIGIT) != 0:
                    now = f & (_DIGIT | _UPPER) | _LATIN
                    changes += term_len > 1 and now != case
                    case = now
                    letters += f & _LATIN != 0
                    if f & _LATIN != 0 and f & _VOWEL == 0:
                        consonants += 1
                    else:
                        vowels += f & _VOWEL != 0
                        worst = max(worst, consonants)
                        consonants = 0
                else:
                    plain = plain and marks

        # Tokens.
        if visible and not (marks and kind in (_NONE, _OTHER)):
            becomes = _LETTERS if letter else (_NONE if is_space else _OTHER)
            if kind == _ADDRESS:
                extends = not is_space and not _ends_address(code)
                becomes = _ADDRESS if extends else becomes
            elif marks:
                extends = True
                becomes = kind
            elif letter:
                extends = f & _UNSPACED == 0 and (
                    kind == _LETTERS or (kind == _OTHER and prefix and token_len == 1)
                )
                becomes = _LETTERS if f & _UNSPACED == 0 else _LONE
            else:
                extends = kind == _OTHER and code == previous and (code == 46 or code == 45)
                if kind == _LETTERS and not is_space and previous_letter:
                    initial = segment == 1 and np.int64(flags[previous]) & _ALPHA != 0
                    joint = _joint(data, i, stop, flags, previous, code, initial)
                    extends = joint in (_JOIN, _OPEN_ADDRESS)
                    if joint != 0:
                        becomes = _ADDRESS if joint == _OPEN_ADDRESS else _LETTERS
            if not extends:
                if kind != _NONE:
                    token_hashes[tokens] = _mix(token_h)
                    token_chars[tokens] = token_len
                    tokens += 1
                    alpha_tokens += token_alpha != 0
                    if kind != _OTHER:
                        word_tokens += 1
                        word_token_total += token_len
                # A sign that spaCy leaves on the word it stands before, unless it stands between two words.
                prefix = _is_prefix(code) and not previous_letter
                token_h, token_len, token_alpha, segment = _START, 0, nothing, 0
            kind = becomes
            if kind != _NONE:
                token_h = _step(token_h, code)
                token_len += 1
                if letter or marks:
                    segment += 1
                else:
                    segment = 0 if code == 46 else 2
                token_alpha |= f & _ALPHA

        # Lines and paragraphs.
        if code == 10:
            newlines += not at_end
            if line_end > 0:
                line_hashes[lines] = _mix(line_end_h)
                line_chars[lines] = line_end
                lines += 1
                bullets += line_first == _BULLET or line_first == 45
                ellipsis_lines += line_last == _ELLIPSIS or (line_last == 46 and line_dots >= 3)
                terminal_lines += (np.int64(flags[line_last]) & _TERMINAL) != 0
                terminal_line_ends += (np.int64(flags[previous]) & _TERMINAL) != 0
                short_lines += line_end <= short_line
                max_line = max(max_line, line_end)
            if para_end > 0 and (at_end or line_end == 0):
                para_hashes[paras] = _mix(para_end_h)
                para_chars[paras] = para_end
                paras += 1
                para_h, para_len, para_end_h, para_end = _START, 0, _START, 0
            elif para_end > 0:
                para_h = _step(para_h, code)
                para_len += 1
            line_h, line_len, line_end_h, line_end = _START, 0, _START, 0
        elif not is_space or line_end > 0 or para_end > 0:
            para_h = _step(para_h, code)
            para_len += 1
            if not is_space or line_end > 0:
                line_h = _step(line_h, code)
                line_len += 1
            if not is_space:
                if line_end == 0:
                    line_first = code
                para_end_h, para_end = para_h, para_len
                line_end_h, line_end = line_h, line_len
                line_last, line_dots = code, dot_run
        previous, previous_letter = code, letter or marks
        if at_end:
            break

    row[1], row[2], row[3], row[4], row[5], row[6], row[7] = (
        chars,
        newlines,
        upper,
        digit,
        punct,
        symbol,
        space,
    )
    row[8], row[9], row[10], row[11], row[12] = non_ascii, alpha, replacement, control, repeated
    row[13], row[14], row[15], row[16], row[17], row[18] = (
        hashes,
        ellipses,
        words,
        word_total,
        alpha_words,
        max_word,
    )
    row[19], row[20], row[21], row[22] = terms - first_term, term_total, tokens - first_token, alpha_tokens
    row[23], row[24], row[26] = latin_terms, odd_terms, stop_count
    while stop_seen != np.uint64(0):
        row[25] += np.int64(stop_seen & np.uint64(1))
        stop_seen >>= np.uint64(1)
    row[27], row[28], row[29], row[30] = lines - first_line, bullets, ellipsis_lines, terminal_lines
    row[31], row[32], row[33] = short_lines, max_line, paras - first_para
    row[34], row[35] = latin_letters, all_vowels
    row[36], row[37], row[38] = word_tokens, word_token_total, terminal_line_ends
    return tokens, terms, lines, paras


@njit(cache=True, nogil=True)
def cut_kernel(data, offsets, flags, lower, stop_words, short_line):  # type: ignore[no-untyped-def]
    """The kernel behind `cut`.

    data uint8, offsets int64 [n+1], flags uint16 [0x110000], lower int32, stop_cased and stop_lower uint64
    [k <= 64], short_line in characters. Returns the fields of `Cuts` in order.
    """
    n = offsets.size - 1
    counts = np.zeros((n, _WIDTH), np.int64)
    ends = np.zeros((4, n + 1), np.int64)  # offsets of tokens, terms, lines, paragraphs
    token_hashes, token_chars = np.empty(0, np.uint64), np.empty(0, np.int32)
    term_hashes = np.empty(0, np.uint64)
    line_hashes, line_chars = np.empty(0, np.uint64), np.empty(0, np.int32)
    para_hashes, para_chars = np.empty(0, np.uint64), np.empty(0, np.int32)
    used = (0, 0, 0, 0)
    for d in range(n):
        start, stop = offsets[d], offsets[d + 1]
        most = stop - start + 1  # a document of k bytes has at most k tokens and (k + 1) / 2 lines
        token_hashes, token_chars = (
            _reserve(token_hashes, used[0], most),
            _reserve(token_chars, used[0], most),
        )
        term_hashes = _reserve(term_hashes, used[1], most)
        line_hashes, line_chars = _reserve(line_hashes, used[2], most), _reserve(line_chars, used[2], most)
        para_hashes, para_chars = _reserve(para_hashes, used[3], most), _reserve(para_chars, used[3], most)
        used = _cut_document(
            data, start, stop, flags, lower, stop_words, short_line, counts[d], used,
            token_hashes, token_chars, term_hashes, line_hashes, line_chars, para_hashes, para_chars,
        )  # fmt: skip
        for k in range(4):
            ends[k, d + 1] = used[k]
    return (
        counts,
        ends[0],
        token_hashes[: used[0]].copy(),
        token_chars[: used[0]].copy(),
        ends[1],
        term_hashes[: used[1]].copy(),
        ends[2],
        line_hashes[: used[2]].copy(),
        line_chars[: used[2]].copy(),
        ends[3],
        para_hashes[: used[3]].copy(),
        para_chars[: used[3]].copy(),
    )
