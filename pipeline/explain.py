"""The whole life of one document, from the files of a run: where it came from and what became of it."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixloom.pipeline.edits import WHOLE
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.overlay import EDITS_FOLDER
from mixloom.pipeline.run import Part, RunDirectory, StageManifest

TEXT_SHOWN = 300  # characters of each text segment
EDIT_SHOWN, EDITS_SHOWN = 120, 50  # characters of what an edit removes; edits of one stage


def _find(
    run: RunDirectory, stage: str, parts: list[Part], doc_id: str, column: str = "doc_id"
) -> list[dict[str, Any]]:
    """Rows of a stage whose id begins with `doc_id`; only the id column is read until one is found."""
    store = run.stage(stage).store
    found: list[dict[str, Any]] = []
    for part in parts:
        data = pa.BufferReader(store.read(part.file))
        schema = pq.read_schema(data)
        if column not in schema.names:
            continue
        ids = pq.read_table(data, columns=[column])[column]
        mask = pc.starts_with(ids, doc_id)
        if pc.any(mask).as_py():
            rows = pq.read_table(data).filter(mask).to_pylist()
            found += [{"part": part.name, **r} for r in rows]
    return found


def _manifests(run: RunDirectory) -> dict[str, StageManifest]:
    return {name: m for name in run.plan() if (m := run.stage(name).manifest()) is not None}


def resolve(run: RunDirectory, prefix: str, manifests: dict[str, StageManifest]) -> str:
    """The one document id that begins with `prefix`.

    Raises:
        UserError: no document has it, or more than one.
    """
    if "ingest" not in manifests:
        raise UserError(
            f"{run.store.root}: ingest has not finished, so its documents are not known yet",
            fix="wait for it, or run the command that was interrupted again",
        )
    ids = set()
    for stage, m in manifests.items():
        ids |= {r["doc_id"] for r in _find(run, stage, m.rejects, prefix)}
        if stage == "ingest":
            ids |= {r["doc_id"] for r in _find(run, stage, m.parts, prefix)}
    if not ids:
        raise UserError(
            f"no document of {run.store.root} has an id that begins with '{prefix}'",
            fix="ids are 32 hex digits; report.html and the rejects/*.parquet files list them",
        )
    if len(ids) > 1:
        some = ", ".join(sorted(ids)[:4])
        raise UserError(
            f"{len(ids)} documents have ids that begin with '{prefix}': {some}", fix="give more digits"
        )
    return ids.pop()


def _segment(s: dict[str, Any]) -> dict[str, Any]:
    if s["kind"] == "text":
        text = s["text"] or ""
        return {"kind": "text", "characters": len(text), "text": text[:TEXT_SHOWN]}
    return {"kind": s["kind"], **{k: v for k, v in (s["media"] or {}).items() if v not in (None, "")}}


def explain(run: RunDirectory, prefix: str) -> dict[str, Any]:
    """Everything a run knows of one document.

    Args:
        prefix: a document id, or enough of its first digits.

    Returns:
        A JSON-able mapping: doc_id, document, and `life`: one entry per stage that saw it.
    """
    manifests = _manifests(run)
    doc_id = resolve(run, prefix, manifests)
    out: dict[str, Any] = {"doc_id": doc_id, "life": []}
    text_now: _Text | None = None
    for stage, m in manifests.items():
        entry: dict[str, Any] = {"stage": stage}
        rejected = _find(run, stage, m.rejects, doc_id)
        rows = _find(run, stage, _tables(m), doc_id)
        if rejected:
            r = rejected[0]
            entry |= {"outcome": r["outcome"], "reason": r["reason"]}
            if r["scope"] == "media":  # the id of one image or recording, not of a document
                entry["scope"] = "media"
            entry |= {k: r[k] for k in ("value", "limit", "detail", "locator") if r[k] is not None}
        elif rows:
            entry |= {"outcome": "kept", **_facts(stage, rows[0])}
            if stage == "ingest":
                text_now = _Text(rows[0])
                out["document"] = _document(rows[0])
                entry |= _lost_media(run, m, rows[0])
        else:
            contexts = _contexts(run, stage, m, doc_id)
            if not contexts:
                continue
            entry |= contexts
        if text_now is not None:
            entry |= text_now.edited(_find(run, stage, _tables(m, f"{EDITS_FOLDER}/"), doc_id))
        out["life"].append(entry)
    return out


def _tables(m: StageManifest, folder: str = "") -> list[Part]:
    """The tables of a stage in one folder; by default its parts themselves."""
    named = [p for p in m.parts if p.file.endswith(".parquet")]
    return [p for p in named if p.name.startswith(folder) and "/" not in p.name.removeprefix(folder)]


class _Text:
    """The segments of one document, stage by stage, so that an edit can be shown with what it changed."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.segments: list[dict[str, Any]] = row["segments"]

    def edited(self, edits: list[dict[str, Any]]) -> dict[str, Any]:
        """The edits of one stage in words, applied. What was masked as personal is never shown."""
        if not edits:
            return {}
        shown = []
        raws = [(s["text"] or "").encode() for s in self.segments]
        out: dict[int, list[bytes]] = {}
        done: dict[int, int] = {}
        gone = set()
        for e in edits:
            at, what = e["segment"], {"segment": e["segment"], "reason": e["reason"]}
            if e["start"] == WHOLE:
                gone.add(at)
                media = self.segments[at].get("media") or {}
                shown.append(
                    {**what, "removed": f"{self.segments[at]['kind']} {media.get('uri') or ''}".strip()}
                )
                continue
            out.setdefault(at, []).extend((raws[at][done.get(at, 0) : e["start"]], e["replacement"].encode()))
            done[at] = e["stop"]
            removed = raws[at][e["start"] : e["stop"]].decode()
            if not e["reason"].startswith("pii_"):
                what["removed"] = removed if len(removed) <= EDIT_SHOWN else removed[:EDIT_SHOWN] + "..."
            if e["replacement"]:
                what["put"] = e["replacement"]
            shown.append(what)
        after = []
        for i, s in enumerate(self.segments):
            text = s["text"]
            if i in out:
                text = b"".join((*out[i], raws[i][done[i] :])).decode()
            if i not in gone and (i not in out or text.strip()):
                after.append({**s, "text": text})
        self.segments = after
        return {"edits": shown[:EDITS_SHOWN], "number_of_edits": len(shown)}


