import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.cell_cuts import (
    DIGIT_BITS,
    KEY_BITS,
    CellAxes,
    KeyRanges,
    cell_keys,
    fit_axes,
    principal_direction,
    range_counts,
)


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def cut(
    keys: np.ndarray, cell: np.ndarray, cells: int, most: int, parts: int = 1
) -> dict[int, list[tuple[int, int]]]:
    """The pieces, from counts of the documents dealt to some parts."""
    ranges = KeyRanges.of(np.bincount(cell, minlength=cells), most)
    while ranges.open:
        sums: dict[int, int] = {}
        for p in range(parts):
            for b, n in zip(*range_counts(keys[p::parts], cell[p::parts], ranges), strict=True):
                sums[int(b)] = sums.get(int(b), 0) + int(n)
        bins = sorted(sums)
        ranges = ranges.counted(np.array(bins, np.int64), np.array([sums[b] for b in bins], np.int64))
    return ranges.pieces()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(1, 64),
    st.integers(0, 2**31),
    st.integers(1, 3),
)
def test_no_piece_is_larger_than_allowed_whatever_the_keys_are(n, cells, most, alike, seed, parts):
    g = rng(seed)
    keys = g.integers(0, 2**63, n, dtype=np.uint64)
    # Keys that share many leading bits, as those of equal vectors do.
    keys = (keys >> np.uint64(min(alike, 44))) + np.uint64(7)
    keys = np.unique(keys)
    cell = g.integers(0, cells, len(keys)).astype(np.int32)
    pieces = cut(keys, cell, cells, most, parts)
    assert pieces == cut(keys, cell, cells, most)
    for j in range(cells):
        mine = np.sort(keys[cell == j])
        if len(mine) <= most:
            assert j not in pieces
            continue
        firsts = [first for first, _ in pieces[j]]
        assert firsts[0] == 0
        assert firsts == sorted(set(firsts))
        found = np.bincount(
            np.searchsorted(np.array(firsts[1:], np.uint64), mine, side="right"), minlength=len(firsts)
        )
        assert found.tolist() == [documents for _, documents in pieces[j]]
        assert found.max() <= most
        assert found.min() > 0


def test_pieces_are_about_equal_and_hardly_more_than_needed():
    keys = rng(0).integers(0, 2**63, 10_500, dtype=np.uint64) << np.uint64(1)
    pieces = cut(keys, np.zeros(len(keys), np.int32), 1, 10_000)[0]
    assert len(pieces) == 2
    assert min(n for _, n in pieces) > 4_500
    many = [n for _, n in cut(keys, np.zeros(len(keys), np.int32), 1, 1_000)[0]]
    assert len(many) <= 13


def test_more_equal_keys_than_a_cell_may_hold_are_an_error_and_no_large_cell():
    with pytest.raises(RuntimeError, match="3 documents of one cell share"):
        cut(np.full(3, 5, np.uint64), np.zeros(3, np.int32), 1, 2)
    assert KEY_BITS % DIGIT_BITS == 0


def test_the_direction_is_that_of_the_largest_spread():
    g = rng(1)
    x = (g.normal(size=(300, 5)) * [0.1, 0.2, 2.0, 0.1, 0.3]).astype(np.float32)
    expected = np.linalg.svd(x - x.mean(axis=0))[2][0]
    assert abs(float(principal_direction(x) @ expected)) == pytest.approx(1.0, abs=1e-4)
    assert not principal_direction(np.ones((4, 3), np.float32)).any()
    assert not principal_direction(np.ones((1, 3), np.float32)).any()


def test_keys_follow_the_content_and_part_equal_vectors_by_their_ids():
    g = rng(2)
    x = g.normal(size=(500, 4)).astype(np.float32)
    x[250:, 0] += 30
    ids = [f"{i:032x}" for i in range(500)]
    axes = fit_axes(x, np.zeros(500, np.int64), 1)
    keys = cell_keys(x, np.zeros(500, np.int32), axes, ids)
    first, second = sorted([keys[:250], keys[250:]], key=lambda k: k.min())
    assert first.max() < second.min()
    same = cell_keys(np.tile(x[:1], (500, 1)), np.zeros(500, np.int32), axes, ids)
    assert len(np.unique(same)) == 500
    assert len(np.unique(same >> np.uint64(48))) == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 59), st.integers(1, 60))
def test_a_document_alone_has_the_key_it_has_among_others(start, length):
    g = rng(3)
    x, cell = g.normal(size=(60, 6)).astype(np.float32), g.integers(0, 4, 60).astype(np.int32)
    ids = [f"d{i}" for i in range(60)]
    axes = fit_axes(x, np.minimum(cell, 2), 3)  # cell 3 is that of documents without text
    whole = cell_keys(x, cell, axes, ids)
    stop = start + length
    np.testing.assert_array_equal(
        cell_keys(x[start:stop], cell[start:stop], axes, ids[start:stop]), whole[start:stop]
    )
    assert (whole[cell == 3] >> np.uint64(48)).max(initial=0) == 0


def test_documents_outside_the_sampled_stretch_keep_an_end_of_it():
    x = np.array([[0.0], [1.0]], np.float32)
    axes = fit_axes(x, np.zeros(2, np.int64), 1)
    far = np.array([[-5.0], [0.5], [9.0]], np.float32)
    places = cell_keys(far, np.zeros(3, np.int32), axes, ["a", "b", "c"]) >> np.uint64(48)
    assert sorted(places.tolist()) == [0, places[1], 65535]
    assert cell_keys(far, np.zeros(3, np.int32), CellAxes.none(1, 1), ["a", "b", "c"]).max() < 2**48
