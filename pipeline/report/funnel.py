"""The funnel: how many documents entered each stage, how many went on, and why the others did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mixloom.pipeline.ledger import Counts
from mixloom.pipeline.report.charts import legend, stack
from mixloom.pipeline.report.markup import Content, Html, el, name, number, percent, plural
from mixloom.pipeline.report.tables import Column, table

KEPT, FAILED = "kept", "failed"
DROPS = 6  # colours of reasons, in page.css


@dataclass(frozen=True, slots=True)
class StageFacts:
    """One stage as the funnel shows it."""

    name: str
    state: str  # finished, running or interrupted
    counts: Counts
    seconds: float


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Documents of one source: read, failed at ingest, and lost in each stage after it."""

    name: str
    documents_in: int
    lost: dict[str, int] = field(default_factory=dict)  # by stage, ingest included

    @property
    def kept(self) -> int:
        return self.documents_in - sum(self.lost.values())


def passing(stages: Sequence[StageFacts]) -> list[StageFacts]:
    """The stages that documents pass through."""
    return [s for s in stages if s.counts.documents_in]


def breaks(stages: Sequence[StageFacts]) -> list[str]:
    """Where documents are not conserved, in words: inside a stage, or between finished neighbours."""
    found = []
    before: StageFacts | None = None
    for s in passing(stages):
        c = s.counts
        if not c.conserved:
            told = c.kept + sum(c.dropped.values()) + sum(c.failed.values())
            found.append(f"{s.name}: {number(c.documents_in)} in, {number(told)} accounted for")
        finished = s.state == "finished" and before is not None and before.state == "finished"
        if finished and before is not None and before.counts.kept != c.documents_in:
            found.append(
                f"{number(before.counts.kept)} left {before.name}, {number(c.documents_in)} entered {s.name}"
            )
        before = s
    return found


def funnel(stages: Sequence[StageFacts]) -> Content:
    """Bars per stage on the scale of what came in first, with every reason in figures."""
    shown = passing(stages)
    if not shown:
        return None
    scale = float(max(s.counts.documents_in for s in shown))
    rows = [_row(s, scale) for s in _gathered(shown)]
    key = legend([(KEPT, "kept"), ("drop0", "dropped, one shade per reason"), (FAILED, "failed: an error")])
    return [key, el("ol", rows, cls="funnel"), reasons(shown)]


def _gathered(stages: Sequence[StageFacts]) -> list[StageFacts]:
    """Finished stages in a row that lose nothing become one row: the eye should rest where documents are lost."""
    groups: list[list[StageFacts]] = []
    for s in stages:
        whole = s.state == "finished" and s.counts.kept == s.counts.documents_in
        if whole and groups and (groups[-1][-1].state, groups[-1][-1].counts) == (s.state, s.counts):
            groups[-1].append(s)
        else:
            groups.append([s])
    return [
        g[0] if len(g) == 1 else StageFacts(f"{g[0].name} to {g[-1].name}", g[0].state, g[0].counts, 0.0)
        for g in groups
    ]


def _row(s: StageFacts, scale: float) -> Html:
    c = s.counts
    pieces = [(KEPT, float(c.kept), f"{s.name}: {number(c.kept)} kept")]
    for i, (reason, n) in enumerate(_largest_first(c.dropped)):
        pieces.append((f"drop{i % DROPS}", float(n), f"{s.name}: {number(n)} dropped, {reason}"))
    for reason, n in _largest_first(c.failed):
        pieces.append((FAILED, float(n), f"{s.name}: {number(n)} failed, {reason}"))
    dropped, failed = sum(c.dropped.values()), sum(c.failed.values())
    said: list[Content] = [el("b", number(c.kept)), " kept"]
    said += [", ", el("b", number(dropped)), " dropped"] if dropped else []
    said += [", ", el("b", number(failed)), " failed"] if failed else []
    state = None if s.state == "finished" else el("span", s.state, cls="state")
    return el(
        "li",
        el("span", s.name, state, cls="stage"),
        stack(pieces, scale),
        el("span", said, cls="stagefigures"),
    )


def reasons(stages: Sequence[StageFacts]) -> Html:
    """Every reason of every stage, with its number and its share of what entered the stage."""
    rows: list[list[Content]] = []
    for s in stages:
        for outcome, by_reason in (("dropped", s.counts.dropped), ("failed", s.counts.failed)):
            for reason, n in _largest_first(by_reason):
                rows.append([s.name, outcome, name(reason), number(n), percent(n / s.counts.documents_in)])
    items = [
        [s.name, "media item", name(reason), number(n), "\u2013"]
        for s in stages
        for reason, n in _largest_first(s.counts.media)
    ]
    if not rows and not items:
        return el("p", "No document was dropped and none failed.", cls="nothing")
    first, last = stages[0].counts.documents_in, stages[-1].counts.kept
    lost = sum(sum(s.counts.dropped.values()) + sum(s.counts.failed.values()) for s in stages)
    total = (
        f"{plural(first, 'document')} in; {number(lost)} dropped or failed; {number(last)} left at the end"
    )
    columns = [Column("Stage", False), Column("Outcome", False), Column("Reason", False), Column("Documents")]
    columns.append(Column("Of its stage"))
    return table(f"Reasons ({total})", columns, [*rows, *items])


def by_source(sources: Sequence[SourceFacts], order: Sequence[str] = ()) -> Content:
    """What became of the documents of each source; stages in the given order."""
    if not sources:
        return None
    losing = {stage for s in sources for stage in s.lost}
    stages = [*(s for s in order if s in losing), *sorted(losing - set(order))]
    columns = [
        Column("Source", False),
        Column("In"),
        *(Column(f"lost in {s}") for s in stages),
        Column("Kept"),
    ]
    columns.append(Column("Kept share"))
    rows = [_source_row(s, stages) for s in sources]
    whole = SourceFacts(
        "all sources",
        sum(s.documents_in for s in sources),
        {stage: sum(s.lost.get(stage, 0) for s in sources) for stage in stages},
    )
    return table("Documents by source", columns, rows, _source_row(whole, stages))


def _source_row(s: SourceFacts, stages: Sequence[str]) -> list[Content]:
    lost = [number(s.lost[x]) if s.lost.get(x) else "\u2013" for x in stages]
    share = s.kept / s.documents_in if s.documents_in else None
    return [name(s.name), number(s.documents_in), *lost, number(s.kept), percent(share)]


def _largest_first(by_reason: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(by_reason.items(), key=lambda x: (-x[1], x[0]))
