"""Sample documents: what was kept and what was not, as a person would look at them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from mixloom.pipeline.report.markup import Content, Html, el, name, number, plural, shorten, significant
from mixloom.pipeline.report.media import Budget, Clip, Picture, audio, image
from mixloom.pipeline.report.tables import details

EXCERPT = 320  # characters of a text segment
OPEN = 1  # reasons whose samples are not folded away
LONG = 1400  # more of it, folded away
SEGMENTS = 4  # of a document

_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+\n")


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment to show: a text, or a medium with the words beside it. Media that could not be read are None."""

    kind: str  # text, image or speech
    text: str = ""
    characters: int = 0
    picture: Picture | None = None
    clip: Clip | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A document to show. `segments` is how many it has, of which `pieces` are here."""

    doc_id: str
    source: str
    place: str
    pieces: tuple[Piece, ...] = ()
    segments: int = 0
    meta: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """One line of the ledger with its document (None where there is none) and, for a duplicate, the one kept."""

    doc_id: str
    source: str
    place: str
    outcome: str
    scope: str
    value: float | None = None
    limit: float | None = None
    detail: str = ""
    document: Sample | None = None
    kept: Sample | None = None


@dataclass(frozen=True, slots=True)
class ReasonSamples:
    """Samples of one reason of one stage, out of `total`."""

    stage: str
    reason: str
    outcome: str
    total: int
    rejects: tuple[Reject, ...] = field(default=())


def kept_samples(samples: Sequence[Sample], budget: Budget) -> Html:
    """Cards of documents that were kept."""
    return el("div", [el("article", document(s, budget), cls="card") for s in samples], cls="cards")


def dropped_samples(groups: Sequence[ReasonSamples], budget: Budget) -> list[Html]:
    """One block per stage and reason; the first few are open to look at, the rest folded."""
    out = []
    for i, g in enumerate(groups):
        title = [name(g.reason), el("span", f" {g.outcome} in {g.stage}: {number(g.total)}", cls="count")]
        shown = [_reject(r, budget) for r in g.rejects]
        more = g.total - len(shown)
        rest = (
            el("p", f"and {plural(more, 'more', 'more')} in {g.stage}/rejects", cls="small")
            if more > 0
            else None
        )
        body = el("div", shown, cls="cards")
        out.append(el("details", el("summary", title), body, rest, cls="reason", open=i < OPEN))
    return out


def document(sample: Sample, budget: Budget, against: Sample | None = None) -> list[Html]:
    """A document: where it is from, then its segments in reading order; words that `against` lacks are marked."""
    other = "\n".join(p.text for p in against.pieces) if against else None
    head = el(
        "p",
        name(sample.source),
        el("span", name(shorten(sample.place, 90)), cls="place"),
        el("code", sample.doc_id[:12], title=sample.doc_id),
        cls="origin",
    )
    body = [_piece(p, budget, other) for p in sample.pieces]
    more = sample.segments - len(sample.pieces)
    rest = [el("p", f"and {plural(more, 'more segment')}", cls="small")] if more > 0 else []
    return [head, *body, *rest]


def excerpt(text: str, characters: int, limit: int = EXCERPT, other: str | None = None) -> Html:
    """The beginning of a text, more of it folded away, and how long it is. Blank texts say so.

    With `other`, the words that do not occur there in the same order are marked.
    """
    text = _BLANK_LINES.sub("\n\n", text.strip("\n"))
    if not text.strip():
        return el("p", f"blank text, {plural(characters, 'character')}", cls="missing")
    shown = shorten(text, limit)
    length = el("span", f" {plural(characters, 'character')}", cls="small") if characters > limit else None
    first = el("p", shown if other is None else _marked(shown, other), cls="text", dir="auto")
    if len(text) <= limit:
        return el("div", first, length)
    longer = shorten(text, LONG)
    more = el("p", longer if other is None else _marked(longer, other), cls="text", dir="auto")
    return el("div", first, details(["more", length], more))


def _marked(text: str, other: str) -> list[Content]:
    parts = re.split(r"(\s+)", text)  # words at even places, the space between them at odd ones
    words = [w.rstrip("\u2026") for w in parts[::2]]
    found = SequenceMatcher(None, words, other.split(), autojunk=False).get_matching_blocks()
    same = {i for block in found for i in range(block.a, block.a + block.size)}
    return [part if i % 2 or not part or i // 2 in same else el("mark", part) for i, part in enumerate(parts)]


def _piece(p: Piece, budget: Budget, other: str | None) -> Html:
    if p.kind == "text":
        return excerpt(p.text, p.characters or len(p.text), EXCERPT, other)
    medium = image(p.picture, budget) if p.kind == "image" else audio(p.clip, budget)
    caption = el("figcaption", shorten(p.note, 200), dir="auto") if p.note else None
    return el("figure", medium, caption, cls="medium")


def _reject(r: Reject, budget: Budget) -> Html:
    parts: list[Content] = []
    if r.outcome == "failed" or r.scope == "media":
        what = "Item of a kept document" if r.scope == "media" else "Place"
        parts.append(_line(what, [name(r.source), ": ", name(r.place)]))
        parts.append(_line("Error", el("span", shorten(r.detail, 500), dir="auto")))
    elif r.value is not None or r.limit is not None:
        parts.append(_line("Measured", [el("b", significant(r.value)), f" (limit {significant(r.limit)})"]))
    if r.document is not None:
        label = el("p", "dropped", cls="tag") if r.kept is not None else None
        parts.append(el("div", label, document(r.document, budget, r.kept), cls="side"))
    if r.kept is not None:
        parts.append(
            el(
                "div",
                el("p", "kept in its place", cls="tag"),
                document(r.kept, budget, r.document),
                cls="side",
            )
        )
    pair = " pair" if r.kept is not None else ""
    return el("article", parts, cls=f"card{pair}")


def _line(key: str, value: Content) -> Html:
    return el("p", el("span", f"{key}: ", cls="key"), value, cls="fact")
