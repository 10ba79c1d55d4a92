"""Order and packing: how alike neighbours are, how near to the best possible, and what is left of it in contexts."""

from __future__ import annotations

from collections.abc import Mapping

from mixloom.pipeline.order_facts import ORDERS, OrderFacts, PackFacts, order_facts, pack_facts
from mixloom.pipeline.report.charts import Bar, bars
from mixloom.pipeline.report.markup import Content, Html, el, name, number, percent, significant
from mixloom.pipeline.report.page import Section, nothing
from mixloom.pipeline.report.tables import Column, facts, table
from mixloom.pipeline.run import StageManifest

COLORS = {"path": "c0", "cluster": "c6", "random": "c11"}
TOLD = {"path": "the order of this run", "cluster": "grouped by cluster only", "random": "random order"}


def section(manifests: Mapping[str, StageManifest]) -> Section:
    """The section, from the manifests of `order` and `pack` where they are there."""
    order, pack = manifests.get("order"), manifests.get("pack")
    body = order_section(
        order_facts(info for _, info in sorted(order.info.items())) if order else None,
        pack_facts((info for _, info in sorted(pack.info.items())), pack.config) if pack else None,
    )
    return Section(
        "order",
        "Order and packing",
        body or nothing("Documents have not been ordered yet (stages order and pack)."),
        "Related documents stand one after another in a context; packing cuts the path into contexts.",
    )


def order_section(order: OrderFacts | None, pack: PackFacts | None) -> list[Content]:
    """Cards of the order and of packing, and similarity inside contexts by window with its controls."""
    out: list[Content] = []
    if order is not None:
        out.append(facts(_order_cards(order)))
    if pack is not None:
        cards: list[tuple[Content, Content]] = [
            ("Contexts", number(pack.contexts)),
            ("Fill", percent(pack.fill, 1)),
            ("Forced cuts", number(pack.forced_cuts)),
        ]
        if pack.window is not None:
            cards.insert(1, ("Window (documents)", number(pack.window)))
        out.append(facts(cards))
        if any((r["similarity"] or 0.0) > 0 for r in pack.rows):
            out.append(_chart(pack))
        if pack.rows:
            out.append(_table(pack))
    return out


def _order_cards(o: OrderFacts) -> list[tuple[Content, Content]]:
    cards: list[tuple[Content, Content]] = [("Cells", number(o.cells))]
    figures = (
        ("Similarity of neighbours (cosine)", o.mean_cosine),
        ("The same in random order", o.random_cosine),
        ("The same, grouped by cluster only", o.cluster_cosine),
    )
    cards += [(title, significant(value)) for title, value in figures if value is not None]
    if o.bound_share is not None and o.bound is not None:
        most = el("small", f" of at most {significant(o.bound, 4)}")
        cards.append(("Weight of the path, share of its bound", [percent(o.bound_share, 1), most]))
    if o.jumps is not None:
        jumped = [number(o.jumps), el("small", f" of {number(o.documents)}")]
        cards.append(("Jumps (no neighbour left)", jumped))
    if o.near_duplicate_pairs is not None:
        cut = [number(o.near_duplicate_pairs), el("small", " pairs")]
        cards.append(("Too similar to be neighbours", cut))
    return cards


def _chart(pack: PackFacts) -> Html:
    rows = []
    for row in pack.rows:
        value, order = row["similarity"], row["order"]
        if value is None:
            continue
        used = " (in use)" if row["window"] == pack.window else ""
        first = order == min((r["order"] for r in pack.rows if r["window"] == row["window"]), key=_rank)
        label = f"window {number(row['window'])}{used}" if first else ""
        text = f"window {number(row['window'])}, {TOLD.get(order, order)}: {significant(value)}"
        rows.append(Bar(label, [(COLORS.get(order, "plain"), max(0.0, value), text)], significant(value)))
    present = sorted({r["order"] for r in pack.rows}, key=_rank)
    names = [(COLORS.get(o, "plain"), TOLD.get(o, o)) for o in present]
    return bars("Similarity (cosine) of documents that share a context, by packing window", rows, names)


def _table(pack: PackFacts) -> Html:
    columns = [Column("Window", False), Column("Order", False), Column("Similarity"), Column("Pairs")]
    columns += [Column("Fill"), Column("Contexts over the fewest"), Column("Documents cut")]
    columns.append(Column("Longer than a context"))
    rows: list[list[Content]] = []
    for row in pack.rows:
        used = el("small", " in use") if row["window"] == pack.window else None
        rows.append(
            [
                [number(row["window"]), used],
                name(TOLD.get(str(row["order"]), str(row["order"]))),
                significant(row["similarity"]),
                number(row["pairs"]),
                percent(row["fill"], 2),
                number(row["extra"]),
                number(row["cut_documents"]),
                number(row["long_documents"]),
            ]
        )
    return table("What each packing window keeps of the order, and what it costs", columns, rows)


def _rank(order: str) -> tuple[int, str]:
    return (ORDERS.index(order) if order in ORDERS else len(ORDERS), order)
