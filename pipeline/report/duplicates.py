"""The report on duplicates: clusters, the similarity of their members, and what differs, side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import pyarrow as pa

from mixloom.pipeline.duplicate_clusters import (
    BINS,
    Cluster,
    Duplicate,
    StageDuplicates,
    stage_duplicates,
    wanted_ids,
)
from mixloom.pipeline.report.charts import Bar, bars
from mixloom.pipeline.report.documents import (
    SCANNED_PARTS,
    Documents,
    place,
    read_columns,
    spread,
    title_of,
)
from mixloom.pipeline.report.markup import (
    Content,
    Html,
    el,
    name,
    number,
    percent,
    plural,
    shorten,
    significant,
)
from mixloom.pipeline.report.page import Section, nothing
from mixloom.pipeline.run import RunDirectory, StageManifest

CHARACTERS = 20_000  # of a document that are compared
WORDS = 4_000
AROUND = 8  # equal words shown before and after a difference
PASSAGES = 3  # differences shown of a pair
PASSAGE = 60  # words shown of one side of a difference
WORD = 80  # characters shown of a word
EXCERPT = 320  # characters where nothing is compared
ALIKE = 0.3  # share of equal words below which marking them helps nobody
OPEN = 1  # clusters of a stage that are not folded away

STAGES = "dedup_"
LEDGER = ["doc_id", "source", "scope", "reason", "value", "limit", "detail"]

_WHY = {"largest": "largest", "closest": "closest to the limit", "sample": "sample"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A document as this section shows it; `characters` is the length of its whole text."""

    source: str
    place: str
    title: str
    text: str
    characters: int


def section(run: RunDirectory, manifests: Mapping[str, StageManifest], documents: Documents) -> Section:
    """The section of a run's report, from the ledgers of its finished `dedup_*` stages.

    Args:
        manifests: of the finished stages, in the order of the run.
    """
    found: list[StageDuplicates] = []
    for stage, manifest in manifests.items():
        store = run.stage(stage).store
        parts = spread(manifest.rejects, SCANNED_PARTS) if stage.startswith(STAGES) else []
        if parts:
            ledger = pa.concat_tables([read_columns(store, p, LEDGER) for p in parts])
            found += stage_duplicates(stage, ledger)
    lead = (
        "Documents dropped because another one is kept: the largest clusters, those closest to the limit, and a "
        "sample. Of a cluster the least similar members are shown; words that differ are marked."
    )
    body: Content = duplicates_section(found, shown_documents(documents, found))
    return Section("duplicates", "Duplicates", body or nothing("No duplicate was dropped so far."), lead)


def shown_documents(documents: Documents, found: Sequence[StageDuplicates]) -> dict[str, Shown]:
    """Every document the clusters name, by id; those that are not in the run (any more) are left out."""
    out = {}
    rows = documents.rows(wanted_ids(found), ["doc_id", "source", "locator", "segments"])
    for doc_id, row in rows.items():
        text = "\n\n".join(s["text"] or "" for s in row["segments"] if s["kind"] == "text")
        out[doc_id] = Shown(
            row["source"], place(row["locator"]), title_of(row["segments"]), text[:CHARACTERS], len(text)
        )
    return out


def duplicates_section(found: Sequence[StageDuplicates], shown: Mapping[str, Shown]) -> list[Html]:
    """Clusters of every stage that dropped duplicates; [] where none did."""
    out = []
    for s in found:
        heading = [
            name(s.reason),
            el(
                "span",
                f" {number(s.dropped)} dropped for {number(s.clusters)} kept by {s.stage}",
                cls="count",
            ),
        ]
        out.append(el("h3", heading))
        if s.histogram:
            out.append(_similarities(s))
        out += [_cluster(c, s, shown, i < OPEN) for i, c in enumerate(s.shown)]
        more = s.clusters - len(s.shown)
        if more > 0:
            rest = f"and {plural(more, 'more cluster')} in {s.stage}/rejects, grouped by their detail"
            out.append(el("p", rest, cls="small"))
    return out


def _similarities(s: StageDuplicates) -> Html:
    low = s.limit or 0.0
    step = (1.0 - low) / BINS
    rows = [
        Bar(
            f"{low + i * step:.3f} \u2013 {low + (i + 1) * step:.3f}",
            [("drop0", float(n), f"{number(n)} dropped")],
            number(n),
        )
        for i, n in enumerate(s.histogram)
    ]
    return bars("Similarity of the dropped to the kept", rows)


def _cluster(c: Cluster, s: StageDuplicates, shown: Mapping[str, Shown], is_open: bool) -> Html:
    kept = shown.get(c.kept_id) if not c.kept_run else None
    least = "" if c.least is None or c.least >= 1.0 else f", similarity from {significant(c.least, 4)}"
    title: list[Content] = [
        name(shorten(kept.title, 90)) if kept else el("code", c.kept_id[:12]),
        el("span", f" {plural(c.total, 'duplicate')}{least} \u00b7 {_WHY.get(c.why, c.why)}", cls="count"),
    ]
    pairs = [_pair(c, m, s, kept, shown.get(m.doc_id)) for m in c.members]
    more = c.total - len(c.members)
    rest = (
        el("p", f"and {plural(more, 'more duplicate')} of this document", cls="small") if more > 0 else None
    )
    return el(
        "details",
        el("summary", title),
        el("div", pairs, cls="cards"),
        rest,
        cls="reason",
        open=is_open,
    )


