"""The patches of a document, recorded beside its tokens: of its recordings, and of all its tokens together.

Patches cover every token and never cross a segment. Sentinels are patches of one token, and so are tokens that nothing
groups: codes of images, tokens of a byte-pair encoding, units of speech where no speech patches are declared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.beside_tokens import cut_patches
from mixloom.tokenizers.interleave import decode_tokens
from mixloom.tokenizers.melspectrum import Wave
from mixloom.tokenizers.settings import SpeechPatchConfig
from mixloom.tokenizers.speech_patches import (
    aligned_patches,
    fixed_patches,
    proportional_times,
    read_word_times,
    silence_patches,
    silent_units,
    unit_spans,
)
from mixloom.tokenizers.text_bytes import TextCoder
from mixloom.tokenizers.vocab import Vocabulary

Lengths = npt.NDArray[np.uint16]
UnitLengths = npt.NDArray[np.int32]


def recording_patches(
    config: SpeechPatchConfig,
    wave: Wave,
    codec: Any,
    durations: npt.NDArray[np.int32],
    attrs: Mapping[str, str],
    words: Sequence[str],
) -> UnitLengths | None:
    """Lengths int32 [p] of the patches of a recording's units, which add up to them; None where none are declared.

    Args:
        wave: float32 [t], mono, at the rate of the codec.
        codec: a `codecs.SpeechCoder`.
        durations: int32 [u], steps of each unit.
        attrs: of the recording or of its transcript; `word_times` tells when words are said.
        words: of the transcript; empty where there is none.

    Raises:
        UserError: `word_times` holds something else than word times.
    """
    units = len(durations)
    if config.kind == "none":
        return None
    if config.kind == "silence":
        silent = silent_units(wave, codec.rate, durations, codec.units_per_second, config.decibels)
        return silence_patches(silent, config.size, config.longest)
    if config.kind == "aligned":
        times = read_word_times(attrs)
        if times is None and words and config.untimed == "proportional":
            times = proportional_times(words, len(wave) / codec.rate)
        if times is not None:
            spans = unit_spans(times, codec.units_per_second, units, durations)
            return aligned_patches(spans, units, config.longest)
    return fixed_patches(units, config.size)


def document_patches(
    ids: npt.NDArray[np.integer[Any]],
    vocabulary: Vocabulary,
    text: TextCoder,
    units: npt.NDArray[np.integer[Any]] | None = None,
) -> Lengths | None:
    """Lengths uint16 [p] of the patches of a document's tokens, which add up to them; None where nothing is grouped.

    Args:
        ids: vocabulary ids [n] of the whole document.
        units: lengths of the patches of its units of speech, in the order in which they are written; None: not grouped.

    Raises:
        ValueError: `units` do not add up to the units of speech of the document.
    """
    if not text.patched and units is None:
        return None
    begins = np.ones(len(ids), np.bool_)
    heard = 0
    for segment in decode_tokens(ids, vocabulary):
        count = len(segment.ids)
        lengths: npt.NDArray[np.integer[Any]] | None = None
        if segment.kind == "text":
            lengths = text.patch_lengths(segment.ids)
        elif segment.kind == "speech" and units is not None:
            lengths = cut_patches(units, heard, heard + count)
            heard += count
        if lengths is not None:
            begins[segment.start + 1 : segment.start + count] = False
            begins[segment.start + np.cumsum(lengths[:-1], dtype=np.int64)] = True
    if units is not None and heard != int(np.sum(units)):
        raise ValueError(f"patches of {int(np.sum(units))} units of speech, and the document has {heard}")
    return np.diff(np.flatnonzero(np.append(begins, True))).astype(np.uint16)
