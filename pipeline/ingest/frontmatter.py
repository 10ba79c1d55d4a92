"""The YAML (---) or TOML (+++) header of a Markdown file."""

from __future__ import annotations

import re
from typing import Any

from mixloom.pipeline.ingest.assemble import as_text
from mixloom.pipeline.ingest.problems import Problem

_YAML = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_TOML = re.compile(r"\A\+\+\+[ \t]*\n(.*?)^\+\+\+[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_MOST = 1 << 16


def split_front_matter(text: str) -> tuple[dict[str, str], str]:
    """Cut the header off: its plain values and flat lists as strings, and the text after it.

    Nested values are left out. Text without a header, or whose first block is no mapping (a thematic break
    looks like a header), is returned as it is.

    Raises:
        Problem: "bad_front_matter", with the line.
    """
    match = _YAML.match(text)
    if match:
        value = _yaml(match[1])
    else:
        match = _TOML.match(text)
        if not match:
            return {}, text
        value = _toml(match[1])
    if value is None and not match[1].strip():
        value = {}
    if not isinstance(value, dict):
        return {}, text
    # Only flat values: nested YAML aliases can stand for exponentially many.
    meta: dict[str, str] = {}
    for key, item in value.items():
        flat = [x for x in item if not isinstance(x, list | dict)] if isinstance(item, list) else item
        shown = (
            None
            if isinstance(flat, dict)
            else as_text([str(x) for x in flat] if isinstance(flat, list) else flat)
        )
        if shown is not None:
            meta[str(key)] = shown
    return meta, text[match.end() :]


_FIX = "correct the header, or set front_matter: false to keep it as text"


def _yaml(text: str) -> Any:
    import yaml

    if len(text) > _MOST:
        raise Problem(
            "bad_front_matter", f"the YAML header has {len(text)} characters (at most {_MOST})", fix=_FIX
        )
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as e:
        line = f"line {e.problem_mark.line + 2} of the file" if e.problem_mark else "the header"
        raise Problem("bad_front_matter", f"{line} is not valid YAML: {e.problem}", fix=_FIX) from None
    except Exception as e:  # dates that do not exist, control characters, nesting without end
        raise Problem(
            "bad_front_matter", f"the YAML header cannot be read ({type(e).__name__}: {e})", fix=_FIX
        ) from None


def _toml(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as e:
        raise Problem("bad_front_matter", f"the TOML header is not valid: {e}", fix=_FIX) from None
