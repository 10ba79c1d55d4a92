"""Places of set bits and equal numbers, on this machine's way and on any machine's, against plain definitions."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from numba import njit

from mixloom.pipeline.bit_places import same, spread, spread_singly

WORDS = st.one_of(
    st.sets(st.integers(0, 63), max_size=32).map(lambda places: sum(1 << p for p in places)),
    st.sampled_from([0, 1, 1 << 63, 0x5555555555555555, 0xAAAAAAAAAAAAAAAA, 2**32 - 1]),
)


@njit(nogil=True)
def spread_here(bits, base, found, m):  # type: ignore[no-untyped-def]
    spread(bits, base, found, m)


@njit(nogil=True)
def same_here(numbers, t, one):  # type: ignore[no-untyped-def]
    return same(numbers, t, one)


@given(WORDS, st.integers(0, 2**60), st.integers(0, 9))
@example(0, 0, 0)
def test_both_ways_write_the_places_of_the_set_bits_in_ascending_order(word: int, base: int, m: int) -> None:
    want = [base + p for p in range(64) if word >> p & 1]
    for way in (spread_here, spread_singly):
        found = np.full(m + 64, 7, np.uint64)
        way(np.uint64(word), np.uint64(base), found, np.uint64(m))
        assert found[m : m + len(want)].tolist() == want
        assert found[:m].tolist() == [7] * m
        assert found[m + 32 :].tolist() == [7] * 32


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), min_size=64, max_size=90), st.data())
def test_the_same_numbers_are_the_bits_of_a_word(numbers: list[int], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(numbers) - 64))
    one = data.draw(st.sampled_from(numbers))
    found = same_here(np.array(numbers, np.uint64), np.uint64(at), np.uint64(one))
    assert int(found) == sum(1 << k for k in range(64) if numbers[at + k] == one)
