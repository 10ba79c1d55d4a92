"""What `mixloom status` says of runs that are working, were interrupted, were stopped, or ended."""

import json
import threading

import pyarrow as pa
import pytest

from mixloom import cli
from mixloom.pipeline.cli import _plain
from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.schema import Failure, Locator, failures_batch
from mixloom.pipeline.stage import OutputTable, RunSettings, Stage, UnitOutput, run_stage
from mixloom.pipeline.status import run_status


class Three(Stage):
    """Three units of 500 documents, of which some fail; waits in the middle, or breaks there."""

    name = "three"
    version = 1

    def __init__(self, failed=0, middle=lambda: None):
        self.failed, self.middle = failed, middle

    def settings(self):
        return {}

    def execute(self, ctx):
        ctx.directory.set_total(3)
        for i, unit in enumerate(ctx.todo(["a", "b", "c"])):
            if i == 2:
                self.middle()
            bad = [
                Failure(source="s", locator=Locator(uri=f"{unit}{i}"), reason="broken", detail="is broken")
                for i in range(self.failed)
            ]
            media = Failure(
                source="s", locator=Locator(uri=unit), reason="no_image", detail="-", scope="media"
            )
            rejects = pa.Table.from_batches([failures_batch([*bad, media], "three")])
            table = pa.table({"doc_id": [f"{unit}{i}" for i in range(500 - self.failed)]})
            ctx.commit(UnitOutput(unit, (OutputTable(unit, table),), rejects, 500 - self.failed))

    def expected_in(self, ctx):
        return 1500


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(str(tmp_path / "run"))
    directory.store.write("config.yaml", b"")
    directory.save_plan(["three", "later"])
    return directory


def do(run, stage):
    return run_stage(stage, run, RunSettings(), Console(quiet=True), {})


def shown(run, capsys):
    assert cli.main(["status", run.store.root]) == 0
    table = capsys.readouterr().out
    assert cli.main(["status", run.store.root, "--json"]) == 0
    return table, json.loads(capsys.readouterr().out)


def test_a_finished_stage_balances_and_a_stage_not_begun_is_not_listed(run, capsys):
    do(run, Three(failed=2))
    table, value = shown(run, capsys)
    assert value["balanced"]
    [stage] = value["stages"]
    assert (stage["stage"], stage["state"]) == ("three", "finished")
    assert (stage["in"], stage["kept"], stage["failed"]) == (1500, 1494, {"broken": 6})
    assert stage["media"] == {"no_image": 3}
    assert (stage["units"], stage["units_total"]) == (3, 3)
    assert stage["bytes"] > 0
    assert "1,500" in table
    assert "6  failed: broken" in table
    assert "3  media: no_image" in table
    assert "later" not in table


def test_an_interrupted_stage_counts_what_is_finished(run, capsys):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do(run, Three(middle=interrupt))
    table, value = shown(run, capsys)
    assert "interrupted, 2 of 3 units done" in table
    [stage] = value["stages"]
    assert (stage["state"], stage["in"], stage["kept"], stage["units"]) == ("interrupted", 1000, 1000, 2)
    assert stage["balanced"]


def test_a_stage_with_too_many_failures_is_told_to_have_stopped(run, capsys):
    with pytest.raises(UserError, match=r"three: 300 of 1500 documents failed \(20\.0%"):
        do(run, Three(failed=100))
    table, value = shown(run, capsys)
    assert value["stages"][0]["state"] == "stopped"
    assert "stopped, 3 of 3 units done" in table
    assert "300  failed: broken" in table


def test_a_working_stage_is_told_live_while_the_run_is_held(run, capsys):
    reached, leave = threading.Event(), threading.Event()

    def wait():
        reached.set()
        assert leave.wait(60)

    def work():
        with run.lock():
            do(run, Three(middle=wait))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert reached.wait(60)
        [stage] = run_status(run)
        assert (stage.state, stage.units, stage.total) == ("running", 2, 3)
        assert "running, 2 of 3 units done" in shown(run, capsys)[0]
    finally:
        leave.set()
        thread.join()
    assert [s.state for s in run_status(run)] == ["finished"]


def test_what_documents_say_cannot_steer_the_terminal():
    told = _plain({"uri": "a\x1b[2J\x9b.txt", "text": "two words\x07 \u202eevil", "name": "ä.txt", "n": 3})
    assert "\x1b" not in told
    assert told == r'uri "a\u001b[2J\u009b.txt", text "two words\u0007 \u202eevil", name ä.txt, n 3'
