"""The mixture as a file, and where its sizes come from."""

from __future__ import annotations

import pytest
import yaml

from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.sources import load_sources
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardManifest


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "sizes.csv"
    path.write_text("domain,tokens,comment\nwiki,1_000\nweb,8000,large\ncode,30,\n")
    return path


@pytest.fixture
def mixture(csv):
    return estimate(load_sources(csv), MixtureConfig(), 3000)


def test_sizes_are_read_from_a_csv(csv):
    sources = load_sources(csv)
    assert list(zip(sources.names, sources.tokens)) == [("wiki", 1000), ("web", 8000), ("code", 30)]
    before = sources.fingerprint
    csv.write_text("domain,tokens\nwiki,1000\nweb,8001\ncode,30\n")
    assert load_sources(csv).fingerprint != before


def test_sizes_are_read_from_a_manifest_under_its_fingerprint(shards):
    sources, manifest = load_sources(shards), ShardManifest.load(shards)
    assert sources.fingerprint == manifest.fingerprint
    assert sources.names == ["aa", "bb", "cc"]
    assert sum(sources.tokens) == manifest.totals.tokens


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,tokens\na,1\n", "has no column domain"),
        ("domain,tokens\na,many\n", "line 2: tokens is 'many'"),
        ("domain,tokens\na,1\na,2\n", "domain name 'a' is empty or used twice"),
        ("domain,tokens\na,0\n", "domain 'a' has 0 tokens"),
        ("domain,tokens\n", "has no domains"),
    ],
)
def test_a_csv_that_cannot_be_used_is_explained(csv, text, said):
    csv.write_text(text)
    with pytest.raises(UserError, match=said):
        load_sources(csv)


def test_a_mixture_survives_the_disk_with_its_fingerprint(tmp_path, mixture):
    path = mixture.save(tmp_path / "run" / "mixture" / "mixture.yaml")
    for where in (path, tmp_path / "run"):
        again = Mixture.load(where)
        assert again == mixture
        assert again.fingerprint == mixture.fingerprint
    text = path.read_text()
    assert "# code: 4 epochs" in text
    assert [p.name for p in path.parent.iterdir()] == ["mixture.yaml"]


def test_epochs_caps_and_the_effective_number_follow_from_the_weights(mixture):
    assert mixture.weights == pytest.approx({"wiki": 0.48, "web": 0.48, "code": 0.04})
    assert mixture.epochs == pytest.approx({"wiki": 1.44, "web": 0.18, "code": 4.0})
    assert mixture.capped == ("code",)
    assert mixture.effective_domains == pytest.approx(1 / (2 * 0.48**2 + 0.04**2))


def test_notes_do_not_change_the_fingerprint_but_everything_served_does(mixture):
    assert mixture.model_copy(update={"notes": ("x",)}).fingerprint == mixture.fingerprint
    assert mixture.model_copy(update={"budget_tokens": 2999}).fingerprint != mixture.fingerprint


def edited(mixture: Mixture, path, change) -> None:
    data = mixture.model_dump(mode="json")
    change(data)
    path.write_text(yaml.safe_dump(data))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["phases"][0]["weights"].update(wiki=0.1), "weights sum to 0.62, not 1"),
        (
            lambda d: d["phases"][0]["weights"].update(wikki=d["phases"][0]["weights"].pop("wiki")),
            "did you mean 'wiki'",
        ),
        (
            lambda d: d["phases"][0]["weights"].update(wiki=-0.48, web=1.44),
            "weight of domain 'wiki' is -0.48",
        ),
        (
            lambda d: d["phases"][0]["weights"].update(code=0.05, wiki=0.47),
            "domain 'code': weight 0.05 .* is 5 epochs",
        ),
        (lambda d: d["phases"][0].update(start=0.5), "first phase starts at 0.5"),
        (lambda d: d.update(version=2), "version 2"),
        (lambda d: d.update(budget=5), "field budget"),
        (lambda d: d.update(phases=[]), "field phases"),
    ],
)
def test_an_edited_mixture_that_no_longer_adds_up_is_refused_with_the_file_and_the_field(
    tmp_path, mixture, change, said
):
    path = tmp_path / "mixture.yaml"
    edited(mixture, path, change)
    with pytest.raises(UserError, match=said) as e:
        Mixture.load(path)
    assert str(path) in str(e.value)


def test_a_missing_or_unreadable_mixture_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="estimate one first"):
        Mixture.load(tmp_path)
    path = tmp_path / "mixture.yaml"
    path.write_text("{a: [")
    with pytest.raises(UserError, match="is not YAML"):
        Mixture.load(path)
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="is not YAML"):
        Mixture.load(path)
