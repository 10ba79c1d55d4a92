"""Labels from losses: rank agreement against its plain definition, and a classifier fitted on them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.quality.config import PreSelectConfig
from mixloom.pipeline.quality.preselect import choose, labels_from_losses, read_losses


def plainly(losses, strengths):
    order = sorted(range(len(strengths)), key=lambda k: strengths[k])
    agree = pairs = 0
    for a in range(len(order)):
        for b in range(a + 1, len(order)):
            if strengths[order[a]] < strengths[order[b]]:
                pairs += 1
                agree += losses[order[a]] > losses[order[b]]
    return agree / pairs


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(0, 8), st.just(5)),
        elements=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
    ),
    st.lists(st.integers(0, 6), min_size=5, max_size=5).filter(lambda x: len(set(x)) > 1),
)
def test_agreement_is_the_share_of_pairs_in_which_the_stronger_model_has_the_lower_loss(losses, strengths):
    found = labels_from_losses(losses, np.array(strengths, float))
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx([plainly(row, strengths) for row in losses])


@given(st.permutations(range(6)))
def test_falling_losses_agree_fully_rising_ones_not_at_all_and_reversal_is_the_rest(order):
    strengths = np.arange(6.0)
    losses = np.array([order[::-1], order, range(6), range(5, -1, -1)], float)
    found = labels_from_losses(losses, strengths)
    assert found[0] == pytest.approx(1 - labels_from_losses(losses[:1, ::-1], strengths)[0])
    assert found[2:].tolist() == [0.0, 1.0]


def test_a_loss_that_is_missing_gives_no_score_and_wrong_shapes_are_refused():
    losses = np.array([[2.0, np.nan], [2.0, 1.0], [np.inf, 1.0]])
    found = labels_from_losses(losses, np.array([1.0, 2.0]))
    assert np.isnan(found).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="do not fit"):
        labels_from_losses(losses, np.array([1.0]))
    with pytest.raises(ValueError, match="no model is stronger"):
        labels_from_losses(losses, np.array([1.0, 1.0]))


def test_the_best_and_the_worst_are_chosen_and_ties_fall_by_their_hash():
    scores = np.array([0.5, 0.5, np.nan, 1.0, 0.0, 0.5, 0.5, 0.25])
    top, bottom = choose(scores, np.array([4, 1, 0, 9, 9, 3, 2, 9], np.uint64), 3 / 7, 2 / 7)
    assert sorted(top) == [0, 3, 5]
    assert sorted(bottom) == [4, 7]
    again = np.array([3, 7, 0, 1, 6, 5, 4, 2])  # the order of the rows decides nothing
    moved = choose(scores[again], np.array([4, 1, 0, 9, 9, 3, 2, 9], np.uint64)[again], 3 / 7, 2 / 7)
    assert sorted(again[moved[0]]) == [0, 3, 5]


def config(path, **changes):
    return PreSelectConfig(
        **{"losses": str(path), "strengths": {"small": 0.2, "large": 0.5}, "run_dir": "r", **changes}
    )


def test_tables_are_read_as_csv_and_as_parquet(tmp_path):
    table = pa.table({"doc_id": ["0a", "12"], "large": [1.5, None], "small": [2, 3], "extra": ["x", "y"]})
    pq.write_table(table, tmp_path / "l.parquet")
    (tmp_path / "l.csv").write_text("doc_id,small,large\n0a,2,1.5\n12,3,\n")
    for name in ("l.parquet", "l.csv"):
        ids, losses, strengths = read_losses(config(tmp_path / name))
        assert ids == ["0a", "12"]  # an id of digits stays a string
        np.testing.assert_array_equal(losses, [[2.0, 1.5], [3.0, np.nan]])
        assert strengths.tolist() == [0.2, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("doc_id,small\na,1\n", r"has no column 'large'; it has doc_id, small"),
        ("doc_id,small,large\na,1,x\n", "the column 'large' holds string, not numbers"),
        ("doc_id,small,large\na,1,2\na,1,3\n", "the document a has two rows"),
    ],
)
def test_a_table_that_does_not_fit_is_told(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_losses(config(tmp_path / "l.csv"))


def test_a_missing_table_and_an_unknown_suffix_are_told(tmp_path):
    with pytest.raises(UserError, match=r"the table of losses .*l\.csv does not exist"):
        read_losses(config(tmp_path / "l.csv"))
    (tmp_path / "l.json").write_text("{}")
    with pytest.raises(UserError, match=r"neither \.parquet nor \.csv nor \.tsv"):
        read_losses(config(tmp_path / "l.json"))


def test_shares_that_overlap_and_models_of_one_strength_are_told():
    with pytest.raises(ValueError, match="together they must not exceed 1"):
        config("l.csv", top_share=0.7, bottom_share=0.5)
    with pytest.raises(ValueError, match="strengths are all equal"):
        config("l.csv", strengths={"small": 1, "large": 1})


def test_a_classifier_learns_which_documents_stronger_models_read_better(make_run, make_fit, tmp_path):
    run_dir, ids, good = make_run
    rng = np.random.default_rng(2)
    strengths = {"tiny": 0.1, "small": 0.2, "medium": 0.4, "large": 0.7}
    # On good documents losses fall with strength, on others they wander.
    slope = np.where(good, 0.5, 0.0)[:, None] * np.arange(4)
    losses = 3 - slope + rng.normal(0, 0.15, (len(ids), 4))
    table = pa.table({"doc_id": ids, **{m: losses[:, k] for k, m in enumerate(strengths)}})
    pq.write_table(table, tmp_path / "losses.parquet")
    preselect = {"losses": str(tmp_path / "losses.parquet"), "strengths": strengths, "run_dir": str(run_dir)}
    shares = {"top_share": 0.35, "bottom_share": 0.35}
    header = make_fit(tmp_path / "model", positives=[], negatives=[], preselect={**preselect, **shares})
    assert header["counts"]["with_losses"] == len(ids)
    assert header["counts"]["positive_read"] == round(0.35 * len(ids))
    assert header["metrics"]["auc"] > 0.9
    assert json.loads((tmp_path / "model" / "quality.json").read_text()) == header
    pq.write_table(
        table.set_column(0, "doc_id", pa.array([f"x{i}" for i in range(len(ids))])),
        tmp_path / "losses.parquet",
    )
    with pytest.raises(UserError, match=r"none of the .* documents of .* is in"):
        make_fit(tmp_path / "model", positives=[], negatives=[], preselect={**preselect, **shares})
