"""Domains: their size, words, sources and samples, a map of documents, labels where there are any, and order."""

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
    significant,
)
from mixloom.pipeline.report.tables import Column, details, facts, table

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


@dataclass(frozen=True, slots=True)
class CellFacts:
    """Order and packing of one cell; None where the stage has not run or does not say."""

    documents: int
    jumps: int | None = None
    mean_cosine: float | None = None
    random_cosine: float | None = None
    near_duplicate_pairs: int | None = None


@dataclass(frozen=True, slots=True)
class PackFacts:
    """Packing of one cell."""

    contexts: int
    fill: float
    forced_cuts: int


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


def order_section(cells: Sequence[CellFacts], packs: Sequence[PackFacts]) -> list[Content]:
    """Neighbour similarity against a random order, jumps; fill and cuts of packing."""
    out: list[Content] = []
    documents = sum(c.documents for c in cells)
    if documents:
        ordered, random = _mean(cells, "mean_cosine"), _mean(cells, "random_cosine")
        cards: list[tuple[Content, Content]] = [("Cells", number(len(cells)))]
        if ordered is not None:
            cards.append(("Similarity of neighbours (cosine)", significant(ordered)))
        if random is not None:
            cards.append(("The same in random order", significant(random)))
        jumps = [c.jumps for c in cells if c.jumps is not None]
        if jumps:
            jumped = [number(sum(jumps)), el("small", f" of {number(documents)}")]
            cards.append(("Jumps (no neighbour left)", jumped))
        cut = [c.near_duplicate_pairs for c in cells if c.near_duplicate_pairs is not None]
        if cut:
            cards.append(("Too similar to be neighbours", [number(sum(cut)), el("small", " pairs")]))
        out.append(facts(cards))
    contexts = sum(p.contexts for p in packs)
    if contexts:
        fill = sum(p.fill * p.contexts for p in packs) / contexts
        out.append(
            facts(
                [
                    ("Contexts", number(contexts)),
                    ("Fill", percent(fill)),
                    ("Forced cuts", number(sum(p.forced_cuts for p in packs))),
                ]
            )
        )
    return out


def _mean(cells: Sequence[CellFacts], field_: str) -> float | None:
    """Weighted by documents, over the cells that say."""
    known = [(getattr(c, field_), c.documents) for c in cells if getattr(c, field_) is not None]
    weight = sum(n for _, n in known)
    return sum(v * n for v, n in known) / weight if weight else None
