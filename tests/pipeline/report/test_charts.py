"""Charts: any data, and the figures that can be read off them."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.report.charts import (
    MAX_POINTS,
    Bar,
    Series,
    bars,
    line_chart,
    smooth,
    stack,
    ticks,
)
from mixloom.pipeline.report.markup import clean

NAN, INF = float("nan"), float("inf")
values = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32))


def chart(series, **more):
    return line_chart("Title", series, x_title="step", y_title="loss", **more)


def coordinates(tree):
    """Every number in the geometry of the drawing."""
    found = []
    for e in tree.iter():
        for key in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width"):
            if e.get(key):
                found.append(float(e.get(key).rstrip("%")))
        if e.get("d"):
            found += [
                float(n) for n in e.get("d").replace("M", " ").replace("L", " ").replace("h", " ").split()
            ]
    return found


@pytest.mark.parametrize("y", [[], [None], [NAN, NAN], [None, INF]])
def test_a_chart_without_values_says_so(y, audit):
    tree = audit(chart([Series("loss", range(len(y)), y, "all")]))
    assert "no values" in tree.text_content()
    assert not tree.xpath("//svg")


@pytest.mark.parametrize(
    "y",
    [
        [3.0],
        [0.0],
        [2.0, 2.0, 2.0],
        [1e-9, 2e-9],
        [1e300, -1e300],
        [5.0, NAN, None, 1.0],
        [0.0, 5e-324],
        [1e-320],
        [1.0, 1.0 + 1e-15],
    ],
)
@pytest.mark.parametrize("window", [None, 5])
def test_one_point_equal_points_and_gaps_are_drawn_with_finite_numbers(y, window, audit):
    tree = audit(chart([Series("loss", range(len(y)), y, "all")], window=window))
    assert tree.xpath("//path")
    assert all(math.isfinite(n) for n in coordinates(tree))


@given(st.lists(st.lists(values, max_size=30), max_size=3))
def test_any_values_give_a_chart_of_finite_numbers(ys):
    from lxml import html

    series = [Series(f"s{i}", range(len(y)), y, "all") for i, y in enumerate(ys)]
    tree = html.fragment_fromstring(f"<div>{chart(series, window=3)}</div>")
    assert all(math.isfinite(n) for n in coordinates(tree))


def test_long_series_are_thinned_and_keep_their_ends(audit):
    n = 10_000
    tree = audit(chart([Series("loss", range(n), [float(i) for i in range(n)], "all")]))
    points = json.loads(tree.xpath("//figure/@data-chart")[0])["lines"][0]["points"]
    assert len(points) <= MAX_POINTS + 2
    assert points[0][:2] == [0, 0.0]
    assert points[-1][0] == n - 1


def test_hostile_names_stay_text_also_in_the_data_for_the_script(hostile, audit):
    series = [Series(hostile, [1, 2], [1.0, 2.0], "all"), Series("other", [1, 2], [2.0, 1.0], "all")]
    tree = audit(line_chart(hostile, series, x_title=hostile, y_title=hostile))
    data = json.loads(tree.xpath("//figure/@data-chart")[0])
    assert data["lines"][0]["name"] == clean(hostile)


def test_a_chart_tells_its_story_to_a_screen_reader(audit):
    tree = audit(chart([Series("text", [1, 2, 3], [8.0, 4.0, 2.0], "m-text")]))
    assert tree.xpath("//svg/@aria-label") == ["Title: text from 8 to 2"]


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_cover_the_range_evenly(low, extent):
    got = ticks(low, low + extent)
    assert got[0] <= low + 1e-6 * extent
    assert got[-1] >= low + extent * (1 - 1e-6)
    assert 2 <= len(got) <= 13
    steps = [b - a for a, b in itertools.pairwise(got)]
    assert max(steps) - min(steps) <= 1e-6 * max(abs(low), extent)


def test_smoothing_of_a_constant_is_the_constant_and_gaps_stay_gaps():
    assert smooth([4.0, None, 4.0, NAN, 4.0], 5) == [
        pytest.approx(4.0),
        None,
        pytest.approx(4.0),
        None,
        pytest.approx(4.0),
    ]


def test_smoothing_is_the_weighted_mean_of_its_definition():
    y = [3.0, 1.0, 4.0, 1.0, 5.0]
    keep = 1 - 2 / (3 + 1)
    for i, got in enumerate(smooth(y, 3)):
        weights = [keep ** (i - j) for j in range(i + 1)]
        assert got == pytest.approx(sum(w * v for w, v in zip(weights, y)) / sum(weights))


def test_pieces_of_a_bar_stand_side_by_side_and_fill_their_share(audit):
    tree = audit(
        stack([("kept", 60.0, "60 kept"), ("drop0", 0.0, "none"), ("failed", 40.0, "40 failed")], 200.0)
    )
    rects = [(float(r.get("x")[:-1]), float(r.get("width")[:-1])) for r in tree.xpath("//rect")]
    assert rects == [(0.0, 30.0), (30.0, 20.0)]
    assert tree.xpath("//rect/title/text()") == ["60 kept", "40 failed"]


def test_bars_of_nothing_say_so_and_hostile_labels_stay_text(hostile, audit):
    assert "nothing to show" in bars("Empty", [Bar("a", [("plain", 0.0, "0")], "0")])
    assert "nothing to show" in bars("Not a number", [Bar("a", [("plain", NAN, "0")], "0")])
    audit(bars(hostile, [Bar(hostile, [("plain", 1.0, hostile)], hostile)], [("plain", hostile)]))
