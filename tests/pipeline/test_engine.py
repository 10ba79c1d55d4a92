"""The engine: Arrow batches through Beam, errors told as they were raised, the same result for any workers."""

import os
import signal

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from mixloom.pipeline import engine
from mixloom.pipeline.engine import RecordBatchCoder, part_of, read_part, run_pipeline, with_part
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import OutputTable, UnitOutput


def batch(n, part="part-0"):
    return with_part(pa.RecordBatch.from_pydict({"x": list(range(n))}), part)


def test_a_batch_survives_its_coder_with_its_part_and_without_its_parent_buffer():
    whole = batch(100_000, "part-7")
    piece = whole.slice(5, 3)
    coded = RecordBatchCoder().encode(piece)
    assert len(coded) < 2000
    back = RecordBatchCoder().decode(coded)
    assert back.column("x").to_pylist() == [5, 6, 7]
    assert part_of(back) == "part-7"


def test_an_empty_batch_survives_its_coder():
    assert RecordBatchCoder().decode(RecordBatchCoder().encode(batch(3).slice(0, 0))).num_rows == 0


def test_batches_are_coded_by_arrow_in_a_shuffle():
    assert isinstance(beam.coders.registry.get_coder(pa.RecordBatch), RecordBatchCoder)


def _double(name):
    b = pa.RecordBatch.from_pydict({"x": [int(name) * 2]})
    return UnitOutput(name, (OutputTable(f"part-{name}", pa.Table.from_batches([b])),), None, 1)


@pytest.mark.parametrize("parallelism", ["threads", "processes"])
def test_workers_change_no_byte(tmp_path, parallelism):
    units = [str(i) for i in range(6)]
    for workers in (1, 2):
        directory = RunDirectory(str(tmp_path / str(workers))).stage("s")
        run_pipeline(
            lambda p, d=directory: (
                p | beam.Create(units) | beam.Reshuffle() | beam.Map(_double) | engine.Commit(d)
            ),
            workers,
            (),
            parallelism,
        )
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / w / "s").glob("*.parquet")} for w in "12")
    assert len(one) == 6
    assert one == two


def _fail(x):
    raise UserError(f"cannot work on {x}", fix="give another")


@pytest.mark.parametrize(("workers", "parallelism"), [(1, "threads"), (2, "threads"), (2, "processes")])
def test_an_error_of_the_user_comes_out_as_it_was_raised(workers, parallelism):
    with pytest.raises(UserError) as caught:
        run_pipeline(lambda p: p | beam.Create([3]) | beam.Map(_fail), workers, (), parallelism)
    assert str(caught.value) == "cannot work on 3\n  fix: give another"


def _die(x):
    os.kill(os.getpid(), signal.SIGKILL)


# Beam's own threads see the connection break; that is the point of the test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_process_is_noticed_instead_of_waited_for(monkeypatch):
    monkeypatch.setattr(engine, "WATCHDOG_SECONDS", 1.0)
    with pytest.raises(UserError, match=r"a worker process died.*memory") as caught:
        run_pipeline(
            lambda p: p | beam.Create([1, 2]) | beam.Reshuffle() | beam.Map(_die), 2, (), "processes"
        )
    assert "finished parts are kept" in str(caught.value)


def test_dask_is_refused_with_the_reason():
    with pytest.raises(UserError, match="DaskRunner is refused: it reports success while files are empty"):
        run_pipeline(
            lambda p: p | beam.Create([1]), 1, ("--runner=apache_beam.runners.dask.dask_runner.DaskRunner",)
        )


def test_a_runner_named_after_the_dashes_is_used(tmp_path):
    directory = RunDirectory(str(tmp_path)).stage("s")
    run_pipeline(
        lambda p: p | beam.Create(["1"]) | beam.Map(_double) | engine.Commit(directory),
        1,
        ("--runner=BundleBasedDirectRunner",),
    )
    assert (tmp_path / "s" / "part-1.parquet").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--no_such_flag=3",), "Beam has no flag '--no_such_flag=3'"),
        (("workers=2",), "overrides such as workers=2 stand before '--'"),
        (("--direct_num_workers=x",), "invalid int value: 'x'"),
        (("--runner=Nope",), "there is no Beam runner 'Nope'.*PortableRunner"),
        (("--runner=some.module.Runner",), "there is no Beam runner 'some.module.Runner'"),
    ],
)
def test_flags_beam_does_not_know_are_told(flags, message, capfd):
    with pytest.raises(UserError, match=message):
        run_pipeline(lambda p: p | beam.Create([1]), 1, flags)
    assert "usage:" not in capfd.readouterr().err


def test_a_flag_of_another_runner_passes_through():
    run_pipeline(lambda p: p | beam.Create([1]), 1, ("--runner=BundleBasedDirectRunner", "--its_own_flag=3"))


class _Scatter(beam.DoFn):
    def process(self, number):
        rng = np.random.default_rng(number)
        for key in range(40):
            yield key, pa.RecordBatch.from_pydict({"v": rng.integers(0, 100, 5000)})


def _rows(keyed):
    return keyed[0], sum(batch.num_rows for batch in keyed[1])


def test_buffers_sent_at_any_moment_do_not_cut_elements_in_two(monkeypatch):
    """Beam's own limit of a second, set to the least: without ours, every run of this fails."""
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    monkeypatch.setattr(worker_handlers, "DATA_BUFFER_TIME_LIMIT_MS", 1)
    keyed = beam.ParDo(_Scatter()).with_output_types(tuple[int, pa.RecordBatch])
    expected = equal_to([(key, 150_000) for key in range(40)])
    run_pipeline(
        lambda p: assert_that(
            p | beam.Create(range(30)) | keyed | beam.GroupByKey() | beam.Map(_rows), expected
        ),
        workers=2,
    )


class Held:
    """A stage of one part, in memory."""

    def __init__(self, table):
        self.table = table

    def read(self, part, columns=None):
        return self.table if columns is None else self.table.select(columns)


@pytest.mark.parametrize("gone", [[], [0], [0, 7, 8, 999], range(0, 1000, 3), range(999), range(1000)])
def test_only_rows_still_alive_are_read_whether_many_or_few_are_missing(gone):
    texts = [f"text {i}" for i in range(1000)]
    alive = np.setdiff1d(np.arange(1000, dtype=np.int32), list(gone)).astype(np.int32)
    documents = pa.table({"segments": pa.array([[{"kind": "text", "text": t}] for t in texts])})
    batch = read_part("p", Held(documents), None, Held(pa.table({"row": alive})))
    assert batch["row"].to_pylist() == alive.tolist()
    assert [s[0]["text"] for s in batch["segments"].to_pylist()] == [texts[i] for i in alive]
