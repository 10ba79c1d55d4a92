"""Contexts as one HTML page that asks for nothing from anywhere: text, pictures and players in their places."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from mixloom.pipeline.manifest import MODALITIES
from mixloom.pipeline.report import media
from mixloom.pipeline.report import page as report_page
from mixloom.pipeline.report.markup import Content, Html, el, escape, markup, name, number, plural
from mixloom.tokenizers.inspect_contexts import Document, Group, Piece, ReadContext
from mixloom.tokenizers.inspect_source import Query

_HERE = Path(__file__).parent
_SIDE = 128  # pixels that a small picture is enlarged to, by whole numbers
_SECONDS = 60.0  # of a recording that go into the page


@dataclass(frozen=True, slots=True)
class Paging:
    """What the page of a server needs to lead on: contexts `start` to `stop` (not included) of those that match."""

    query: Query
    start: int
    stop: int
    more: bool
    domains: Sequence[str]
    sources: Sequence[str]


def inspect_page(
    title: str,
    contexts: Sequence[ReadContext],
    *,
    notes: Sequence[str] = (),
    tokens: bool = False,
    patches: bool = False,
    paging: Paging | None = None,
    budget: int = 24_000_000,
) -> str:
    """The page. Pictures and sound that do not fit into `budget` bytes of base64 are left out, and it says so.

    Args:
        notes: what cannot be decoded and why. tokens, patches: begin with their boundaries shown. paging: of a server; a page
            without it has no search.
    """
    room = media.Budget(budget)
    shown = [context_html(c, room) for c in contexts]
    pieces = [p for c in contexts for d in c.documents for p in d.pieces]
    there = any(p.patches or any(g.patch for g in p.groups) for p in pieces)
    body = [
        _bar(tokens, patches if there else None, paging),
        el(
            "main",
            el("h1", title),
            [el("p", n, cls="note") for n in notes],
            shown or el("p", "No context matches.", cls="nothing"),
            id="main",
        ),
    ]
    shown_too = [f"show-{name}" for name, on in (("tokens", tokens), ("patches", patches and there)) if on]
    return document(title, body, classes=" ".join(["inspect", *shown_too]))


def message_page(title: str, text: str) -> str:
    """A page that only says something."""
    home = Html('<p><a href="/">all contexts</a></p>')
    return document(title, el("main", el("h1", title), el("p", text, cls="text"), home, id="main"))


def document(title: str, body: Content, classes: str = "inspect") -> str:
    """The skeleton: the report's style and ours, one script, and a policy that lets nothing else run or load."""
    css = Path(report_page.__file__).with_name("page.css").read_text(encoding="utf-8")
    css += (_HERE / "inspect_page.css").read_text(encoding="utf-8")
    script = (_HERE / "inspect_page.js").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'self'; "
        f"style-src {_hash(css)}; script-src {_hash(script)}"
    )
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{css}</style>"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n'
        f'<body class="{escape(classes)}">{markup(body)}\n<script>{script}</script></body></html>\n'
    )


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _bar(tokens: bool, patches: bool | None, paging: Paging | None) -> Html:
    """The switches and the search; `patches` is None where there are none."""
    boxes = [_toggle("tokens", "token boundaries", tokens)]
    if patches is not None:
        boxes.append(_toggle("patches", "patch boundaries", patches))
    keys = el("span", [_key(m) for m in MODALITIES], cls="keys small")
    return el("div", boxes, keys, [_search(paging), _pages(paging)] if paging else None, cls="bar-top")


def _toggle(which: str, label: str, on: bool) -> Html:
    return el("label", el("input", type="checkbox", id=f"show-{which}", checked=on), f" {label}")


def _key(modality: str) -> Html:
    return el("span", el("span", cls=f"swatch m-{modality}"), modality)


