"""A mixture as a picture: weights and epochs by domain, tokens by modality, and how the methods differ.

One SVG that stands by itself (its own colours, white ground), or drawn with the classes of page.css inside the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixloom.pipeline.report.markup import Html, el, number, percent, shorten, significant

WIDTH = 940
ROW = 22
MOST = 40  # domains that are drawn; the others are summed

_COLORS = {
    "ink": "#1f2328",
    "soft": "#5b6470",
    "rule": "#e2dfd9",
    "c0": "#3b6ea5",
    "c1": "#c26a2e",
    "c2": "#3f8f5f",
    "c3": "#7a4fa3",
    "failed": "#b3392f",
    "plain": "#5b7a9d",
    "kept": "#3f7f6b",
    "m-text": "#3b6ea5",
    "m-image": "#c26a2e",
    "m-speech": "#7a4fa3",
}


@dataclass(frozen=True, slots=True)
class DomainBar:
    """One domain: its share in each phase times the phase's share of the budget, and what it is beside."""

    name: str
    parts: tuple[float, ...]
    unimax: float
    epochs: float
    max_epochs: float
    capped: bool

    @property
    def weight(self) -> float:
        return sum(self.parts)


@dataclass(frozen=True, slots=True)
class MethodColumn:
    """One method: weight by domain, effective number of domains, and how far it is from UniMax (0 to 1)."""

    name: str
    weights: dict[str, float]
    effective: float
    apart: float


@dataclass(frozen=True, slots=True)
class MixturePicture:
    """What is drawn. `phases` name the parts of the bars; modalities are (name, tokens there are, tokens trained on)."""

    title: str
    phases: tuple[str, ...]
    domains: tuple[DomainBar, ...]
    modalities: tuple[tuple[str, float, float], ...] = ()
    methods: tuple[MethodColumn, ...] = ()


def draw(picture: MixturePicture, *, standalone: bool = False) -> Html:
    """The SVG. Its title and description say in words what it shows."""
    pen = _Pen(standalone)
    pieces: list[Html] = []
    at = 8.0
    for panel in (_bars, _modalities, _methods):
        drawn, at = panel(pen, picture, at)
        pieces += drawn
    ground = el("rect", x=0, y=0, width=WIDTH, height=f"{at:.0f}", fill="#ffffff") if standalone else None
    return el(
        "svg",
        el("title", picture.title),
        el("desc", _words(picture)),
        ground,
        pieces,
        viewBox=f"0 0 {WIDTH} {at:.0f}",
        role="img",
        cls=None if standalone else "mixpic",
        width=WIDTH if standalone else None,
        height=f"{at:.0f}" if standalone else None,
        xmlns="http://www.w3.org/2000/svg" if standalone else None,
        font_family="system-ui, sans-serif" if standalone else None,
        aria_label=picture.title,
    )


class _Pen:
    """Shapes and words, painted by class in the report and by colour outside of it."""

    def __init__(self, standalone: bool) -> None:
        self._standalone = standalone

    def _paint(self, color: str, stroke: bool = False) -> dict[str, str]:
        if self._standalone:
            return {"stroke" if stroke else "fill": _COLORS.get(color, _COLORS["plain"])}
        return {"cls": f"{color} {'edge' if stroke else 'shape'}"}

    def rect(
        self, x: float, y: float, width: float, height: float, color: str, title: str, opacity: float = 1.0
    ) -> Html:
        about = el("title", title) if title else None
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{max(width, 0):.1f}", "height": f"{height:.1f}"}
        faint = {"fill_opacity": f"{opacity:.3f}"} if opacity < 1 else {}
        return el("rect", about, **place, **faint, **self._paint(color))

    def line(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        color: str,
        width: float = 1,
        dash: str | None = None,
    ) -> Html:
        place = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
        return el("line", **place, stroke_width=width, stroke_dasharray=dash, **self._paint(color, True))

    def text(
        self,
        x: float,
        y: float,
        words: str,
        color: str = "ink",
        anchor: str = "start",
        size: int = 12,
        bold: bool = False,
    ) -> Html:
        heavy = {"font_weight": "600"} if bold else {}
        return el(
            "text",
            words,
            x=f"{x:.1f}",
            y=f"{y:.1f}",
            text_anchor=anchor,
            font_size=size,
            **heavy,
            **self._paint(color),
        )


