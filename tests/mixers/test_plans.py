"""Estimates with everything in them: utilities, shares of modalities, phases, opt-outs; and made again from the file."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mixloom.mixers.compare import beside_unimax, compare, compared, distance, modality_tokens
from mixloom.mixers.estimate import ESTIMATORS, MixtureConfig, estimate, reproduce
from mixloom.mixers.given import Given, input_hashes
from mixloom.mixers.mix_config import Exclude, FinalPhase
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.sources import Domain, Sources
from mixloom.mixers.stage import weigh
from mixloom.mixers.stream import Stream
from mixloom.mixers.tables import Trace, Trials
from mixloom.mixers.utility import Utilities
from mixloom.pipeline.errors import UserError

SEEDS = st.integers(0, 2**32 - 1)


def sources_of(tokens, **parts) -> Sources:
    domains = tuple(
        Domain(f"d{i:02d}", t, **{k: v[i] for k, v in parts.items()}) for i, t in enumerate(tokens)
    )
    return Sources(domains, "f", "test.csv")


def spoken(seed: int, n: int) -> Sources:
    """Domains of text, image and speech, some mixed."""
    rng = np.random.default_rng(seed)
    counts = [rng.multinomial(int(t), rng.dirichlet([0.3] * 3)) for t in np.exp(rng.normal(8, 1.5, n)) + 1]
    kinds = ("text", "image", "speech")
    by = [tuple((m, int(c)) for m, c in zip(kinds, row) if c) for row in counts]
    return sources_of([int(row.sum()) for row in counts], tokens_by_modality=by)


def utilities_of(sources: Sources, seed: int, skills: int = 3) -> Utilities:
    rng = np.random.default_rng(seed)
    names = tuple(f"k{j}" for j in range(skills))
    return Utilities(tuple(sources.names), names, rng.random((len(sources.names), skills)), "ablation")


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0.05, 0.99))
def test_without_utilities_utilimax_is_unimax_and_uniform_where_no_cap_binds(seed, part):
    sources = spoken(seed, 2 + seed % 9)
    budget = max(1, int(part * 4 * sum(sources.tokens)))
    nothing = Utilities(tuple(sources.names), ("x",), np.zeros((len(sources.names), 1)))
    a = estimate(sources, MixtureConfig(method="utilimax"), budget, utilities=nothing)
    b = estimate(sources, MixtureConfig(), budget)
    np.testing.assert_allclose(list(a.weights.values()), list(b.weights.values()), atol=1e-6)
    free = estimate(
        sources, MixtureConfig(method="utilimax", max_epochs=1e9), sum(sources.tokens), utilities=nothing
    )
    np.testing.assert_allclose(list(free.weights.values()), 1 / len(sources.names), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_raising_the_utilities_of_a_domain_never_lowers_its_weight(seed):
    sources = spoken(seed, 2 + seed % 12)
    rng = np.random.default_rng(seed)
    u = utilities_of(sources, seed, 1 + seed % 4)
    i = int(rng.integers(len(sources.names)))
    raised = u.values.copy()
    raised[i] += rng.random(raised.shape[1]) * (1 - raised[i])
    config = MixtureConfig(method="utilimax", risk=float(np.exp(rng.uniform(-5, 2))))
    budget = int(rng.uniform(0.1, 3.9) * sum(sources.tokens))
    before, after = (
        list(estimate(sources, config, budget, utilities=Utilities(u.sources, u.skills, v)).weights.values())[
            i
        ]
        for v in (u.values, raised)
    )
    assert after >= before - 2e-5


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_every_method_keeps_caps_and_the_shares_of_modalities_in_every_phase(seed):
    rng = np.random.default_rng(seed)
    sources = spoken(seed, 3 + seed % 8)
    have = sources.tokens_by_modality
    # Shares that some weights meet: those of a mixture that is far from its caps.
    asked = {m: n * float(rng.uniform(0.8, 1.25)) for m, n in have.items()} if len(have) > 1 else None
    final = FinalPhase(share=0.2, shares={"d00": 0.3}) if seed % 2 else None
    budget = max(5, int(0.3 * sum(sources.tokens)))
    method = ("unimax", "uniform", "proportional", "temperature", "utilimax")[seed % 5]
    config = MixtureConfig(method=method, modality_shares=asked, final_phase=final, min_share=0.001)
    try:
        mixture = estimate(sources, config, budget, utilities=utilities_of(sources, seed))
    except UserError:
        assume(False)  # hypothesis objects where most problems have no answer
    for name, epochs in mixture.epochs.items():
        assert epochs <= 4 * (1 + 1e-6), name
    whole = sum(asked.values()) if asked else 1
    for phase in mixture.phases:
        assert sum(phase.weights.values()) == pytest.approx(1, abs=1e-8)
        for m in asked or {}:
            got = sum(
                phase.weights[d.name] * dict(d.tokens_by_modality).get(m, 0) / d.tokens
                for d in sources.domains
            )
            assert got == pytest.approx(asked[m] / whole, abs=1e-7)


def test_one_part_speech_to_six_of_the_rest_is_a_seventh_of_the_tokens():
    kinds = [(("text", 1000),), (("text", 500),), (("speech", 400),), (("image", 300),)]
    sources = sources_of([1000, 500, 400, 300], tokens_by_modality=kinds)
    config = MixtureConfig(modality_shares={"speech": 1, "rest": 6})
    mixture = estimate(sources, config, 1400)
    assert mixture.weights["d02"] == pytest.approx(1 / 7)
    assert [mixture.weights[d] for d in ("d00", "d01", "d03")] == pytest.approx([2 / 7] * 3)
    assert any("as set: " in n and "speech 14.3%" in n for n in mixture.notes)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_the_largest_budget_that_is_named_can_be_filled_and_a_larger_one_cannot(seed):
    sources = spoken(seed, 2 + seed % 6)
    have = sources.tokens_by_modality
    assume(len(have) > 1)
    rng = np.random.default_rng(seed)
    config = MixtureConfig(modality_shares={m: n * float(rng.uniform(0.5, 2)) for m, n in have.items()})
    with pytest.raises(UserError) as refused:
        estimate(sources, config, 100 * sum(sources.tokens))
    named = re.search(r"at most ([\d,]+)", refused.value.fix)
    assume(named is not None)  # else no budget at all has these shares
    largest = int(named.group(1).replace(",", ""))
    assert estimate(sources, config, largest).budget_tokens == largest
    with pytest.raises(UserError, match="cannot be filled"):
        estimate(sources, config, int(largest * 1.0001) + 2)


def test_a_share_of_a_modality_that_does_not_suffice_names_the_largest_budget():
    kinds = [(("text", 1000),), (("speech", 100),)]
    sources = sources_of([1000, 100], tokens_by_modality=kinds)
    config = MixtureConfig(modality_shares={"speech": 1, "text": 1})
    with pytest.raises(
        UserError, match=r"budget_tokens 1,000 cannot be filled with modality_shares.*800 tok"
    ):
        estimate(sources, config, 1000)
    assert estimate(sources, config, 800).epochs["d01"] == pytest.approx(4)


def test_a_share_that_mixed_domains_cannot_give_says_what_they_can():
    kinds = [(("text", 900), ("image", 100)), (("text", 700), ("image", 300))]
    sources = sources_of([1000, 1000], tokens_by_modality=kinds)
    with pytest.raises(UserError, match=r"text can have 0\.7 to 0\.9 of the tokens, not 0\.5"):
        estimate(sources, MixtureConfig(modality_shares={"text": 1, "image": 1}), 500)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"speach": 1, "rest": 1}, r"'speach', which no domain has \(did you mean 'speech'\?\)"),
        ({"speech": 1}, "no share to text"),
        ({"speech": 1, "text": 1, "rest": 1}, "names every modality"),
    ],
)
def test_shares_of_modalities_that_do_not_fit_are_told(shares, said):
    sources = sources_of([10, 10], tokens_by_modality=[(("text", 10),), (("speech", 10),)])
    with pytest.raises(UserError, match=said):
        estimate(sources, MixtureConfig(modality_shares=shares), 5)


def test_counts_without_modalities_cannot_be_held_to_shares_and_several_are_never_compared_silently():
    with pytest.raises(UserError, match="modality of domain 'd00' is not known"):
        estimate(sources_of([10, 10]), MixtureConfig(modality_shares={"text": 1}), 5)
    mixed = sources_of([10, 10], tokens_by_modality=[(("text", 10),), (("speech", 10),)])
    notes = estimate(mixed, MixtureConfig(), 5).notes
    assert any("counted alike" in n and "speech 50.0%" in n for n in notes)
    alone = sources_of([10], tokens_by_modality=[(("text", 10),)])
    assert estimate(alone, MixtureConfig(), 5).notes == ()


def test_a_final_phase_gives_the_named_domains_their_share_and_all_phases_keep_one_cap():
    sources = sources_of([1000, 1000, 60])
    config = MixtureConfig(max_epochs=2, final_phase=FinalPhase(share=0.2, shares={"d02": 0.5}))
    mixture = estimate(sources, config, 1000)
    base, final = mixture.phases
    assert (base.start, final.start) == (0.0, 0.8)
    assert final.weights["d02"] == pytest.approx(0.5)
    assert base.weights["d02"] == pytest.approx((120 - 100) / 800)  # what the cap leaves
    assert mixture.epochs["d02"] == pytest.approx(2)
    assert mixture.notes[0].startswith("final phase: d02 from 0.12 to 0.5")


def test_a_final_phase_that_a_cap_keeps_short_says_so_and_groups_are_patterns():
    sources = sources_of([1000, 1000, 60, 40])
    config = MixtureConfig(max_epochs=1, final_phase=FinalPhase(share=0.25, shares={"d0[23]": 0.8}))
    mixture = estimate(sources, config, 400)
    final = mixture.phases[1].weights
    assert final["d02"] + final["d03"] == pytest.approx(0.8)
    assert final["d02"] == pytest.approx(0.48)
    assert mixture.epochs["d03"] == pytest.approx(0.8 + mixture.phases[0].weights["d03"] * 300 / 40)
    short = MixtureConfig(max_epochs=1, final_phase=FinalPhase(share=0.5, shares={"d0[23]": 0.8}))
    assert any("not the 0.8 asked for" in n for n in estimate(sources, short, 400).notes)


def test_an_unusual_length_of_the_final_phase_is_warned_of():
    for share, word in ((0.02, "short"), (0.5, "long")):
        config = MixtureConfig(final_phase=FinalPhase(share=share, shares={"d00": 0.6}))
        assert any(word in n and "warning" in n for n in estimate(sources_of([100, 100]), config, 50).notes)
    usual = MixtureConfig(final_phase=FinalPhase(shares={"d00": 0.6}))
    assert not any("warning" in n for n in estimate(sources_of([100, 100]), usual, 50).notes)


def test_a_final_phase_by_utilities_goes_further_than_the_base(tmp_path):
    sources = sources_of([1000] * 4)
    u = Utilities(tuple(sources.names), ("x",), np.array([[1.0], [0.1], [0.1], [0.1]]), "losses", True)
    path = u.save(tmp_path / "u.yaml")
    config = MixtureConfig(final_phase=FinalPhase(utilities=str(path), risk=0.1))
    mixture = estimate(sources, config, 2000)
    base, final = (p.weights["d00"] for p in mixture.phases)
    assert base == pytest.approx(0.25)
    assert final > 0.5
    assert any("losses alone" in n for n in mixture.notes)
    assert reproduce(mixture) == mixture


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"d7*": 0.5}, "no domain matches 'd7\\*'"),
        ({"d0*": 0.5, "d01": 0.1}, "'d01' matches both 'd0\\*' and 'd01'"),
        ({"d*": 0.5}, "name all domains, and sum to 0.5"),
    ],
)
def test_groups_of_a_final_phase_that_do_not_fit_are_told(shares, said):
    config = MixtureConfig(final_phase=FinalPhase(shares=shares))
    with pytest.raises(UserError, match=said):
        estimate(sources_of([100, 100]), config, 50)


def test_domains_of_a_licence_or_source_are_left_out_and_the_effect_is_shown():
    sources = sources_of(
        [100, 100, 100],
        licence=["cc-by", "gpl", ""],
        tokens_by_source=[(("a", 100),), (("b", 100),), (("a", 60), ("c", 40))],
    )
    mixture = estimate(sources, MixtureConfig(exclude=Exclude(licence=("gpl",))), 90)
    assert mixture.weights == {"d00": 0.5, "d01": 0.0, "d02": 0.5}
    assert mixture.record["before"] == pytest.approx({"d00": 1 / 3, "d01": 1 / 3, "d02": 1 / 3})
    assert any(n.startswith("left out: d01 (licence gpl); they would have had 33.3%") for n in mixture.notes)
    by_source = estimate(sources, MixtureConfig(exclude=Exclude(source=("b",), domain=("d00",))), 90)
    assert by_source.weights == {"d00": 0.0, "d01": 0.0, "d02": 1.0}
    with pytest.raises(UserError, match=r"'d00' is|'d02' is 60\.0% of source a and 40\.0% of others"):
        estimate(sources, MixtureConfig(exclude=Exclude(source=("a",))), 90)
    licensed = MixtureConfig(exclude=Exclude(licence=("nc",)), licences={"b": "nc"})
    with pytest.raises(UserError, match="'nc', which no domain has"):
        estimate(sources, licensed, 90)  # d01 has a licence of its own
    unlicensed = sources_of([100, 100], tokens_by_source=[(("a", 100),), (("b", 100),)])
    assert estimate(unlicensed, licensed, 90).weights == {"d00": 1.0, "d01": 0.0}


def test_a_budget_the_rest_cannot_fill_counts_without_what_is_left_out():
    with pytest.raises(UserError, match=r"all 1 domains that are not left out \(1 are\) are 400 tokens"):
        estimate(sources_of([100, 100]), MixtureConfig(exclude=Exclude(domain=("d00",))), 500)
    with pytest.raises(UserError, match="leaves no domain"):
        estimate(sources_of([100]), MixtureConfig(exclude=Exclude(domain=("d00",))), 5)
    with pytest.raises(UserError, match=r"'d0', which no domain has \(did you mean 'd00'"):
        estimate(sources_of([100]), MixtureConfig(exclude=Exclude(domain=("d0",))), 5)


def test_utilities_may_still_have_rows_of_what_is_left_out():
    sources = sources_of([100, 100, 100])
    u = utilities_of(sources, 3)
    config = MixtureConfig(method="utilimax", exclude=Exclude(domain=("d01",)))
    mixture = estimate(sources, config, 90, utilities=u)
    assert mixture.weights["d01"] == 0
    assert mixture.record["before"]["d01"] > 0
    with pytest.raises(UserError, match="no row for 'd02'"):
        estimate(sources, config, 90, utilities=Utilities(("d00", "d01"), ("x",), np.zeros((2, 1))))


@pytest.mark.parametrize("method", ["doremi", "odm", "regmix"])
def test_traces_and_trials_may_still_have_columns_of_what_is_left_out(tmp_path, method):
    sources, config = everything(tmp_path)
    config = config.model_copy(update={"method": method, "exclude": Exclude(domain=("d01",))})
    mixture = estimate(sources, config, 900)
    assert mixture.weights["d01"] == 0
    assert sum(mixture.weights.values()) == pytest.approx(1)
    assert mixture.record["before"]["d01"] > 0
    unknown = tmp_path / "excess.csv"
    unknown.write_text("step,d00,d02,d03,d09\n1,1,1,1,1\n")
    with pytest.raises(UserError, match="'d09'"):
        estimate(sources, config.model_copy(update={"method": "doremi"}), 900)


def test_what_a_method_needs_is_said_and_one_skill_that_outweighs_all_is_warned_of():
    sources = sources_of([100, 100])
    for method, what in (
        ("utilimax", "utilities"),
        ("regmix", "trials"),
        ("doremi", "excess"),
        ("fixed", "weights"),
    ):
        with pytest.raises(UserError, match=f"method {method} needs {what}"):
            estimate(sources, MixtureConfig(method=method), 50)
    u = utilities_of(sources, 0)
    even = estimate(sources, MixtureConfig(method="utilimax"), 50, utilities=u)
    assert not any("validation weight" in n for n in even.notes)
    uneven = MixtureConfig(method="utilimax", skill_weights={"k0": 3, "k1": 1, "k2": 1})
    notes = estimate(sources, uneven, 50, utilities=u).notes
    assert any("60% of the validation weight is on the skill 'k0'" in n for n in notes)
    one = Utilities(u.sources, ("k",), u.values[:, :1])
    assert any("100% of the validation" in n for n in estimate(sources, MixtureConfig(method="utilimax"), 50, utilities=one).notes)  # fmt: skip
    with pytest.raises(UserError, match="'k9' that does not exist"):
        estimate(sources, MixtureConfig(method="utilimax", skill_weights={"k9": 1}), 50, utilities=u)


def test_utilities_from_losses_are_labelled():
    sources = sources_of([100, 100])
    u = Utilities(tuple(sources.names), ("x", "y"), np.eye(2), "losses", True)
    notes = estimate(sources, MixtureConfig(method="utilimax"), 50, utilities=u).notes
    assert any("rest on losses alone" in n for n in notes)
    assert any("expected utility" in n and "x 0.500 (0.500)" in n for n in notes)


def everything(tmp_path) -> tuple[Sources, MixtureConfig]:
    """Files for every method, and settings that name them."""
    kinds = [(("text", 100),), (("text", 60), ("image", 40)), (("speech", 300),), (("text", 2000),)]
    sources = sources_of([100, 100, 300, 2000], tokens_by_modality=kinds, licence=["a", "", "b", ""])
    rng = np.random.default_rng(1)
    names = tuple(sources.names)
    w = rng.dirichlet([1] * 4, 25)
    tables = {
        "trials": Trials(names, ("x", "y"), w, np.stack([5 - w[:, 0], 4 - w[:, 2]], axis=1)).lines(),
        "excess": Trace(names, np.arange(1, 9), rng.random((8, 4))).lines(),
        "losses": Trace(names, np.arange(1, 9), 1 + rng.random((8, 4))).lines(),
    }
    for name, lines in tables.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    utilities_of(sources, 5).save(tmp_path / "utilities.yaml")
    files = {name: str(tmp_path / f"{name}.csv") for name in tables}
    config = MixtureConfig(
        utilities=str(tmp_path / "utilities.yaml"),
        weights={"d00": 0.1, "d01": 0.1, "d02": 0.2, "d03": 0.6},
        candidates=200,
        regressor="linear",
        **files,
    )
    return sources, config


@pytest.mark.parametrize("method", sorted(ESTIMATORS))
def test_a_file_alone_gives_the_same_bytes_again_without_any_other_file(tmp_path, method):
    sources, config = everything(tmp_path)
    config = config.model_copy(update={"method": method, "budget_tokens": 1000})
    mixture = estimate(sources, config)
    path = mixture.save(tmp_path / "mixture.yaml")
    for file in tmp_path.glob("*.csv"):
        file.unlink()
    (tmp_path / "utilities.yaml").unlink()
    again = reproduce(Mixture.load(path))
    assert again.to_yaml() == path.read_text()
    assert again == mixture


def test_a_mixture_with_everything_set_is_made_again_from_its_file(tmp_path):
    sources, config = everything(tmp_path)
    config = config.model_copy(
        update={
            "method": "utilimax",
            "min_share": 0.01,
            "modality_shares": {"speech": 1, "rest": 4},
            "exclude": Exclude(licence=("a",)),
            "final_phase": FinalPhase(share=0.1, shares={"d01": 0.4}),
            "skill_weights": {"k0": 2, "k1": 1, "k2": 1},
        }
    )
    path = estimate(sources, config, 900).save(tmp_path / "m.yaml")
    assert reproduce(Mixture.load(path)).to_yaml() == path.read_text()


def test_a_mixture_written_by_hand_cannot_be_made_again(tmp_path):
    mixture = estimate(sources_of([10]), MixtureConfig(), 5).model_copy(update={"record": {}})
    with pytest.raises(UserError, match="does not record"):
        reproduce(mixture)
    assert compared(mixture) == []
    assert modality_tokens(mixture) == {}
    assert beside_unimax(mixture) == {"d00": 1.0}


def test_a_record_that_was_damaged_is_told():
    mixture = estimate(sources_of([10, 20]), MixtureConfig(), 5)
    for record in (
        {**mixture.record, "seed": None},
        {"sources": 3},
        {**mixture.record, "given": {"trials": []}},
    ):
        with pytest.raises(UserError, match=r"record of the mixture cannot be read|setting seed"):
            reproduce(mixture.model_copy(update={"record": record}))


def test_the_record_changes_nothing_that_is_served():
    mixture = estimate(sources_of([10, 20]), MixtureConfig(), 5)
    assert mixture.model_copy(update={"record": {}}).fingerprint == mixture.fingerprint


def test_a_mixture_over_sources_is_for_planning_and_the_stream_says_so(reader):
    sizes = Sources.from_manifest(reader.manifest, group_by=("source", "domain"))
    mixture = estimate(sizes, MixtureConfig(group_by=("source", "domain"), max_epochs=40), 500)
    with pytest.raises(UserError, match="weighs tokens by source and domain, but the shards are served by"):
        Stream(reader, mixture, seed=0, batch_contexts=2, steps=2)
    with pytest.raises(UserError, match=r"mixture.group_by is \['source'\]"):
        weigh(reader.manifest, MixtureConfig(group_by=("source",)), None)


def test_every_method_is_compared_on_the_same_sizes_and_the_others_say_what_they_need(tmp_path):
    sources, config = everything(tmp_path)
    rows = compare(sources, config, 1000)
    assert [r.method for r in rows] == list(ESTIMATORS)
    assert all(r.mixture is not None for r in rows)
    few = compare(sources, MixtureConfig(), 1000)
    missing = {r.method: r.why_not for r in few if r.mixture is None}
    assert sorted(missing) == ["doremi", "fixed", "odm", "regmix", "utilimax"]
    assert missing["utilimax"].startswith("needs utilities=FILE")
    wrong = compare(sources, config.model_copy(update={"max_epochs": 1.0}), 2400)
    assert "allowed: 1" in next(r.why_not for r in wrong if r.method == "fixed")
    with pytest.raises(UserError, match="cannot be filled"):
        compare(sources, MixtureConfig(), 10**9)


def test_distance_is_the_share_that_would_have_to_move_and_modalities_follow_the_weights(tmp_path):
    assert distance({"a": 0.5, "b": 0.5}, {"a": 0.8, "b": 0.2}) == pytest.approx(0.3)
    sources, config = everything(tmp_path)
    tokens = modality_tokens(estimate(sources, config, 1000))
    assert sum(tokens.values()) == pytest.approx(1000)
    assert tokens["image"] == pytest.approx(0.4 * 1000 * 0.25)


def test_a_file_of_the_settings_that_changes_is_noticed(tmp_path):
    _, config = everything(tmp_path)
    before = input_hashes(config)
    assert sorted(before) == ["excess", "losses", "trials", "utilities"]
    (tmp_path / "trials.csv").write_text("x")
    after = input_hashes(config)
    assert {k for k in before if before[k] != after[k]} == {"trials"}
    assert input_hashes(MixtureConfig()) == {}
    assert Given.load(MixtureConfig()).utilities is None


def test_a_regression_that_explains_nothing_is_warned_of():
    sources = sources_of([1000] * 3)
    rng = np.random.default_rng(0)
    noise = Trials(tuple(sources.names), ("x", "y"), rng.dirichlet([1] * 3, 20), rng.random((20, 2)))
    config = MixtureConfig(method="regmix", regressor="linear", candidates=200)
    notes = estimate(sources, config, 500, given=Given(trials=noise)).notes
    assert any("rank correlation" in n and "warning" in n for n in notes)
