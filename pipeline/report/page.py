"""The skeleton of the page: head, contents, sections, and a policy that lets nothing but our own script run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixloom.pipeline.report.markup import Content, Html, el, escape, markup

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page. `anchor` is its id, `lead` a sentence under its heading."""

    anchor: str
    title: str
    body: Content
    lead: Content = None


def nothing(text: str) -> Html:
    """What a section says when the run has nothing for it (yet)."""
    return el("p", text, cls="nothing")


def page(title: str, subtitle: Content, sections: Sequence[Section]) -> str:
    """The whole document. No request leaves it: style, script, pictures and sound are inside.

    A Content-Security-Policy names the one style and the one script by their hashes, so that even markup that
    slipped through could not run.
    """
    css = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(css)}; script-src {_hash(script)}"
    )
    contents = el("ol", [el("li", el("a", s.title, href=f"#{s.anchor}")) for s in sections])
    body = [
        el("a", "Skip to the report", cls="skip", href="#main"),
        el("nav", el("p", "Contents", cls="navtitle"), contents, aria_label="Contents"),
        el(
            "main",
            el("header", el("h1", title), el("p", subtitle, cls="subtitle")),
            [_section(s) for s in sections],
            el(
                "footer",
                el(
                    "p",
                    "Written by mixloom from the files of this run; nothing here is loaded from elsewhere.",
                ),
            ),
            id="main",
        ),
    ]
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{css}</style>"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n'
        f"<body>{markup(body)}\n<script>{script}</script></body></html>\n"
    )


def _section(section: Section) -> Html:
    heading = f"{section.anchor}-title"
    return el(
        "section",
        el("h2", section.title, id=heading),
        el("p", section.lead, cls="lead") if section.lead else None,
        section.body,
        id=section.anchor,
        aria_labelledby=heading,
    )


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
