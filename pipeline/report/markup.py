"""Markup that is safe by construction: every string becomes text unless it was built here.

Builders return `Html`; any other string given as content or attribute is escaped. Names of elements and
attributes come from our own code, and what could carry a script is refused.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from typing import Any

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*\Z")
_VOID = frozenset({"br", "img", "meta", "hr", "col", "input"})
_REFUSED = frozenset({"script", "style", "iframe", "object", "embed", "link", "base", "form"})
_URLS = frozenset({"href", "src", "action", "formaction", "poster", "data", "srcset"})
_LOCAL = re.compile(r"(?:#|data:image/(?:png|jpeg|webp);base64,|data:audio/wav;base64,)")

# What HTML forbids or a terminal would act on is shown as its picture; invisible direction overrides as a box.
_VISIBLE: dict[int, str] = {c: chr(0x2400 + c) for c in range(0x20) if c not in (0x09, 0x0A)}
_VISIBLE |= {0x7F: "\u2421", **dict.fromkeys(range(0x80, 0xA0), "\ufffd")}
_VISIBLE |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\u25af")
_VISIBLE |= dict.fromkeys((*range(0xD800, 0xE000), *range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF), "\ufffd")


class Html(str):
    """A string of finished markup."""

    __slots__ = ()


Content = Any
"""Html, str (escaped), numbers (written plainly), None (nothing), or an iterable of these."""


def clean(text: str) -> str:
    """Text that any HTML document may hold: no control characters, no lone surrogates, no direction overrides."""
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def escape(text: str) -> Html:
    """Text as markup, for element content and for quoted attributes alike."""
    return Html(html.escape(clean(text), quote=True))


def markup(content: Content) -> Html:
    """Content as markup; strings that are not `Html` are escaped."""
    if content is None or content is False:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return escape(content)
    if isinstance(content, int | float):
        return escape(str(content))
    if isinstance(content, Iterable):
        return Html("".join(markup(c) for c in content))
    raise TypeError(f"cannot write a {type(content).__name__} as markup")


def el(tag: str, *content: Content, **attributes: Any) -> Html:
    """An element. Attributes: `cls` is class, `_` in a name is `-`, None and False leave one out, True has no value.

    Raises:
        ValueError: an element or attribute that could carry a script, or a URL that is not part of the page.
    """
    if not _NAME.match(tag) or tag in _REFUSED:
        raise ValueError(f"no element '{tag}' in a report")
    parts = [tag]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
        if not _NAME.match(name) or name.startswith("on") or name == "style":
            raise ValueError(f"no attribute '{name}' in a report")
        if name in _URLS and not _LOCAL.match(str(value)):
            raise ValueError(f"{name} of '{tag}' leads out of the page: {str(value)[:60]!r}")
        parts.append(name if value is True else f'{name}="{escape(str(value))}"')
    start = " ".join(parts)
    return Html(f"<{start}>") if tag in _VOID else Html(f"<{start}>{markup(content)}</{tag}>")


def name(text: str, limit: int = 160) -> Html:
    """A name from the data inside our own sentence: isolated, so that its direction stays its own, and bounded."""
    return el("bdi", shorten(text, limit))


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, cut at a space where one is near, with an ellipsis."""
    if len(text) <= limit:
        return text
    cut = text[:limit]
    space = cut.rfind(" ", limit - limit // 8)
    return (cut[:space] if space > 0 else cut).rstrip() + "\u2026"


def number(value: float | None, digits: int = 0) -> str:
    """1234567 -> "1,234,567"; with digits after the point where asked; a dash where there is no value."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    return f"{value:,.{digits}f}"


def significant(value: float | None, digits: int = 3) -> str:
    """About `digits` significant digits: 0.01234 -> "0.0123", 12345.6 -> "12,346", 4e-5 -> "4e-05"."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4 or magnitude >= 15:
        return f"{value:.{digits - 1}e}"
    text = f"{value:,.{max(0, digits - 1 - magnitude)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(value: float | None, digits: int = 1) -> str:
    """0.1234 -> "12.3%"; what would round to nothing keeps a digit: 0.00042 -> "0.04%"."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    if 0 < abs(value) < 0.5 * 10 ** (-2 - digits):
        return f"{significant(100 * value, 1)}%"
    return f"{100 * value:.{digits}f}%"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: "0.4 s", "3 min 05 s", "2 h 10 min"."""
    if seconds is None or not math.isfinite(seconds):
        return "\u2013"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def size(count: float | None) -> str:
    """Bytes with a unit of a thousand: "812 B", "3.4 MB"."""
    if count is None or not math.isfinite(count):
        return "\u2013"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:,.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def plural(count: int, noun: str, many: str | None = None) -> str:
    """ "1 document", "2 documents"."""
    return f"{number(count)} {noun if count == 1 else many or noun + 's'}"
