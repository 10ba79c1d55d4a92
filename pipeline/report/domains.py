"""Domains: their size, words, sources and samples, a map of documents, and labels where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mixloom.pipeline.report.charts import Bar, Point, bars, scatter
from mixloom.pipeline.report.markup import (
    Content,
    Html,
    el,
    name,
    number,
    percent,
    plural,
    shorten,
)
from mixloom.pipeline.report.tables import Column, details, table

COLORS = 24  # of domains, in page.css; they repeat after that


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """One domain: its size, most telling words, documents by source, and a few titles."""

    number: int
    documents: int
    words: tuple[str, ...] = ()
    sources: Mapping[str, int] = field(default_factory=dict)
    titles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MapPoint:
    """A document on the map: principal components of its vector, its domain, and a title."""

    x: float
    y: float
    domain: int
    title: str


def color(domain: int) -> str:
    return f"c{domain % COLORS}"


def domain_label(domain: int) -> str:
    return f"domain-{domain:03d}"


def domain_sections(
    domains: Sequence[DomainFacts],
    points: Sequence[MapPoint],
    labels: Mapping[str, Mapping[str, Mapping[int, int]]],
) -> list[Content]:
    """Sizes, cards, map and (where documents carry labels) how domains and labels meet.

    Args:
        labels: meta key -> label -> domain -> documents.
    """
    rows = [
        Bar(
            [
                el("i", cls=f"swatch {color(d.number)}"),
                domain_label(d.number),
                el("small", " ", name(", ".join(d.words[:3]))),
            ],
            [(color(d.number), float(d.documents), f"{domain_label(d.number)}: {number(d.documents)}")],
            number(d.documents),
        )
        for d in domains
    ]
    out: list[Content] = [bars("Documents by domain", rows), _map(points)]
    out.append(el("div", [_card(d) for d in domains], cls="cards"))
    out += [label_table(key, labels[key]) for key in sorted(labels)]
    return out


def _map(points: Sequence[MapPoint]) -> Content:
    if not points:
        return None
    present = sorted({p.domain for p in points})
    dots = [
        Point(p.x, p.y, f"dot {color(p.domain)}", f"{domain_label(p.domain)}: {shorten(p.title, 90)}")
        for p in points
    ]
    title = f"Map of {plural(len(points), 'document')}: first two principal components of their vectors"
    return scatter(title, dots, [(color(d), domain_label(d)) for d in present])


def _card(d: DomainFacts) -> Html:
    words: list[Content] = []
    for i, w in enumerate(d.words):
        words += [", " if i else None, name(w)]
    most = sorted(d.sources.items(), key=lambda x: (-x[1], x[0]))
    sources: list[Content] = []
    for i, (s, n) in enumerate(most[:6]):
        sources += [", " if i else None, name(s), f" {number(n)}"]
    titles = el("ul", [el("li", shorten(t, 100), dir="auto") for t in d.titles], cls="titles")
    return el(
        "article",
        el("h3", el("i", cls=f"swatch {color(d.number)}"), domain_label(d.number)),
        el("p", plural(d.documents, "document"), cls="small"),
        el("p", words, cls="words") if words else el("p", "no telling words", cls="missing"),
        el("p", el("span", "Sources: ", cls="key"), sources) if sources else None,
        details("sample documents", titles) if d.titles else None,
        cls="card",
    )


def purity(labels: Mapping[str, Mapping[int, int]]) -> float:
    """Share of labelled documents that carry the commonest label of their domain; 0.0 without any."""
    best: dict[int, int] = {}
    total = 0
    for by_domain in labels.values():
        for domain, n in by_domain.items():
            best[domain] = max(best.get(domain, 0), n)
            total += n
    return sum(best.values()) / total if total else 0.0


def label_table(key: str, labels: Mapping[str, Mapping[int, int]]) -> Html:
    """Documents by label and domain; the larger a number in its row, the stronger its ground."""
    domains = sorted({d for by_domain in labels.values() for d in by_domain})
    columns = [Column(key, False), *(Column(f"{d:03d}") for d in domains), Column("all")]
    rows: list[list[Content]] = []
    for label in sorted(labels, key=lambda x: (-sum(labels[x].values()), x))[:60]:
        by_domain = labels[label]
        whole = sum(by_domain.values())
        cells: list[Content] = []
        for d in domains:
            n = by_domain.get(d, 0)
            cells.append(el("span", number(n), cls=f"heat h{round(4 * n / whole)}") if n else "")
        rows.append([name(label), *cells, number(whole)])
    documents = sum(sum(by_domain.values()) for by_domain in labels.values())
    share = f"{plural(documents, 'document')} with it, purity {percent(purity(labels))}"
    return table(f"'{shorten(key, 60)}' of the source against domains: {share}", columns, rows)
