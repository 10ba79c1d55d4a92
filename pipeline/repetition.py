"""How much a document repeats itself: lines, paragraphs and n-grams, after Gopher, in the arithmetic of three packages.

Rae et al. 2021 (arXiv 2112.11446), section A.1.1 and table A1, name the measures and leave the arithmetic open. Ours:

* duplicate items are those equal to an earlier one; repeated items are all that occur more than once, the first too.
* of n-grams of tokens (datatrove): the top one is the most frequent, of equally frequent ones the first, also where none
  occurs twice; the characters of all its occurrences count, with one joining space between tokens. Duplicated ones are
  read from the left: an n-gram already read adds the characters of its tokens and is skipped whole, any other is
  remembered and the reading moves one token on.
* of n-grams of words (Dolma): the top one as above without the spaces; of the longer ones, the characters of all
  occurrences of those that occur more than once, overlaps counted every time, against those of all n-grams.
* of n-grams of segments (DCLM): the top one only where it occurs twice, of equally frequent ones the one with most
  characters; of the longer ones, the characters of all segments that stand in one which occurs more than once.

Only n-grams whose two (n-1)-grams both repeat can repeat, so after the first orders almost nothing is left to count.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.measures import DUPLICATE_ORDERS, TOP_ORDERS, Needs
from mixloom.pipeline.words import Cuts

# The columns of `repetition`, in order.
_ITEMS = (
    "distinct_terms",
    "duplicate_lines",
    "duplicate_line_chars",
    "repeated_lines",
    "repeated_line_chars",
    "duplicate_pieces",
    "duplicate_piece_chars",
    "duplicate_visible_piece_chars",
    "repeated_pieces",
    "repeated_piece_chars",
    "duplicate_paragraphs",
    "duplicate_paragraph_chars",
    "repeated_paragraphs",
    "repeated_paragraph_chars",
    "middle_word_chars",
    "middle_words",
    "duplicate_5grams",
    "all_5grams",
)
REPEATS = (
    *_ITEMS,
    *(f"top_{n}gram_chars" for n in TOP_ORDERS),
    *(f"duplicated_{n}gram_chars" for n in DUPLICATE_ORDERS),
    *(f"top_{n}gram_word_chars" for n in TOP_ORDERS),
    *(f"repeated_{n}gram_word_chars" for n in DUPLICATE_ORDERS),
    *(f"top_{n}gram_segment_chars" for n in TOP_ORDERS),
    *(f"repeated_{n}gram_segment_chars" for n in DUPLICATE_ORDERS),
    *(f"all_{n}gram_word_chars" for n in DUPLICATE_ORDERS),
)

_FIRST, _LAST_TOP, _FIRST_LONG, _LAST = (
    TOP_ORDERS[0],
    TOP_ORDERS[-1],
    DUPLICATE_ORDERS[0],
    DUPLICATE_ORDERS[-1],
)
_TOKENS, _WORDS, _SEGMENTS = 0, 1, 2  # whose n-grams: the order of the columns above
_ORDERS = _LAST - _FIRST + 1
_GRAMS = len(_ITEMS)
_DENOMINATORS = _GRAMS + 3 * _ORDERS
_TERM_GRAM = 5
_LENGTHS = 256  # word lengths counted one by one for the median; longer ones are sorted
_GRAM = np.uint64(0xD6E8FEB86659FD93)
_NEAR = 1 << 17  # bytes that stay near the processor
_S32 = np.uint64(32)


@njit(**LEAN)
def _table_size(items):  # type: ignore[no-untyped-def]
    size = 16
    while size < 2 * items:
        size *= 2
    return size


@njit(**LEAN, inline="always")
def _slot(keys, counts, mask, key):  # type: ignore[no-untyped-def]
    """The place of `key` in an open-addressing table: where it is, or the empty place where it belongs."""
    at = np.int64(key & mask)
    while counts[at] != 0 and keys[at] != key:
        at = np.int64(np.uint64(at + 1) & mask)
    return at


@njit(**LEAN)
def _duplicates(hashes, chars, seen_chars, first, last, keys, counts):  # type: ignore[no-untyped-def]
    """Of the items first:last: how many equal an earlier one, and their characters; how many occur more than once,
    and theirs; the characters of the former where seen_chars is not 0."""
    size = _table_size(last - first)
    mask = np.uint64(size - 1)
    counts[:size] = 0
    extra, extra_chars, every, every_chars, seen = 0, 0, 0, 0, 0
    for i in range(first, last):
        at = _slot(keys, counts, mask, hashes[i])
        if counts[at] != 0:
            extra += 1
            extra_chars += chars[i]
            seen += chars[i] if seen_chars[i] != 0 else 0
            every += 3 - counts[at]  # the second occurrence brings the first along
            every_chars += chars[i] * (3 - counts[at])
            counts[at] = 2
        else:
            keys[at] = hashes[i]
            counts[at] = 1
    return extra, extra_chars, every, every_chars, seen


@njit(**LEAN)
def _distinct(hashes, first, last, keys):  # type: ignore[no-untyped-def]
    size = _table_size(last - first)
    mask = np.uint64(size - 1)
    keys[:size] = 0
    found, zero = 0, False
    for i in range(first, last):
        key = hashes[i]
        zero |= key == 0  # which is what an empty place holds
        at = np.int64(key & mask)
        while keys[at] != key and keys[at] != 0:
            at = np.int64(np.uint64(at + 1) & mask)
        found += keys[at] != key
        keys[at] = key
    return found + zero


@njit(cache=True, nogil=True)
def _middle(chars, first, last, lengths):  # type: ignore[no-untyped-def]
    """The two middle lengths of chars[first:last], which is not empty, added up; the middle one twice if odd."""
    n = last - first
    lengths[:] = 0
    for i in range(first, last):
        lengths[min(chars[i], _LENGTHS - 1)] += 1
    low, high = (n - 1) // 2, n // 2
    if n - lengths[_LENGTHS - 1] <= high:
        ordered = np.sort(chars[first:last])
        return np.int64(ordered[low]) + np.int64(ordered[high])
    total, before = 0, 0
    for length in range(_LENGTHS - 1):
        after = before + lengths[length]
        total += length * ((before <= low < after) + (before <= high < after))
        before = after
    return total


@njit(**LEAN)
def _marks_size(items):  # type: ignore[no-untyped-def]
    """How many marks to sift so many bigrams by: a power of two, the more the better while they stay in the cache."""
    places = _table_size(items)
    return max(2 * places, min(8 * places, _NEAR))


@njit(**LEAN)
def _likely_pairs(hashes, count, at, marks):  # type: ignore[no-untyped-def]
    """Fill `at` with the positions of all bigrams that occur twice, and of some that do not; how many.

    marks counts, up to two, by a few bits of the two hashes, without asking whose they are: most bigrams of a text occur
    once, and this costs them less than a table of their own.
    """
    size = _marks_size(count)
    mask = np.uint64(size - 1)
    marks[:size] = 0
    for i in range(count - 1):
        place = np.int64(((hashes[i] >> _S32) + hashes[i + 1]) & mask)
        marks[place] = min(marks[place] + 1, 2)
    kept = 0
    for i in range(count - 1):
        at[kept] = i
        kept += marks[np.int64(((hashes[i] >> _S32) + hashes[i + 1]) & mask)] == 2
    return kept


@njit(**LEAN)
def _repeated(grams, at, m, slots, keys, counts):  # type: ignore[no-untyped-def]
    """Keep of the m positions in `at` those whose gram occurs at least twice among them; how many, in place.

    slots[k] is the table place of the k-th kept position, where counts says how often its gram occurs.
    """
    size = _table_size(m)
    mask = np.uint64(size - 1)
    counts[:size] = 0
    for k in range(m):
        place = _slot(keys, counts, mask, grams[at[k]])
        keys[place] = grams[at[k]]
        counts[place] += 1
        slots[k] = place
    kept = 0
    for k in range(m):
        if counts[slots[k]] > 1:
            at[kept], slots[kept] = at[k], slots[k]
            kept += 1
    return kept


@njit(**LEAN)
def _top(sort, n, m, starts, at, slots, counts):  # type: ignore[no-untyped-def]
    """The characters of the top n-gram among m occurrences of repeated ones; 0 where there is none."""
    best, chars = 1, 0
    for k in range(m):
        times = counts[slots[k]]
        if times < best:
            continue
        length = starts[at[k] + n] - starts[at[k]]
        if sort == _TOKENS:
            length += n - 1
        if times > best or sort == _SEGMENTS:
            chars = length * times if times > best else max(chars, length * times)
            best = times
    return chars


@njit(**LEAN)
def _long(sort, n, m, starts, at, slots, counts):  # type: ignore[no-untyped-def]
    """The characters of repeated n-grams, of which there are m occurrences in order."""
    total, free = 0, 0
    for k in range(m):
        i = at[k]
        if sort == _WORDS:
            total += starts[i + n] - starts[i]
        elif sort == _SEGMENTS:
            total += starts[i + n] - starts[max(i, free)]
            free = i + n
        elif i >= free:
            if counts[slots[k]] < 0:
                total += starts[i + n] - starts[i]
                free = i + n
            else:
                counts[slots[k]] = -1  # read once
    return total


@njit(**LEAN)
def _ngram_measures(  # type: ignore[no-untyped-def]
    sort, last, tops, hashes, starts, count, row, grams, at, slots, keys, counts, marks
):
    """Fill row with the top and the repeated n-gram characters of one document of `count` items, for n up to `last`.

    hashes: uint64, of the items. starts: int64 [count+1], the characters of items before each item.
    """
    if sort != _SEGMENTS:  # the first n-gram is the top one where none repeats
        for n in range(_FIRST, min(_LAST_TOP, count) + 1):
            row[n - _FIRST] = starts[n] + (n - 1 if sort == _TOKENS else 0)
    candidates = _likely_pairs(hashes, count, at, marks)
    for k in range(candidates):
        grams[at[k]] = hashes[at[k]]
    for n in range(2, last + 1):
        if candidates == 0:
            return
        for k in range(candidates):
            i = at[k]
            g = (grams[i] ^ (grams[i] >> _S32)) * _GRAM + hashes[i + n - 1]
            g = (g ^ (g >> _S32)) * _GRAM
            grams[i] = g ^ (g >> _S32)
        m = _repeated(grams, at, candidates, slots, keys, counts)
        if n <= _LAST_TOP and not tops:
            pass
        elif n <= _LAST_TOP:
            chars = _top(sort, n, m, starts, at, slots, counts)
            if chars > 0:
                row[n - _FIRST] = chars
        else:
            row[n - _FIRST] = _long(sort, n, m, starts, at, slots, counts)
        candidates = 0
        for k in range(m - 1):
            i = at[k]
            at[candidates] = i
            candidates += at[k + 1] == i + 1


@njit(**LEAN)
def _visible(hashes, chars, first, last, kept, kept_chars):  # type: ignore[no-untyped-def]
    """Copy those of the items first:last that are not blank (chars 0) to `kept` and `kept_chars`; how many."""
    k = 0
    for i in range(first, last):
        kept[k], kept_chars[k] = hashes[i], chars[i]
        k += chars[i] != 0
    return k


@njit(**LEAN)
def _item_measures(  # type: ignore[no-untyped-def]
    row, first, last, empty, ends, piece_hashes, piece_chars, line_hashes, line_chars,
    first_para, last_para, block_hashes, block_chars, para_hashes, para_chars, keys, counts, kept, kept_chars,
):  # fmt: skip
    """Fill row[1:14] with what repeats among the pieces first:last and the paragraphs of one document.

    empty: lines that are empty, which are no pieces; ends: how many of them begin or end the text. keys, counts, kept
    and kept_chars are room to work in.
    """
    visible = _visible(line_hashes, line_chars, first, last, kept, kept_chars)
    row[1], row[2], row[3], row[4], _ = _duplicates(kept, kept_chars, kept_chars, 0, visible, keys, counts)
    blank = last - first - visible
    # Equal pieces are equal lines, so without those only blank pieces can be equal.
    if row[1] > 0 or blank > 1:
        row[5], row[6], row[8], row[9], row[7] = _duplicates(
            piece_hashes, piece_chars, line_chars, first, last, keys, counts
        )
    row[5] += ends == 2
    row[8] += empty if empty > 1 else 0
    visible = _visible(para_hashes, para_chars, first_para, last_para, kept, kept_chars)
    _, _, row[12], row[13], _ = _duplicates(kept, kept_chars, kept_chars, 0, visible, keys, counts)
    if row[12] > 0 or last_para - first_para - visible > 1:
        row[10], row[11], _, _, _ = _duplicates(
            block_hashes, block_chars, block_chars, first_para, last_para, keys, counts
        )


@njit(**LEAN)
def _widest(offsets):  # type: ignore[no-untyped-def]
    most = 0
    for i in range(offsets.size - 1):
        most = max(most, offsets[i + 1] - offsets[i])
    return most


@njit(**LEAN)
def _hash_grams(hashes, first, last, grams):  # type: ignore[no-untyped-def]
    """Hash every 5-gram of hashes[first:last] into `grams`; returns how many. Term by term over all, which is faster."""
    count = max(0, last - first - _TERM_GRAM + 1)
    grams[:count] = 0
    for k in range(_TERM_GRAM):
        part = hashes[first + k : first + k + count]
        for i in range(count):
            grams[i] = (grams[i] ^ (grams[i] >> _S32)) * _GRAM + part[i]
    for i in range(count):
        grams[i] ^= grams[i] >> _S32
    return count


@njit(**LEAN)
def _copies(grams, count, keys, marks):  # type: ignore[no-untyped-def]
    """How many of the first `count` grams equal an earlier one; overwrites them.

    Most grams of a text occur once: those that share no mark with another need no place in a table (see `_likely_pairs`).
    """
    mask = np.uint64(_marks_size(count) - 1)
    marks[: np.int64(mask) + 1] = 0
    for i in range(count):
        place = np.int64(grams[i] & mask)
        marks[place] = min(marks[place] + 1, 2)
    kept = 0
    for i in range(count):
        gram = grams[i]
        grams[kept] = gram
        kept += marks[np.int64(gram & mask)] == 2
    return kept - _distinct(grams, 0, kept, keys)


@njit(cache=True, nogil=True)
def _repeated_items(  # type: ignore[no-untyped-def]
    out, distinct, term_grams, middle, items, term_offsets, term_hashes, word_offsets, word_chars, empty, ends,
    piece_offsets, piece_hashes, piece_chars, line_hashes, line_chars,
    para_offsets, block_hashes, block_chars, para_hashes, para_chars,
):  # fmt: skip
    """Fill the first columns of out, int64 [n, len(REPEATS)]: all that is no n-gram."""
    size = _table_size(max(_widest(term_offsets), _widest(piece_offsets), _widest(para_offsets)))
    keys, counts = np.empty(size, np.uint64), np.zeros(size, np.int32)
    kept, kept_chars = np.empty(size, np.uint64), np.empty(size, np.int32)
    lengths = np.empty(_LENGTHS, np.int64)
    most = _widest(term_offsets) if term_grams else 0
    grams, marks = np.empty(most, np.uint64), np.empty(_marks_size(most), np.uint8)
    for d in range(out.shape[0]):
        row = out[d]
        if term_grams:
            row[17] = _hash_grams(term_hashes, term_offsets[d], term_offsets[d + 1], grams)
            row[16] = _copies(grams, row[17], keys, marks)
        if distinct:
            row[0] = _distinct(term_hashes, term_offsets[d], term_offsets[d + 1], keys)
        if items:
            _item_measures(
                row, piece_offsets[d], piece_offsets[d + 1], empty[d], ends[d], piece_hashes, piece_chars, line_hashes,
                line_chars, para_offsets[d], para_offsets[d + 1], block_hashes, block_chars, para_hashes, para_chars,
                keys, counts, kept, kept_chars,
            )  # fmt: skip
        if middle and word_offsets[d + 1] > word_offsets[d]:
            row[14] = _middle(word_chars, word_offsets[d], word_offsets[d + 1], lengths)
            row[15] = 2


@njit(cache=True, nogil=True)
def _repeated_ngrams(sort, last, tops, offsets, hashes, chars, out):  # type: ignore[no-untyped-def]
    """Fill the columns of out, int64 [n, len(REPEATS)], that are n-grams of these items, for n up to `last`."""
    most = _widest(offsets)
    keys, counts = np.empty(_table_size(most), np.uint64), np.zeros(_table_size(most), np.int32)
    grams, at = np.empty(most, np.uint64), np.empty(most, np.int32)
    slots, starts = np.empty(most, np.int32), np.zeros(most + 1, np.int64)
    marks = np.empty(_marks_size(most), np.uint8)
    column = _GRAMS + sort * _ORDERS
    for d in range(out.shape[0]):
        first, count = offsets[d], offsets[d + 1] - offsets[d]
        for k in range(count):
            starts[k + 1] = starts[k] + chars[first + k]
        row = out[d, column : column + _ORDERS]
        _ngram_measures(
            sort,
            last,
            tops,
            hashes[first : first + count],
            starts,
            count,
            row,
            grams,
            at,
            slots,
            keys,
            counts,
            marks,
        )
        if sort == _WORDS:
            for n in range(_FIRST_LONG, min(_LAST, count) + 1):
                total = 0
                for k in range(n):
                    total += starts[count - k] - starts[k]
                out[d, _DENOMINATORS + n - _FIRST_LONG] = total


def repetition(cuts: Cuts, wanted: Needs | None = None) -> NDArray[np.int64]:
    """Count what repeats in each of n documents: int64 [n, len(REPEATS)], columns as `REPEATS` names them.

    wanted: what is needed (by default all). The columns of what is not are 0, or what they are for a text without any
    repetition.
    """
    need = Needs() if wanted is None else wanted
    out = np.zeros((len(cuts.counts), len(REPEATS)), np.int64)
    c, p = cuts.chunks, cuts.layout
    empty = cuts.count("all_lines") - np.diff(p.piece_offsets)
    _repeated_items(
        out, need.distinct, need.term_grams, need.middle, need.items,
        cuts.term_offsets, cuts.term_hashes, c.word_offsets, c.word_chars, empty, cuts.count("empty_ends"),
        p.piece_offsets, p.piece_hashes, p.piece_chars, p.line_hashes, p.line_chars,
        p.paragraph_offsets, p.block_hashes, p.block_chars, p.paragraph_hashes, p.paragraph_chars,
    )  # fmt: skip
    for sort, last, offsets, hashes, chars in (
        (_TOKENS, need.token_order, c.token_offsets, c.token_hashes, c.token_chars),
        (_WORDS, need.word_order, c.word_offsets, c.word_hashes, c.word_chars),
        (_SEGMENTS, need.segment_order, c.segment_offsets, c.segment_hashes, c.segment_chars),
    ):
        if last:
            _repeated_ngrams(sort, last, need.tops, offsets, hashes, chars, out)
    return out
