import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.semantic import semantic_keepers
from mixloom.pipeline.semantic_cells import distance_rank

cells = st.tuples(
    st.integers(0, 10_000), st.integers(0, 60), st.integers(1, 8), st.sampled_from([0.0, 0.02, 0.3])
)


def cell(seed: int, n: int, dim: int, spread: float) -> np.ndarray:
    """Vectors around a few directions, some equal, some zero, of any length."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, dim))
    vectors = centres[rng.integers(0, 5, n)] + spread * rng.normal(size=(n, dim))
    vectors *= rng.uniform(0.1, 3, (n, 1))
    vectors[rng.random(n) < 0.1] = 0
    return vectors.astype(np.float32)


def plainly(vectors: np.ndarray, limit: float) -> tuple[list[int], list[float]]:
    """The definition: every document against every kept one before it."""
    wide = vectors.astype(np.float64)
    keeper, best = list(range(len(wide))), [0.0] * len(wide)
    for i, v in enumerate(wide):
        for j in (j for j in range(i) if keeper[j] == j):
            lengths = np.linalg.norm(v) * np.linalg.norm(wide[j])
            cosine = v @ wide[j] / lengths if lengths else 0.0
            if cosine > limit and cosine > best[i] + 1e-12:
                best[i], keeper[i] = cosine, j
    return keeper, best


@settings(deadline=None)
@given(cells, st.sampled_from([0.01, 0.5, 0.9, 0.99]), st.sampled_from([1, 7, 1024]))
def test_kept_documents_are_those_of_the_plain_loop_whatever_the_block(drawn, limit, block):
    vectors = cell(*drawn)
    keeper, cosine = semantic_keepers(vectors, limit, block)
    expected, similarity = plainly(vectors, limit)
    kept = [i for i, k in enumerate(expected) if k == i]
    assert np.flatnonzero(keeper == np.arange(len(keeper))).tolist() == kept
    np.testing.assert_allclose(cosine, similarity, atol=1e-9)
    again, same = semantic_keepers(vectors, limit)
    assert (keeper.tolist(), cosine.tobytes()) == (again.tolist(), same.tobytes())


@settings(deadline=None)
@given(cells, st.sampled_from([0.5, 0.9]))
def test_no_two_kept_are_too_close_and_every_dropped_one_is_close_to_the_kept_one_named(drawn, limit):
    vectors = cell(*drawn)
    keeper, cosine = semantic_keepers(vectors, limit)
    kept = np.flatnonzero(keeper == np.arange(len(keeper)))
    norm = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = vectors / np.where(norm > 0, norm, 1.0)
    among = unit[kept] @ unit[kept].T - 2 * np.eye(len(kept))
    assert not (among > limit + 1e-9).any()
    for i in set(range(len(keeper))) - set(kept.tolist()):
        assert keeper[i] in kept
        assert keeper[i] < i
        assert cosine[i] == pytest.approx(unit[i] @ unit[keeper[i]])
        assert cosine[i] > limit
    left, _ = semantic_keepers(vectors[kept], limit)
    assert left.tolist() == list(range(len(kept)))  # a second time drops nothing


def test_of_a_chain_every_second_link_is_kept():
    angles = np.deg2rad(10.0 * np.arange(5))
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    keeper, _ = semantic_keepers(chain, np.cos(np.deg2rad(15)))
    assert keeper.tolist() == [0, 0, 2, 2, 4]


def test_equal_vectors_leave_one_and_zero_vectors_all():
    equal = np.tile(np.array([[3.0, 4.0]], np.float32), (5, 1))
    keeper, cosine = semantic_keepers(np.concatenate([equal, 0 * equal]), 0.999)
    assert keeper.tolist() == [0, 0, 0, 0, 0, 5, 6, 7, 8, 9]
    assert cosine[1:5].tolist() == [1.0] * 4
    assert semantic_keepers(np.zeros((0, 3), np.float32), 0.5)[0].tolist() == []


def test_distances_rank_from_either_end():
    distance = np.array([0.5, 0.0, -0.0, 2.0, 0.25], np.float32)
    near = np.lexsort((np.arange(5), distance_rank(distance, far_first=False)))
    assert near.tolist() == [1, 2, 4, 0, 3]
    far = np.lexsort((np.arange(5), distance_rank(distance, far_first=True)))
    assert far.tolist() == [3, 0, 4, 1, 2]
