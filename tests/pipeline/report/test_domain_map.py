import json

import numpy as np
import pytest

from mixloom.pipeline.report.domain_map import MapPoint, document_map, map_places, principal_components
from mixloom.pipeline.report.markup import markup


def unit(n: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.Generator(np.random.PCG64(seed)).normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def grouped(groups: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    label = np.repeat(np.arange(groups), each)
    x = 3 * unit(groups, 20, 1)[label] + unit(groups * each, 20, 2)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), label


def test_neighbours_on_the_map_are_documents_of_the_same_group():
    x, label = grouped(8, 60)
    places = map_places(x)
    far = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    np.fill_diagonal(far, np.inf)
    near = np.argsort(far, axis=1)[:, :5]
    assert (label[near] == label[:, None]).mean() > 0.98
    flat = principal_components(x)
    far = ((flat[:, None] - flat[None]) ** 2).sum(axis=2)
    np.fill_diagonal(far, np.inf)
    assert (label[np.argsort(far, axis=1)[:, :5]] == label[:, None]).mean() < 0.95


def test_the_same_vectors_give_the_same_places_inside_the_drawing():
    from threadpoolctl import threadpool_limits

    x = unit(300, 12)
    with threadpool_limits(2):
        first = map_places(x)
    assert first.tobytes() == map_places(x).tobytes()
    assert first.min() >= 0
    assert first.max() <= 1
    assert len(np.unique(first, axis=0)) > 280


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_a_handful_of_documents_and_equal_ones_have_places(n):
    for x in (unit(n, 4), np.tile(unit(1, 4), (n, 1))):
        places = map_places(x)
        assert places.shape == (n, 2)
        assert np.isfinite(places).all()


def test_principal_components_are_those_of_the_singular_value_decomposition():
    x = unit(50, 6).astype(np.float64) * [3, 2, 1, 1, 1, 1]
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(principal_components(x)), np.abs(u[:, :2] * s[:2]), atol=1e-9)
    assert principal_components(x[:, :1])[:, 1].tolist() == [0.0] * 50


def drawn(points, audit):
    labels = {p.domain: f"domain-{p.domain:03d}" for p in points}
    tree = audit(markup(document_map(points, labels, {d: f"c{d % 24}" for d in labels})))
    return tree.xpath("//figure")[0]


def test_every_finite_point_is_drawn_with_what_pointing_at_it_shows(audit):
    points = [
        MapPoint(0.0, 0.0, 4, "first   words\nof it", "notes"),
        MapPoint(float("nan"), 1.0, 2, "lost", "notes"),
        MapPoint(1.0, 2.0, 2, "second", "mail"),
        MapPoint(0.5, 1.0, 4, "third", "mail"),
    ]
    figure = drawn(points, audit)
    numbers = [int(v) for v in figure.get("data-points").split()]
    assert len(numbers) == 12
    assert numbers[2::4] == [1, 0, 1]  # places among the domains that are drawn
    assert figure.get("data-domains").split("\n") == ["domain-002", "domain-004"]
    assert [figure.get("data-sources").split("\n")[i] for i in numbers[3::4]] == ["notes", "mail", "mail"]
    assert figure.get("data-texts").split("\n") == ["first words of it", "second", "third"]
    paths = figure.xpath(".//path[contains(@class, 'dots')]/@d")
    assert [d.count("M") for d in paths] == [1, 2]
    assert f"M{numbers[0]} {numbers[1]}h0" in paths[1]
    assert document_map([], {}, {}) is None


def test_hostile_texts_and_names_stay_text_on_one_line(hostile, audit):
    figure = drawn([MapPoint(3.0, 3.0, 1, hostile, hostile), MapPoint(1.0, 3.0, 1, "x", "y")], audit)
    assert len(figure.get("data-texts").split("\n")) == 2
    assert len(figure.get("data-sources").split("\n")) == 2
    assert json.dumps(figure.get("data-texts"))


def test_thousands_of_points_with_long_texts_stay_light():
    g = np.random.Generator(np.random.PCG64(0))
    for letter in ("word & ", "\u6f22\u5b57"):
        points = [MapPoint(*g.random(2), int(g.integers(40)), letter * 60, "a source") for _ in range(4000)]
        labels = {d: f"domain-{d:03d}" for d in range(40)}
        assert len(markup(document_map(points, labels, dict.fromkeys(labels, "c0"))).encode()) < 600_000
