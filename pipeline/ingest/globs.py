"""Globs over relative paths, the same on every file system.

`*` and `?` stay inside a name, `**` crosses folders, `[a-z]` and `[!a]` are sets, `{a,b}` is either. As in a
shell, a wildcard at the start of a name does not match a leading dot.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable


def check_glob(pattern: str) -> None:
    """Raise ValueError, with what is wrong, when a pattern is not a glob."""
    try:
        compile_glob(pattern)
    except re.error as e:
        raise ValueError(f"not a glob: {e.msg}") from None


@functools.lru_cache(maxsize=256)
def compile_glob(pattern: str, ignore_case: bool = False) -> re.Pattern[str]:
    """The regular expression that fully matches the paths a glob means.

    Raises:
        ValueError: unbalanced braces or brackets.
    """
    alternatives = [_translate(p) for p in _braces(pattern)]
    return re.compile("(?s:" + "|".join(alternatives) + r")\Z", re.IGNORECASE if ignore_case else 0)


def matches(path: str, patterns: Iterable[str], ignore_case: bool = False) -> bool:
    return any(compile_glob(p, ignore_case).match(path) for p in patterns)


def _braces(pattern: str) -> list[str]:
    """Every spelling of a pattern with {a,b} written out (no nesting)."""
    start = pattern.find("{")
    if start < 0:
        if "}" in pattern:
            raise ValueError(f"'{pattern}' has a }} without its {{")
        return [pattern]
    stop = pattern.find("}", start)
    inner = pattern[start + 1 : stop]
    if stop < 0 or "{" in inner:
        raise ValueError(f"'{pattern}' has a {{ without its }}, or braces inside braces")
    tails = _braces(pattern[stop + 1 :])
    out = [pattern[:start] + choice + tail for choice in inner.split(",") for tail in tails]
    if len(out) > 1000:
        raise ValueError(f"'{pattern}' stands for more than 1000 patterns")
    return out


def _translate(pattern: str) -> str:
    out: list[str] = []
    parts = [p for p in pattern.split("/") if p not in ("", ".")]
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            out.append(r"(?:(?!\.)[^/]+/)*" + (r"(?!\.)[^/]+" if last else ""))
        else:
            out.append(_translate_name(part) + ("" if last else "/"))
    return "".join(out)


def _translate_name(part: str) -> str:
    out = [r"(?!\.)"] if part[0] in "*?[" else []
    i = 0
    while i < len(part):
        c = part[i]
        i += 1
        if c == "*":
            out.append("[^/]*")
        elif c == "?":
            out.append("[^/]")
        elif c == "[":
            stop = part.find("]", i + 1)
            if stop < 0:
                raise ValueError(f"'{part}' has a [ without its ]")
            inner = part[i:stop].replace("\\", "\\\\").replace("[", "\\[")
            inner = "^" + inner[1:] if inner[0] == "!" else ("\\" + inner if inner[0] == "^" else inner)
            out.append(f"(?!/)[{inner}]")
            i = stop + 1
        else:
            out.append(re.escape(c))
    return "".join(out)