def _search(paging: Paging) -> Html:
    """A form that asks this server; the builder of the report knows none, so its frame is written out here."""
    q = paging.query
    inner = [
        el(
            "input",
            type="text",
            name="document",
            value=q.document,
            placeholder="document id",
            aria_label="document id",
        ),
        _choice("source", q.source, paging.sources),
        _choice("domain", q.domain, paging.domains),
        el("button", "search"),
    ]
    return Html(f'<form method="get" action="/">{markup(inner)}</form>')


def _choice(which: str, value: str, values: Sequence[str]) -> Html:
    options = [el("option", f"any {which}", value="")]
    options += [el("option", v, value=v, selected=v == value) for v in values]
    return el("select", options, name=which, aria_label=which)


def _pages(paging: Paging) -> Html:
    count = max(1, paging.stop - paging.start)
    back = _link(paging, max(0, paging.start - count), count, "previous") if paging.start else None
    ahead = _link(paging, paging.stop, count, "next") if paging.more else None
    where = f"{number(paging.start)} to {number(paging.stop - 1)}" if paging.stop > paging.start else "none"
    return el("span", back, el("span", where, cls="small"), ahead, cls="pages")


def _link(paging: Paging, start: int, count: int, text: str) -> Html:
    q = paging.query
    asked = {"document": q.document, "source": q.source, "domain": q.domain, "from": start, "count": count}
    query = urlencode({k: v for k, v in asked.items() if v != ""}, errors="replace")
    return Html(f'<a data-page href="/?{escape(query)}">{escape(text)}</a>')


def context_html(c: ReadContext, budget: media.Budget) -> Html:
    """One context: head, the ribbon of its modalities, its documents. One without a shard is told by its key alone."""
    title: list[Content] = [c.key]
    about: list[Content] = [plural(c.tokens, "token")]
    if c.shard:
        title = [f"Context {number(c.number)} of ", name(c.domain)]
        about = [
            f"{number(c.tokens)} tokens in {number(c.slots)} slots, {plural(len(c.documents), 'document')}, "
            f"row {number(c.row)} of sample ",
            el("code", c.key),
            " in ",
            el("code", c.shard),
        ]
    rest = c.slots - c.tokens
    return el(
        "article",
        el("h3", title),
        el("p", about, cls="small"),
        _ribbon(c),
        [_document(d, budget) for d in c.documents],
        el("p", el("span", "<pad>", cls="sentinel"), f" {plural(rest, 'slot')} of padding", cls="padding")
        if rest
        else None,
        cls="context",
    )


def _ribbon(c: ReadContext) -> Html:
    """The slots of the context in their order, coloured by modality, with the edges of documents."""
    edges = [0, *(np.flatnonzero(np.diff(c.modalities)) + 1).tolist(), c.tokens]
    runs = [
        el("rect", x=a, y=0, width=b - a, height=1, cls=f"run m-{MODALITIES[int(c.modalities[a])]}")
        for a, b in itertools.pairwise(edges)
        if a < b
    ]
    borders = [el("path", d=f"M{d.at} 0V1", cls="edge") for d in c.documents if d.at]
    label = "modality of each token, in order"
    return el(
        "svg",
        runs,
        borders,
        viewBox=f"0 0 {max(1, c.slots)} 1",
        preserveAspectRatio="none",
        cls="ribbon",
        role="img",
        aria_label=label,
    )


def _document(d: Document, budget: media.Budget) -> Html:
    place = f"tokens {number(d.start)} to {number(d.start + d.tokens - 1)} of it"
    if d.start:
        place += ", goes on from an earlier context"
    if not d.ends:
        place += ", goes on in another context"
    head = el("p", name(d.source), el("code", d.doc_id), el("span", place, cls="small"), cls="origin")
    classes = f"document{' cut-before' if d.start else ''}{'' if d.ends else ' cut-after'}"
    return el(
        "section",
        head,
        el("div", [_piece(p, budget) for p in d.pieces], cls="stream", dir="auto"),
        cls=classes,
    )


