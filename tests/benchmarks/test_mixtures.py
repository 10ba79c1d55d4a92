"""The comparison of mixtures: skills count alike, and the file of a comparison says what the table says."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import mixtures
from mixtures_corpus import Scale
from paired import difference

from mixloom.trainers.skills import SkillSet


def skill(name, lengths, size):
    rows = [np.array([n], np.int32) for n in lengths]
    return SkillSet(name, np.zeros((len(lengths), 64), np.uint16), rows, len(lengths), size, "byte")


@pytest.fixture
def compared():
    """Three seeds of UniMax and another method on a large and a small skill."""
    scale = Scale(seeds=3, steps=1, small_steps=1, small_seeds=1, trials=2)
    test = [skill("large", [60] * 40, 9000), skill("small", [30] * 4, 400)]
    rng = np.random.default_rng(0)
    nats = {}
    for s in range(3):
        base = [rng.uniform(50, 90, len(t.ids)) for t in test]
        nats["unimax", s] = base
        nats["other", s] = [base[0] - 3.0, base[1] + 1.0]  # better on the large skill, worse on the small
    return SimpleNamespace(scale=scale, test=test), nats


def test_every_skill_counts_alike_however_many_tokens_it_has(compared):
    corpus, nats = compared
    own, base = (mixtures._bits(corpus, [nats[m, s] for s in range(3)]) for m in ("other", "unimax"))
    made = difference(*mixtures._paired(corpus, nats, "other"))
    assert made.mean == pytest.approx(float((base - own).mean()), rel=1e-9)
    expected = (40 * 3.0 / 9000 - 4 * 1.0 / 400) / np.log(2) / 2
    assert made.mean == pytest.approx(expected, rel=1e-9)
    assert made.low <= made.mean <= made.high


def test_a_method_compared_with_itself_is_not_told_apart(compared):
    corpus, nats = compared
    made = difference(*mixtures._paired(corpus, nats, "unimax"))
    assert (made.mean, made.low, made.high, made.sign) == (0, 0, 0, 0)


def test_the_comparison_file_holds_the_losses_of_every_seed_and_skill(compared):
    corpus, nats = compared
    mixture = SimpleNamespace(fingerprint="f", estimator="utilimax")
    found = mixtures.heldout_of(corpus, mixture, nats, "other")
    assert found.difference == pytest.approx(-difference(*mixtures._paired(corpus, nats, "other")).mean)
    assert set(found.by_skill) == {"large", "small"}
    assert found.loses == (found.difference > 0)
