import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.tokenizers.pairs import Units
from mixloom.tokenizers.word_switch import cuts_of_text, cuts_of_units, stretches

THREE = np.array([[0.0, 0.1], [0.1, 0.2], [0.2, 0.3]])


def pieces(text, cuts):
    return [text[a:b] for a, b in zip([0, *cuts[:-1]], cuts)]


@pytest.mark.parametrize(
    ("text", "named", "expected"),
    [
        ("one two three", None, ["one", " two", " three"]),
        ("  one, two\nthree. ", None, ["  one,", " two", "\nthree. "]),
        ("One, two -- THREE!", ["one", "two", "three"], ["One,", " two", " -- THREE!"]),
        ("一二三", ["一", "二", "三"], ["一", "二", "三"]),
        ("one two three", ["eins", "zwei", "drei"], ["one", " two", " three"]),  # as many as there are times
        ("one two-three", ["one", "two", "three"], ["one", " two-", "three"]),
    ],
)
def test_text_is_cut_behind_words(text, named, expected):
    assert pieces(text, cuts_of_text(text, THREE, named).tolist()) == expected


@pytest.mark.parametrize("text", ["one two", "one two three four", ""])
def test_times_of_another_number_of_words_do_not_fit(text):
    assert cuts_of_text(text, THREE, ["one", "two", "three"]) is None
    assert cuts_of_text(text, THREE, None) is None


def test_a_word_inside_another_is_not_found_there():
    # "a" is not the a of "man"
    assert cuts_of_text("man a b", THREE, ["m", "a", "b"]).tolist() == [3, 5, 7]  # by number, not by name
    assert cuts_of_text("man a", THREE, ["m", "a", "b"]) is None


def test_units_are_cut_where_words_end_and_pauses_go_with_what_follows():
    times = np.array([[0.1, 0.4], [0.8, 1.2], [1.2, 1.9]])
    heard = Units(durations=np.ones(50, np.int32), rate=25.0)
    assert cuts_of_units(times, heard).tolist() == [10, 30, 50]
    collapsed = Units(durations=np.array([4, 4, 20, 2, 20], np.int32), rate=25.0)
    assert cuts_of_units(times, collapsed).tolist() == [2, 4, 5]


def test_frames_of_several_codebooks_are_not_cut():
    heard = Units(durations=np.ones(60, np.int32), rate=30.0, frame=3)
    cuts = cuts_of_units(np.array([[0.0, 0.55], [0.55, 1.04], [1.04, 2.0]]), heard)
    assert cuts.tolist() == [18, 30, 60]


def draw(seed):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 1 << 40, 200).tolist()
    return lambda name, n: numbers[n]


@given(
    st.lists(st.integers(0, 3), max_size=30).map(np.cumsum),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(0, 20),
)
def test_stretches_cover_all_words_and_each_has_units(ends, low, more, seed):
    ends = np.asarray(ends, np.int64)
    last = stretches(ends, (low, low + more), draw(seed))
    assert last == sorted(set(last))
    assert (last[-1:] == [len(ends) - 1]) == (len(ends) > 0)
    if len(last) > 1:
        assert (np.diff(ends[last], prepend=0) > 0).all()
    if len(set(ends.tolist()) - {0}) > 1 and low + more < len(ends):
        voiced = np.flatnonzero(np.diff(ends, prepend=0) > 0)
        if voiced[0] + low + more < voiced[-1]:
            assert len(last) > 1


def test_two_words_are_two_stretches():
    assert stretches(np.array([3, 9]), (5, 9), draw(0)) == [0, 1]
