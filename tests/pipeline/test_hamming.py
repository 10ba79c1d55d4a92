"""Pairs of near hashes, against comparing all with all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.hamming import band_values, band_widths, pairs_within, run_pairs


def plain(hashes: list[int], distance: int) -> dict[tuple[int, int], int]:
    bits = {(i, j): (hashes[i] ^ hashes[j]).bit_count() for j in range(len(hashes)) for i in range(j)}
    return {pair: d for pair, d in bits.items() if d <= distance}


def found(hashes: list[int], distance: int) -> dict[tuple[int, int], int]:
    pairs, far = pairs_within(np.array(hashes, dtype=np.uint64), distance)
    assert len({tuple(p) for p in pairs.tolist()}) == len(pairs), "a pair is told twice"
    return {(i, j): d for (i, j), d in zip(pairs.tolist(), far.tolist(), strict=True)}


words = st.integers(0, 2**64 - 1)


@st.composite
def near_hashes(draw: st.DrawFn) -> list[int]:
    """A few hashes, and others a few flipped bits away from them."""
    roots = draw(st.lists(words, min_size=1, max_size=4))
    flips = st.lists(st.integers(0, 63), max_size=20)
    near = draw(st.lists(st.tuples(st.sampled_from(roots), flips), max_size=12))
    return roots + [root ^ sum({1 << b for b in bits}) for root, bits in near]


@settings(max_examples=150, deadline=None)
@given(near_hashes(), st.integers(0, 15))
def test_no_pair_within_the_distance_is_missed_and_none_beyond_it_is_told(
    hashes: list[int], distance: int
) -> None:
    assert found(hashes, distance) == plain(hashes, distance)


def test_many_random_hashes_agree_with_the_plain_definition() -> None:
    rng = np.random.default_rng(0)
    few = rng.integers(0, 2**64, 150, dtype=np.uint64)
    flipped = few ^ (np.uint64(1) << rng.integers(0, 64, 150).astype(np.uint64))
    hashes = [int(h) for h in np.concatenate([few, flipped])]
    assert found(hashes, 7) == plain(hashes, 7)


def test_no_hashes_have_no_pairs() -> None:
    assert found([], 7) == {}
    assert found([5], 0) == {}


@pytest.mark.parametrize("distance", [0, 6, 7, 15, 63])
def test_bands_cut_every_hash_into_all_its_bits(distance: int) -> None:
    widths = band_widths(distance)
    assert widths.sum() == 64
    assert widths.max() - widths.min() <= 1
    value = np.array([0x0123456789ABCDEF], dtype=np.uint64)
    bands, start, back = band_values(value, distance)[0], 0, 0
    for band, width in zip(bands.tolist(), widths.tolist(), strict=True):
        back |= band << start
        start += width
    assert back == int(value[0])


def test_a_distance_no_hash_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="the distance is 64"):
        band_widths(64)


def test_in_long_runs_the_first_are_paired_with_all() -> None:
    starts, stops = np.array([0, 3]), np.array([3, 8])
    pairs = run_pairs(starts, stops, cap=3, leaders=1).tolist()
    assert pairs == [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [3, 6], [3, 7]]
