"""The picture of a mixture: well-formed, self-contained, escaped, and with the figures in it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from mixloom.mixers.compare import compared
from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.mix_config import FinalPhase
from mixloom.mixers.picture import picture_of, standalone
from mixloom.mixers.sources import Domain, Sources
from mixloom.pipeline.report.markup import escape
from mixloom.pipeline.report.mixture_picture import MOST, draw

SVG = "{http://www.w3.org/2000/svg}"


def mixture_of(n=4, **settings):
    domains = tuple(
        Domain(f"<d&{i}>", 100 * (i + 1), ((("text", "speech")[i % 2], 100 * (i + 1)),)) for i in range(n)
    )
    return estimate(Sources(domains, "f", "x.csv"), MixtureConfig(**settings), 40 * n * (n + 1))


def texts(root: ET.Element) -> list[str]:
    return [e.text or "" for e in root.iter() if e.tag.endswith("text")]


def test_the_file_is_one_well_formed_svg_that_loads_nothing():
    mixture = mixture_of(max_epochs=1.0)
    text = standalone(mixture, compared(mixture))
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    for word in ("href", "url(", "<script", "<style", "class="):
        assert word not in text
    assert text.count("http") == 1  # the name of the format


def test_it_says_in_words_what_it_shows():
    mixture = mixture_of(max_epochs=1.0)
    root = ET.fromstring(standalone(mixture, compared(mixture)))
    said = root.find(f"{SVG}desc").text
    assert "Largest weights: <d&" in said
    assert "Caps bind for" in said
    assert "proportional" in said
    assert root.find(f"{SVG}title").text == mixture_title(mixture)


def mixture_title(mixture) -> str:
    return f"Mixture by unimax: {mixture.budget_tokens:,} tokens of {len(mixture.domains)} domains"


def test_weights_epochs_modalities_and_methods_are_in_it():
    mixture = mixture_of()
    root = ET.fromstring(standalone(mixture, compared(mixture)))
    said = texts(root)
    for name, weight in mixture.weights.items():
        assert name in said
        assert f"{100 * weight:.2f}%" in said
    assert {"unimax", "uniform", "proportional", "temperature"} <= set(said)
    assert any(t.startswith("speech: ") for t in said)
    assert "cap that binds" not in said


def test_phases_are_parts_of_the_bars():
    mixture = mixture_of(final_phase=FinalPhase(share=0.2, shares={"<d&3>": 0.6}))
    picture = picture_of(mixture)
    assert picture.phases == ("0 to 80% of it", "80 to 100% of it")
    for bar in picture.domains:
        assert bar.weight == pytest.approx(mixture.weights[bar.name])
        assert len(bar.parts) == 2
    assert "80 to 100% of it" in draw(picture)


def test_of_many_domains_the_largest_are_drawn_and_the_others_summed():
    mixture = mixture_of(MOST + 15, method="proportional")
    drawn = draw(picture_of(mixture))
    left = [name for name in mixture.weights if escape(name) not in drawn]
    assert len(left) == 15
    assert f"15 other domains: {100 * sum(mixture.weights[n] for n in left):.2f}% together" in drawn


def test_inside_the_report_it_is_painted_by_class():
    mixture = mixture_of()
    drawn = draw(picture_of(mixture, compared(mixture)))
    assert 'class="mixpic"' in drawn
    assert 'fill="#' not in drawn
    assert "<d&" not in drawn
    assert "&lt;d&amp;0&gt;" in drawn
