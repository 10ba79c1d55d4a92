from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.demo.shingles import ShingleIndex, jaccard, shingles, words

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=14).map(" ".join)


def _slow(a: str, b: str) -> float:
    x, y = a.split(), b.split()
    left = {" ".join(x[i : i + 5]) for i in range(len(x)) if i + 5 <= len(x)}
    right = {" ".join(y[i : i + 5]) for i in range(len(y)) if i + 5 <= len(y)}
    either = list(left) + [s for s in right if s not in left]
    return sum(s in right for s in left) / len(either) if either else 0.0


@given(TEXTS, TEXTS)
def test_similarity_is_what_the_plain_definition_says(a, b):
    assert jaccard(a, b) == _slow(a, b) == jaccard(b, a)


@given(st.lists(TEXTS, max_size=8), TEXTS)
def test_the_index_finds_exactly_the_texts_that_share_a_shingle(texts, query):
    index = ShingleIndex()
    for text in texts:
        index.add(text)
    expected = {n: _slow(query, t) for n, t in enumerate(texts) if _slow(query, t) > 0}
    assert dict(index.similar(query)) == expected
    assert index.nearest(query) == max(expected.values(), default=0.0)


def test_case_spacing_and_punctuation_do_not_count():
    assert words("The  cat-sat\n(on) THE_mat 2 times!") == [
        "the",
        "cat",
        "sat",
        "on",
        "the",
        "mat",
        "2",
        "times",
    ]
    assert jaccard("One two, three four five SIX", "one two three\nfour five six.") == 1.0


def test_a_text_shorter_than_a_shingle_is_like_nothing():
    assert shingles("only four words here") == frozenset()
    assert jaccard("only four words here", "only four words here") == 0.0


def test_add_if_new_refuses_only_what_is_too_alike():
    index = ShingleIndex()
    assert index.add_if_new("a b c d e f g", 0.5)
    assert not index.add_if_new("a b c d e f h", 0.5)
    assert index.add_if_new("h g f e d c b a", 0.5)
    assert len(index) == 2
