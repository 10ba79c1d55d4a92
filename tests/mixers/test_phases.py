"""Phases of a mixture: their shares, their epochs against one cap, and what is said of unusual ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.mixture import Mixture, MixtureDomain, Phase
from mixloom.pipeline.errors import UserError

# The fingerprint of `mixture_of(Phase(weights={"a": 0.25, "b": 0.75}))` before there were phases.
ONE_PHASE = "ffd5ef6c21e4a9693b6111e4df878e7a91183f785865ea1a9f97cc2be3a78fff"


def mixture_of(*phases: Phase, budget: int = 1000, cap: float = 4.0, tokens=(100, 2000), **more) -> Mixture:
    names = sorted(phases[0].weights)
    domains = tuple(MixtureDomain(name=n, tokens=t, max_epochs=cap) for n, t in zip(names, tokens))
    return Mixture(
        estimator="fixed", inputs="x", budget_tokens=budget, domains=domains, phases=phases, **more
    )


def two(start: float = 0.8, a: float = 0.1, b: float = 0.9, **more) -> Mixture:
    first, last = {"a": a, "b": 1 - a}, {"a": b, "b": 1 - b}
    return mixture_of(Phase(weights=first), Phase(start=start, weights=last), **more)


def test_epochs_are_summed_over_phases_and_so_are_tokens():
    mixture = two()
    assert mixture.phase_shares == pytest.approx((0.8, 0.2))
    assert mixture.weights == pytest.approx({"a": 0.26, "b": 0.74})
    assert mixture.epochs == pytest.approx({"a": 2.6, "b": 0.37})
    assert mixture.phase_tokens == [
        pytest.approx({"a": 80, "b": 720}),
        pytest.approx({"a": 180, "b": 20}),
    ]
    assert mixture.phase_epochs[1] == pytest.approx({"a": 1.8, "b": 0.01})


@pytest.mark.parametrize(("share", "a"), [(0.0, 0.1), (0.79, 0.1), (0.8, 0.9), (1.0, 0.9), (7.5, 0.9)])
def test_the_weights_in_force_are_those_of_the_phase(share, a):
    assert two().weights_at(share)["a"] == pytest.approx(a)


def test_a_share_below_zero_is_refused():
    with pytest.raises(ValueError, match="negative"):
        two().weights_at(-0.1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.01, 0.99), max_size=4, unique=True), st.data())
def test_tokens_of_all_phases_sum_to_the_budget_and_the_mean_weights_to_one(starts, data):
    phases = []
    for start in [0.0, *sorted(starts)]:
        a = data.draw(st.floats(0, 1))
        phases.append(Phase(start=start, weights={"a": a, "b": 1 - a}))
    mixture = mixture_of(*phases, cap=1e9)
    assert sum(sum(p.values()) for p in mixture.phase_tokens) == pytest.approx(1000)
    assert sum(mixture.weights.values()) == pytest.approx(1)
    for name in ("a", "b"):
        assert sum(p[name] for p in mixture.phase_epochs) == pytest.approx(mixture.epochs[name])


def test_a_cap_passed_only_by_all_phases_together_names_the_phase_and_the_weight_that_fits():
    with pytest.raises(UserError) as e:
        two(a=0.3, b=0.9, cap=4.0, tokens=(100, 2000), budget=1000)
    assert "domain 'a': weight 0.9 in phase 2 of 2" in e.value.what
    assert "4.2 epochs of its 100 tokens over the whole budget; allowed: 4" in e.value.what
    assert "the other phases already give it 2.4 epochs" in e.value.what
    assert "lower its weight in phase 2 of 2 to at most 0.8" in e.value.fix
    fits = two(a=0.3, b=0.8)
    assert fits.epochs["a"] == pytest.approx(4.0)
    assert fits.capped == ("a",)


def test_a_phase_that_alone_exceeds_the_cap_is_named_although_it_is_the_first():
    with pytest.raises(UserError, match=r"weight 0.9 in phase 1 of 2"):
        two(a=0.9, b=0.0)


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ((0.1,), "first phase starts at 0.1"),
        ((0.0, 0.5, 0.5), "phase 3 starts at 0.5, phase 2 at 0.5"),
        ((0.0, 0.5, 0.2), "phase 3 starts at 0.2"),
    ],
)
def test_phases_out_of_order_are_refused(starts, said):
    with pytest.raises(UserError, match=said):
        mixture_of(*(Phase(start=s, weights={"a": 0.1, "b": 0.9}) for s in starts))


@pytest.mark.parametrize(
    ("start", "word"), [(0.96, "short"), (0.95, ""), (0.9, ""), (0.7, ""), (0.69, "long"), (0.5, "long")]
)
def test_a_last_phase_of_unusual_length_carries_a_warning(start, word):
    notes = two(start=start, b=0.2).notes
    assert len(notes) == (1 if word else 0)
    assert not word or f"which is {word}" in notes[0]


def test_phases_and_their_one_warning_survive_the_disk(tmp_path):
    mixture = two(start=0.5, b=0.2, notes=("mine",))
    path = mixture.save(tmp_path / "mixture.yaml")
    again = Mixture.load(path)
    assert again == mixture
    assert len(again.notes) == 2
    assert again.fingerprint == mixture.fingerprint
    assert "# a: 1.5 epochs (0.5 + 1 by phase)" in path.read_text()


def test_one_phase_has_the_fingerprint_it_always_had():
    assert mixture_of(Phase(weights={"a": 0.25, "b": 0.75})).fingerprint == ONE_PHASE
    assert two().fingerprint != two(start=0.81).fingerprint


def test_weights_of_a_later_phase_are_checked_like_those_of_the_first():
    with pytest.raises(UserError, match="leave out domain 'b'"):
        mixture_of(Phase(weights={"a": 0.1, "b": 0.9}), Phase(start=0.9, weights={"a": 1.0}))
