"""The declared preparation of text, over Arrow batches."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.quality.config import Normalisation

# What fastText would take for a label and for the end of the document, wherever it stands.
_LABEL, _LABEL_AS_TEXT = "__label__", "__label_"
_END, _END_AS_TEXT = "</s>", "< /s>"
_PUNCTUATION = r"([!-/:-@\[-`{-~])"


def normalise(texts: pa.Array, how: Normalisation) -> pa.Array:
    """Prepare n texts for the classifier.

    Args:
        texts: string or large_string array [n]; null becomes "".

    Returns:
        large_string array [n], without nulls.
    """
    texts = texts.cast(pa.large_string())
    if texts.null_count:
        texts = texts.fill_null("")
    if how.max_chars is not None and (pc.max(pc.binary_length(texts)).as_py() or 0) > how.max_chars:
        texts = pc.utf8_slice_codeunits(texts, 0, how.max_chars)
    if how.lowercase:
        texts = pc.utf8_lower(texts)
    texts = pc.replace_substring(texts, _END, _END_AS_TEXT)
    texts = pc.replace_substring(texts, _LABEL, _LABEL_AS_TEXT)
    if how.separate_punctuation:
        texts = pc.replace_substring_regex(texts, _PUNCTUATION, r" \1 ")
    return texts


def one_line(texts: pa.Array) -> pa.Array:
    """Texts without newlines, as fastText wants to read them from a file."""
    return pc.replace_substring(texts, "\n", " ")