def _lost_media(run: RunDirectory, ingest: StageManifest, row: dict[str, Any]) -> dict[str, Any]:
    """Images and recordings a kept document names and had to go without."""
    store, at = run.stage("ingest").store, row["locator"]
    tables = [pq.read_table(pa.BufferReader(store.read(p.file))) for p in ingest.rejects]
    lost = [
        {"media": r["locator"]["member"], "reason": r["reason"], "detail": r["detail"]}
        for r in (r for t in tables for r in t.filter(pc.equal(t["scope"], "media")).to_pylist())
        if (r["source"], r["locator"]["uri"], r["locator"]["offset"])
        == (row["source"], at["uri"], at["offset"])
    ]
    return {"lost": lost} if lost else {}


def _document(row: dict[str, Any]) -> dict[str, Any]:
    keep = {
        k: row[k] for k in ("source", "locator", "language", "license", "timestamp") if row[k] is not None
    }
    return {**keep, "meta": dict(row["meta"] or []), "segments": [_segment(s) for s in row["segments"]]}


_HIDDEN = {
    "doc_id",
    "source",
    "segments",
    "locator",
    "meta",
    "minhash",
    "content_hash",
    "vector",
    "input_ids",
    "spans",
}


def _facts(stage: str, row: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name, value in row.items():
        if name in _HIDDEN or value is None:
            continue
        if isinstance(value, float):
            if math.isnan(value):
                continue
            value = round(value, 4)
        facts[name] = value
    if row.get("input_ids") is not None:
        facts["tokens"] = len(row["input_ids"])
    return facts


def _contexts(run: RunDirectory, stage: str, m: StageManifest, doc_id: str) -> dict[str, Any]:
    """Where packed contexts or shards hold the document."""
    if stage == "pack":
        return _packed(run, m, doc_id)
    return {}


def _packed(run: RunDirectory, m: StageManifest, doc_id: str) -> dict[str, Any]:
    store = run.stage("pack").store
    found = []
    for part in (p for p in m.parts if "/" not in p.name):  # what lies in folders is not a context yet
        table = pq.read_table(pa.BufferReader(store.read(part.file)))
        pieces = table["pieces"].combine_chunks()
        hit = pc.equal(pieces.flatten().field("doc_id"), doc_id)
        if not pc.any(hit).as_py():
            continue
        for row in table.to_pylist():
            mine = [p for p in row["pieces"] if p["doc_id"] == doc_id]
            found += [
                {"cell": row["cell"], "context": row["context"], "tokens": p["stop"] - p["start"]}
                for p in mine
            ]
    return {"outcome": "kept", "contexts": found} if found else {}
