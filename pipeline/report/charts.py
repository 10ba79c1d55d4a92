"""Charts as inline SVG: lines with axes and legend, and stacked bars.

They stand without any script. `page.js` adds a reading line to line charts, from the values in `data-chart`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mixloom.pipeline.report.markup import Content, Html, clean, el, significant

WIDTH, HEIGHT = 760, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 28, 42
MAX_POINTS = 600  # of a line; more would not be seen


@dataclass(frozen=True, slots=True)
class Series:
    """One line: values over x. The line passes over points that are missing. `color` is a class of page.css."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar made of (class of its colour, amount, what it is)."""

    label: Content
    pieces: Sequence[tuple[str, float, str]]
    figure: Content


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) that cover low..high, both ends included."""
    if not (math.isfinite(low) and math.isfinite(high)) or high < low:
        return [0.0, 1.0]
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, 1e-200):  # as good as equal: room around it
        pad = 0.1 * largest if largest > 1e-190 else 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1.0, 2.0, 5.0, 10.0) if s * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def smooth(values: Sequence[float | None], window: int) -> list[float | None]:
    """Exponential moving average with the span `window`, bias-corrected; a missing value stays missing."""
    keep = 1 - 2 / (max(1, window) + 1)
    total = weight = 0.0
    out: list[float | None] = []
    for v in values:
        if v is None or not math.isfinite(v):
            out.append(None)
            continue
        total, weight = keep * total + v, keep * weight + 1
        out.append(total / weight)
    return out


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_title: str,
    y_title: str,
    window: int | None = None,
    from_zero: bool = False,
) -> Html:
    """Lines over a common x axis. With `window` the values are drawn faintly and their moving average on top."""
    series = [_thinned(s) for s in series if any(_finite(s))]
    if not series:
        return el("p", f"{title}: no values.", cls="nothing")
    points = [p for s in series for p in _finite(s)]
    ys = [y for _, y in points]
    span_x = (min(x for x, _ in points), max(x for x, _ in points))
    x_ticks = ticks(*span_x, 6)
    x_ticks = [t for t in x_ticks if span_x[0] <= t <= span_x[1]] or x_ticks
    y_ticks = ticks(min(0.0, *ys) if from_zero else min(ys), max(ys))
    box = _Box((span_x[0], max(span_x[1], span_x[0] + 1e-9)), (y_ticks[0], y_ticks[-1]))
    lines: list[Html] = []
    averages = []
    for s in series:
        if window is not None:
            lines.append(_line(s.x, s.y, box, f"line raw {s.color}"))
        drawn = smooth(s.y, window) if window is not None else list(s.y)
        averages.append(drawn)
        lines.append(_line(s.x, drawn, box, f"line {s.color}"))
    svg = el(
        "svg",
        el("title", title),
        _axes(box, x_ticks, y_ticks, x_title, y_title),
        lines,
        el("line", cls="reading", x1=0, x2=0, y1=TOP, y2=HEIGHT - BOTTOM),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=_summary(title, series, averages),
    )
    return el(
        "figure",
        el("figcaption", title),
        legend([(s.color, s.name) for s in series]) if len(series) > 1 else None,
        svg,
        el("p", cls="values", aria_live="off"),
        cls="chart",
        data_chart=_values(series, averages, box, x_title),
    )


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """Names with their colours."""
    return el("ul", [el("li", el("i", cls=f"swatch {c}"), el("bdi", n)) for c, n in entries], cls="legend")


def bars(title: str, rows: Sequence[Bar], names: Sequence[tuple[str, str]] = ()) -> Html:
    """Horizontal stacked bars, all on one scale."""
    most = max((_amount(r) for r in rows), default=0.0)
    if not most > 0:
        return el("p", f"{title}: nothing to show.", cls="nothing")
    lines = [
        el(
            "li",
            el("span", r.label, cls="barlabel"),
            stack(r.pieces, most),
            el("span", r.figure, cls="barfigure"),
        )
        for r in rows
    ]
    return el(
        "figure",
        el("figcaption", title),
        legend(names) if names else None,
        el("ul", lines, cls="bars"),
        cls="barchart",
    )


def stack(pieces: Sequence[tuple[str, float, str]], scale: float) -> Html:
    """One bar of pieces, `scale` being its full width."""
    rects, at = [], 0.0
    for color, amount, text in pieces:
        if not (math.isfinite(amount) and amount > 0 and scale > 0):
            continue
        width = 100 * amount / scale
        shape = el("rect", el("title", text), x=f"{at:.3f}%", width=f"{width:.3f}%", height="100%", cls=color)
        rects.append(shape)
        at += width
    label = "; ".join(text for _, amount, text in pieces if amount)
    return el("svg", rects, cls="bar", role="img", aria_label=label or "nothing")


class _Box:
    """Data coordinates to those of the drawing."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], height: int = HEIGHT, margin: int | None = None
    ) -> None:
        self.height = height
        left, right, top, bottom = (LEFT, RIGHT, TOP, BOTTOM) if margin is None else (margin,) * 4
        self._x, self._y = x, y
        self.left, self.top = left, top
        self.right, self.bottom = WIDTH - right, height - bottom

    def x(self, value: float) -> float:
        return self.left + (value - self._x[0]) / (self._x[1] - self._x[0]) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self._y[0]) / (self._y[1] - self._y[0]) * (self.bottom - self.top)


