"""The verdict on a mixture against UniMax."""

from __future__ import annotations

import numpy as np
import pytest

from mixloom.mixers.heldout import HeldOut, SkillLosses
from mixloom.pipeline.errors import UserError


def compared(loss, unimax, **more) -> HeldOut:
    return HeldOut(
        mixture="f" * 64, method="utilimax", seeds=tuple(range(len(loss))), loss=loss, unimax=unimax, **more
    )


def test_a_mixture_that_loses_is_warned_of_and_the_noise_of_the_seeds_is_named():
    sure = compared((3.2, 3.21, 3.19), (3.1, 3.1, 3.1))
    assert sure.loses
    assert sure.verdict().startswith(
        "warning: utilimax loses to UniMax on held-out data: held-out loss +0.1000"
    )
    assert "method=unimax" in sure.verdict()
    unsure = compared((3.2, 3.0, 3.13), (3.1, 3.1, 3.1))
    assert unsure.loses
    assert "within the noise of the seeds" in unsure.verdict()


def test_a_mixture_that_wins_is_said_to_only_where_the_interval_shows_it():
    assert compared((3.0, 3.01, 3.02), (3.1, 3.11, 3.12)).verdict().endswith(": better than UniMax")
    assert (
        compared((3.0, 3.2, 3.05), (3.1, 3.1, 3.1)).verdict().endswith("not shown to be better than UniMax")
    )
    one = compared((3.0,), (3.1,))
    assert one.interval is None
    assert "no interval from one seed" in one.verdict()
    assert not one.loses


def test_the_interval_is_that_of_paired_differences():
    stats = pytest.importorskip("scipy.stats")
    loss, base = np.array([3.2, 3.0, 3.3, 3.25]), np.array([3.1, 3.05, 3.1, 3.2])
    gap = loss - base
    low, high = stats.t.interval(0.95, 3, gap.mean(), gap.std(ddof=1) / 2)
    assert compared(tuple(loss), tuple(base)).interval == pytest.approx((low, high), rel=1e-3)


def test_it_comes_back_from_its_file_and_belongs_to_one_mixture(tmp_path):
    made = compared((1.0, 2.0), (1.5, 2.5), by_skill={"x": SkillLosses(loss=(1.0, 2.0), unimax=(1.5, 2.5))})
    path = made.save(tmp_path / "heldout.json")
    assert HeldOut.load(path, "f" * 64) == made
    with pytest.raises(UserError, match="compares mixture ffffffffffff, this one is 000000000000"):
        HeldOut.load(path, "0" * 64)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ('{"mixture": "f", "method": "m", "seeds": [0], "loss": [1, 2], "unimax": [1]}', "one loss per seed"),
        ('{"mixture": "f", "method": "m", "seeds": [0], "loss": [NaN], "unimax": [1]}', "must be finite"),
        ('{"mixture": "f", "method": "m", "seeds": [], "loss": [], "unimax": []}', "field seeds"),
        (
            '{"version": 2, "mixture": "f", "method": "m", "seeds": [0], "loss": [1], "unimax": [1]}',
            "version 2",
        ),
    ],
)
def test_a_file_that_is_wrong_is_told(tmp_path, text, said):
    path = tmp_path / "h.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        HeldOut.load(path)
    with pytest.raises(UserError, match="does not exist"):
        HeldOut.load(tmp_path / "none.json")
