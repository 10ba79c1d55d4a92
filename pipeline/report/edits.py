"""The report on edits: how often each reason changed a document, and some changes with the words around them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mixloom.pipeline.edits import WHOLE
from mixloom.pipeline.overlay import EDITS_FOLDER, edited_documents
from mixloom.pipeline.report.documents import spread
from mixloom.pipeline.report.markup import Content, Html, el, name, number, shorten
from mixloom.pipeline.report.page import Section
from mixloom.pipeline.report.tables import Column, details, table
from mixloom.pipeline.run import PartReader, RunDirectory, StageManifest

SCANNED = 16  # parts of a stage from which changes are shown
SHOWN = 3  # changes of each reason
AROUND, INSIDE = 60, 240  # characters shown beside a change and of what is removed
PERSONAL = "pii_"  # what was masked as personal data is never shown, nor what stands beside it


@dataclass(frozen=True, slots=True)
class Change:
    """One edit to show. `removed` is None where it may not be shown."""

    doc_id: str
    source: str
    reason: str
    before: str
    removed: str | None
    put: str
    after: str


def sections(run: RunDirectory, manifests: Mapping[str, StageManifest]) -> list[Section]:
    """The section of a run's report, from the edits of its finished stages; none where nothing was edited.

    Args:
        manifests: of the finished stages, in the order of the run.
    """
    body: list[Content] = []
    earlier: list[PartReader] = []
    for stage, manifest in manifests.items():
        reader = PartReader(run.stage(stage).store, {p.name: p for p in manifest.parts})
        parts = [p for p in manifest.parts if p.name.startswith(f"{EDITS_FOLDER}/")]
        if not parts:
            continue
        ingest = manifests["ingest"]
        base = PartReader(run.stage("ingest").store, {p.name: p for p in ingest.parts})
        names = [p.name.removeprefix(f"{EDITS_FOLDER}/") for p in spread(parts, SCANNED)]
        changes = [c for n in names for c in _changes(edited_documents(base, earlier), reader, n)]
        body.append(_stage(stage, manifest, changes))
        earlier.append(reader)
    lead = (
        "What was taken out of documents that stay, or put in its place. Removed text is struck through; personal data is "
        "never shown. Text as it was read is kept by ingest, so every edit can be undone."
    )
    return [Section("edits", "Edits", body, lead)] if body else []


def _changes(documents: PartReader, edits: PartReader, part: str) -> list[Change]:
    """The first changes of every reason in one part, with the words around them."""
    found = edits.read(f"{EDITS_FOLDER}/{part}").to_pylist()
    chosen = []
    seen: Counter[str] = Counter()
    for edit in found:
        if seen[edit["reason"]] < SHOWN and edit["reason"] != "white_space":
            seen[edit["reason"]] += 1
            chosen.append(edit)
    rows = np.unique(np.array([e["row"] for e in chosen], np.int64))
    if not len(rows):
        return []
    table_ = documents.read_rows(part, rows, ["doc_id", "source", "segments"])
    by_id = {d["doc_id"]: d for d in pa.table(table_).to_pylist()}
    return [_change(e, by_id[e["doc_id"]]) for e in chosen]


def _change(edit: dict, document: dict) -> Change:  # type: ignore[type-arg]
    segment = document["segments"][edit["segment"]]
    what = (edit["doc_id"], document["source"], edit["reason"])
    if edit["start"] == WHOLE:
        uri = (segment["media"] or {}).get("uri") or ""
        return Change(*what, "", f"[{segment['kind']} {uri}]", edit["replacement"], "")
    if edit["reason"].startswith(PERSONAL):
        return Change(*what, "", None, edit["replacement"], "")
    raw = (segment["text"] or "").encode()
    before = raw[: edit["start"]].decode()[-AROUND:]
    after = raw[edit["stop"] :].decode()[:AROUND]
    return Change(*what, before, raw[edit["start"] : edit["stop"]].decode(), edit["replacement"], after)


def _stage(stage: str, manifest: StageManifest, changes: list[Change]) -> Html:
    counts = manifest.info.get("edits", {})
    rows = [[name(reason), number(n)] for reason, n in sorted(counts.items(), key=lambda x: (-x[1], x[0]))]
    heading = [
        name(stage),
        el("span", f" {number(manifest.info.get('edited_documents', 0))} documents edited", cls="count"),
    ]
    by_reason: dict[str, list[Change]] = defaultdict(list)
    for change in sorted(changes, key=lambda c: (c.reason, c.doc_id)):
        if len(by_reason[change.reason]) < SHOWN:
            by_reason[change.reason].append(change)
    shown = [
        details([name(reason)], el("ul", [el("li", _shown(c)) for c in some]))
        for reason, some in sorted(by_reason.items())
        if not reason.startswith(PERSONAL)
    ]
    columns = (Column("Reason", figures=False), Column("Edits"))
    return el("div", el("h3", heading), table("Edits by reason", columns, rows), shown)


def _shown(change: Change) -> list[Content]:
    removed = change.removed or ""
    return [
        change.before,
        el("del", shorten(removed, INSIDE)),
        el("ins", change.put) if change.put else "",
        change.after,
        el("span", f" {change.source} {change.doc_id[:12]}", cls="count"),
    ]