def _piece(p: Piece, budget: media.Budget) -> Html:
    if p.kind == "sentinel":
        return el("span", p.text, cls="sentinel", title=f"id {int(p.ids[0])}")
    if p.kind == "text":
        return _text(p)
    return _image(p, budget) if p.kind == "image" else _speech(p, budget)


def _text(p: Piece) -> Html:
    if p.note and not p.text:
        return el(
            "span",
            f"{plural(len(p.ids), 'text token')} ({p.note})",
            _ids(p.ids.tolist()),
            cls="absent m-text",
        )
    note = el("span", f" ({p.note})", cls="absent") if p.note else None
    # Elements that alternate by their place among their kind: nothing else of that kind may stand between them.
    return el("span", [_token(g) for g in p.groups], note, cls="text-run")


def _token(g: Group) -> Html:
    lines = g.text.split("\n")
    parts = [lines[0], *([el("i", cls="nl"), f"\n{line}"] for line in lines[1:])]
    return el("span", parts, cls="t p" if g.patch else "t", title=" ".join(map(str, g.ids)))


def _ids(ids: Sequence[int], row: int = 0, of: Piece | None = None) -> Html:
    """Ids that appear with the token boundaries; `row` of them in a line, where they have a layout.

    of: a recording, whose patches and durations are told.
    """
    parts: list[Content] = []
    begins = of.patches if of else frozenset()
    lasting = of.durations.tolist() if of and of.durations is not None else [0] * len(ids)
    for i, (number_, steps) in enumerate(zip(ids, lasting)):
        title = plural(steps, "step") if steps else None
        unit = el("span", str(number_), cls="u p" if i in begins else "u", title=title)
        parts += [unit, "\n" if row and (i + 1) % row == 0 else " "]
    return el("span", parts, cls="ids")


def _image(p: Piece, budget: media.Budget) -> Html:
    side = math.isqrt(len(p.ids))
    square = side if side * side == len(p.ids) else 0
    caption = f"{plural(len(p.ids), 'code')}{', ' if p.note else ''}{p.note}"
    shown = el("div", plural(len(p.ids), "code"), cls="box")
    if p.picture is not None:
        height, width = p.picture.shape[:2]
        encoded = media.pixels(
            p.picture, "a picture, drawn from its codes", max(1, _SIDE // max(height, width))
        )
        caption = f"{width} x {height} pixels, {caption}"
        if budget.take(len(encoded.data) * 4 // 3):
            shown = el("span", _img(encoded), _grid(square) if square else None, cls="drawn")
        else:
            caption += ", left out to keep the page small"
    return el("figure", shown, el("figcaption", caption), _ids(p.ids.tolist(), square), cls="piece m-image")


def _img(picture: media.Picture) -> Html:
    source = f"data:image/{picture.kind};base64,{base64.b64encode(picture.data).decode()}"
    return el(
        "img",
        src=source,
        alt=picture.alt,
        width=picture.width,
        height=picture.height,
        cls="pixelated" if picture.pixelated else None,
    )


def _grid(side: int) -> Html:
    """Lines between the codes of a picture, which stand in raster order."""
    lines = "".join(f"M{i} 0V{side}M0 {i}H{side}" for i in range(1, side))
    return el(
        "svg",
        el("path", d=lines),
        viewBox=f"0 0 {side} {side}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _speech(p: Piece, budget: media.Budget) -> Html:
    caption = f"{plural(len(p.ids), 'unit')}{', ' if p.note else ''}{p.note}"
    if p.wave is None:
        shown = el("div", plural(len(p.ids), "unit"), cls="box wide")
    else:
        sound = media.clip(p.wave, p.rate, "a recording, made from its units", _SECONDS)
        shown = media.audio(sound, budget)
    ids = _ids(p.ids.tolist(), of=p)
    return el("figure", shown, el("figcaption", caption), ids, cls="piece m-speech")
