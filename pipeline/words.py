"""Cut documents, once, in compiled code over the raw UTF-8 bytes; every measure and signature uses these cuts.

* word, token, segment: see `chunks`. line, paragraph: see `layout`.
* term: a maximal run of letters, numbers and the combining marks after them (Unicode categories L, N, M). A
  letter or number of a script written without spaces (Han, Kana, Thai, Lao, Khmer, Myanmar and others) is a term
  of its own, with its marks. Terms are compared in lower case. Format characters (Cf) and marks without a letter
  are invisible to them.

Strings are compared by 64-bit hashes. Bytes that are no valid UTF-8 count as one U+FFFD each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch
from mixloom.pipeline.annotate_config import check_stop_words
from mixloom.pipeline.byte_masks import BYTE_COUNTS, ByteMasks, byte_masks
from mixloom.pipeline.chunk_kernel import CHUNK_COUNTS
from mixloom.pipeline.chunks import Chunks, cut_chunks, no_chunks
from mixloom.pipeline.count_kernel import TERM_COUNTS, count_kernel
from mixloom.pipeline.cut_kernel import cut_kernel
from mixloom.pipeline.layout import Layout, cut_layout, no_layout
from mixloom.pipeline.layout_kernel import LAYOUT_COUNTS
from mixloom.pipeline.utf8 import utf8_buffers

__all__ = ["COUNTS", "Cuts", "TermCuts", "cut", "cut_terms", "utf8_buffers"]

COUNTS = (*TERM_COUNTS, *CHUNK_COUNTS, *LAYOUT_COUNTS)  # the columns of `Cuts.counts`


@dataclass(frozen=True, slots=True)
class TermCuts:
    """The terms of n documents. Document i owns the terms term_offsets[i]:term_offsets[i+1].

    counts: int64 [n, len(TERM_COUNTS)]. term_offsets: int64 [n+1]. term_hashes: uint64, of the term in lower case.
    """

    counts: NDArray[np.int64]
    term_offsets: NDArray[np.int64]
    term_hashes: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Cuts:
    """Every cut of n documents. counts: int64 [n, len(COUNTS)]; terms as in `TermCuts`."""

    counts: NDArray[np.int64]
    term_offsets: NDArray[np.int64]
    term_hashes: NDArray[np.uint64]
    chunks: Chunks
    layout: Layout

    def count(self, name: str) -> NDArray[np.int64]:
        """One column of `counts`, int64 [n]."""
        return self.counts[:, COUNTS.index(name)]


def _run(
    texts: pa.Array, stop_words: NDArray[np.uint64], terms: bool = True, masks: ByteMasks | None = None
) -> TermCuts:
    data, offsets = utf8_buffers(texts)
    masks = byte_masks(data, offsets) if masks is None else masks
    flags = ch.character_flags()
    counts = count_kernel(data, offsets, *masks, flags, not terms)
    bounds, hashes = np.zeros(len(offsets), np.int64), np.zeros(0, np.uint64)
    if terms:
        bounds, hashes = cut_kernel(data, offsets, *masks, flags, ch.lower_table(), stop_words, counts)
    dots = masks[2][:, BYTE_COUNTS.index("spaced_ellipses")]
    hash_, ellipses, symbols = (TERM_COUNTS.index(name) for name in ("hashes", "ellipses", "symbols"))
    counts[:, symbols] = counts[:, hash_] + counts[:, ellipses] + dots
    return TermCuts(counts, bounds, hashes)


@lru_cache(maxsize=16)
def _stop_hashes(stop_words: tuple[str, ...]) -> NDArray[np.uint64]:
    """The terms of these words, ascending. Raises UserError as `check_stop_words` does."""
    check_stop_words(stop_words)
    listed = _run(pa.array(stop_words, pa.large_string()), np.zeros(0, np.uint64))
    return np.unique(listed.term_hashes)


def cut_terms(
    texts: pa.Array, *, stop_words: Sequence[str] = (), terms: bool = True, masks: ByteMasks | None = None
) -> TermCuts:
    """Cut every document of a string or large_string array of n rows into terms alone; a null is an empty document.

    stop_words: at most 64 words to count, in lower case, each one term. terms: False counts characters alone: there are
    no terms, and what counts them is 0. masks: of these texts, where they are known.

    Raises:
        UserError: more than 64 stop words, or one that is not a single term in lower case.
        TypeError: `texts` holds no strings.
    """
    return _run(texts, _stop_hashes(tuple(stop_words)), terms, masks)


def cut(
    texts: pa.Array,
    *,
    stop_words: Sequence[str] = (),
    short_line_chars: int = 30,
    terms: bool = True,
    words: bool = True,
    lines: bool = True,
    tokens: bool = True,
    segments: bool = True,
    paragraphs: bool = True,
) -> Cuts:
    """Cut every document of a string or large_string array of n rows once; a null is an empty document.

    Args:
        texts: Arrow string or large_string array [n].
        stop_words: at most 64 words to count, in lower case, each one term.
        short_line_chars: a line of at most so many characters is short.
        terms, tokens, segments, paragraphs: False leaves these out (see `cut_terms`, `chunks.cut_chunks`, `layout.cut_layout`).
        words, lines: False leaves out all of `chunks` or of `layout`: there are none, and what counts them is 0.

    Raises:
        UserError: more than 64 stop words, or one that is not a single term in lower case.
        TypeError: `texts` holds no strings.
    """
    masks = byte_masks(*utf8_buffers(texts))
    found = cut_terms(texts, stop_words=stop_words, terms=terms, masks=masks)
    n = len(texts)
    chunks = cut_chunks(texts, tuple(dict.fromkeys(stop_words)), tokens, segments) if words else no_chunks(n)
    layout = cut_layout(texts, short_line_chars, masks, paragraphs) if lines else no_layout(n)
    counts = np.hstack([found.counts, chunks.counts, layout.counts])
    return Cuts(counts, found.term_offsets, found.term_hashes, chunks, layout)
