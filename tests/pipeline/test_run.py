"""The run directory and the ledger: atomic, checked, resumable and conserved."""

import json

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline import ledger
from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ledger import Counts
from mixloom.pipeline.run import PartReader, RunDirectory
from mixloom.pipeline.schema import REJECTS, Failure, Locator, failures_batch
from mixloom.pipeline.stage import OutputTable, RunSettings, Stage, UnitOutput, run_stage
from mixloom.pipeline.storage import Store


class Numbers(Stage):
    """Writes three units of ten rows; can be told to break after some, and to lose a document."""

    name = "numbers"
    version = 1

    def __init__(self, break_after=99, lose=False, failed=0, setting=0):
        self.break_after, self.lose, self.failed, self.setting = break_after, lose, failed, setting
        self.worked = []

    def settings(self):
        return {"setting": self.setting}

    def execute(self, ctx):
        for unit in ctx.todo(["a", "b", "c"]):
            if len(self.worked) == self.break_after:
                raise KeyboardInterrupt
            self.worked.append(unit)
            failures = [
                Failure(source="s", locator=Locator(uri=f"{unit}{i}"), reason="bad", detail="is bad")
                for i in range(self.failed)
            ]
            rejects = pa.Table.from_batches([failures_batch(failures, "numbers")])
            table = pa.table({"x": list(range(10))})
            kept = 10 - self.failed - (1 if self.lose else 0)
            ctx.commit(UnitOutput(unit, (OutputTable(f"part-{unit}", table),), rejects, kept))

    def expected_in(self, ctx):
        return 30


def do(stage, tmp_path, **settings):
    run = RunDirectory(str(tmp_path / "run"))
    return run_stage(stage, run, RunSettings(**settings), Console(quiet=True), {})


def test_a_finished_stage_is_not_done_again(tmp_path):
    manifest, worked = do(Numbers(), tmp_path)
    assert worked
    again = Numbers()
    second, worked_again = do(again, tmp_path)
    assert not worked_again
    assert again.worked == []
    assert second.fingerprint == manifest.fingerprint
    assert second.counts == Counts(30, 30)


