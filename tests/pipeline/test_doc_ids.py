import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.doc_ids import (
    concatenate,
    distinct_rows,
    id_batch,
    pack_ids,
    partition_of,
    ranks,
    split,
    unpack_ids,
)

hex_ids = st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=30)


@settings(deadline=None)
@given(hex_ids)
def test_packed_ids_come_back_as_the_same_strings(ids):
    assert unpack_ids(pack_ids(pa.array(ids, pa.string()))).to_pylist() == ids


@settings(deadline=None)
@given(hex_ids)
def test_the_numeric_order_of_packed_ids_is_the_order_of_the_strings(ids):
    packed = pack_ids(pa.array(ids, pa.string()))
    order = np.lexsort((packed[:, 1], packed[:, 0]))
    assert [ids[i] for i in order] == sorted(ids)


def test_a_slice_of_ids_is_packed_from_its_own_rows():
    ids = [hashlib.md5(bytes([i])).hexdigest() for i in range(9)]
    assert unpack_ids(pack_ids(pa.array(ids)[3:7])).to_pylist() == ids[3:7]


@pytest.mark.parametrize("bad", ["ab", "G" * 32, "A" * 32, "é" * 16, None])
def test_an_id_that_is_not_32_lower_case_hex_digits_is_named(bad):
    with pytest.raises(ValueError, match=r"doc_id .* is not 32"):
        pack_ids(pa.array(["0" * 32, bad], pa.string()))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_ranks_are_positions_among_the_distinct_ids_in_order(rows):
    ids = np.array(rows, dtype=np.uint64).reshape(-1, 2)
    distinct, codes = ranks(ids)
    expected = sorted(set(rows))
    assert [tuple(x) for x in distinct.tolist()] == expected
    assert codes.tolist() == [expected.index(r) for r in rows]
    assert [tuple(x) for x in distinct_rows(ids).tolist()] == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=40), st.integers(1, 7))
def test_splitting_by_partition_keeps_every_row_once_and_in_its_partition(values, partitions):
    schema = pa.schema([pa.field(n, pa.uint64(), nullable=False) for n in ("hi", "lo")])
    ids = np.array([(v, v ^ 5) for v in values], dtype=np.uint64).reshape(-1, 2)
    pieces = dict(split(id_batch(schema, ids), partition_of(ids, partitions))) if values else {}
    assert set(pieces) <= set(range(partitions))
    assert sorted(concatenate(pieces.values(), schema).column("hi").to_pylist()) == sorted(values)
