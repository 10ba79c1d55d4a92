import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.cell_path import cell_path


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def cosines(centres: np.ndarray, path: np.ndarray) -> float:
    x = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return float((x[path[1:]] * x[path[:-1]]).sum())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(1, 5), st.integers(0, 2**31))
def test_it_is_a_permutation_with_empty_cells_last(m, dim, seed):
    r = rng(seed)
    centres, sizes = r.normal(size=(m, dim)).astype(np.float32), r.integers(0, 3, m)
    path = cell_path(centres, sizes)
    assert path.dtype == np.int64
    assert sorted(path) == list(range(m))
    filled = int((sizes > 0).sum())
    assert set(path[:filled]) == set(np.flatnonzero(sizes))
    assert path[filled:].tolist() == sorted(path[filled:])


def test_cells_along_a_line_come_back_in_their_order():
    angle = np.linspace(0, 3, 25)
    names = rng(2).permutation(25)
    centres = np.empty((25, 2), np.float32)
    centres[names] = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng().uniform(0.2, 3, (25, 1))
    path = cell_path(centres, np.full(25, 9))
    assert path.tolist() in (names.tolist(), names[::-1].tolist())
    assert path[0] < path[-1]


@pytest.mark.parametrize("m", [60, 1500])
def test_neighbours_are_far_more_alike_than_by_chance(m):
    centres = rng().normal(size=(m, 6)).astype(np.float32)
    assert cosines(centres, cell_path(centres, np.ones(m, np.int64))) > 0.6 * m


def test_many_equal_centres_and_a_zero_centre_do_no_harm():
    centres = np.repeat(rng().normal(size=(3, 4)), 500, axis=0).astype(np.float32)
    centres[7] = 0
    path = cell_path(centres, np.ones(1500, np.int64))
    assert sorted(path) == list(range(1500))
    assert path[-1] == 7
    assert (np.diff(path[:-1] // 500) != 0).sum() == 2


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="2 centres for 3 sizes"):
        cell_path(np.ones((2, 2), np.float32), np.ones(3, np.int64))
    with pytest.raises(ValueError, match="not finite"):
        cell_path(np.array([[np.nan, 1]], np.float32), np.ones(1, np.int64))
