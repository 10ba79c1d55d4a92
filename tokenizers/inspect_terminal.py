"""Contexts on a terminal: text as it is, pictures as coloured blocks, sound as a line about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.report.markup import clean, number, plural
from mixloom.tokenizers.inspect_contexts import Document, Piece, ReadContext

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_COLOURS = {"text": "blue", "image": "dark_orange3", "speech": "medium_purple3"}
_WIDE = 32  # characters of a picture
_PATCH = "\u2016"


def print_contexts(
    contexts: list[ReadContext], console: Console, *, tokens: bool = False, patches: bool = False
) -> None:
    """Write contexts to a console.

    With `tokens`, alternate tokens are underlined (or set off by bars without styles); with `patches`, a double bar stands
    where a stored patch begins.
    """
    for c in contexts:
        console.rule(f"context {number(c.number)} of {_plain(c.domain)}", align="left")
        filled = f"{number(c.tokens)} tokens in {number(c.slots)} slots"
        console.print(_line(f"{filled}, row {c.row} of {c.key} in {c.shard}"), soft_wrap=True)
        for d in c.documents:
            for part in _document(d, _Shown(console.color_system is not None, tokens, patches)):
                console.print(part, soft_wrap=True)
        if c.slots > c.tokens:
            console.print(_line(f"<pad> {plural(c.slots - c.tokens, 'slot')} of padding"))


def _line(text: str) -> Text:
    from rich.text import Text

    return Text(_plain(text), style="dim")


def _plain(text: str) -> str:
    """Names from files are shown, never obeyed by the terminal."""
    return clean(text).replace("\n", "\\n")


class _Shown(NamedTuple):
    coloured: bool
    tokens: bool
    patches: bool


def _document(d: Document, shown: _Shown) -> Iterator[Text]:
    from rich.text import Text

    place = f"tokens {number(d.start)} to {number(d.start + d.tokens - 1)}"
    ends = "" if d.ends else ", goes on in another context"
    yield Text(f"\n{_plain(d.source)}  {_plain(d.doc_id)}  {place}{ends}", style="bold")
    line = Text()
    for p in d.pieces:
        line.append_text(_inline(p, shown))
        if p.picture is not None and shown.coloured:
            yield line
            yield _blocks(p.picture)
            line = Text()
    if line:
        yield line


def _inline(p: Piece, shown: _Shown) -> Text:
    """A piece inside the running text."""
    from rich.text import Text

    if p.kind == "sentinel":
        return Text(p.text, style="dim")
    if p.kind != "text":
        noun = "code" if p.kind == "image" else "unit"
        about = [plural(len(p.ids), noun)]
        about += [f"{p.picture.shape[1]} x {p.picture.shape[0]} pixels"] if p.picture is not None else []
        about += [f"{len(p.wave) / p.rate:.1f} s"] if p.wave is not None else []
        about += [_plain(p.note)] if p.note else []
        marked = p.patches if shown.patches else ()
        ids = " ".join(f"{_PATCH if i in marked else ''}{n}" for i, n in enumerate(p.ids.tolist()))
        ids = f": {ids}" if shown.tokens or marked else ""
        return Text(f"[{p.kind} of {', '.join(about)}{ids}]", style=_COLOURS[p.kind])
    if not p.text:
        return Text(f"[{plural(len(p.ids), 'text token')}, {_plain(p.note)}]", style=_COLOURS["text"])
    if not (shown.tokens or (shown.patches and any(g.patch for g in p.groups))):
        return Text(clean(p.text))
    out = Text()
    for i, g in enumerate(p.groups):
        if shown.patches and g.patch:
            out.append(_PATCH, style="red" if shown.coloured else "")
        elif shown.tokens and i and not shown.coloured:
            out.append("|")
        out.append(clean(g.text), style="underline" if shown.tokens and shown.coloured and i % 2 else "")
    return out


def _blocks(picture: npt.NDArray[np.uint8]) -> Text:
    """A picture as half blocks: the upper pixel in the colour of the character, the lower one behind it."""
    from PIL import Image
    from rich.style import Style
    from rich.text import Text

    height = max(2, round(_WIDE * picture.shape[0] / picture.shape[1]) // 2 * 2)
    small = np.asarray(Image.fromarray(picture).resize((_WIDE, height), Image.Resampling.BOX))
    out = Text()
    for upper, lower in zip(small[::2], small[1::2]):
        for a, b in zip(upper.tolist(), lower.tolist()):
            style = Style(color=f"rgb({a[0]},{a[1]},{a[2]})", bgcolor=f"rgb({b[0]},{b[1]},{b[2]})")
            out.append("\u2580", style)
        out.append("\n")
    return out
