"""Segments of a document, as the record has them, in the order of the layout of their source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.codecs import SpeechCoder
from mixloom.tokenizers.layout_config import LayoutConfig
from mixloom.tokenizers.layouts import arrange
from mixloom.tokenizers.pairs import Part, Piece, Units
from mixloom.tokenizers.speech_patches import WORD_TIMES

Row = Mapping[str, Any]  # a segment: kind, text, media, attrs


def pieces_of(
    segments: Sequence[Row],
    units: Mapping[int, tuple[np.ndarray, np.ndarray]],
    document: Row,
    layout: LayoutConfig,
    codec: SpeechCoder | None,
    counts: Counter[str],
) -> list[Piece]:
    """The pieces of a document in the order in which they are written.

    Args:
        units: of each recording by the number of its segment: units int64 [u] and durations int32 [u].
        document: its doc_id, source and, where it is at hand, meta, whose word times count where it has one recording.
        codec: what made the units.
        counts: what was met on the way is added up here.

    Raises:
        UserError: a recording's `word_times` are no word times.
    """
    own = layout.of(document["source"])
    if own.reading:
        ends = (
            (0, len(s["text"] or "")) if s["kind"] == "text" else (0, _count(units, i))
            for i, s in enumerate(segments)
        )
        return [Piece(i, s["kind"], *end, s["text"] or "") for i, (s, end) in enumerate(zip(segments, ends))]
    counts["documents"] += 1
    parts = []
    for i, s in enumerate(segments):
        attrs = dict(s.get("attrs") or ())
        if i in units and len(units) == 1:
            meta = dict(document.get("meta") or ())
            attrs = {k: meta[k] for k in (WORD_TIMES,) if k in meta} | attrs
        heard = (
            Units(durations=units[i][1], rate=codec.units_per_second, frame=codebooks_of(codec))
            if i in units and codec
            else None
        )
        parts.append(Part(s["kind"], s["text"] or "", attrs, heard))
    return arrange(parts, own, layout.seed, document["doc_id"], counts)


def _count(units: Mapping[int, tuple[np.ndarray, np.ndarray]], i: int) -> int:
    return len(units[i][0]) if i in units else 0


def codebooks_of(codec: SpeechCoder) -> int:
    """How many units make one frame of a recording."""
    return int(getattr(getattr(codec, "config", None), "codebooks", 1))


def check_codec(layout: LayoutConfig, codec: SpeechCoder | None) -> None:
    """Raise UserError where recordings are to be cut at words and their units cannot be cut."""
    cuts = layout.switching
    config = getattr(codec, "config", None)
    if cuts and config is not None and config.codebooks > 1 and config.layout == "delayed":
        raise UserError(
            f"tokenizer.layout.by_source.{cuts[0]}: word_switch cuts recordings at words, and the speech codec writes "
            f"{config.codebooks} codebooks delayed, across any cut",
            fix="set tokenizer.speech.layout: frames, or another order of speech",
        )
