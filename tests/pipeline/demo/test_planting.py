from __future__ import annotations

import numpy as np
import pytest

from mixloom.pipeline.demo.planting import DISTINCT, NEAR, NOISE, hard_negative, near_duplicate
from mixloom.pipeline.demo.prose import read_families, standard_library
from mixloom.pipeline.demo.shingles import ShingleIndex, jaccard, words


@pytest.fixture(scope="module")
def texts() -> list[str]:
    families = read_families(standard_library(), ShingleIndex())
    return [p.text for docs in families.values() for p in docs if len(words(p.text)) >= 70][:60]


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_near_duplicates_differ_in_bytes_and_are_as_similar_as_stated(texts):
    rng, found = _rng(0), []
    for text in texts:
        copy, alike = near_duplicate(text, rng)
        assert copy != text
        assert alike == jaccard(text, copy) >= NEAR
        found.append(alike)
    # The hard end is there, not only copies that differ in case.
    assert sum(s < 0.9 for s in found) >= len(found) / 4


def test_a_text_too_short_for_any_edit_is_refused():
    with pytest.raises(ValueError, match="no near-duplicate"):
        near_duplicate("one two", _rng(0))


def test_hard_negatives_share_much_but_lie_well_below_the_threshold(texts):
    rng, made = _rng(1), 0
    for text, donor in zip(texts, reversed(texts)):
        found = hard_negative(text, donor, rng)
        if found is not None:
            assert found[1] == jaccard(text, found[0])
            assert DISTINCT[0] <= found[1] <= DISTINCT[1] < NEAR
            made += 1
    assert made >= len(texts) / 2


def test_no_cut_of_two_one_sentence_texts_makes_a_hard_negative():
    assert hard_negative("A single sentence.", "Another one.", _rng(0)) is None


@pytest.mark.parametrize("kind", sorted(NOISE))
def test_noise_is_long_distinct_and_not_english(kind):
    rng = _rng(2)
    made = [NOISE[kind](rng) for _ in range(6)]
    assert len(set(made)) == 6
    assert all(len(t) >= 300 for t in made)
    assert all(t.encode().decode() == t for t in made)
    if kind != "repeated_line":
        assert not any({"the", "and", "of"} & set(words(t)) for t in made)
    else:
        assert all(len(set(t.splitlines())) == 1 and len(t.splitlines()) >= 25 for t in made)