def _bars(pen: _Pen, p: MixturePicture, top: float) -> tuple[list[Html], float]:
    """Weights with UniMax's as a mark, and epochs with the cap as a line, a row per domain."""
    rows, rest = _largest(p.domains)
    left, wide, second, narrow = 210.0, 330.0, 660.0, 190.0
    most = max([*(r.weight for r in rows), *(r.unimax for r in rows)]) or 1.0
    epochs = max([*(r.epochs for r in rows), *(r.max_epochs for r in rows if r.capped)], default=1.0) or 1.0
    out = [
        pen.text(left, top + 14, "Weight: share of the tokens of training", bold=True),
        pen.text(second, top + 14, "Epochs", bold=True),
    ]
    x = left
    for i, phase in enumerate(p.phases):
        out += [pen.rect(x, top + 23, 11, 11, f"c{i % 4}", ""), pen.text(x + 16, top + 33, phase, "soft")]
        x += 34 + 6.4 * len(phase)
    out += [
        pen.line(x + 5, top + 22, x + 5, top + 35, "ink", 2),
        pen.text(x + 13, top + 33, "UniMax", "soft"),
    ]
    if any(r.capped for r in rows):
        out += [
            pen.line(second + 5, top + 22, second + 5, top + 35, "failed", 2),
            pen.text(second + 13, top + 33, "cap that binds", "soft"),
        ]
    y = top + 44
    for r in rows:
        out.append(pen.text(left - 8, y + 13, shorten(r.name, 30), anchor="end"))
        x = left
        for i, part in enumerate(r.parts):
            width = wide * part / most
            out.append(pen.rect(x, y + 2, width, ROW - 8, f"c{i % 4}", f"{r.name}: {percent(part, 2)}"))
            x += width
        mark = left + wide * r.unimax / most
        out.append(pen.line(mark, y, mark, y + ROW - 4, "ink", 2))
        out.append(pen.text(left + wide + 10, y + 13, percent(r.weight, 2), "soft"))
        out.append(pen.rect(second, y + 2, narrow * min(r.epochs / epochs, 1), ROW - 8, "plain", r.name))
        if r.capped:
            cap = second + narrow * min(r.max_epochs / epochs, 1)
            out.append(pen.line(cap, y, cap, y + ROW - 4, "failed", 2))
        out.append(pen.text(second + narrow + 8, y + 13, f"{significant(r.epochs)}", "soft"))
        y += ROW
    if rest:
        mine, other = sum(r.weight for r in rest), sum(r.unimax for r in rest)
        words = (
            f"{number(len(rest))} other domains: {percent(mine, 2)} together, by UniMax {percent(other, 2)}"
        )
        out.append(pen.text(left, y + 13, words, "soft"))
        y += ROW
    return out, y + 12


def _largest(domains: Sequence[DomainBar]) -> tuple[list[DomainBar], list[DomainBar]]:
    """The domains of most weight in their own order, and those that are only summed up."""
    kept = {d.name for d in sorted(domains, key=lambda d: (-max(d.weight, d.unimax), d.name))[:MOST]}
    return [d for d in domains if d.name in kept], [d for d in domains if d.name not in kept]


