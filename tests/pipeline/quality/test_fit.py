"""Fitting: planted classes are told apart, the same input gives the same bytes, and wrong input is told."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from mixloom.pipeline.config import validate
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.quality.classifier import Classifier
from mixloom.pipeline.quality.config import FastTextConfig, QualityFitConfig


def test_planted_positives_are_told_from_negatives_on_held_out_documents(fitted):
    _, header = fitted
    assert header["metrics"]["auc"] > 0.95
    assert header["metrics"]["calibration_error"] < 0.1
    assert header["metrics"]["brier"] < 0.1
    assert header["roc"][0] == [0, 0]
    assert header["roc"][-1] == [1, 1]


def test_classes_are_balanced_and_every_document_is_accounted_for(fitted):
    _, header = fitted
    assert header["counts"]["positive_read"] == 700
    assert header["counts"]["negative_read"] == 960
    used = {k: sum(s[k] for s in header["splits"].values()) for k in ("positives", "negatives")}
    assert used == {"positives": 700, "negatives": 700}
    assert header["counts"]["left_out"] == 260
    held_out = sum(map(sum, header["histograms"].values()))
    assert held_out == sum(header["splits"]["test"].values())
    assert set(header["histograms"]) == {"positive: good", "negative: plain", "negative: files"}


def test_the_same_documents_and_settings_give_the_same_bytes(fitted, make_fit, tmp_path):
    folder, _ = fitted
    make_fit(tmp_path / "again")
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["model.bin", "quality.json", "report.html"]
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_order_of_documents_and_sources_changes_no_score(fitted, make_fit, examples_root, tmp_path):
    _, header = fitted
    lines = (examples_root / "plain.jsonl").read_text().splitlines()
    (tmp_path / "plain.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    negatives = [
        {"name": "files", "format": "text", "path": "folder"},
        {"name": "plain", "format": "jsonl", "path": str(tmp_path / "plain.jsonl")},
    ]
    other = make_fit(tmp_path / "model", negatives=negatives)
    assert other["sha256"] == header["sha256"]
    assert other["metrics"] == header["metrics"]


def test_another_seed_is_another_choice_and_model(fitted, make_fit, tmp_path):
    other = make_fit(tmp_path / "model", seed=1)
    assert other["sha256"] != fitted[1]["sha256"]
    assert other["metrics"]["auc"] > 0.95


def test_thresholds_keep_the_share_they_name(fitted):
    _, header = fitted
    rows = header["thresholds"]
    assert [r["share"] for r in rows] == sorted(r["share"] for r in rows)
    assert all(a["threshold"] >= b["threshold"] for a, b in pairwise(rows))
    negatives = header["splits"]["test"]["negatives"]
    for row in rows:
        assert abs(row["kept"] - row["share"]) <= 1 / negatives + 1e-9
        assert (
            row["positives_kept"] >= row["kept"]
        )  # a classifier that is any good keeps more of the positives


@pytest.mark.parametrize(
    "changes", [{"calibration": "isotonic"}, {"fasttext": {"dim": 8, "bucket": 2000, "quantize": True}}]
)
def test_isotonic_calibration_and_quantised_models_work_too(make_fit, tmp_path, changes):
    header = make_fit(tmp_path / "model", **changes)
    assert header["metrics"]["auc"] > 0.95
    assert header["metrics"]["calibration_error"] < 0.1
    Classifier.load(str(tmp_path / "model"))


def test_texts_in_both_classes_and_repeated_texts_teach_nothing(make_fit, examples_root, tmp_path):
    good = (examples_root / "good.jsonl").read_text().splitlines()
    plain = (examples_root / "plain.jsonl").read_text().splitlines()
    (tmp_path / "good.jsonl").write_text("\n".join([*good, *good[:5], *plain[:7], '{"text": "  "}']) + "\n")
    source = {"name": "good", "format": "jsonl", "path": str(tmp_path / "good.jsonl")}
    counts = make_fit(tmp_path / "model", positives=[source])["counts"]
    assert counts["positive_duplicates"] == 5
    assert counts["in_both_classes"] == 7
    assert counts["failed"] == 1


def test_classes_that_do_not_differ_are_told(make_fit, examples_root, tmp_path):
    lines = (examples_root / "plain.jsonl").read_text().splitlines()
    rng = np.random.default_rng(5)
    texts = [json.loads(line)["text"].split() for line in lines]
    for name, part in (("a", texts[:400]), ("b", texts[400:800])):
        shuffled = [json.dumps({"text": " ".join(rng.permutation(t))}) for t in part]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(shuffled))
    sources = {n: [{"name": n, "format": "jsonl", "path": str(tmp_path / f"{n}.jsonl")}] for n in "ab"}
    try:
        header = make_fit(tmp_path / "model", positives=sources["a"], negatives=sources["b"])
    except UserError as e:
        assert "cannot tell positives from negatives" in e.what  # noqa: PT017 (either is right)
    else:  # by luck held-out positives may score a little higher; then the report says how little
        assert header["metrics"]["auc"] < 0.65


def test_too_few_documents_are_told_with_numbers(make_fit, tmp_path):
    source = {"name": "good", "format": "jsonl", "path": "good.jsonl", "max_documents": 30}
    with pytest.raises(
        UserError, match=r"are left for (calibration|test), and 5 are needed \(30 distinct positives"
    ):
        make_fit(tmp_path / "model", positives=[source])
    assert not (tmp_path / "model").exists()


def test_a_source_that_is_missing_is_told(make_fit, tmp_path):
    with pytest.raises(UserError, match=r"source 'good': the path .*gone\.jsonl does not exist"):
        make_fit(tmp_path / "model", positives=[{"name": "good", "format": "jsonl", "path": "gone.jsonl"}])
    with pytest.raises(UserError, match="has no document that can be read"):
        make_fit(
            tmp_path / "model",
            positives=[{"name": "good", "format": "jsonl", "path": "good.jsonl", "text_field": "body"}],
        )


def test_a_learning_rate_that_diverges_is_told(make_fit, tmp_path, monkeypatch):
    import fasttext

    def diverge(*args, **options):
        raise RuntimeError("Encountered NaN.")

    monkeypatch.setattr(fasttext, "train_supervised", diverge)
    with pytest.raises(UserError, match="Encountered NaN") as e:
        make_fit(tmp_path / "model")
    assert e.value.fix == "lower fasttext.lr (it is 0.5)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negatives": []}, "there are no negatives: list at least one source"),
        ({"positive_label": "cc"}, "both labels are 'cc'"),
        ({"fasttext": {"min_chars": 3}}, "max_chars 0 is less than min_chars 3"),
        ({"fasttext": {"epoch": 3}}, "unknown key 'fasttext.epoch' (did you mean 'epochs'?)"),
        (
            {"positives": [{"name": "x", "path": "y", "format": "jsn"}]},
            "'positives.x.format' is 'jsn' (did you mean",
        ),
        ({"preselect": {"losses": "l.csv", "strengths": {"a": 1, "b": 2}, "run_dir": "r"}}, "not both"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_told(change, message):
    source = [{"name": "x", "path": "y", "format": "jsonl"}]
    with pytest.raises(UserError) as e:
        validate(
            QualityFitConfig, {"out": "o", "positives": source, "negatives": source, **change}, "test.yaml"
        )
    assert message in str(e.value)


def test_the_report_is_a_page_with_the_figures_and_nothing_from_elsewhere(fitted):
    folder, header = fitted
    page = (folder / "report.html").read_text(encoding="utf-8")
    for text in (
        "ROC",
        "Reliability",
        "positive: good",
        "negative: files",
        f"{header['metrics']['auc']:.4f}",
    ):
        assert text in page
    assert "http://" not in page
    assert "https://" not in page


def test_few_documents_are_read_more_often(fitted):
    assert [FastTextConfig().epochs_for(n) for n in (0, 100, 4000, 20_000, 10**6)] == [50, 50, 25, 5, 5]
    assert FastTextConfig(epochs=7).epochs_for(100) == 7
    assert fitted[1]["fasttext"]["epochs"] == 50
