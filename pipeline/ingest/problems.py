"""What can be wrong with an input, raised inside readers and turned into a Failure at their border."""

from __future__ import annotations

from typing import Literal

from mixloom.pipeline.schema import Failure, Locator

Outcome = Literal["failed", "dropped"]


class Problem(Exception):
    """Something about the input that costs a document or a media item.

    Args:
        reason: a short class of error in snake_case.
        detail: what is wrong, in words.
        fix: what to do about it.
        offset: byte offset or row where it is, when the caller cannot know.
        outcome: "dropped" where it is a policy rather than an error.
    """

    def __init__(
        self, reason: str, detail: str, *, fix: str = "", offset: int = -1, outcome: Outcome = "failed"
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = f"{detail}; fix: {fix}" if fix else detail
        self.offset = offset
        self.outcome: Outcome = outcome


def printable(text: str) -> str:
    """Text that Arrow and a terminal can hold: lone surrogates (undecodable file names) are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def failure(
    source: str,
    problem: Problem,
    uri: str,
    *,
    member: str = "",
    offset: int = -1,
    length: int = -1,
    scope: Literal["document", "media"] = "document",
) -> Failure:
    """The ledger entry of a problem at a place; `problem.offset` wins over `offset` when it is set."""
    at = problem.offset if problem.offset >= 0 else offset
    where = Locator(uri=printable(uri), member=printable(member), offset=at, length=length)
    return Failure(
        source=source,
        locator=where,
        reason=problem.reason,
        detail=printable(problem.detail),
        scope=scope,
        outcome=problem.outcome,
    )


def unexpected(error: Exception) -> Problem:
    """The last resort: an error no reader foresaw."""
    text = " ".join(str(error).split())
    if len(text) > 500:
        text = text[:500] + "..."
    shown = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Problem("unreadable", shown, fix="open the file with another program; replace it or exclude it")
