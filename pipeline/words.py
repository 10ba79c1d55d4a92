"""Cut documents into words, tokens, terms, lines and paragraphs, once, in compiled code over the raw UTF-8 bytes.

Five cuts, each declared exactly; every measure, rule, shingle and signature uses these and no others:

* word: a maximal run of characters that are not white space (as `str.split`).
* term: a maximal run of letters, numbers and the combining marks after them (Unicode categories L, N, M). A
  letter or number of a script written without spaces (Han, Kana, Thai, Lao, Khmer, Myanmar) is a term of its
  own, with its marks. Terms are compared in lower case.
* token: a term, or a maximal run of one other visible character ("..." is one token, "?!" are two). Tokens
  are compared as they stand. Format characters (Cf) and marks without a letter are invisible to terms and tokens.
* line: what stands between two "\\n", without the white space at its ends; empty lines do not count.
* paragraph: a maximal run of lines with no empty line between them, from its first to its last visible character.

Strings are compared by 64-bit hashes. Bytes that are no valid UTF-8 count as one U+FFFD each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch
from mixloom.pipeline.annotate_config import check_stop_words

# The columns of `Cuts.counts`, in the order the kernel writes them.
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
_NO_TOKEN, _TERM, _LONE_TERM, _RUN = (
    0,
    1,
    2,
    3,
)  # what token is open: none, a term, an unspaced character, a run
_ELLIPSIS, _BULLET, _REPLACEMENT = 0x2026, 0x2022, 0xFFFD


@dataclass(frozen=True, slots=True)
class Cuts:
    """The cuts of n documents. Document i owns the items offsets[i]:offsets[i+1] of each kind.

    counts: int64 [n, len(COUNTS)]. *_offsets: int64 [n+1]. *_hashes: uint64, one per item. *_chars: int32,
    length in characters (code points). A token hash is over the token as it stands, a term hash over lower case.
    """

    counts: NDArray[np.int64]
    token_offsets: NDArray[np.int64]
    token_hashes: NDArray[np.uint64]
    token_chars: NDArray[np.int32]
    term_offsets: NDArray[np.int64]
    term_hashes: NDArray[np.uint64]
    line_offsets: NDArray[np.int64]
    line_hashes: NDArray[np.uint64]
    line_chars: NDArray[np.int32]
    paragraph_offsets: NDArray[np.int64]
    paragraph_hashes: NDArray[np.uint64]
    paragraph_chars: NDArray[np.int32]

    def count(self, name: str) -> NDArray[np.int64]:
        """One column of `counts`, int64 [n]."""
        return self.counts[:, COUNTS.index(name)]


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
def _reserve(a, used, more):  # type: ignore[no-untyped-def]
    """`a` with room for `more` items after the first `used` (memory that is never touched costs nothing)."""
    if used + more <= a.size:
        return a
    bigger = np.empty(max(2 * a.size, used + more), a.dtype)
    bigger[:used] = a[:used]
    return bigger


@njit(cache=True, nogil=True)
def _cut_document(  # type: ignore[no-untyped-def]
    data, i, stop, flags, lower, stop_cased, stop_lower, short_line, row, used,
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
    previous, dots_left, dot_run = nothing, 0, 0
    word, word_alpha = 0, nothing
    kind, tok_h, low_h, tok_len, tok_code, tok_flags = _NO_TOKEN, _START, _START, 0, nothing, nothing
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

        # Tokens and terms. Does this character extend the open token? If not, close that one first.
        invisible = (f & _FORMAT) != 0 or (marks and kind != _TERM and kind != _LONE_TERM)
        if not invisible:
            if letter:
                extends = kind == _TERM and f & _UNSPACED == 0
            elif marks:
                extends = True
            else:
                extends = kind == _RUN and code == tok_code
            if not extends:
                if kind != _NO_TOKEN:
                    token_hashes[tokens] = _mix(tok_h)
                    token_chars[tokens] = tok_len
                    tokens += 1
                    alpha_tokens += tok_flags & _ALPHA != 0
                    if kind != _RUN:
                        low = _mix(low_h)
                        term_hashes[terms] = low
                        terms += 1
                        term_total += tok_len
                        cased = _mix(tok_h)
                        for s in range(stop_cased.size):
                            if stop_cased[s] == cased:
                                stop_seen |= np.uint64(1) << np.uint64(s)
                        for s in range(stop_lower.size):
                            stop_count += stop_lower[s] == low
                        latin_letters += letters
                        all_vowels += vowels
                        if plain and letters > 0 and tok_len >= 4:
                            latin_terms += 1
                            unspeakable = (vowels == 0 and letters >= 4) or max(worst, consonants) >= 5
                            odd_terms += unspeakable or 2 * changes >= tok_len
                if letter:
                    kind = _LONE_TERM if f & _UNSPACED != 0 else _TERM
                else:
                    kind = _NO_TOKEN if is_space else _RUN
                tok_h, low_h, tok_len, tok_code, tok_flags = _START, _START, 0, code, nothing
                plain, letters, vowels, consonants, worst, changes, case = True, 0, 0, 0, 0, 0, nothing
            if kind != _NO_TOKEN:
                tok_h = _step(tok_h, code)
                low_h = _step(low_h, np.int64(lower[code]) if code < lower.size else code)
                tok_len += 1
                tok_flags |= f
                # Latin letters and digits: how pronounceable, and how often it changes between cases and digits.
                if f & (_LATIN | _DIGIT) != 0:
                    now = f & (_DIGIT | _UPPER) | _LATIN
                    changes += tok_len > 1 and now != case
                    case = now
                    if f & _LATIN == 0:
                        worst = max(worst, consonants)
                        consonants = 0
                    else:
                        letters += 1
                        if f & _VOWEL != 0:
                            vowels += 1
                            worst = max(worst, consonants)
                            consonants = 0
                        else:
                            consonants += 1
                else:
                    plain = plain and marks

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
        previous = code
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
    return tokens, terms, lines, paras


@njit(cache=True, nogil=True)
def _cut(data, offsets, flags, lower, stop_cased, stop_lower, short_line):  # type: ignore[no-untyped-def]
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
            data, start, stop, flags, lower, stop_cased, stop_lower, short_line, counts[d], used,
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


def utf8_buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of a string or large_string array and its offsets into them (int64 [n+1]); null reads as "".

    Slices are honoured and the bytes are not copied. Raises TypeError for any other Arrow type.
    """
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise TypeError(f"expected an Arrow string or large_string array, got {texts.type}")
    if texts.null_count:
        texts = texts.fill_null("")
    _, offsets, data = texts.buffers()
    kind = np.int32 if pa.types.is_string(texts.type) else np.int64
    if len(texts) == 0 or offsets is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    bounds = np.frombuffer(offsets, dtype=kind)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    raw = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8)
    return raw, bounds


def _run(texts: pa.Array, cased: Any, lower: Any, short_line_chars: int) -> Cuts:
    data, offsets = utf8_buffers(texts)
    out = _cut(data, offsets, ch.character_flags(), ch.lower_table(), cased, lower, short_line_chars)
    return Cuts(*out)


def cut(texts: pa.Array, *, stop_words: Sequence[str] = (), short_line_chars: int = 30) -> Cuts:
    """Cut every document of a string or large_string array of n rows once; a null is an empty document.

    Args:
        texts: Arrow string or large_string array [n].
        stop_words: at most 64 words to count, each one term.
        short_line_chars: a line of at most so many characters is short.

    Raises:
        UserError: more than 64 stop words, or one that is not a single term.
        TypeError: `texts` holds no strings.
    """
    check_stop_words(stop_words)
    nothing = np.zeros(0, np.uint64)
    listed = _run(pa.array(list(stop_words), pa.large_string()), nothing, nothing, short_line_chars)
    return _run(texts, np.unique(listed.token_hashes), np.unique(listed.term_hashes), short_line_chars)
