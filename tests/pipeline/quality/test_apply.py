"""Scores of the documents of a run, and the commands that make and show them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.quality.apply import SCORES, apply_quality
from mixloom.pipeline.quality.classifier import Classifier
from mixloom.pipeline.quality.examples import run_batches
from mixloom.pipeline.quality_cli import app


def test_every_document_of_a_run_is_scored_once_in_order(make_run, fitted):
    run_dir, ids, good = make_run
    applied = apply_quality(Classifier.load(str(fitted[0])), str(run_dir))
    assert applied.table.schema.equals(SCORES)
    assert sorted(applied.table["doc_id"].to_pylist()) == sorted(ids)
    scores = dict(zip(applied.table["doc_id"].to_pylist(), applied.table["score"].to_pylist()))
    by_class = [np.mean([scores[i] for i, g in zip(ids, good) if g == kind]) for kind in (True, False)]
    assert by_class[0] > by_class[1] + 0.5
    rows = {r["source"]: r for r in applied.summary()}
    assert sum(r["documents"] for r in rows.values()) == len(ids)
    assert sum(sum(r["histogram"]) for r in rows.values()) == len(ids)
    for row in applied.thresholds:
        kept = sum(s >= row["threshold"] for s in scores.values())
        assert row["kept"] == pytest.approx(kept / len(ids))


def test_only_survivors_and_only_one_source_can_be_read(make_run):
    run_dir, ids, _ = make_run
    everything = [i for b in run_batches(str(run_dir)) for i in b.ids]
    assert sorted(everything) == sorted(ids)
    survivors = [i for b in run_batches(str(run_dir), survivors="filter") for i in b.ids]
    assert survivors == [i for k, i in enumerate(everything) if i in set(survivors)]
    assert len(survivors) == len(ids) // 2
    one = [n for b in run_batches(str(run_dir), "good") for n in b.names]
    assert set(one) == {"good"}
    with pytest.raises(UserError, match=r"has no source 'goood' \(did you mean 'good'\?\)"):
        list(run_batches(str(run_dir), "goood"))
    with pytest.raises(UserError, match="the stage 'ingest' does not decide which documents stay"):
        list(run_batches(str(run_dir), survivors="ingest"))
    with pytest.raises(UserError, match="the stage 'dedup_near' has not finished"):
        list(run_batches(str(run_dir), survivors="dedup_near"))
    with pytest.raises(UserError, match="does not exist"):
        list(run_batches(str(run_dir / "gone")))


def test_documents_of_a_run_can_be_the_examples(make_run, make_fit, tmp_path):
    run_dir, _, good = make_run
    both = {k: [{"format": "run", "run_dir": str(run_dir), "name": k}] for k in ("good", "plain")}
    header = make_fit(tmp_path / "model", positives=both["good"], negatives=both["plain"])
    assert header["counts"]["positive_read"] == int(good.sum())
    assert header["metrics"]["auc"] > 0.95


def test_the_commands_fit_apply_and_say_where_things_are(make_run, examples_root, tmp_path):
    run_dir, ids, _ = make_run
    tree = {
        "out": str(tmp_path / "model"),
        "data_root": str(examples_root),
        "positives": [{"name": "good", "format": "jsonl", "path": "good.jsonl"}],
        "negatives": [{"name": "plain", "format": "jsonl", "path": "plain.jsonl"}],
    }
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(tree))
    runner = CliRunner()
    done = runner.invoke(app, ["fit", str(tmp_path / "fit.yaml"), "fasttext.bucket=2000", "fasttext.dim=8"])
    assert done.exit_code == 0, done.output
    header = json.loads((tmp_path / "model" / "quality.json").read_text())
    assert header["fasttext"]["bucket"] == 2000
    assert f"held-out AUC {header['metrics']['auc']:.4f}" in done.stderr
    out = tmp_path / "scores.parquet"
    done = runner.invoke(app, ["apply", str(tmp_path / "model"), str(run_dir), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "threshold" in done.stdout
    assert "plain" in done.stdout
    assert pq.read_table(out).schema.equals(SCORES)
    first = out.read_bytes()
    bare = [str(tmp_path / "model" / "model.bin"), str(run_dir), "--label", "hq", "--json", "--out", str(out)]
    done = runner.invoke(app, ["apply", *bare])
    told = json.loads(done.stdout)
    assert sum(s["documents"] for s in told["sources"]) == len(ids)
    again = pq.read_table(out)
    assert again["probability"].null_count == len(ids)
    assert again["score"].equals(pq.read_table(pa.BufferReader(first))["score"])
