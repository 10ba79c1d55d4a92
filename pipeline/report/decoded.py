"""Contexts decoded from the shards: the page shows what the model is given, beside what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixloom.pipeline.report.markup import Content, Html, el, name, number, plural
from mixloom.pipeline.report.media import Budget, Clip, Picture, audio, image
from mixloom.pipeline.report.samples import excerpt


@dataclass(frozen=True, slots=True)
class DecodedPiece:
    """A segment of a context: its text, or its medium as decoded and as it was."""

    kind: str
    tokens: int
    text: str = ""
    picture: Picture | None = None
    original_picture: Picture | None = None
    clip: Clip | None = None
    original_clip: Clip | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class DecodedDocument:
    """One document inside a context, or the part of it that is there."""

    doc_id: str
    source: str
    tokens: int
    start: int  # tokens of the document that lie in earlier contexts
    pieces: tuple[DecodedPiece, ...]
    position: int = 1  # in the context, from 1
    left_out: int = 0  # segments not shown


@dataclass(frozen=True, slots=True)
class DecodedContext:
    """A packed context."""

    domain: str
    number: int
    shard: str
    tokens: int
    slots: int
    documents: tuple[DecodedDocument, ...]
    more_documents: int = 0


def decoded_section(contexts: Sequence[DecodedContext], budget: Budget) -> list[Html]:
    """Every context as a column of documents, with their boundaries."""
    return [_context(c, budget) for c in contexts]


def _context(c: DecodedContext, budget: Budget) -> Html:
    head = el("h3", f"Context {number(c.number)} of ", name(c.domain))
    about = el(
        "p",
        f"{number(c.tokens)} tokens in {number(c.slots)} slots, "
        f"{plural(len(c.documents) + c.more_documents, 'document')}, from ",
        el("code", c.shard),
        cls="small",
    )
    body: list[Content] = [_document(d, budget) for d in c.documents]
    if c.more_documents:
        body.append(el("p", f"and {plural(c.more_documents, 'more document')}", cls="small"))
    return el("article", head, about, el("div", body, cls="docs"), cls="context")


def _document(d: DecodedDocument, budget: Budget) -> Html:
    begins = el("span", "<doc>", cls="sentinel") if not d.start else el("span", "continued", cls="sentinel")
    head = el(
        "p",
        begins,
        " ",
        name(d.source),
        el("code", d.doc_id[:12], title=d.doc_id),
        el("span", f"document {number(d.position)}, {plural(d.tokens, 'token')}", cls="small"),
        cls="origin",
    )
    rest = el("p", f"and {plural(d.left_out, 'more segment')}", cls="small") if d.left_out else None
    return el(
        "div",
        head,
        [_piece(p, budget) for p in d.pieces],
        rest,
        cls="doc whole" if len(d.pieces) < 3 else "doc",
    )


def _piece(p: DecodedPiece, budget: Budget) -> Html:
    if p.kind == "text":
        return excerpt(p.text, len(p.text), 600)
    codes = el("span", f"<{p.kind}> {plural(p.tokens, 'code')} </{p.kind}>", cls="sentinel")
    if p.picture is None and p.clip is None and p.original_clip is None:
        return el("div", codes, el("p", p.note, cls="small") if p.note else None, cls="decoded")
    before: Html | None = None
    if p.kind == "image":
        now = image(p.picture, budget)
        before = image(p.original_picture, budget) if p.original_picture else None
    else:
        now = audio(p.clip, budget)
        before = audio(p.original_clip, budget) if p.original_clip else None
    parts = [el("figure", now, el("figcaption", f"decoded{', ' if p.note else ''}{p.note}"))]
    if before is not None:
        parts.append(el("figure", before, el("figcaption", "original")))
    return el("div", codes, el("div", parts, cls="beside"), cls="decoded")