def _modalities(pen: _Pen, p: MixturePicture, top: float) -> tuple[list[Html], float]:
    """Tokens there are and tokens trained on, by modality. Tokens of different modalities are not the same amount."""
    if not p.modalities:
        return [], top
    out = [pen.text(210, top + 14, "Tokens by modality (they do not hold alike)", bold=True)]
    y = top + 24
    for label, k in (("there are", 1), ("trained on", 2)):
        values = [float(row[k]) for row in p.modalities]
        whole = sum(values) or 1.0
        out.append(pen.text(202, y + 13, f"{label}: {number(whole)}", anchor="end"))
        x = 210.0
        for (name, *_), n in zip(p.modalities, values):
            width = 640 * n / whole
            told = f"{name} {percent(n / whole)}"
            out.append(
                pen.rect(x, y + 2, width, ROW - 8, f"m-{name}", f"{label}: {told}, {number(n)} tokens")
            )
            x += width
        y += ROW
    x = 210.0
    for name, there, trained in p.modalities:
        of_all = there / (sum(r[1] for r in p.modalities) or 1.0)
        of_training = trained / (sum(r[2] for r in p.modalities) or 1.0)
        words = f"{name}: {percent(of_all)} of what there is, {percent(of_training)} of training"
        if x + 20 + 6.4 * len(words) > WIDTH and x > 210:
            x, y = 210.0, y + 18
        out += [pen.rect(x, y + 3, 11, 11, f"m-{name}", ""), pen.text(x + 16, y + 13, words, "soft")]
        x += 34 + 6.4 * len(words)
    return out, y + 32


def _methods(pen: _Pen, p: MixturePicture, top: float) -> tuple[list[Html], float]:
    """Every method's weights as a shaded grid, with what tells the methods apart below."""
    if len(p.methods) < 2:
        return [], top
    names = [d.name for d in p.domains]
    if len(names) > MOST:
        heaviest = {n: max(m.weights.get(n, 0.0) for m in p.methods) for n in names}
        kept = set(sorted(names, key=lambda n: (-heaviest[n], n))[:MOST])
        names = [n for n in names if n in kept]
    most = max(m.weights.get(n, 0.0) for m in p.methods for n in names) or 1.0
    wide = min(92.0, (WIDTH - 220) / len(p.methods))
    out = [pen.text(210, top + 14, "Weights by method, in percent", bold=True)]
    y = top + 24
    for j, m in enumerate(p.methods):
        out.append(pen.text(210 + wide * (j + 0.5), y + 13, shorten(m.name, 13), anchor="middle", bold=True))
    y += ROW
    for n in names:
        out.append(pen.text(202, y + 14, shorten(n, 30), anchor="end"))
        for j, m in enumerate(p.methods):
            w = m.weights.get(n, 0.0)
            about = f"{m.name}, {n}: {percent(w, 2)}"
            out.append(
                pen.rect(210 + wide * j + 1, y + 1, wide - 2, ROW - 2, "kept", about, 0.06 + 0.5 * w / most)
            )
            out.append(pen.text(210 + wide * (j + 0.5), y + 14, f"{100 * w:.2f}", anchor="middle"))
        y += ROW
    for label, cells in (
        ("effective number of domains", [significant(m.effective) for m in p.methods]),
        ("tokens that differ from UniMax", [percent(m.apart) for m in p.methods]),
    ):
        out.append(pen.text(202, y + 15, label, "soft", anchor="end"))
        for j, cell in enumerate(cells):
            out.append(pen.text(210 + wide * (j + 0.5), y + 15, cell, "soft", anchor="middle"))
        y += ROW
    return out, y + 10


def _words(p: MixturePicture) -> str:
    """The picture in a sentence or two, for those who do not see it."""
    top = sorted(p.domains, key=lambda d: (-d.weight, d.name))[:5]
    said = "; ".join(f"{d.name} {percent(d.weight)} ({significant(d.epochs)} epochs)" for d in top)
    bound = [d.name for d in p.domains if d.capped]
    caps = f" Caps bind for {len(bound)}: {', '.join(bound[:5])}." if bound else " No cap binds."
    apart = "; ".join(f"{m.name} {percent(m.apart)}" for m in p.methods if m.apart > 0)
    return f"Largest weights: {said}.{caps}" + (f" Differing from UniMax: {apart}." if apart else "")
