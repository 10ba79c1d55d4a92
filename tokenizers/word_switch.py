"""A recording and its transcript as one line of words, some written as text and some as speech.

Switching between the two at words, in the manner of SpiRit-LM (Nguyen et al. 2024, arXiv 2402.05755, section 3): text and
units are cut at the same words, so each piece of either continues the one before it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mixloom.tokenizers.layout_config import SourceLayout
from mixloom.tokenizers.pairs import Pair, Part, Piece, Units
from mixloom.tokenizers.speech_patches import WORD_TIMES, proportional_times, read_word_times, unit_spans

Cuts = npt.NDArray[np.int64]
Choose = Callable[..., int]
_WORD = re.compile(r"\S+")


def switched(
    parts: Sequence[Part], pair: Pair, layout: SourceLayout, choose: Choose, counts: Counter[str]
) -> list[Piece]:
    """A recording and its transcript cut at words; no pieces where they have to stay whole.

    Word times are looked for in the attributes of the recording, then of the transcript. Where there are none
    (counted as `untimed`), or they do not fit the words of the transcript (`mismatched`), `layout.untimed` says what is
    done. Also counted: `several_transcripts`, `too_short` for two stretches, and `switched`, of which `proportional`.

    Raises:
        UserError: `word_times` holds something else than word times.
    """
    heard = parts[pair.medium].units
    if len(pair.texts) != 1 or heard is None:
        counts["several_transcripts"] += 1
        return []
    text = parts[pair.texts[0]].text
    stated = (parts[i].attrs for i in (pair.medium, pair.texts[0]))
    attrs = next((a for a in stated if WORD_TIMES in a), {})
    times = read_word_times(attrs)
    cuts = None if times is None else cuts_of_text(text, times, _named(attrs))
    guessed = cuts is None
    if times is None or cuts is None:
        counts["untimed" if times is None else "mismatched"] += 1
        if layout.untimed == "whole":
            return []
        spans = [m.span() for m in _WORD.finditer(text)]
        cuts = _cuts_between(text, spans)
        times = proportional_times([text[a:b] for a, b in spans], float(heard.durations.sum()) / heard.rate)
    unit_cuts = cuts_of_units(times, heard)
    last = stretches(unit_cuts, layout.words, partial(choose, pair.medium))
    if len(last) < 2:
        counts["too_short"] += 1
        return []
    counts["switched"] += 1
    counts["proportional"] += guessed
    counts["stretches"] += len(last)
    return _pieces(pair, text, cuts[last], unit_cuts[last], layout, choose(pair.medium, "first") % 2)


def _named(attrs: Mapping[str, str]) -> list[str] | None:
    """The words that word times name; None where they name none."""
    entries = json.loads(attrs[WORD_TIMES])
    if entries and all(len(e) > 2 and isinstance(e[0], str) and e[0].strip() for e in entries):
        return [e[0].strip() for e in entries]
    return None


def cuts_of_text(text: str, times: npt.NDArray[np.float64], named: Sequence[str] | None) -> Cuts | None:
    """Where each word of a text ends, int64 [w] in characters, ascending, the last at its end; None where words do not fit.

    Named words are looked for one after another, whatever their case, with nothing but punctuation and space between
    them. Else words are what stands between white space, and there must be as many as there are times. White space
    belongs to the word after it, punctuation to the word before.
    """
    if named is not None:
        spans = _find(text, named)
        if spans is not None:
            return _cuts_between(text, spans)
    spans = [m.span() for m in _WORD.finditer(text)]
    return _cuts_between(text, spans) if spans and len(spans) == len(times) else None


def _find(text: str, words: Sequence[str]) -> list[tuple[int, int]] | None:
    spans: list[tuple[int, int]] = []
    at = 0
    for word in words:
        match = re.compile(re.escape(word), re.IGNORECASE).search(text, at)
        if match is None or any(c.isalnum() for c in text[at : match.start()]):
            return None
        spans.append(match.span())
        at = match.end()
    return None if any(c.isalnum() for c in text[at:]) else spans


def _cuts_between(text: str, spans: Sequence[tuple[int, int]]) -> Cuts:
    cuts = []
    for (_, stop), (start, _) in pairwise(spans):
        space = next((i for i in range(stop, start) if text[i].isspace()), start)
        cuts.append(space)
    return np.array([*cuts, len(text)], np.int64)


def cuts_of_units(times: npt.NDArray[np.float64], heard: Units) -> Cuts:
    """Where each word ends, int64 [w] in units, ascending, the last at their end. A pause belongs to the word after it.

    Several units that make one frame are never cut apart.
    """
    frames = heard.count // heard.frame
    durations = heard.durations if heard.frame == 1 else None
    spans = unit_spans(times, heard.rate / heard.frame, frames, durations)
    ends = spans[:, 1].astype(np.int64) * heard.frame
    ends[-1:] = heard.count
    return ends


def stretches(ends: Cuts, words: tuple[int, int], choose: Choose) -> list[int]:
    """The last word of each stretch, ascending, the last one included.

    A stretch has `words` (fewest, most) words by choice, more where it would have no units, and the rest at the end.
    There are at least two where there are two words with units.

    Args:
        ends: int64 [w], where each word ends in units.
    """
    low, high = words
    out: list[int] = []
    total = len(ends)
    voiced = ends[-1] if total else 0
    begin, at = 0, 0
    while at < total:
        length = low + choose("stretch", len(out)) % (high - low + 1)
        stop = min(at + length, total if out else max(1, total - 1))
        while stop < total and ends[stop - 1] == begin:
            stop += 1
        if stop < total and ends[stop - 1] == voiced:  # no units are left for another stretch
            stop = total
        begin, at = int(ends[stop - 1]), stop
        out.append(stop - 1)
    return out


def _pieces(
    pair: Pair, text: str, text_ends: Cuts, unit_ends: Cuts, layout: SourceLayout, first: int
) -> list[Piece]:
    out: list[Piece] = []
    written, heard = 0, 0
    for n, (in_text, in_units) in enumerate(zip(text_ends.tolist(), unit_ends.tolist())):
        both = [
            Piece(pair.medium, "speech", heard, in_units),
            Piece(pair.texts[0], "text", written, in_text, text[written:in_text]),
        ]
        if layout.stretches == "either":
            out.append(both[(first + n) % 2])
        else:
            out += both if layout.stretches == "speech_first" else both[::-1]
        written, heard = in_text, in_units
    return out
