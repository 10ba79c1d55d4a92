from hypothesis import given
from hypothesis import strategies as st

from mixloom.tokenizers.pairs import CAPTIONS, Pair, Part, pairs_of

SHORT = {
    "I": Part("image"),
    "c": Part("text", "caption", {"role": "caption"}),
    "a": Part("text", "seen", {"role": "alt"}),
    "t": Part("text", "plain"),
    "q": Part("text", "quoted", {"role": "quote"}),
    "S": Part("speech"),
}


def found(line, adjacent=False):
    """Pairs of a document written as letters: I image, c caption, t text, q text of another role, S speech."""
    pairs = pairs_of([SHORT[x] for x in line], "image", CAPTIONS, adjacent, set())
    return [(p.medium, *p.texts) for p in pairs]


def test_a_caption_belongs_to_its_neighbour():
    assert found("tIct") == [(1, 2)]
    assert found("tcIt") == [(2, 1)]
    assert found("Icc") == [(0, 1, 2)]


def test_the_first_of_a_run_says_on_which_side_captions_stand():
    assert found("IcIc") == [(0, 1), (2, 3)]
    assert found("cIcI") == [(1, 0), (3, 2)]
    assert found("IcI") == [(0, 1)]
    assert found("cIc") == [(1, 0, 2)]
    assert found("IIc") == [(1, 2)]
    assert found("ccII") == [(2, 0, 1)]


def test_an_alternative_text_belongs_to_the_image_before_it():
    assert found("cIacIa") == [(1, 0, 2), (4, 3, 5)]
    assert found("IacIac") == [(0, 1, 2), (3, 4, 5)]


def test_a_caption_beyond_something_else_is_nobodys():
    assert found("ItcSc") == []
    assert found("Iqc") == []


def test_a_neighbour_without_a_role_counts_where_it_is_told_to():
    assert found("It") == []
    assert found("It", adjacent=True) == [(0, 1)]
    assert found("tI", adjacent=True) == [(1, 0)]
    assert found("tIt", adjacent=True) == [(1, 2)]
    assert found("tItI", adjacent=True) == [(1, 2)]
    assert found("ItI", adjacent=True) == [(0, 1)]
    assert found("Ict", adjacent=True) == [(0, 1)]
    assert found("qIq", adjacent=True) == []


def test_texts_that_are_taken_stay_so():
    parts = [SHORT["t"], SHORT["I"]]
    assert pairs_of(parts, "image", CAPTIONS, True, {0}) == []
    assert pairs_of(parts, "image", CAPTIONS, True, set()) == [Pair(1, (0,))]


@given(st.text(alphabet="IctqS", max_size=12), st.booleans())
def test_every_pair_is_a_row_of_neighbours_and_no_text_is_in_two(line, adjacent):
    taken: set[int] = set()
    pairs = pairs_of([SHORT[x] for x in line], "image", CAPTIONS, adjacent, taken)
    texts = [i for p in pairs for i in p.texts]
    assert sorted(set(texts)) == sorted(texts) == sorted(taken)
    assert [p.medium for p in pairs] == sorted(p.medium for p in pairs)
    for p in pairs:
        assert p.members == list(range(p.members[0], p.members[-1] + 1))
        assert line[p.medium] == "I"
    near = [i for i, x in enumerate(line) if x == "c" and "I" in line[max(0, i - 1) : i + 2]]
    assert set(near) <= taken
