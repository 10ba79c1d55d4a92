"""Passing over items: the order of the rest stays, and every epoch gives each of them once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.exclusion import Exclusion
from mixloom.mixers.permutation import find_places, place

KEY = 12345678901234567890


def items_at(places, size: int) -> list[int]:
    keys = np.array([KEY], np.uint64)
    group = np.zeros(len(places), np.int32)
    return place(group, np.asarray(places, np.int64), np.array([size]), keys)[0].tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(0, 4))
def test_the_place_of_an_item_is_found_again(size, epoch):
    items = items_at(np.arange(epoch * size, (epoch + 1) * size), size)
    assert find_places(np.array(items), epoch, size, KEY).tolist() == list(range(size))


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 40), st.data())
def test_the_open_places_are_those_a_walk_over_all_places_finds(size, data):
    left_out = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=size - 1))
    exclusion = Exclusion(np.array(sorted(left_out)), size, KEY)
    open_places = [p for p, item in enumerate(items_at(np.arange(4 * size), size)) if item not in left_out]
    assert exclusion.nth(np.arange(len(open_places))).tolist() == open_places
    for p in data.draw(st.lists(st.integers(0, 3 * size), max_size=5)):
        assert exclusion.open_before(p) == sum(x < p for x in open_places)
        behind = [x for x in open_places if x >= p]
        for count in range(min(4, len(behind) + 1)):
            assert exclusion.after(p, count) == (behind[count - 1] + 1 if count else p)


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="every item"):
        Exclusion(np.arange(5), 5, KEY).nth(np.array([0]))
