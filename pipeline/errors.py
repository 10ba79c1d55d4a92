"""The one error a user should ever see: what is wrong, and how to put it right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave us. Shown as text without a traceback; the exit code is 2.

    Args:
        what: the field or file, the value got, and what is allowed, in one or two sentences.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, fix: str = "") -> None:
        self.what = what
        self.fix = fix
        super().__init__(f"{what}\n  fix: {fix}" if fix else what)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders in Beam workers; the default would call __init__ with one argument.
        return (_rebuild, (self.what, self.fix))


def _rebuild(what: str, fix: str) -> UserError:
    return UserError(what, fix=fix)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the allowed name closest to `name`, or "" when none is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