def _finite(s: Series) -> Iterator[tuple[float, float]]:
    return ((x, y) for x, y in zip(s.x, s.y) if y is not None and math.isfinite(x) and math.isfinite(y))


def _thinned(s: Series) -> Series:
    """Every k-th point (and the last), where there are more than can be seen; missing values written as None."""
    y = [v if v is not None and math.isfinite(v) else None for v in s.y]
    every = -(-len(s.x) // MAX_POINTS)
    at = sorted({*range(0, len(s.x), every), len(s.x) - 1}) if len(s.x) else []
    return Series(s.name, [s.x[i] for i in at], [y[i] for i in at], s.color)


def _line(xs: Sequence[float], ys: Sequence[float | None], box: _Box, cls: str) -> Html:
    points = [f"{box.x(x):.1f} {box.y(y):.1f}" for x, y in zip(xs, ys) if y is not None]
    # A single point gets a short stroke, or it would not be seen.
    rest = "".join(f"L{p}" for p in points[1:]) or "h0.1"
    return el("path", d=f"M{points[0]}{rest}", cls=cls)


def _axes(box: _Box, x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str, y_title: str) -> Html:
    out: list[Html] = []
    for label, t in zip(_labels(y_ticks), y_ticks):
        y = f"{box.y(t):.1f}"
        out.append(el("line", cls="grid", x1=box.left, x2=box.right, y1=y, y2=y))
        out.append(el("text", label, x=box.left - 7, y=y, dy="0.32em", cls="tick end"))
    for label, t in zip(_labels(x_ticks), x_ticks):
        out.append(el("text", label, x=f"{box.x(t):.1f}", y=box.bottom + 17, cls="tick middle"))
    out.append(el("text", x_title, x=box.right, y=HEIGHT - 6, cls="axis end"))
    out.append(el("text", y_title, x=0, y=13, cls="axis"))
    return el("g", out, aria_hidden="true")


def _labels(values: Sequence[float]) -> list[str]:
    """Tick labels with just enough digits to tell neighbours apart."""
    steps = [b - a for a, b in pairwise(values)] or [1.0]
    if max(abs(v) for v in values) < 1e-3 and any(values):
        return [f"{v:.1e}" if v else "0" for v in values]
    digits = max(0, -math.floor(math.log10(min(steps)) + 1e-9)) if min(steps) > 0 else 0
    return [f"{v:,.{min(digits, 6)}f}" for v in values]


def _summary(title: str, series: Sequence[Series], averages: Sequence[Sequence[float | None]]) -> str:
    said = []
    for s, drawn in zip(series, averages):
        known = [v for v in drawn if v is not None]
        said.append(f"{s.name} from {significant(known[0])} to {significant(known[-1])}")
    return f"{title}: {'; '.join(said)}"


def _values(
    series: Sequence[Series], averages: Sequence[Sequence[float | None]], box: _Box, x_title: str
) -> str:
    """What page.js needs to read values off the lines."""
    lines = []
    for s, drawn in zip(series, averages):
        points = [
            [round(x, 3), float(f"{v:.4g}"), round(box.x(x), 1)] for x, v in zip(s.x, drawn) if v is not None
        ]
        lines.append({"name": clean(s.name), "points": points})
    return json.dumps({"x": clean(x_title), "lines": lines}, separators=(",", ":"), ensure_ascii=False)


def _amount(row: Bar) -> float:
    return sum(a for _, a, _ in row.pieces if math.isfinite(a) and a > 0)
