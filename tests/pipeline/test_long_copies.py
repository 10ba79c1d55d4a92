from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.long_copies import place_copies


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def units(n: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    x = rng(seed).normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 80), st.integers(2, 6), st.integers(1, 12), st.integers(0, 2**31))
def test_copies_stand_far_apart_and_the_path_stays_as_it_is(n, factor, apart, seed):
    r = rng(seed)
    path, repeated = r.permutation(n), r.random(n) < 0.2
    rows, copies = place_copies(path, units(n, seed=seed), np.full(n, -1), 0.99, repeated, factor, apart)
    assert rows[copies == 0].tolist() == path.tolist()
    assert set(rows[copies > 0]) <= set(np.flatnonzero(repeated))
    for v in np.flatnonzero(repeated):
        at = np.flatnonzero(rows == v)
        assert len(at) <= factor
        assert len(set(copies[at])) == len(at)
        for a, b in pairwise(at):
            assert (copies[a + 1 : b] == 0).sum() >= apart
    if n // (apart + 1) < 2:
        assert len(rows) == n


def test_with_room_every_copy_is_placed_beside_what_is_like_it():
    n = 4000
    x = units(n)
    path, repeated = np.arange(n), np.zeros(n, bool)
    repeated[[5, 1500, 3999]] = True
    rows, copies = place_copies(path, x, np.full(n, -1), 0.9999, repeated, 3, 500)
    assert np.bincount(rows)[[5, 1500, 3999]].tolist() == [3, 3, 3]
    assert len(rows) == n + 6
    at = np.flatnonzero(copies > 0)
    for a in at:
        assert x[rows[a]] @ x[rows[a - 1]] + x[rows[a]] @ x[rows[a + 1]] > 1


def test_a_copy_never_lands_beside_a_near_duplicate():
    n = 60
    x, groups, repeated = units(n), np.full(n, -1), np.zeros(n, bool)
    groups[20:] = 3
    groups[0] = 3
    repeated[0] = True
    rows, copies = place_copies(np.arange(n), x, groups, 0.9999, repeated, 2, 25)
    assert len(rows) == n  # its place would be among members of its group
    groups[[30, 31]] = -1
    rows, copies = place_copies(np.arange(n), x, groups, 0.9999, repeated, 2, 20)
    assert rows.tolist() == [*range(31), 0, *range(31, 60)]
    assert copies[31] == 1


def test_nothing_is_put_in_where_a_place_is_closed():
    n = 60
    repeated = np.zeros(n, bool)
    repeated[0] = True
    closed = np.ones(n, bool)
    closed[28] = False
    rows, _ = place_copies(np.arange(n), units(n), np.full(n, -1), 0.99, repeated, 2, 20, closed)
    assert rows.tolist() == [*range(29), 0, *range(29, 60)]


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_path_too_short_gets_no_copies(n):
    rows, copies = place_copies(np.arange(n), units(n), np.full(n, -1), 0.9, np.ones(n, bool), 4, 5)
    assert rows.tolist() == list(range(n))
    assert not copies.any()
