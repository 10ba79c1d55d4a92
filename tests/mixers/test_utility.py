"""Utilities as a table: what is accepted, what comes back, how measurements become 0 to 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.utility import Utilities, normalised
from mixloom.pipeline.errors import UserError


@st.composite
def tables(draw):
    n, k = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    sources = [f"s{i},'" for i in range(n)]
    values = draw(st.lists(st.floats(0, 1), min_size=n * k, max_size=n * k))
    skills = [f"k{j}: x" for j in range(k)]
    return Utilities(tuple(sources), tuple(skills), np.array(values).reshape(n, k), "ablation", True, ("n",))


@settings(max_examples=60, deadline=None)
@given(tables())
def test_a_saved_table_comes_back_exactly(tmp_path_factory, table):
    root = tmp_path_factory.mktemp("u")
    back = Utilities.load(table.save(root / "u.yaml"))
    assert (back.sources, back.skills, back.method, back.loss_only, back.notes) == (
        table.sources,
        table.skills,
        "ablation",
        True,
        ("n",),
    )
    assert np.array_equal(back.values, table.values)
    assert back.fingerprint == table.fingerprint
    plain = Utilities.load(table.to_csv(root / "u.csv"))
    assert np.array_equal(plain.values, table.values)
    assert (plain.sources, plain.skills, plain.method) == (table.sources, table.skills, "csv")


def test_the_same_table_is_saved_as_the_same_bytes_and_a_changed_one_is_refused(tmp_path):
    table = Utilities(("a", "b"), ("x",), np.array([[0.25], [1.0]]), "losses", details={"seed": 3})
    one, two = table.save(tmp_path / "1.yaml"), table.save(tmp_path / "2.yaml")
    assert one.read_bytes() == two.read_bytes()
    one.write_text(one.read_text().replace("0.25", "0.5"))
    with pytest.raises(UserError, match="changed after it was written"):
        Utilities.load(one)


def test_rows_are_put_into_the_order_of_the_domains_or_told_to_be_missing():
    table = Utilities(("b", "a"), ("x",), np.array([[0.2], [0.1]]))
    assert table.aligned(["a", "b"]).values.tolist() == [[0.1], [0.2]]
    with pytest.raises(UserError, match=r"no row for 'c'.*rows for 'b', which are not among"):
        table.aligned(["a", "c"])
    with pytest.raises(UserError, match=r"rows for 'b'"):
        table.aligned(["a"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("domain,x\na,1\n", "first column of the header must be 'source'"),
        ("source,x\na,1.5\n", r"source 'a' for skill 'x' is 1\.5.*allowed: 0 to 1"),
        ("source,x\na,nan\n", "is nan"),
        ("source,x\na,high\n", "line 2, column 'x': 'high' is not a number"),
        ("source,x\na\n", "line 2 has 1 cells, the header 2"),
        ("source,x\na,1\na,1\n", "source 'a' twice"),
        ("source,x\n", "has no source"),
        ("source\na\n", "has no skill"),
        ("", "first column"),
    ],
)
def test_a_csv_that_is_wrong_says_where(tmp_path, text, said):
    path = tmp_path / "u.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        Utilities.load(path)


def test_what_is_no_table_is_refused_with_advice(tmp_path):
    with pytest.raises(UserError, match="no utilities at"):
        Utilities.load(tmp_path / "none.yaml")
    (tmp_path / "u.txt").write_text("x")
    with pytest.raises(UserError, match=r"from \.yaml or \.csv"):
        Utilities.load(tmp_path / "u.txt")
    (tmp_path / "u.yaml").write_text("version: 9\n")
    with pytest.raises(UserError, match="version of utilities is 9"):
        Utilities.load(tmp_path / "u.yaml")
    with pytest.raises(UserError, match=r"shape \(1, 1\), for 2 sources"):
        Utilities(("a", "b"), ("x",), np.ones((1, 1)))
    with pytest.raises(UserError, match="method 'guess'"):
        Utilities(("a",), ("x",), np.ones((1, 1)), "guess")


def test_the_best_source_of_a_skill_becomes_1_and_the_worst_0_whichever_way_is_better():
    raw = np.array([[2.0, 10.0], [4.0, 30.0], [3.0, 20.0]])
    assert normalised(raw, True).tolist() == [[0, 0], [1, 1], [0.5, 0.5]]
    assert normalised(raw, [False, True]).tolist() == [[1, 0], [0, 1], [0.5, 0.5]]


def test_a_skill_at_which_all_are_equal_has_no_say():
    assert normalised(np.array([[5.0, 1.0], [5.0, 2.0]]), False).tolist() == [[1, 1], [1, 0]]
    from mixloom.mixers.utilimax import utilimax

    useful = np.array([[0.9, 0.1], [0.2, 0.6], [0.4, 0.4]])
    with_it = np.hstack([useful, np.ones((3, 4))])
    bounds = np.zeros(3), np.full(3, 0.8)
    a, b = utilimax(useful, *bounds, 0.1), utilimax(with_it, *bounds, 0.1)
    np.testing.assert_allclose(a.weights, b.weights, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=8), st.booleans()
)
def test_normalised_values_are_within_0_and_1_and_keep_the_order(rows, higher):
    raw = np.array(rows)
    scaled = normalised(raw, higher)
    assert ((scaled >= 0) & (scaled <= 1)).all()
    sign = 1 if higher else -1
    for j in range(3):
        ahead = sign * (raw[:, None, j] - raw[None, :, j]) >= 0
        assert (scaled[:, None, j] >= scaled[None, :, j] - 1e-12)[ahead].all()


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        normalised(np.array([[np.inf]]), True)
