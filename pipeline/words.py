"""Cut documents into words, terms, tokens, lines and paragraphs, once, in compiled code over the raw UTF-8 bytes.

Five cuts, each declared exactly; every measure, rule, shingle and signature uses these and no others:

* word: a maximal run of characters that are not white space (as `str.split`).
* term: a maximal run of letters, numbers and the combining marks after them (Unicode categories L, N, M). A
  letter or number of a script written without spaces (Han, Kana, Thai, Lao, Khmer, Myanmar and others) is a term
  of its own, with its marks. Terms are compared in lower case.
* token: a term with what joins it to the next, a run of "." or "-", or one other visible character. The joints are
  those of spaCy's English tokenizer in their most frequent forms, since datatrove's rules count its tokens (see
  `cut_kernel._joint` and `_is_prefix`): "it|'s", "3.14", "10:30", "e.g.", "a@b.org", "/etc", "well|-|known", "https://..." to the next
  white space or bracket. Tokens are compared as they stand.
* line: what stands between two "\\n", without the white space at its ends; empty lines do not count.
* paragraph: a maximal run of lines with no empty line between them, from its first to its last visible character.

Format characters (Cf) and marks without a letter are invisible to terms and tokens. Strings are compared by 64-bit
hashes. Bytes that are no valid UTF-8 count as one U+FFFD each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch
from mixloom.pipeline.annotate_config import check_stop_words
from mixloom.pipeline.cut_kernel import COUNTS, cut_kernel

__all__ = ["COUNTS", "Cuts", "cut", "utf8_buffers"]


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


def _run(texts: pa.Array, stop_words: NDArray[np.uint64], short_line_chars: int) -> Cuts:
    data, offsets = utf8_buffers(texts)
    return Cuts(
        *cut_kernel(data, offsets, ch.character_flags(), ch.lower_table(), stop_words, short_line_chars)
    )


def cut(texts: pa.Array, *, stop_words: Sequence[str] = (), short_line_chars: int = 30) -> Cuts:
    """Cut every document of a string or large_string array of n rows once; a null is an empty document.

    Args:
        texts: Arrow string or large_string array [n].
        stop_words: at most 64 words to count, in lower case, each one term.
        short_line_chars: a line of at most so many characters is short.

    Raises:
        UserError: more than 64 stop words, or one that is not a single term in lower case.
        TypeError: `texts` holds no strings.
    """
    check_stop_words(stop_words)
    listed = _run(pa.array(list(stop_words), pa.large_string()), np.zeros(0, np.uint64), short_line_chars)
    return _run(texts, np.unique(listed.term_hashes), short_line_chars)