def _pair(c: Cluster, m: Duplicate, s: StageDuplicates, kept: Shown | None, dropped: Shown | None) -> Html:
    limit = f" (limit {significant(s.limit, 4)})" if s.limit is not None else ""
    measured = el(
        "p", el("span", "Similarity: ", cls="key"), el("b", significant(m.similarity, 4)), limit, cls="fact"
    )
    left, right = compared(kept.text, dropped.text) if kept and dropped else (None, None)
    return el(
        "article",
        measured,
        el("div", el("p", "kept", cls="tag"), _document(kept, c.kept_id, c.kept_run, left), cls="side"),
        el("div", el("p", "dropped", cls="tag"), _document(dropped, m.doc_id, "", right), cls="side"),
        cls="card pair",
    )


def _document(d: Shown | None, doc_id: str, run: str, passages: Sequence[Content] | None) -> list[Html]:
    code = el("code", doc_id[:12], title=doc_id)
    if d is None:
        where = ["in the run ", name(run)] if run else "not among the documents of this run"
        return [el("p", code, el("span", where, cls="place"), cls="origin")]
    head = el("p", name(d.source), el("span", name(shorten(d.place, 90)), cls="place"), code, cls="origin")
    length = el("p", plural(d.characters, "character"), cls="small")
    if passages is None:
        passages = [shorten(d.text.strip(), EXCERPT) or "no text"]
    return [head, *(el("p", p, cls="text", dir="auto") for p in passages), length]


def compared(kept: str, dropped: str) -> tuple[list[Content], list[Content]]:
    """What differs between two texts: passages of each, side by side, with the differing words marked.

    Words are compared as they stand, white space counts as one space. Equal texts, and texts with little in
    common, give their beginnings. At most `WORDS` words of each are looked at.
    """
    a, b = kept.split()[:WORDS], dropped.split()[:WORDS]
    head = _common(a, b)
    tail = _common(a[head:][::-1], b[head:][::-1])
    middle_a, middle_b = a[head : len(a) - tail], b[head : len(b) - tail]
    matcher = SequenceMatcher(None, middle_a, middle_b, autojunk=len(middle_a) * len(middle_b) > 1_000_000)
    same = head + tail + sum(m.size for m in matcher.get_matching_blocks())
    if (not middle_a and not middle_b) or 2 * same < ALIKE * (len(a) + len(b)):
        return _beginning(kept), _beginning(dropped)
    changes = [
        (i1 + head, i2 + head, j1 + head, j2 + head)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
        if tag != "equal"
    ]
    groups = _grouped(changes)
    left: list[Content] = [_passage(a, [(i1, i2) for i1, i2, _, _ in g]) for g in groups[:PASSAGES]]
    right: list[Content] = [_passage(b, [(j1, j2) for _, _, j1, j2 in g]) for g in groups[:PASSAGES]]
    if len(groups) > PASSAGES:
        equal = percent(2 * same / (len(a) + len(b)))
        more = plural(len(groups) - PASSAGES, "more passage differs", "more passages differ")
        right.append(el("span", f"{more}; {equal} of the words are equal", cls="small"))
    return left, right


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    n = 0
    for x, y in zip(a, b):
        if x != y:
            break
        n += 1
    return n


def _grouped(changes: Sequence[tuple[int, int, int, int]]) -> list[list[tuple[int, int, int, int]]]:
    """Changes with few equal words between them, together."""
    groups: list[list[tuple[int, int, int, int]]] = []
    for change in changes:
        if groups and change[0] - groups[-1][-1][1] <= 2 * AROUND:
            groups[-1].append(change)
        else:
            groups.append([change])
    return groups


def _passage(words: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[Content]:
    """The words around some spans, the spans marked; cut after `PASSAGE` words, long words shortened."""
    words = [shorten(w, WORD) for w in words[: spans[-1][1] + AROUND + 1]]
    start, stop = max(0, spans[0][0] - AROUND), min(len(words), spans[-1][1] + AROUND)
    cut = min(stop, start + PASSAGE)
    out: list[Content] = ["\u2026 "] if start else []
    at = start
    for first, last in spans:
        if first >= cut:
            break
        out.append(" ".join(words[at:first]) + (" " if at < first else ""))
        if first < last:
            out += [el("mark", " ".join(words[first : min(last, cut)])), " "]
        at = min(last, cut)
    out.append(" ".join(words[at:cut]))
    out += ["\u2026"] if cut < len(words) else []
    return out


def _beginning(text: str) -> list[Content]:
    return [shorten(re.sub(r"\s+", " ", text.strip()), EXCERPT) or "no text"]
