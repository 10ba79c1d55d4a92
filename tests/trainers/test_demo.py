"""What the demo tells of a run: figures from the run's files alone, the same for people and for machines."""

import json

import pyarrow as pa
import pytest

from mixloom.pipeline.console import Console
from mixloom.pipeline.demo.truth import Corrupt, Place, Planted, Truth
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.schema import (
    REJECTS,
    Document,
    Failure,
    Locator,
    Segment,
    documents_batch,
    failures_batch,
)
from mixloom.pipeline.stage import OutputTable, RunSettings, Stage, UnitOutput, run_stage
from mixloom.trainers.demo import run_demo, summarise, told


def document(uri, text):
    return Document(source="s", locator=Locator(uri=uri), segments=(Segment(kind="text", text=text),))


X1, X2 = document("x1", "a copy"), document("x2", "a copy")
N1, N2 = document("n1", "nearly the same"), document("n2", "almost the same")
NOISE, ALONE = document("z", "%$#"), document("a", "alone")
ALL = [X1, X2, N1, N2, NOISE, ALONE]


def place(uri, offset=-1):
    return Place("s", uri, offset)


TRUTH = Truth(
    seed=0,
    scale=1.0,
    python="3",
    sources={"s": "."},
    missing_domains=(),
    documents=(
        *(Planted(place(u), "text", "copies") for u in ("x1", "x2")),
        *(Planted(place(u), "text", "near") for u in ("n1", "n2")),
        Planted(place("a"), "text", "near"),
        Planted(place("z"), "noise"),
    ),
    exact_duplicate_groups=((place("x1"), place("x2")),),
    near_duplicate_pairs=((place("n1"), place("n2"), 0.9),),
    hard_negative_pairs=(),
    same_words_pairs=(),
    noise=(place("z"),),
    corrupt=(Corrupt(place("b"), "not UTF-8", ("invalid_utf8",)),),
)


class Made(Stage):
    """A stage with the documents it is told to keep and the others in its ledger."""

    version = 1

    def __init__(self, name, kept, dropped=(), rejects=None, columns=None, info=None):
        self.name, self.kept, self.dropped = name, kept, dropped
        self.rejects, self.columns, self.info = rejects, columns or {}, info

    def settings(self):
        return {}

    def execute(self, ctx):
        if self.name == "ingest":
            table = pa.Table.from_batches([documents_batch(self.kept)])
        else:
            rows = {"doc_id": [d.doc_id for d in self.kept], **self.columns}
            table = pa.table(rows)
        rejects = self.rejects
        if self.dropped:
            lines = [
                {"doc_id": d.doc_id, "source": "s", "stage": self.name, "scope": "document"}
                | {"outcome": "dropped", "reason": reason, "detail": detail}
                for d, reason, detail in self.dropped
            ]
            rejects = pa.Table.from_pylist(lines, schema=REJECTS)
        output = OutputTable("part-0", table)
        unit = {"shards": "manifest", "train": "train"}.get(self.name, "unit")
        ctx.commit(UnitOutput(unit, (output,), rejects, len(self.kept), info=self.info))


TOTALS = {"tokens": 1234567, "tokens_by_modality": {"text": 1234000, "image": 500, "speech": 67}}
LOSS = {
    "loss_first_by_modality": {"text": 8.0, "image": 7.5, "speech": None},
    "loss_last_by_modality": {"text": 4.0, "image": 2.5, "speech": None},
}


