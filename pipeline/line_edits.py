"""From lines that go and lines that stay to edits, so that the edited text is exactly what the layout of the set says.

Everything is computed from the table of lines, without the text, for all lines of a batch at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline.line_measures import NEWLINE, SNIPPETS

WHITE_SPACE, EMPTY_LINES, CITATION = "white_space", "empty_lines", "citation"

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Places:
    """Where m lines stand. unit: int64 [m], which text a line is of, from 0; the others as in `line_measures.LINES`.

    begin: where the line begins, its leading white space included. content_start, content_stop: what is left of it after
    the removals of the set, where they apply (`cut`: bool [m]), else start and stop.
    """

    unit: Ints
    begin: Ints
    start: Ints
    stop: Ints
    next: Ints
    newline: Flags
    content_start: Ints
    content_stop: Ints
    cut: Flags


@dataclass(slots=True)
class Change:
    """Edits of lines, not sorted. line: int64 [k], the line they are counted to; start, stop: int64 [k], bytes.

    newline: bool [k], whether a newline stands in its place, else nothing. kind: object [k], the reason, or None where
    it is that of the rule which removed the line.
    """

    line: Ints
    start: Ints
    stop: Ints
    newline: Flags
    kind: NDArray[np.object_]


def places(lines: pa.RecordBatch, what: str | None, applies: Flags) -> Places:
    """The places of m lines, sorted by (row, segment, start).

    what: "citations" or "snippets" where the set removes them from the lines in `applies` (bool [m]).
    """
    number = {
        name: lines.column(name).to_numpy(zero_copy_only=False).astype(np.int64)
        for name in ("row", "segment", "start", "stop", "next", "line_break")
    }
    m = len(lines)
    new = np.ones(m, np.bool_)
    new[1:] = (np.diff(number["row"]) != 0) | (np.diff(number["segment"]) != 0)
    begin = np.concatenate([[0], number["next"][:-1]])[:m]
    begin[new] = 0
    content_start, content_stop = number["start"], number["stop"]
    cut = np.zeros(m, np.bool_)
    if what is not None:
        prefix = "uncited" if what == "citations" else "bare"
        start, stop = (lines.column(f"{prefix}_{side}") for side in ("start", "stop"))
        cut = applies & start.is_valid().to_numpy(zero_copy_only=False)
        content_start = np.where(cut, start.fill_null(0).to_numpy(zero_copy_only=False), content_start)
        content_stop = np.where(cut, stop.fill_null(0).to_numpy(zero_copy_only=False), content_stop)
    newline = (number["line_break"] == NEWLINE) & (number["next"] == number["stop"] + 1)
    return Places(
        unit=np.cumsum(new) - 1,
        begin=begin,
        start=number["start"],
        stop=number["stop"],
        next=number["next"],
        newline=newline,
        content_start=content_start,
        content_stop=content_stop,
        cut=cut,
    )


def _ends_of_text(p: Places, stays: Flags) -> tuple[Ints, Ints, int]:
    """The first and the last line with content that stays, of each text (m and -1 without one); how many texts."""
    m = len(stays)
    texts = int(p.unit[-1]) + 1 if m else 0
    head, tail = np.full(texts, m, np.int64), np.full(texts, -1, np.int64)
    full = np.flatnonzero(stays & (p.content_stop > p.content_start))
    np.minimum.at(head, p.unit[full], full)
    np.maximum.at(tail, p.unit[full], full)
    return head, tail, texts


def _change(line: Ints, start: Ints, stop: Ints, newline: Flags | None, kind: object) -> Change:
    newline = np.zeros(len(line), np.bool_) if newline is None else newline
    kinds = np.empty(len(line), dtype=object)
    kinds[:] = kind
    return Change(line, start, stop, newline, kinds)


def _between(p: Places, stays: Flags, owner: Flags, joined: bool, head: Ints, texts: int) -> list[Change]:
    """What stands before, between and behind the lines that stay, cut among the removed lines (`owner`) within.

    A region is what lies between two neighbours among the lines of one text that stay, or before the first or behind
    the last of them. In layout in_place only the outer regions count, and a removed line between goes by itself.
    """
    m = len(stays)
    at = np.arange(m)
    earlier: Ints = np.cumsum(stays) - stays
    region = earlier + p.unit  # of a line that goes; of a line that stays: the region before it
    count = int(stays.sum()) + texts
    first_of_text = np.concatenate([[True], np.diff(p.unit) != 0])[:m]
    last_of_text = np.concatenate([np.diff(p.unit) != 0, [True]])[:m]
    low, high = np.zeros(count, np.int64), np.zeros(count, np.int64)
    anchor = np.zeros(count, np.int64)  # a line of the region's text
    anchor[region[first_of_text]] = at[first_of_text]
    last = last_of_text
    high[(np.cumsum(stays) + p.unit)[last]] = p.next[last]
    anchor[(np.cumsum(stays) + p.unit)[last]] = at[last]
    keep = np.flatnonzero(stays)
    before, behind = region[keep], region[keep] + 1
    high[before], low[behind] = p.start[keep], p.stop[keep]
    anchor[behind] = keep
    inner = np.zeros(count, np.bool_)
    inner[behind] = True  # a line that stays precedes
    followed = np.zeros(count, np.bool_)
    followed[before] = True
    inner &= followed
    clean = np.zeros(count, np.bool_)
    clean[behind] = p.newline[keep]
    clean &= inner
    put = inner & ~clean
    low[clean] += 1

    own = np.flatnonzero(owner & ~stays)
    of = region[own]
    alone = inner[of] & (not joined)  # in place, between lines that stay
    changes = [_change(own[alone], p.begin[own[alone]], p.next[own[alone]], None, None)]
    own, of = own[~alone], of[~alone]
    first = np.concatenate([[True], np.diff(of) != 0])[: len(own)]
    last = np.concatenate([np.diff(of) != 0, [True]])[: len(own)]
    start = np.where(first, low[of], p.begin[own])
    stop = np.where(last, high[of], np.concatenate([p.begin[own[1:]], [0]])[: len(own)])
    changes.append(_change(own, start, stop, first & put[of], None))
    bare = np.ones(count, np.bool_)
    bare[of] = False
    bare &= (low < high) | put
    if not joined:
        bare &= ~inner
    rest = np.flatnonzero(bare)
    changes.append(_change(anchor[rest], low[rest], high[rest], put[rest], WHITE_SPACE))
    return changes


def _inside(
    p: Places, stays: Flags, joined: bool, head: Ints, tail: Ints, what: str, spans: pa.ListArray
) -> list[Change]:
    """What the removals take out of the lines that stay."""
    step = 2 if what == "citations" else 3
    offsets = spans.offsets.to_numpy().astype(np.int64)
    groups = spans.flatten().to_numpy().astype(np.int64).reshape(-1, step)
    line = np.repeat(np.arange(len(stays)), np.diff(offsets) // step)
    kinds = np.array([CITATION] if step == 2 else SNIPPETS, dtype=object)[
        groups[:, 0] if step == 3 else 0 * line
    ]
    chosen = (stays & p.cut)[line]
    line, groups, kinds = line[chosen], groups[chosen], kinds[chosen]
    is_head, is_tail = head[p.unit[line]] == line, tail[p.unit[line]] == line
    low = np.where(is_head, p.content_start[line], p.start[line] if joined else p.begin[line])
    high = np.where(is_tail, p.content_stop[line], p.stop[line] if joined else p.next[line])
    start, stop = np.maximum(groups[:, -2], low), np.minimum(groups[:, -1], high)
    left = start < stop
    changes = [Change(line[left], start[left], stop[left], np.zeros(int(left.sum()), np.bool_), kinds[left])]
    # At the ends of the text the white space beside a removal goes too.
    first_kind = np.full(len(stays), None, dtype=object)
    first_kind[line[::-1]] = kinds[::-1]
    heads, tails = head[head < len(stays)], tail[tail >= 0]
    heads = heads[p.content_start[heads] > p.start[heads]]
    tails = tails[p.content_stop[tails] < p.stop[tails]]
    changes.append(_change(heads, p.start[heads], p.content_start[heads], None, None))
    changes[-1].kind[:] = first_kind[heads]
    changes.append(_change(tails, p.content_stop[tails], p.stop[tails], None, None))
    changes[-1].kind[:] = first_kind[tails]
    return changes


def line_changes(
    lines: pa.RecordBatch, p: Places, removed: Flags, what: str | None, joined: bool
) -> tuple[Change, Flags]:
    """The edits that leave, of every text, the lines that are not removed.

    Args:
        lines: the table of m lines; removed: bool [m], by a rule, with the snippets it consists of, or as one empty line
            too many. what: what is taken out of the others, as for `places`. joined: the layout.

    Returns:
        The edits, sorted by (line's text, start), disjoint; and bool [m], the lines that stay.
    """
    words = lines.column("words").to_numpy(zero_copy_only=False)
    stays = ~removed & ((words > 0) | (not joined))
    head, tail, texts = _ends_of_text(p, stays)
    at = np.arange(len(stays))
    stays &= (at >= head[p.unit]) & (at <= tail[p.unit])
    owner = removed & ((words > 0) | (not joined))
    changes = _between(p, stays, owner, joined, head, texts)
    if what is not None:
        changes += _inside(
            p, stays, joined, head, tail, what, lines.column("cites" if what == "citations" else what)
        )
    merged: Mapping[str, np.ndarray] = {
        name: np.concatenate([getattr(c, name) for c in changes])
        for name in ("line", "start", "stop", "newline", "kind")
    }
    order = np.lexsort((merged["stop"], merged["start"], p.unit[merged["line"]]))
    return Change(**{name: values[order] for name, values in merged.items()}), stays
