"""Domains: their size, words, sources and samples, a map of documents, and labels where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixloom.pipeline.report.charts import Bar, Series, bars, line_chart
from mixloom.pipeline.report.domain_map import MapPoint, document_map
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


def color(domain: int) -> str:
    return f"c{domain % COLORS}"


def domain_label(domain: int) -> str:
    return f"domain-{domain:03d}"


def domain_sections(
    domains: Sequence[DomainFacts],
    points: Sequence[MapPoint],
    labels: Mapping[str, Mapping[str, Mapping[int, int]]],
    told: Mapping[str, Any] | None = None,
) -> list[Content]:
    """Figures of the whole, the choice of k, sizes, map, cards and (where documents carry labels) how they meet.

    Args:
        labels: meta key -> label -> domain -> documents.
        told: what the manifest of the stage tells.
    """
    told = told or {}
    model = told.get("model") or {}
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
    out = [*_summary(told), tried_chart(model.get("tried") or (), model.get("k"))]
    names = {d.number: ", ".join((domain_label(d.number), *d.words[:3])) for d in domains}
    labelled = {p.domain: names.get(p.domain, domain_label(p.domain)) for p in points}
    out += [
        document_map(points, labelled, {d: color(d) for d in labelled}),
        bars("Documents by domain", rows),
    ]
    out.append(el("div", [_card(d) for d in domains], cls="cards"))
    out += [label_table(key, labels[key]) for key in sorted(labels)]
    return out


def _summary(told: Mapping[str, Any]) -> list[Content]:
    """What the stage says of its domains and cells as a whole."""
    model, found = told.get("model") or {}, told.get("domains") or {}
    cards: list[tuple[Content, Content]] = []
    if "k" in model:
        cards.append(("Domains with text", number(model["k"])))
    if "largest" in found:
        cards.append(("Largest domain", [significant(found["largest"]), el("small", " equal shares")]))
        cards.append(("Evenness of sizes (1: equal)", significant(found["balance"])))
    if "purity" in found:
        cards.append(("Purity against sources", percent(found["purity"])))
        cards.append(("Mutual information with sources", significant(found["nmi"])))
    if "cells" in model:
        cut = model.get("cut_cells", 0)
        told_cut = el("small", f" {number(cut)} cut to fit") if cut else None
        cards.append(("Cells", [number(model["cells"]), told_cut]))
    if "largest_cell" in model:
        cards.append(("Largest cell", [number(model["largest_cell"]), el("small", " documents")]))
    return [facts(cards)] if cards else []


def tried_chart(tried: Sequence[Mapping[str, float]], k: int | None) -> Content:
    """What each number of domains gave on the sample: silhouette, spread left inside, evenness."""
    if len(tried) < 2:
        return None
    ks = [float(t["k"]) for t in tried]
    most = max(t["inertia"] for t in tried) or 1.0
    lines = [
        Series("silhouette (higher is better)", ks, [t["silhouette"] for t in tried], "c0"),
        Series("spread inside domains, share of the most", ks, [t["inertia"] / most for t in tried], "c1"),
        Series("evenness of sizes", ks, [t["balance"] for t in tried], "c2"),
    ]
    chosen = f"; {k} has the highest silhouette" if k is not None else ""
    return line_chart(
        f"Numbers of domains tried{chosen}", lines, x_title="domains", y_title="", from_zero=True
    )


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
