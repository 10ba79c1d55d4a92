"""Loading a classifier and scoring with it: folders, bare files, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.quality.classifier import (
    Classifier,
    load_configured,
    quality_column,
    quality_fingerprint,
)
from mixloom.pipeline.quality.config import Normalisation, QualityModelConfig


@pytest.fixture(scope="module")
def texts(text_of):
    rng = np.random.default_rng(99)
    return pa.array([text_of(rng, good=i % 2 == 0) for i in range(80)])


def test_good_documents_score_higher_and_batches_change_nothing(fitted, texts):
    classifier = Classifier.load(str(fitted[0]))
    scores = classifier.score(texts)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert np.mean(scores[::2]) > np.mean(scores[1::2]) + 0.5
    alone = np.concatenate([classifier.score(texts.slice(i, 1)) for i in range(len(texts))])
    np.testing.assert_array_equal(scores, alone)


def test_scores_are_the_librarys(fitted, texts):
    import fasttext

    library = fasttext.load_model(str(fitted[0] / "model.bin"))
    labels, values = library.f.multilinePredict([t + "\n" for t in texts.to_pylist()], -1, -1.0, "strict")
    theirs = [dict(zip(a, b))["__label__hq"] for a, b in zip(labels, values)]
    np.testing.assert_allclose(Classifier.load(str(fitted[0])).score(texts), theirs, atol=2e-5)


def test_a_text_without_words_has_no_score_and_is_null_in_the_column(fitted):
    classifier = Classifier.load(str(fitted[0]))
    batch = pa.array(["", None, " \n\t", "theorem"], pa.large_string())
    assert np.isnan(classifier.score(batch)).tolist() == [True, True, True, False]
    for calibrated in (False, True):
        column = quality_column(batch, classifier, calibrated)
        assert column.type == pa.float32()
        assert [v.as_py() is None for v in column] == [True, True, True, False]
    assert len(quality_column(batch.slice(0, 0), classifier)) == 0


def test_a_bare_file_needs_the_label_that_is_good(fitted, texts):
    bare = str(fitted[0] / "model.bin")
    with pytest.raises(UserError, match="which of its labels is good is not said: __label__") as e:
        Classifier.load(bare)
    assert "set label" in e.value.fix
    with pytest.raises(UserError, match=r"has no label '__label__hqq' \(did you mean 'hq'\?\)"):
        Classifier.load(bare, "__label__hqq")
    whole = Classifier.load(str(fitted[0])).score(texts)
    for label in ("__label__hq", "hq"):
        np.testing.assert_array_equal(Classifier.load(bare, label).score(texts), whole)
    np.testing.assert_allclose(Classifier.load(bare, "cc").score(texts), 1 - whole, atol=1e-6)


def test_a_bare_file_has_no_calibration(fitted):
    bare = QualityModelConfig(model=str(fitted[0] / "model.bin"), label="hq", calibrated=True)
    with pytest.raises(UserError, match="has no calibration"):
        load_configured(bare)
    load_configured(bare.model_copy(update={"calibrated": False}))


def test_the_calibrated_column_is_the_probability_of_the_score(fitted, texts):
    classifier = Classifier.load(str(fitted[0]))
    scores = classifier.score(texts)
    column = quality_column(texts, classifier, calibrated=True).to_numpy()
    np.testing.assert_array_equal(column, classifier.probability(scores))
    order = np.argsort(scores)
    assert (np.diff(column[order]) >= 0).all()
    truth = np.arange(len(texts)) % 2 == 0
    assert np.mean((column > 0.5) == truth) > 0.9


def test_normalisation_is_saved_with_the_model_and_applied(make_fit, tmp_path, texts):
    make_fit(
        tmp_path / "low", normalisation={"lowercase": True, "separate_punctuation": True, "max_chars": 80}
    )
    classifier = Classifier.load(str(tmp_path / "low"))
    assert classifier.normalisation == Normalisation(lowercase=True, separate_punctuation=True, max_chars=80)
    shouted = pa.array([t.upper() for t in texts.to_pylist()])
    np.testing.assert_array_equal(classifier.score(texts), classifier.score(shouted))
    longer = pa.array([t[:80] + " click here" * 50 for t in texts.to_pylist()])
    np.testing.assert_array_equal(classifier.score(texts), classifier.score(longer))
    bare = Classifier.load(str(tmp_path / "low" / "model.bin"), "hq", classifier.normalisation)
    np.testing.assert_array_equal(classifier.score(texts), bare.score(texts))


def test_a_folder_keeps_its_own_label_and_normalisation(fitted):
    with pytest.raises(UserError, match=r"label is 'cc', but the model .* was fitted for '__label__hq'"):
        Classifier.load(str(fitted[0]), "cc")
    with pytest.raises(UserError, match="normalisation is given, but the model"):
        Classifier.load(str(fitted[0]), None, Normalisation())


def test_a_missing_folder_a_changed_model_and_a_damaged_header_are_told(fitted, tmp_path):
    with pytest.raises(UserError, match=r"the quality model .*gone does not exist"):
        Classifier.load(str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"has no quality\.json"):
        Classifier.load(str(tmp_path))
    shutil.copytree(fitted[0], tmp_path / "model")
    with (tmp_path / "model" / "model.bin").open("ab") as f:
        f.write(b"x")
    with pytest.raises(UserError, match="its sha256 differs") as e:
        Classifier.load(str(tmp_path / "model"))
    assert "copy the whole folder again" in e.value.fix
    (tmp_path / "model" / "quality.json").write_text('{"format": 9}')
    with pytest.raises(UserError, match=r"quality\.json cannot be read: .*format 9"):
        Classifier.load(str(tmp_path / "model"))


def test_whatever_changes_scores_changes_the_fingerprint(fitted, tmp_path):
    shutil.copytree(fitted[0], tmp_path / "model")
    config = QualityModelConfig(model=str(tmp_path / "model"))
    before = quality_fingerprint(config)
    assert before == quality_fingerprint(QualityModelConfig(model=str(fitted[0])))
    header = json.loads((tmp_path / "model" / "quality.json").read_text())
    header["normalisation"]["lowercase"] = True
    (tmp_path / "model" / "quality.json").write_text(json.dumps(header))
    assert quality_fingerprint(config) != before
    bare = QualityModelConfig(model=str(tmp_path / "model" / "model.bin"), label="hq")
    before = quality_fingerprint(bare)
    with (tmp_path / "model" / "model.bin").open("ab") as f:
        f.write(b"x")
    assert quality_fingerprint(bare) != before
