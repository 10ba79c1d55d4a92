"""Calibration and the figures of the report, against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.quality import metrics
from mixloom.pipeline.quality.calibration import Calibration, fit_calibration


def drawn(n=4000, sharpness=4.0, seed=0):
    """Scores in [0, 1] whose true probability is known and is not the score."""
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    truth = 1 / (1 + np.exp(-sharpness * (np.log(scores + 1e-9) - np.log(1 - scores + 1e-9)) - 1))
    return scores.astype(np.float32), rng.random(n) < truth, truth


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibrated_scores_are_the_true_probabilities(method):
    scores, positive, truth = drawn()
    calibration = fit_calibration(scores, positive, method)
    assert np.abs(calibration.probability(scores) - truth).mean() < 0.03
    before = metrics.calibration_error(metrics.reliability(scores, positive))
    after = metrics.calibration_error(metrics.reliability(calibration.probability(scores), positive))
    assert after < 0.03 < before


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@given(data=st.data())
def test_calibration_never_reverses_an_order(method, data):
    n = data.draw(st.integers(4, 40))
    scores = np.array(data.draw(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n)), np.float32)
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    if positive.all() or not positive.any():
        return
    wide = scores.astype(
        np.float64
    )  # as the fit compares them: equal scores have means that differ by rounding
    if wide[positive].mean() <= wide[~positive].mean():
        return
    calibration = fit_calibration(scores, positive, method)
    found = calibration.probability(
        np.sort(np.concatenate([scores, np.linspace(0, 1, 50, dtype=np.float32)]))
    )
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()
    assert Calibration.from_json(calibration.to_json()) == calibration


def test_platt_keeps_distinct_scores_apart_and_perfect_scores_finite():
    scores = np.array([0.0, 0.1, 0.2, 0.8, 0.9, 1.0], np.float32)
    calibration = fit_calibration(scores, scores > 0.5, "platt")
    found = calibration.probability(scores)
    assert (np.diff(found) > 0).all()
    assert 0 < found[0] < 0.5 < found[-1] < 1


def test_nan_stays_nan():
    scores, positive, _ = drawn(200)
    for method in ("platt", "isotonic"):
        found = fit_calibration(scores, positive, method).probability(np.array([np.nan, 0.5]))
        assert np.isnan(found).tolist() == [True, False]


def test_scores_that_are_the_wrong_way_round_are_told():
    scores, positive, _ = drawn(200)
    with pytest.raises(UserError, match="cannot tell positives from negatives"):
        fit_calibration(1 - scores, positive, "platt")


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), min_size=2, max_size=60
    )
)
def test_the_area_under_the_curve_is_that_of_scikit_learn_and_counts_ties_half(rows):
    scores = np.array([s for s, _ in rows])
    positive = np.array([p for _, p in rows])
    if positive.all() or not positive.any():
        return
    fpr, tpr, area = metrics.roc(scores, positive)
    assert area == pytest.approx(roc_auc_score(positive, scores))
    wins = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert area == pytest.approx(np.mean(wins))
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=200))
def test_a_threshold_is_the_highest_score_that_keeps_at_least_its_share(values):
    pool = np.array(values, np.float32)
    for row in metrics.thresholds(pool):
        wanted = max(1, round(row["share"] * len(pool)))
        kept = int((pool >= np.float32(row["threshold"])).sum())
        assert kept >= wanted
        assert int((pool > np.float32(row["threshold"])).sum()) < wanted
        assert row["kept"] == pytest.approx(kept / len(pool))


def test_histograms_count_every_known_score_once_and_nan_never():
    scores = np.array([0.0, 0.049, 0.05, 0.5, 1.0, 1.0, np.nan], np.float32)
    counts = metrics.histogram(scores)
    assert sum(counts) == 6
    assert counts[0] == 2
    assert counts[-1] == 2
    found = metrics.histograms(scores, np.array([0, 0, 0, 0, 1, 1, 1]), ["a", "b"])
    assert [sum(found["a"]), sum(found["b"])] == [4, 2]
