"""Document lengths of a step: rows of one table that read like a list of arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.mixers.contexts import DocLengths
from mixloom.mixers.schedule import make_schedule

ROWS = st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=6)


@given(ROWS, st.integers(0, 3), st.data())
def test_rows_slices_and_the_narrow_table_say_what_was_put_in(rows, spare, data):
    lengths = DocLengths(np.pad(DocLengths.of([np.array(r) for r in rows]).padded, ((0, 0), (0, spare))))
    assert [row.tolist() for row in lengths] == rows
    assert len(lengths) == len(rows)
    low, high = sorted(data.draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
    assert [row.tolist() for row in lengths[low:high]] == rows[low:high]
    assert lengths[-1].tolist() == rows[-1]
    narrow = lengths.narrow()
    assert narrow.shape == (len(rows), max(map(len, rows)))
    assert [[n for n in row if n] for row in narrow.tolist()] == rows


def test_zeros_between_lengths_stay_where_they_are():
    assert DocLengths.of([np.array([2, 0, 3, 0])])[0].tolist() == [2, 0, 3]


def test_a_draw_beyond_the_length_a_schedule_was_made_for_is_refused():
    schedule = make_schedule(np.array([3, 5], np.int64), 4)
    assert schedule.draws(0, 4)[0].shape == (4,)
    with pytest.raises(IndexError, match="draw 4 of a schedule made for 4"):
        schedule.draws(2, 5)
