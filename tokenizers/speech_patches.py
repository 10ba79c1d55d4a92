"""Where words lie among the units of a recording, and units grouped into patches, whose lengths are recorded.

Patches of speech are shorter sequences for the model's trunk, as in the Latent Speech-Text Transformer (Lu et al. 2025,
arXiv 2510.06195, section 3): of a fixed length, cut at silences, or one to a spoken word. Here they are lengths int32 [p]
beside the units, which stay as they are: at least 1 each, and together as many as there are units.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.errors import UserError

__all__ = [
    "WORD_TIMES",
    "aligned_patches",
    "fixed_patches",
    "proportional_times",
    "read_word_times",
    "silence_patches",
    "silent_units",
    "unit_spans",
]

WORD_TIMES = "word_times"  # key in the attrs of a segment or the meta of a document

Lengths = npt.NDArray[np.int32]
Spans = npt.NDArray[np.int32]
Times = npt.NDArray[np.float64]


def unit_spans(
    word_times: npt.NDArray[np.floating],
    rate_units_per_second: float,
    n_units: int,
    durations: npt.NDArray[np.integer] | None = None,
) -> Spans:
    """First and last unit (the latter not included) of each word: int32 [w, 2].

    Both ends of a word go to the nearest boundary between units, an end in the very middle of a unit to the later one.
    Spans never overlap and never leave 0..n_units; a word that is shorter than its unit can get an empty span.

    Args:
        word_times: float [w, 2], begin and end of each word in seconds, in order.
        rate_units_per_second: steps of the codec in a second, before runs were collapsed.
        n_units: units there are.
        durations: int [n_units], steps of each unit, where runs of equal units are written once. None: one step each.

    Raises:
        ValueError: times that are not finite, that run backwards or are not [w, 2], or durations of another length.
    """
    times = np.asarray(word_times, np.float64).reshape(-1, 2) if np.size(word_times) == 0 else word_times
    times = np.asarray(times, np.float64)
    if times.ndim != 2 or times.shape[1] != 2:
        raise ValueError(f"expected word times [w, 2], got {list(times.shape)}")
    if not np.isfinite(times).all() or (np.diff(times, axis=1) < 0).any() or (np.diff(times[:, 0]) < 0).any():
        raise ValueError("word times must be finite and in order, and no word may end before it begins")
    at = np.floor(times * rate_units_per_second + 0.5)
    if durations is not None:
        if len(durations) != n_units:
            raise ValueError(f"expected {n_units} durations, got {len(durations)}")
        edges = np.concatenate([[0], np.cumsum(durations)])
        at = np.searchsorted((edges[:-1] + edges[1:]) / 2, at, side="right")
    edges = np.clip(at, 0, n_units).ravel()
    # Where words overlap in time, the later one gives way.
    return np.maximum.accumulate(edges).astype(np.int32).reshape(-1, 2)


def proportional_times(words: Sequence[str], seconds: float) -> Times:
    """A guess at when each word is said, float64 [w, 2] in seconds: each lasts in proportion to its letters.

    No pause is known of, so words fill the recording. One letter is added to each, or `I` would pass unheard.
    """
    letters = np.array([1 + sum(c.isalnum() for c in word) for word in words], np.float64)
    edges = np.concatenate([[0.0], np.cumsum(letters)])
    edges *= seconds / edges[-1] if len(words) else 0.0
    return np.stack([edges[:-1], edges[1:]], axis=1)


def read_word_times(attrs: Mapping[str, str]) -> Times | None:
    """Word times float64 [w, 2] in seconds that a record carries under `word_times`; None where it carries none.

    They are a JSON list with one entry a word: [begin, end], or a longer list that ends in these two ([word, begin, end]).

    Raises:
        UserError: something else stands there.
    """
    text = attrs.get(WORD_TIMES)
    if text is None:
        return None
    try:
        times = np.array([[float(entry[-2]), float(entry[-1])] for entry in json.loads(text)], np.float64)
        times = times.reshape(-1, 2)
        unit_spans(times, 1.0, 0)  # for its checks
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise UserError(
            f"{WORD_TIMES}: {text[:60]!r} is not a list of words with their times: {error}",
            fix='write JSON such as [["hello", 0.0, 0.41], ["world", 0.41, 0.8]], seconds, in order',
        ) from error
    return times


def fixed_patches(n_units: int, size: int) -> Lengths:
    """Lengths int32 [ceil(n_units / size)] of patches of `size` units; the last one may be shorter."""
    return _cut(np.array([n_units], np.int64), np.array([size], np.int64))


def silence_patches(silent: npt.NDArray[np.bool_], size: int, longest: int) -> Lengths:
    """Lengths int32 [p]: a silence is one patch, or several where it exceeds `longest`; speech between is cut by `size`.

    `silent` bool [n_units], see `silent_units`.
    """
    starts = np.flatnonzero(np.diff(silent.astype(np.int8), prepend=np.int8(-1)))
    lengths = np.diff(starts, append=len(silent))
    return _cut(lengths, np.where(silent[starts], longest, size))


def aligned_patches(spans: Spans, n_units: int, longest: int) -> Lengths:
    """Lengths int32 [p]: one patch for each word and one for each gap between them; more where one exceeds `longest`.

    `spans` int32 [w, 2] are what `unit_spans` gives.
    """
    edges = np.unique(np.concatenate([[0, n_units], np.asarray(spans, np.int64).ravel()]))
    lengths = np.diff(edges)
    return _cut(lengths, np.full(len(lengths), longest, np.int64))


def _cut(lengths: npt.NDArray[np.int64], longest: npt.NDArray[np.int64]) -> Lengths:
    """Each length [n] cut into pieces of its `longest` [n], the rest last."""
    if (longest < 1).any():
        raise ValueError(f"a patch has at least one unit, got {longest.min()}")
    pieces = -(-lengths // longest)
    out = np.repeat(longest, pieces)
    last = np.cumsum(pieces)[pieces > 0] - 1
    out[last] = (lengths - (pieces - 1) * longest)[pieces > 0]
    return out.astype(np.int32)


def silent_units(
    wave: npt.NDArray[np.float32],
    rate: int,
    durations: npt.NDArray[np.integer],
    units_per_second: float,
    decibels: float = 35.0,
) -> npt.NDArray[np.bool_]:
    """bool [n_units]: units whose power lies more than `decibels` below that of the loud parts of their clip.

    Loud is what a tenth of the steps reach. A clip without any sound is silent throughout.

    Args:
        wave: float32 [t], mono.
        rate: samples a second.
        durations: int [n_units], steps of each unit.
        units_per_second: steps a second.
    """
    steps = int(np.sum(durations))
    edges = np.minimum(np.rint(np.arange(steps + 1) * rate / units_per_second).astype(np.int64), len(wave))
    energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])[edges]
    power = np.diff(energy) / np.maximum(np.diff(edges), 1)
    if not steps:
        return np.zeros(0, np.bool_)
    loud = np.quantile(power, 0.9, method="higher")
    ends = np.cumsum(durations)
    mean = np.diff(np.concatenate([[0.0], np.cumsum(power)])[np.concatenate([[0], ends])]) / durations
    return mean <= loud * 10 ** (-decibels / 10)
