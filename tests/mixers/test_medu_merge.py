"""Descriptions merged two by two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.mixers.medu_merge import Described, merge_pairwise

PARTS = st.lists(st.integers(1, 9), min_size=1, max_size=40).map(
    lambda sizes: [Described(f"d{i}", n) for i, n in enumerate(sizes)]
)


def brackets(pairs):
    return [f"({a.text} {b.text})" for a, b in pairs]


def plain(texts):
    """The tree by its definition: an odd number first puts its first two together, then all neighbours pair up."""
    texts = list(texts)
    while len(texts) > 1:
        if len(texts) % 2:
            texts = [f"({texts[0]} {texts[1]})", *texts[2:]]
        else:
            texts = [f"({texts[i]} {texts[i + 1]})" for i in range(0, len(texts), 2)]
    return texts[0]


@given(PARTS)
def test_any_number_of_descriptions_takes_one_merge_less_and_every_item_counts_once(parts):
    merges = []

    def merge(pairs):
        merges.extend(pairs)
        return brackets(pairs)

    merged = merge_pairwise(parts, merge)
    assert len(merges) == len(parts) - 1
    assert merged.items == sum(p.items for p in parts)
    assert all(merged.text.count(f"d{i}") >= 1 for i in range(len(parts)))


@given(PARTS)
def test_the_tree_is_the_one_defined_and_the_same_every_time(parts):
    merged = merge_pairwise(parts, brackets).text
    assert merged == plain([p.text for p in parts])
    assert merged == merge_pairwise(parts, brackets).text


def test_each_merge_is_told_how_many_items_stand_behind_either_side():
    seen = []

    def merge(pairs):
        seen.extend((a.items, b.items) for a, b in pairs)
        return brackets(pairs)

    merge_pairwise([Described("a", 8), Described("b", 8), Described("c", 3)], merge)
    assert seen == [(8, 8), (16, 3)]


def test_no_description_and_a_lost_merge_are_errors():
    with pytest.raises(ValueError, match="no description"):
        merge_pairwise([], brackets)
    with pytest.raises(ValueError, match="1 pairs were merged into 0"):
        merge_pairwise([Described("a", 1), Described("b", 1)], lambda pairs: [])
