"""Trials and traces: read, written, put into the order of the domains, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from mixloom.mixers.tables import Trace, Trials
from mixloom.pipeline.errors import UserError


def test_trials_come_back_exactly_from_their_lines(tmp_path):
    rng = np.random.default_rng(0)
    made = Trials(("a,x", "b"), ("s", "t"), rng.dirichlet([1, 1], 5), rng.random((5, 2)))
    path = tmp_path / "t.csv"
    path.write_text("\n".join(made.lines()) + "\n")
    back = Trials.load(path)
    assert (back.domains, back.skills) == (made.domains, made.skills)
    np.testing.assert_allclose(back.weights, made.weights, rtol=1e-15)
    np.testing.assert_array_equal(back.losses, made.losses)
    again = Trials.parse(back.lines())
    assert again.fingerprint == back.fingerprint
    np.testing.assert_array_equal(back.aligned(["b", "a,x"]).weights, back.weights[:, ::-1])


def test_a_trace_comes_back_exactly_with_what_was_not_seen(tmp_path):
    made = Trace(("a", "b"), np.array([1, 5]), np.array([[0.1, np.nan], [1e-9, 2.0]]))
    path = tmp_path / "t.csv"
    path.write_text("\n".join(made.lines()))
    back = Trace.load(path)
    np.testing.assert_array_equal(back.values, made.values)
    assert back.steps.tolist() == [1, 5]
    assert back.fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,loss\n1,2\n", "1 trials"),
        ("a,b\n1,0\n0,1\n", "0 losses"),
        ("a,b,loss\n0.5,0.1,1\n1,0,2\n", r"trial 1 has weights that sum to 0\.6"),
        ("a,b,loss\n1.5,-0.5,1\n1,0,2\n", "or are negative"),
        ("a,b,loss\n1,0,\n1,0,2\n", "trial 1 has no loss"),
        ("a,a,loss\n1,0,1\n1,0,2\n", "two of one name"),
        ("a,b,loss\n1,0\n", "line 2 has 2 cells"),
        ("a,b,loss\n1,x,2\n", "line 2: could not convert"),
        ("", "is empty"),
    ],
)
def test_trials_that_are_wrong_say_where(tmp_path, text, said):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        Trials.load(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "needs the column step"),
        ("step,a\n2,1\n1,1\n", "ascending"),
        ("step,a\n1.5,1\n", "whole"),
        ("step,a\n1,inf\n", "infinite"),
        ("step,a\n", "a line per step"),
    ],
)
def test_traces_that_are_wrong_say_what(tmp_path, text, said):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        Trace.load(path)


def test_domains_that_do_not_agree_are_named():
    made = Trace(("wiki", "web"), np.array([1]), np.zeros((1, 2)))
    with pytest.raises(UserError, match=r"no column for domain 'wikis' \(did you mean 'wiki'\?\)"):
        made.aligned(["wikis", "web"])
    with pytest.raises(UserError, match="a column for a domain that is not there, 'web'"):
        made.aligned(["wiki"])
    with pytest.raises(UserError, match="does not exist"):
        Trace.load("nowhere.csv")
