"""A map of documents: places in the plane where neighbours stay neighbours, and the drawing one can point at.

The places are those of a neighbour graph laid out by attraction along its edges and repulsion of random others (UMAP;
McInnes et al., arXiv 1802.03426, section 3.2), from the first two principal components on. Everything is seeded and
sequential: the same vectors in the same order give the same map. Distances between far groups mean nothing.

The drawing is one SVG path per domain (round ends of strokes without length), so that thousands of points stay light;
what is shown on pointing lies in attributes of the figure, as text, and is read by page.js.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from mixloom.pipeline.one_thread import one_thread
from mixloom.pipeline.report.charts import legend
from mixloom.pipeline.report.markup import Content, clean, el, escape, plural, shorten
from mixloom.pipeline.tree_start import nearest_others

WIDTH, HEIGHT, MARGIN = 1520, 1040, 24
TEXT_BYTES = 380_000  # of all texts shown on pointing
LONGEST = 90  # characters of one
_NEIGHBOURS, _ROUNDS, _OTHERS = 12, 150, 4
_A, _B = 1.577, 0.895  # the curve of a least distance of 0.1 (section 3.2: fitted by least squares)


@dataclass(frozen=True, slots=True)
class MapPoint:
    """A document on the map: its place, its domain, its first words, and its source."""

    x: float
    y: float
    domain: int
    title: str
    source: str = ""


def map_places(vectors: np.ndarray) -> np.ndarray:
    """Places float64 [n, 2] for vectors float [n, d], in [0, 1] each way; equal vectors lie close together, not on top."""
    n = len(vectors)
    x = np.ascontiguousarray(vectors, np.float32)
    if n < 3:
        return np.linspace(0.0, 1.0, max(n, 1))[:n, None] * np.ones((1, 2))
    places = principal_components(x)
    spread = np.abs(places).max(axis=0)
    places = 10 * places / np.where(spread > 0, spread, 1.0)
    places += 1e-3 * np.stack(
        [np.sin(np.arange(n) * 1.7), np.cos(np.arange(n) * 2.3)], axis=1
    )  # none on another
    index, far = nearest_others(x, _NEIGHBOURS)
    _lay_out(places, index, _weights(np.sqrt(far.astype(np.float64))), _ROUNDS, _OTHERS)
    low, high = np.quantile(places, [0.002, 0.998], axis=0)  # a few strays must not shrink the rest
    inside = (np.clip(places, low, high) - low) / np.where(high > low, high - low, 1.0)
    # Half of it by rank: fills the empty space between groups, and turns no two documents around.
    rank = np.argsort(np.argsort(places, axis=0, kind="stable"), axis=0, kind="stable") / (n - 1)
    out: np.ndarray = (inside + rank) / 2
    return out


def principal_components(vectors: np.ndarray) -> np.ndarray:
    """float64 [n, 2]: the first two principal components of float [n, d] (one column of zeros where d is 1).

    The sign of each is such that its largest weight is positive.
    """
    centred = np.asarray(vectors, np.float64)
    centred = centred - centred.mean(axis=0)
    with one_thread():
        axes = np.linalg.eigh(centred.T @ centred)[1].T[::-1][:2]  # eigenvalues come in ascending order
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    projected = centred @ (axes * np.where(largest < 0, -1.0, 1.0)[:, None]).T
    return np.pad(projected, ((0, 0), (0, 2 - projected.shape[1])))


def _weights(far: np.ndarray) -> np.ndarray:
    """Strength of each edge in (0, 1], float64 [n, c]: 1 to the nearest, falling with the distance beyond it."""
    beyond = far - far[:, :1]
    scale = beyond.mean(axis=1, keepdims=True)
    strength: np.ndarray = np.exp(-beyond / np.where(scale > 1e-9, scale, 1.0))
    return strength


@njit("void(f8[:,::1],i4[:,::1],f8[:,::1],i8,i8)", cache=True, nogil=True)
def _lay_out(places: np.ndarray, index: np.ndarray, weight: np.ndarray, rounds: int, others: int) -> None:
    """Move the places: every edge pulls in its share of the rounds, and pushes some random others away."""
    n, count = index.shape
    state = np.uint64(0x9E3779B97F4A7C15)
    due = np.zeros((n, count))
    for t in range(rounds):
        step = 1.0 - t / rounds
        for i in range(n):
            for c in range(count):
                due[i, c] += weight[i, c]
                if due[i, c] < 1.0:
                    continue
                due[i, c] -= 1.0
                j = index[i, c]
                dx, dy = places[i, 0] - places[j, 0], places[i, 1] - places[j, 1]
                d2 = dx * dx + dy * dy
                if d2 > 0.0:
                    pull = -2.0 * _A * _B * d2 ** (_B - 1.0) / (1.0 + _A * d2**_B)
                    gx, gy = min(max(pull * dx, -4.0), 4.0) * step, min(max(pull * dy, -4.0), 4.0) * step
                    places[i, 0] += gx
                    places[i, 1] += gy
                    places[j, 0] -= gx
                    places[j, 1] -= gy
                for _ in range(others):
                    state ^= state << np.uint64(13)
                    state ^= state >> np.uint64(7)
                    state ^= state << np.uint64(17)
                    k = np.int64(state % np.uint64(n))
                    if k == i:
                        continue
                    dx, dy = places[i, 0] - places[k, 0], places[i, 1] - places[k, 1]
                    d2 = dx * dx + dy * dy
                    push = 2.0 * _B / ((0.001 + d2) * (1.0 + _A * d2**_B))
                    places[i, 0] += min(max(push * dx, -4.0), 4.0) * step
                    places[i, 1] += min(max(push * dy, -4.0), 4.0) * step


def document_map(points: Sequence[MapPoint], labels: Mapping[int, str], colors: Mapping[int, str]) -> Content:
    """The figure: points by domain, a legend, and what pointing at them shows (domain, source, first words).

    Args:
        labels, colors: name and class of the colour of every domain.
    """
    points = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
    if not points:
        return None
    present = sorted({p.domain for p in points})
    sources = sorted({p.source for p in points})
    low_x, low_y = min(p.x for p in points), min(p.y for p in points)
    wide = max(max(p.x for p in points) - low_x, 1e-9)
    high = max(max(p.y for p in points) - low_y, 1e-9)
    at = [
        (
            round(MARGIN + (p.x - low_x) / wide * (WIDTH - 2 * MARGIN)),
            round(HEIGHT - MARGIN - (p.y - low_y) / high * (HEIGHT - 2 * MARGIN)),
        )
        for p in points
    ]
    longest = min(LONGEST, max(20, TEXT_BYTES // len(points)))
    paths = []
    for domain in present:
        dots = "".join(f"M{x} {y}h0" for p, (x, y) in zip(points, at, strict=True) if p.domain == domain)
        paths.append(el("path", d=dots, cls=f"dots {colors[domain]}"))
    place = {domain: i for i, domain in enumerate(present)}
    source_place = {source: i for i, source in enumerate(sources)}
    title = f"Map of {plural(len(points), 'document')}: neighbours are alike, far distances mean nothing"
    svg = el(
        "svg",
        el("g", paths, cls="domains"),
        el("circle", cx=0, cy=0, r=11, cls="here"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
        cls="map",
    )
    return el(
        "figure",
        el("figcaption", title),
        legend([(colors[d], labels[d]) for d in present]),
        el("div", svg, el("p", cls="tip", aria_live="off", dir="auto"), cls="mapbox"),
        cls="chart",
        data_points=" ".join(
            f"{x} {y} {place[p.domain]} {source_place[p.source]}"
            for p, (x, y) in zip(points, at, strict=True)
        ),
        data_domains="\n".join(_line(labels[d], 200) for d in present),
        data_sources="\n".join(_line(s, 60) for s in sources),
        data_texts="\n".join(_fit(p.title, longest) for p in points),
    )


def _line(text: str, longest: int) -> str:
    """Text without line ends, at most so many characters."""
    return shorten(" ".join(clean(text).split()), longest)


def _fit(text: str, longest: int) -> str:
    """As `_line`, but of at most about so many bytes as markup: some scripts and signs take several each."""
    line = _line(text, longest)
    size = len(escape(line).encode("utf-8", "replace"))
    return line if size <= longest + 3 else line[: len(line) * longest // size].rstrip() + "\u2026"
