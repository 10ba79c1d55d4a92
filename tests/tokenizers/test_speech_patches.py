import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.speech_patches import (
    aligned_patches,
    fixed_patches,
    proportional_times,
    read_word_times,
    silence_patches,
    silent_units,
    unit_spans,
)

WORDS = st.lists(st.floats(0, 20), max_size=20).map(
    lambda t: np.array(sorted(t)[: len(t) // 2 * 2]).reshape(-1, 2)
)
DURATIONS = st.lists(st.integers(1, 6), min_size=0, max_size=60).map(lambda d: np.array(d, np.int32))


def slow_nearest(seconds: float, rate: float, edges: np.ndarray) -> int:
    """The boundary nearest to the step boundary a time belongs to; the later one of two."""
    at = np.floor(seconds * rate + 0.5)
    away = np.abs(edges - at)
    return int(np.flatnonzero(away == away.min())[-1])


@given(WORDS, DURATIONS, st.sampled_from([12.5, 25.0, 50.0]))
def test_words_go_to_the_nearest_units(times, durations, rate):
    edges = np.concatenate([[0], np.cumsum(durations)])
    spans = unit_spans(times, rate, len(durations), durations)
    assert spans.dtype == np.int32
    slow = [[slow_nearest(t, rate, edges) for t in word] for word in times.tolist()]
    assert spans.tolist() == slow
    ones = unit_spans(times, rate, int(edges[-1]))
    assert ones.tolist() == [
        [min(int(np.floor(t * rate + 0.5)), edges[-1]) for t in w] for w in times.tolist()
    ]


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), max_size=12), st.integers(0, 300))
def test_spans_never_overlap_and_stay_among_the_units(pairs, n):
    times = np.array(sorted(sorted(p) for p in pairs), np.float64).reshape(-1, 2)
    flat = unit_spans(times, 25.0, n).ravel()
    assert (np.diff(flat) >= 0).all()
    assert ((flat >= 0) & (flat <= n)).all()


def test_a_word_is_found_where_it_was_said():
    assert unit_spans(np.array([[0.1, 0.5], [0.5, 1.3]]), 25.0, 30).tolist() == [[3, 13], [13, 30]]
    assert unit_spans(np.zeros((0, 2)), 25.0, 30).shape == (0, 2)
    assert unit_spans(np.array([[0.1, 0.5]]), 10.0, 3, np.array([1, 4, 5])).tolist() == [[1, 2]]


@pytest.mark.parametrize("times", [[[0.5, 0.1]], [[0.5, 0.6], [0.1, 0.2]], [[0.0, np.nan]], [0.0, 1.0]])
def test_times_that_make_no_sense_are_refused(times):
    with pytest.raises(ValueError, match="word times"):
        unit_spans(np.array(times), 25.0, 10)
    with pytest.raises(ValueError, match="3 durations"):
        unit_spans(np.array([[0.0, 1.0]]), 25.0, 3, np.array([1, 1]))


@given(st.lists(st.text("abc' ", max_size=8), max_size=9), st.floats(0.1, 100))
def test_guessed_times_fill_the_recording_by_letters(words, seconds):
    times = proportional_times(words, seconds)
    assert times.shape == (len(words), 2)
    if words:
        assert times[0, 0] == 0
        assert times[-1, 1] == pytest.approx(seconds)
        assert (times[1:, 0] == times[:-1, 1]).all()
    assert proportional_times(["a", "abc"], 6.0).tolist() == [[0, 2], [2, 6]]


def test_word_times_are_read_from_what_a_record_carries():
    assert read_word_times({}) is None
    for entries in ([[0, 0.5], [0.5, 1]], [["a", 0, 0.5], ["b", 0.5, 1]]):
        assert read_word_times({"word_times": json.dumps(entries)}).tolist() == [[0, 0.5], [0.5, 1]]
    assert read_word_times({"word_times": "[]"}).shape == (0, 2)
    for bad in ("soon", "[1, 2]", '[["a", 2, 1]]', '[["a"]]', '{"a": 1}'):
        with pytest.raises(UserError, match="not a list of words"):
            read_word_times({"word_times": bad})


@given(st.integers(0, 200), st.integers(1, 20))
def test_fixed_patches_are_all_of_one_length_but_the_last(n, size):
    lengths = fixed_patches(n, size)
    assert lengths.dtype == np.int32
    assert lengths.sum() == n
    assert (lengths[:-1] == size).all()
    assert ((lengths >= 1) & (lengths <= size)).all()


@given(st.lists(st.booleans(), max_size=80), st.integers(1, 9), st.integers(1, 30))
def test_silences_are_patches_of_their_own(flags, size, longest):
    silent = np.array(flags, bool)
    lengths = silence_patches(silent, size, longest)
    slow, run = [], 0
    for i, s in enumerate(flags):
        run += 1
        if i + 1 == len(flags) or flags[i + 1] != s or run == (longest if s else size):
            slow.append(run)
            run = 0
    assert lengths.tolist() == slow
    for start, length in zip(np.cumsum(lengths) - lengths, lengths):
        assert len(set(flags[start : start + length])) == 1


@given(WORDS, st.integers(0, 300), st.integers(1, 40))
def test_aligned_patches_never_cross_the_edge_of_a_word(times, n, longest):
    spans = unit_spans(times, 25.0, n)
    lengths = aligned_patches(spans, n, longest)
    assert lengths.sum() == n
    assert ((lengths >= 1) & (lengths <= longest)).all()
    edges = {0, *np.cumsum(lengths).tolist()}
    assert set(spans.ravel().tolist()) <= edges
    if longest >= 300:
        assert edges == {0, n, *spans.ravel().tolist()}
    assert lengths.tolist() == aligned_patches(spans, n, longest).tolist()


def test_a_patch_of_no_units_is_refused():
    with pytest.raises(ValueError, match="at least one unit"):
        fixed_patches(3, 0)


def test_planted_silence_is_found_and_gets_fewer_patches():
    rng = np.random.Generator(np.random.PCG64(0))
    wave = rng.normal(0, 0.2, 32_000).astype(np.float32)
    wave[16_000:] *= 1e-3
    durations = np.full(25, 2, np.int32)
    silent = silent_units(wave, 16_000, durations, 25.0)
    assert silent.tolist() == [i >= 12 for i in range(25)] or silent.tolist() == [i >= 13 for i in range(25)]
    assert len(silence_patches(silent, 2, 50)) < len(fixed_patches(25, 2))
    assert silent_units(np.zeros(640, np.float32), 16_000, np.array([1]), 25.0).all()
    assert silent_units(np.zeros(0, np.float32), 16_000, np.zeros(0, np.int32), 25.0).shape == (0,)
