"""A sample is a property of the ids: no draw, no order, no part changes it."""

import hashlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.sampling import sampled, threshold

IDS = [hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest() for i in range(20_000)]


def chosen(ids, total, wanted):
    mask = sampled(pa.array(ids, pa.string()), threshold(total, wanted))
    return [x for x, yes in zip(ids, mask.to_pylist()) if yes]


@pytest.mark.parametrize("wanted", [20_000, 25_000, 10**9])
def test_everything_is_taken_when_as_much_is_wanted(wanted):
    assert chosen(IDS, len(IDS), wanted) == IDS
    assert chosen(["f" * 32], 1, wanted) == ["f" * 32]


@pytest.mark.parametrize("wanted", [100, 2_000, 15_000])
def test_about_as_many_are_taken_as_wanted(wanted):
    deviation = (wanted * (1 - wanted / len(IDS))) ** 0.5
    assert abs(len(chosen(IDS, len(IDS), wanted)) - wanted) < 4 * deviation


@given(st.permutations(range(60)), st.integers(1, 59))
def test_order_and_parts_do_not_matter(order, cut):
    ids = IDS[:60]
    shuffled = [ids[i] for i in order]
    in_parts = chosen(shuffled[:cut], 60, 20) + chosen(shuffled[cut:], 60, 20)
    assert sorted(in_parts) == sorted(chosen(ids, 60, 20))


@given(st.integers(1, 10**12), st.data())
def test_a_larger_sample_holds_the_smaller_one(total, data):
    small = data.draw(st.integers(0, total))
    large = data.draw(st.integers(small, total))
    assert threshold(total, small) <= threshold(total, large)


def test_nothing_is_taken_when_nothing_is_wanted():
    assert chosen(["0" * 32, *IDS], 20_001, 0) == []


def test_chunked_ids_are_judged_like_any():
    ids = pa.chunked_array([IDS[:10], IDS[10:30]])
    assert (
        sampled(ids, threshold(30, 10)).to_pylist()
        == sampled(pa.array(IDS[:30]), threshold(30, 10)).to_pylist()
    )
