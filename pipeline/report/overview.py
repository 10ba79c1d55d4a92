"""The head of the report: what came in, what came out, whether the books balance, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mixloom.pipeline.report.charts import Bar, bars
from mixloom.pipeline.report.funnel import StageFacts, breaks, passing
from mixloom.pipeline.report.markup import (
    Content,
    Html,
    duration,
    el,
    name,
    number,
    percent,
    shorten,
    significant,
)
from mixloom.pipeline.report.tables import Column, details, facts, table

MODALITIES = ("text", "image", "speech")


@dataclass(frozen=True, slots=True)
class Totals:
    """What the shards hold; None in a run without shards."""

    shards: int
    contexts: int
    bytes: int
    tokens_by_modality: Mapping[str, int]


def when(started: float | None) -> str:
    """A moment in UTC, to the minute."""
    if started is None:
        return "not started"
    return datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%d %H:%M UTC")


def overview(stages: Sequence[StageFacts], totals: Totals | None, planned: Sequence[str]) -> list[Content]:
    """Cards of totals, the conservation law, and seconds by stage."""
    through = passing(stages)
    came = through[0].counts.documents_in if through else 0
    kept = through[-1].counts.kept if through else 0
    cards: list[tuple[Content, Content]] = [
        ("Documents in", number(came)),
        ("Kept", [number(kept), el("small", f" {percent(kept / came)}") if came else None]),
    ]
    if totals is not None:
        cards.append(("Tokens", number(sum(totals.tokens_by_modality.values()))))
        present = [m for m in MODALITIES if totals.tokens_by_modality.get(m)]
        cards += [(f"{m.capitalize()} tokens", number(totals.tokens_by_modality[m])) for m in present]
        cards.append(("Contexts", number(totals.contexts)))
        cards.append(("Shards", number(totals.shards)))
    cards.append(("Time in stages", duration(sum(s.seconds for s in stages))))
    return [facts(cards), _conserved(stages), _unfinished(stages, planned), _seconds(stages)]


def _conserved(stages: Sequence[StageFacts]) -> Html:
    problems = breaks(stages)
    if not problems:
        text = "Documents conserved: yes. In every stage, documents in = kept + dropped + failed."
        return el("p", el("span", "\u2713", cls="yes", aria_hidden="true"), " ", text, cls="verdict")
    items = [el("li", p) for p in problems]
    head = el("p", el("span", "\u2717", cls="no", aria_hidden="true"), " Documents conserved: NO.")
    return el("div", head, el("ul", items), cls="verdict bad")


def _unfinished(stages: Sequence[StageFacts], planned: Sequence[str]) -> Content:
    done = {s.name for s in stages if s.state == "finished"}
    open_ = [n for n in planned if n not in done]
    if not open_:
        return None
    states = {s.name: s.state for s in stages}
    said = ", ".join(f"{n} ({states[n]})" if n in states else n for n in open_)
    return el("p", f"This run is not finished. Still to do: {said}.", cls="note")


def _seconds(stages: Sequence[StageFacts]) -> Content:
    if not stages:
        return None
    rows = [
        Bar(s.name, [("plain", s.seconds, f"{s.name}: {duration(s.seconds)}")], duration(s.seconds))
        for s in stages
    ]
    return bars("Seconds by stage", rows)


_HEADLINES = (
    "exact_duplicate_recall",
    "near_duplicate_recall",
    "distinct_documents_lost",
    "noise_recall",
    "domain_purity",
    "corrupt_planted",
    "corrupt_in_ledger",
)


def truth_section(truth: Mapping[str, object]) -> list[Content]:
    """How well a run recovered what had been planted in a demo corpus (summary.json): headlines, then all of it."""
    cards: list[tuple[Content, Content]] = [
        (key.replace("_", " "), _figure(truth[key])) for key in _HEADLINES if key in truth
    ]
    rows: list[list[Content]] = [[name(key.replace("_", " ")), _figure(truth[key])] for key in sorted(truth)]
    everything = table("Everything measured", [Column("Figure", False), Column("Value")], rows)
    title = el("h3", "Planted truth, and what the run made of it")
    return [title, facts(cards), details("all figures", everything)]


def _figure(value: object) -> str:
    figure = isinstance(value, int | float) and not isinstance(value, bool)
    return significant(float(str(value)), 4) if figure else shorten(str(value), 200)
