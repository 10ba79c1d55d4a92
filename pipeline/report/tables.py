"""Tables: figures to the right, words to the left, and a box of their own to scroll in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mixloom.pipeline.report.markup import Content, Html, el


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and whether it holds figures."""

    title: str
    figures: bool = True
    wide: bool = False


def table(
    caption: Content,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Content]],
    total: Sequence[Content] | None = None,
) -> Html:
    """A table. The first cell of a row is its heading; `total` is a last row set apart.

    Raises:
        ValueError: a row with another number of cells than there are columns.
    """
    head = el("tr", [el("th", c.title, scope="col", cls=_class(c)) for c in columns])
    body = [_row(columns, row) for row in rows]
    return el(
        "div",
        el(
            "table",
            el("caption", caption),
            el("thead", head),
            el("tbody", body),
            el("tfoot", _row(columns, total)) if total is not None else None,
        ),
        cls="scroll",
        tabindex="0",
        role="region",
        aria_label="Table, scrolls sideways",
    )


def _row(columns: Sequence[Column], row: Sequence[Content]) -> Html:
    if len(row) != len(columns):
        raise ValueError(f"{len(row)} cells for {len(columns)} columns")
    cells = [el("th", row[0], scope="row", cls=_class(columns[0]))]
    cells += [el("td", cell, cls=_class(c)) for c, cell in zip(columns[1:], row[1:])]
    return el("tr", cells)


def _class(column: Column) -> str | None:
    return ("n" if column.figures else "wide" if column.wide else None) or None


def facts(pairs: Iterable[tuple[Content, Content]]) -> Html:
    """Names and values as a description list of cards."""
    return el("dl", [el("div", el("dt", key), el("dd", value)) for key, value in pairs], cls="facts")


def details(summary: Content, *content: Content) -> Html:
    """Something folded away."""
    return el("details", el("summary", summary), content)