def made(tmp_path, leave_out=()):
    """A run directory in which a perfect run has left its files."""
    broken = Failure(source="s", locator=Locator(uri="b"), reason="invalid_utf8", detail="byte 3")
    failed = pa.Table.from_batches([failures_batch([broken], "ingest")])
    kept = [X1, N1, ALONE]
    stages = [
        Made("ingest", ALL, rejects=failed),
        Made("filter", [X1, X2, N1, N2, ALONE], [(NOISE, "symbol_noise", None)]),
        Made("dedup_exact", [X1, N1, N2, ALONE], [(X2, "exact_duplicate", X1.doc_id)]),
        Made("dedup_near", kept, [(N2, "near_duplicate", N1.doc_id)]),
        Made("cluster", kept, columns={"domain": [0, 1, 1]}),
        Made("shards", kept, info={"totals": TOTALS}),
        Made("train", [], info=LOSS),
    ]
    run = RunDirectory(str(tmp_path))
    stages = [s for s in stages if s.name not in leave_out]
    run.save_plan([s.name for s in stages])
    for stage in stages:
        run_stage(stage, run, RunSettings(), Console(quiet=True), {})
    return run


def test_a_perfect_run_has_perfect_figures(tmp_path):
    summary = summarise(made(tmp_path), TRUTH)
    assert summary["conserved"] is True
    truth = summary["truth"]
    for name in ("exact_duplicate_recall", "near_duplicate_recall", "noise_recall", "domain_purity"):
        assert truth[name] == 1.0
    assert truth["distinct_documents_lost"] == truth["failures_unplanted"] == 0
    assert (truth["corrupt_planted"], truth["corrupt_in_ledger"], truth["corrupt_named"]) == (1, 1, 1)
    assert summary["loss"] == {"text": [8.0, 4.0], "image": [7.5, 2.5], "speech": [None, None]}
    assert summary["tokens"] == {"text": 1234000, "image": 500, "speech": 67, "total": 1234567}
    assert set(summary["seconds"]) == {
        "ingest",
        "filter",
        "dedup_exact",
        "dedup_near",
        "cluster",
        "shards",
        "train",
    }
    json.dumps(summary)


def test_a_run_without_near_deduplication_recalls_no_near_pair(tmp_path):
    summary = summarise(made(tmp_path, leave_out=["dedup_near"]), TRUTH)
    assert summary["truth"]["near_duplicate_recall"] == 0.0
    assert summary["truth"]["exact_duplicate_recall"] == 1.0


def test_a_run_without_deduplication_or_training_is_told_all_the_same(tmp_path):
    run = made(tmp_path, leave_out=["dedup_exact", "dedup_near", "train"])
    summary = summarise(run, TRUTH)
    assert summary["truth"]["exact_duplicate_recall"] == 0.0
    assert summary["loss"] == {"text": [None, None], "image": [None, None], "speech": [None, None]}
    assert "->" not in told({**summary, "seconds": {"total": 1.0}})


def test_a_stage_that_has_not_ended_is_not_conserved(tmp_path):
    run = made(tmp_path)
    run.save_plan([*run.plan(), "order"])
    run.stage("order").begin("a key")
    assert summarise(run, TRUTH)["conserved"] is False


def test_people_read_the_same_figures(tmp_path):
    summary = summarise(made(tmp_path), TRUTH)
    summary["seconds"]["total"] = 61.5
    lines = told(summary).splitlines()
    assert any(line.split() == ["exact", "duplicate", "recall", "1.0"] for line in lines)
    assert any(line.split() == ["text", "8.000", "->", "4.000"] for line in lines)
    assert not any(line.split()[:1] == ["speech"] and "->" in line for line in lines)
    assert any(line.split() == ["total", "1,234,567"] for line in lines)
    assert "documents conserved at every stage: yes" in lines
    assert any("NO" in line for line in told({**summary, "conserved": False}).splitlines())


def test_the_demo_needs_a_local_folder_for_its_corpus():
    with pytest.raises(UserError, match=r"s3://bucket/run is not a local path\n  fix: use a local --run-dir"):
        run_demo("s3://bucket/run", [], [], Console(quiet=True))


def test_a_misspelt_override_of_the_demo_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(
        UserError, match=r"demo\.yaml: unknown key 'shards\.seqlen' \(did you mean 'seq_len'\?\)"
    ):
        run_demo(str(tmp_path / "run"), ["shards.seqlen=3"], [], Console(quiet=True))
    assert not (tmp_path / "run").exists()
