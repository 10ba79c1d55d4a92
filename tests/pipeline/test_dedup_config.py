import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mixloom.pipeline.dedup_config import NearConfig, candidate_probability, choose_banding


def test_the_banding_follows_from_the_threshold_alone():
    chosen = {t: NearConfig(threshold=t).banding(112) for t in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}
    assert chosen == {0.5: (37, 3), 0.6: (37, 3), 0.7: (22, 5), 0.8: (18, 6), 0.9: (11, 10), 1.0: (1, 112)}


@given(st.floats(0.3, 1.0), st.integers(8, 256), st.floats(0.5, 0.999))
def test_the_chosen_banding_serves_the_threshold_with_the_most_rows_that_can(threshold, num_perm, recall):
    bands, rows = choose_banding(threshold, num_perm, recall)
    assert 1 <= bands <= 256
    assert bands * rows <= num_perm
    if rows > 1:
        assert candidate_probability(threshold, bands, rows) >= recall
    for more in range(rows + 1, num_perm + 1):
        assert candidate_probability(threshold, num_perm // more, more) < recall


def test_a_stated_banding_is_taken_as_it_is():
    assert NearConfig(bands=14, rows=8).banding(112) == (14, 8)
    assert NearConfig(rows=8).banding(120) == (15, 8)
    with pytest.raises(ValueError, match="15 bands of 8 rows need 120 values"):
        NearConfig(bands=15, rows=8).banding(112)
    with pytest.raises(ValueError, match="any bands of 200 rows need 200 values"):
        NearConfig(rows=200).banding(112)
    with pytest.raises(ValidationError, match="bands is 14 and rows is not stated"):
        NearConfig(bands=14)
