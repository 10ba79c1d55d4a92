import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline import shuffle
from mixloom.pipeline.engine import run_pipeline
from mixloom.pipeline.shuffle import Gather, GatherDoFn, Keyed

SCHEMA = pa.schema([pa.field("x", pa.int64(), nullable=False)])


def rows(values: list[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=SCHEMA)


@given(
    st.lists(st.lists(st.integers(0, 99), max_size=8), max_size=12),
    st.integers(1, 5),
    st.sampled_from([0, 40, 1 << 20]),
)
def test_gathered_rows_come_out_once_each_in_their_partition(batches, partitions, limit):
    before, shuffle.GATHERED = shuffle.GATHERED, limit
    try:
        gather = Gather()
        out: list[Keyed] = []
        for values in batches:
            out += gather.add(rows(values), np.array(values, dtype=np.int64) % partitions)
        out += gather.rest()
    finally:
        shuffle.GATHERED = before
    found = [(key, x) for key, batch in out for x in batch["x"].to_pylist()]
    assert sorted(found) == sorted((x % partitions, x) for values in batches for x in values)
    assert all(key == x % partitions for key, x in found)
    if limit == 1 << 20:
        assert len(out) <= partitions
    assert list(gather.rest()) == []


class _ByFiveDoFn(GatherDoFn):
    def process(self, x: int):
        yield from self.gathered.add(rows([x]), np.array([x % 5]))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gathering_dofn_loses_nothing_at_the_end_of_a_bundle(workers):
    def check(found):
        xs = [x for key, batch in found for x in batch["x"].to_pylist() if x % 5 == key]
        assert sorted(xs) == list(range(100)), xs
        assert len(found) < 100

    def build(p):
        gathered = p | beam.Create(range(100)) | beam.ParDo(_ByFiveDoFn()).with_output_types(Keyed)
        assert_that(gathered, check)

    run_pipeline(build, workers)
