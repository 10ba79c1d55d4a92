"""Cut documents into lines and paragraphs.

* piece: what stands between two newlines ("\\n"), as it stands, unless it is empty. A line is a piece without the
  white space at its ends, unless nothing is left.
* paragraph: what stands between two or more newlines in a row, in the text without the white space at its ends; kept as
  it stands (block) and without the white space at its own ends.
* broken line: what `str.splitlines` gives, which also breaks at "\\r", form feeds and the separators of Unicode.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch
from mixloom.pipeline.byte_masks import ByteMasks, byte_masks
from mixloom.pipeline.layout_kernel import LAYOUT_COUNTS, layout_kernel
from mixloom.pipeline.utf8 import utf8_buffers


@dataclass(frozen=True, slots=True)
class Layout:
    """The pieces and paragraphs of n documents. Document i owns the items offsets[i]:offsets[i+1] of each kind.

    counts: int64 [n, len(LAYOUT_COUNTS)]. *_offsets: int64 [n+1]. *_hashes: uint64, one per item. *_chars: int32,
    length in characters (code points). piece_* and block_* are of the text as it stands, line_* and paragraph_* of the
    same item without the white space at its ends; a blank piece has line_chars 0.
    """

    counts: NDArray[np.int64]
    piece_offsets: NDArray[np.int64]
    piece_hashes: NDArray[np.uint64]
    piece_chars: NDArray[np.int32]
    line_hashes: NDArray[np.uint64]
    line_chars: NDArray[np.int32]
    paragraph_offsets: NDArray[np.int64]
    block_hashes: NDArray[np.uint64]
    block_chars: NDArray[np.int32]
    paragraph_hashes: NDArray[np.uint64]
    paragraph_chars: NDArray[np.int32]


def cut_layout(
    texts: pa.Array, short_line_chars: int = 30, masks: ByteMasks | None = None, paragraphs: bool = True
) -> Layout:
    """Cut every document of a string or large_string array of n rows; a null is an empty document.

    A line of at most `short_line_chars` characters is short. masks: of these texts, where they are known. paragraphs: False
    leaves them out: there are none, and what counts them is 0. Raises TypeError where `texts` holds no strings.
    """
    data, offsets = utf8_buffers(texts)
    bits, places, _ = byte_masks(data, offsets) if masks is None else masks
    return Layout(
        *layout_kernel(data, offsets, bits, places, ch.character_flags(), short_line_chars, paragraphs)
    )


def no_layout(n: int) -> Layout:
    """The layout of n documents that was not looked at: no lines, no paragraphs."""
    counts, bounds = np.zeros((n, len(LAYOUT_COUNTS)), np.int64), np.zeros(n + 1, np.int64)
    hashes, chars = np.empty(0, np.uint64), np.empty(0, np.int32)
    return Layout(counts, bounds, hashes, chars, hashes, chars, bounds, hashes, chars, hashes, chars)