def test_an_interrupted_stage_goes_on_from_its_finished_units(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        do(Numbers(break_after=2), tmp_path)
    rest = Numbers()
    manifest, _ = do(rest, tmp_path)
    assert rest.worked == ["c"]
    whole, _ = do(Numbers(), tmp_path / "other")
    assert manifest.fingerprint == whole.fingerprint


def test_other_settings_redo_the_stage_and_throw_half_done_work_away(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        do(Numbers(break_after=2), tmp_path)
    other = Numbers(setting=1)
    do(other, tmp_path)
    assert other.worked == ["a", "b", "c"]


def test_a_missing_or_shortened_part_redoes_the_stage(tmp_path):
    do(Numbers(), tmp_path)
    part = tmp_path / "run" / "numbers" / "part-b.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    again = Numbers()
    do(again, tmp_path)
    assert again.worked


def test_a_changed_byte_is_noticed_when_read_and_told_with_the_file_and_the_fix(tmp_path):
    manifest, _ = do(Numbers(), tmp_path)
    part = tmp_path / "run" / "numbers" / "part-b.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    reader = PartReader(Store.at(str(tmp_path / "run" / "numbers")), {p.name: p for p in manifest.parts})
    assert reader.read("part-a").num_rows == 10
    with pytest.raises(UserError, match=r"part-b\.parquet has changed since it was written") as caught:
        reader.read("part-b")
    assert "run again" in str(caught.value)


def test_a_stage_that_loses_a_document_is_caught(tmp_path):
    with pytest.raises(AssertionError, match="30 documents came in but 27 are accounted for"):
        do(Numbers(lose=True), tmp_path)


def test_a_damaged_manifest_or_plan_is_told_with_its_file_and_the_fix(tmp_path):
    do(Numbers(), tmp_path)
    manifest = tmp_path / "run" / "numbers" / "stage.json"
    for damaged in ("{", "[]", '{"format": 1}'):
        manifest.write_text(damaged)
        with pytest.raises(
            UserError, match=r"numbers/stage\.json has changed .*cannot be read as a manifest"
        ):
            do(Numbers(), tmp_path)
    manifest.unlink()
    again = Numbers()
    do(again, tmp_path)
    assert again.worked == ["a", "b", "c"]
    (tmp_path / "run" / "plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan\.json is damaged"):
        RunDirectory(str(tmp_path / "run")).plan()


def test_a_training_never_takes_the_folder_of_something_else(tmp_path):
    run = RunDirectory(str(tmp_path))
    run.save_plan(["ingest", "train"])
    run.store.write("corpus/x", b"x")
    for taken in ("ingest", "train", "corpus"):
        with pytest.raises(
            UserError, match=f"a training cannot be named '{taken}': .*/{taken} belongs"
        ) as caught:
            run.save_plan(training=taken)
        assert f"name={taken}-2" in str(caught.value)
    run.save_plan(training="second")
    run.store.write("second/metrics.jsonl", b"")
    run.save_plan(training="second")  # going on with it is another matter
    assert run.plan() == ["ingest", "train", "second"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        do(Numbers(break_after=1), tmp_path)
    stray = tmp_path / "run" / "numbers" / "part-b.parquet.tmp-123"
    stray.write_bytes(b"half")
    do(Numbers(), tmp_path)
    assert not stray.exists()


def test_two_processes_cannot_write_one_run(tmp_path):
    first, second = RunDirectory(str(tmp_path)), RunDirectory(str(tmp_path))
    with first.lock():
        assert second.locked()
        with pytest.raises(UserError, match="another process is running"), second.lock():
            pass
    assert not second.locked()


@pytest.mark.parametrize("where", ["a-file", "a-file/run"])
def test_a_run_directory_that_cannot_be_one_is_told_with_its_path(tmp_path, where):
    (tmp_path / "a-file").write_text("x")
    told = rf"{where} cannot be written: (it is a file|Not a directory)"
    with pytest.raises(UserError, match=told), RunDirectory(str(tmp_path / where)).lock():
        pass


def test_units_are_written_with_one_row_group_per_value_and_read_back_by_value(tmp_path):
    directory = RunDirectory(str(tmp_path)).stage("s")
    table = pa.table({"cell": [1, 1, 4, 7, 7, 7], "v": list("abcdef")})
    part = directory.write_table("p.parquet", "p", table, [2, 1, 3])
    reader = PartReader(directory.store, {"p": part})
    rows, first = reader.read_where("p", "cell", 7, ["v"])
    assert (rows["v"].to_pylist(), first) == (["d", "e", "f"], 3)
    assert reader.read_where("p", "cell", 5, ["v"])[0].num_rows == 0
    assert reader.read_rows("p", np.array([1, 3, 5]), ["v"])["v"].to_pylist() == ["b", "d", "f"]


@pytest.mark.parametrize("small", [0, 1 << 16])
def test_a_changed_byte_is_noticed_by_a_reader_that_takes_only_some_rows_or_columns(
    tmp_path, monkeypatch, small
):
    monkeypatch.setattr("mixloom.pipeline.run.SMALL_FILE", small)
    directory = RunDirectory(str(tmp_path)).stage("s")
    table = pa.table({"cell": [1] * 500 + [2] * 500, "v": [f"{i * 7919 % 1000}" for i in range(1000)]})
    part = directory.write_table("p.parquet", "p", table, [500, 500])
    reader = PartReader(directory.store, {"p": part})
    file = tmp_path / "s" / "p.parquet"
    whole = file.read_bytes()
    noticed = 0
    for at in range(4, len(whole) - 900, 41):  # the pages; the footer lies behind them
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            rows = reader.read_rows("p", np.arange(1000), ["cell", "v"])
            second, _ = reader.read_where("p", "cell", 2, ["cell", "v"])
            column = reader.read("p", ["v"])
        except UserError as e:
            noticed += "p.parquet has changed since it was written" in str(e)
        else:  # it was a byte that says nothing of the values, such as a statistic of the page
            assert rows.equals(table)
            assert second.equals(table.slice(500))
            assert column.equals(table.select(["v"]))
    assert noticed > 50
    file.write_bytes(whole[:4] + whole)
    with pytest.raises(UserError, match=r"p\.parquet has changed since it was written"):
        reader.read("p", ["v"])
    file.unlink()
    with pytest.raises(UserError, match=r"p\.parquet is missing, but the stage .* is recorded as finished"):
        reader.read_where("p", "cell", 1, ["v"])


def test_a_part_that_is_no_table_is_checked_too(tmp_path):
    directory = RunDirectory(str(tmp_path)).stage("s")
    part = directory.write_file("m/model.json", b"{}")
    reader = PartReader(directory.store, {part.name: part})
    assert reader.read_bytes("m/model.json") == b"{}"
    (tmp_path / "s" / "m" / "model.json").write_bytes(b"[]")
    with pytest.raises(UserError, match=r"model\.json has changed"):
        reader.read_bytes("m/model.json")


def rejects(**reasons):
    rows = []
    for reason, (outcome, n) in reasons.items():
        for i in range(n):
            rows.append({"doc_id": f"{reason}{i}", "source": "s", "stage": "x", "scope": "document"})
            rows[-1] |= {"outcome": outcome, "reason": reason}
    return pa.Table.from_pylist(rows, schema=REJECTS)


def test_counts_balance_and_tell_drops_from_failures():
    counts = ledger.counts_of(5, rejects(short=("dropped", 2), broken=("failed", 1)))
    assert counts == Counts(8, 5, {"short": 2}, {"broken": 1})
    assert counts.conserved
    assert (counts + counts).to_json()["dropped"] == {"short": 4}


def test_a_media_failure_does_not_count_as_a_document():
    lost = failures_batch(
        [Failure(source="s", locator=Locator(uri="a.md"), reason="bad_image", detail="d", scope="media")],
        "ingest",
    )
    counts = ledger.counts_of(1, lost)
    assert (counts.documents_in, counts.failed, counts.media) == (1, {}, {"bad_image": 1})


def test_too_many_failures_stop_a_large_stage_with_reasons_and_place():
    counts = Counts(2000, 1900, {}, {"broken": 100})
    with pytest.raises(UserError) as caught:
        ledger.check_failures("ingest", counts, 0.01, "run/ingest/rejects", ["s/a.jpg: broken: cut short"])
    message = str(caught.value)
    assert (
        "ingest: 100 of 2000 documents failed (5.0%; allowed is max_failed_share=0.01): 100 broken" in message
    )
    assert "s/a.jpg: broken: cut short" in message
    assert "run/ingest/rejects" in message


def test_a_few_failures_of_a_small_stage_do_not_stop_it_unless_nothing_is_left():
    ledger.check_failures("ingest", Counts(10, 5, {}, {"broken": 5}), 0.01, "", [])
    with pytest.raises(UserError, match="10 of 10 documents failed"):
        ledger.check_failures("ingest", Counts(10, 0, {}, {"broken": 10}), 0.01, "", [])


def test_a_stage_manifest_is_plain_json(tmp_path):
    do(Numbers(failed=1), tmp_path)
    value = json.loads((tmp_path / "run" / "numbers" / "stage.json").read_text())
    assert value["counts"] == {"in": 30, "kept": 27, "dropped": {}, "failed": {"bad": 3}, "media": {}}
    assert [p["name"] for p in value["parts"]] == ["part-a", "part-b", "part-c"]
    assert all(len(p["sha256"]) == 64 and p["bytes"] > 0 for p in value["parts"])


def test_a_training_stays_in_the_plan_when_the_run_is_brought_up_to_date(tmp_path):
    run = RunDirectory(str(tmp_path))
    assert run.plan() == []
    run.save_plan(["ingest", "shards"])
    run.save_plan(training="dense")
    run.save_plan(["ingest", "filter", "shards"])
    assert run.plan() == ["ingest", "filter", "shards", "dense"]
    run.save_plan(["ingest", "shards", "dense"])
    assert run.plan() == ["ingest", "shards", "dense"]
