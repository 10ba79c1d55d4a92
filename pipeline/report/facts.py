"""Facts of curation, read from the manifests, ledgers and tables of a run. Stages not finished yield nothing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.report.documents import (
    SCANNED_PARTS,
    Documents,
    place,
    read_columns,
    spread,
    title_of,
)
from mixloom.pipeline.report.domain_map import MapPoint, map_places
from mixloom.pipeline.report.domains import DomainFacts
from mixloom.pipeline.report.funnel import SourceFacts, StageFacts
from mixloom.pipeline.report.samples import ReasonSamples, Reject
from mixloom.pipeline.run import Part, RunDirectory, StageManifest
from mixloom.pipeline.status import run_status

# The last finished one of these, in the order of the run, says which documents are kept.
DECIDING = re.compile(
    r"filter(_\d+)?|noise|pii|decontaminate|dedup_(exact|against|near|paragraphs|images|semantic)"
)
PER_REASON = 4
KEPT_SHOWN = 15
TITLES = 5
MAP_POINTS = 4000
MAP_PARTS = 48
LABEL_KEYS = ("domain", "label", "topic", "category", "class", "family", "newsgroup")
_ID = re.compile(r"[0-9a-f]{32}\Z")


def stage_facts(run: RunDirectory) -> list[StageFacts]:
    """Every stage that has begun, in the order of the run."""
    return [StageFacts(s.stage, s.state, s.counts, s.seconds) for s in run_status(run)]


def planned_stages(run: RunDirectory) -> list[str]:
    return run.plan()


def manifests(run: RunDirectory) -> dict[str, StageManifest]:
    """Manifests of the finished stages, in the order of the run."""
    return {name: m for name in planned_stages(run) if (m := run.stage(name).manifest()) is not None}


def _parts(m: StageManifest, most: int = SCANNED_PARTS) -> list[Part]:
    """The parts that hold documents (no model, no sample)."""
    return spread([p for p in m.parts if p.name.startswith(("part-", "cell-"))], most)


def _rejects(run: RunDirectory, found: Mapping[str, StageManifest]) -> dict[str, pa.Table]:
    out = {}
    for name, m in found.items():
        store = run.stage(name).store
        tables = [read_columns(store, p) for p in spread(m.rejects, SCANNED_PARTS)]
        if tables:
            out[name] = pa.concat_tables(tables).sort_by("doc_id")
    return out


class Curation:
    """What curation did in one run; each method reads what it needs, once."""

    def __init__(self, run: RunDirectory, documents: Documents) -> None:
        self.run, self.documents = run, documents
        self.manifests = manifests(run)
        self._ledger = _rejects(run, self.manifests)

    def sources(self) -> list[SourceFacts]:
        """Documents of every source and where they were lost; nothing where there are too many parts to count."""
        m = self.manifests.get("ingest")
        files = [*m.parts, *(r for x in self.manifests.values() for r in x.rejects)] if m else []
        if m is None or len(files) > SCANNED_PARTS:
            return []
        came: Counter[str] = Counter()
        for part in _parts(m):
            came.update(_counted(read_columns(self.run.stage("ingest").store, part, ["source"])["source"]))
        lost: dict[str, dict[str, int]] = defaultdict(dict)
        for stage, table in self._ledger.items():
            mine = table.filter(pc.equal(table["scope"], "document"))
            for source, n in _counted(mine["source"]).items():
                lost[source][stage] = n
                came[source] += n if stage == "ingest" else 0
        return [SourceFacts(s, came[s], lost.get(s, {})) for s in sorted(came)]

    def _deciding(self) -> str | None:
        """The stage whose survivors are the documents kept so far."""
        return next((s for s in reversed(self.manifests) if DECIDING.fullmatch(s)), None)

    def kept(self) -> list[str]:
        """Ids of documents to show: kept so far, the smallest ids of each source, sources taking turns."""
        deciding = self._deciding()
        if "ingest" not in self.manifests:
            return []
        ingest = self.run.stage("ingest").store
        by_source: dict[str, list[str]] = defaultdict(list)
        for part in _parts(self.manifests["ingest"], 64):
            table = read_columns(ingest, part, ["doc_id", "source"])
            if deciding is not None:
                own = [p for p in self.manifests[deciding].parts if p.name == part.name]
                rows = [read_columns(self.run.stage(deciding).store, p, ["row"])["row"] for p in own]
                table = table.take(rows[0]) if rows else table.slice(0, 0)
            for doc_id, source in zip(table["doc_id"].to_pylist(), table["source"].to_pylist()):
                by_source[source].append(doc_id)
        turns = [sorted(ids)[:KEPT_SHOWN] for _, ids in sorted(by_source.items())]
        ranked = [ids[i] for i in range(KEPT_SHOWN) for ids in turns if i < len(ids)]
        return ranked[:KEPT_SHOWN]

    def reasons(self) -> list[ReasonSamples]:
        """Samples of every reason of every stage: those with the smallest ids."""
        picked: list[tuple[str, tuple[str, str, str], int, list[dict[str, Any]]]] = []
        for stage, table in self._ledger.items():
            keys = [table[c].to_pylist() for c in ("scope", "outcome", "reason")]
            groups = Counter(zip(*keys, strict=True))
            for key in sorted(groups, key=lambda k: (-groups[k], k)):
                mask = _all_equal(table, dict(zip(("scope", "outcome", "reason"), key)))
                rows = table.filter(mask).slice(0, PER_REASON).to_pylist()
                picked.append((stage, key, groups[key], rows))
        wanted = {r["doc_id"] for stage, _, _, rows in picked if stage != "ingest" for r in rows}
        wanted |= {x for stage, _, _, rows in picked for r in rows if (x := _kept_instead(stage, r))}
        shown = self.documents.samples(wanted)
        out = []
        # Judgements first, the latest (most interesting) stage before the others; then errors.
        place_of = {stage: i for i, stage in enumerate(self._ledger)}
        picked.sort(key=lambda p: (p[1][1] == "failed", p[1][0] == "media", -place_of[p[0]]))
        for stage, (scope, outcome, reason), total, rows in picked:
            m = self.manifests[stage].counts
            by_reason = m.media if scope == "media" else m.dropped if outcome == "dropped" else m.failed
            label = f"{outcome} (media of kept documents)" if scope == "media" else outcome
            rejects = []
            for r in rows:
                instead = shown.get(_kept_instead(stage, r) or "")
                doc = shown.get(r["doc_id"])
                where = place(r["locator"]) or (doc.place if doc else "")
                rejects.append(
                    Reject(
                        r["doc_id"],
                        r["source"],
                        where,
                        outcome,
                        scope,
                        r["value"],
                        r["limit"],
                        r["detail"] or "",
                        doc,
                        instead,
                    )
                )
            out.append(ReasonSamples(stage, reason, label, by_reason.get(reason, total), tuple(rejects)))
        return out

    def domains(self) -> tuple[list[DomainFacts], dict[str, dict[str, dict[int, int]]]]:
        """Domains; and for each meta key that is a label: label -> domain -> documents."""
        m = self.manifests.get("cluster")
        if m is None:
            return [], {}
        size: Counter[int] = Counter()
        sources: dict[int, Counter[str]] = defaultdict(Counter)
        labels: Counter[tuple[str, str, int]] = Counter()
        nearest: dict[int, list[tuple[float, str]]] = defaultdict(list)
        for table in self._assigned(m):
            domain = np.asarray(table["domain"])
            size.update(domain.tolist())
            for d, s in zip(domain.tolist(), table["source"].to_pylist()):
                sources[d][s] += 1
            for key in LABEL_KEYS:
                found_labels = pc.map_lookup(table["meta"], pa.scalar(key), "first").to_pylist()
                labels.update((key, x, d) for x, d in zip(found_labels, domain.tolist()) if x is not None)
            for d, far, doc_id in zip(
                domain.tolist(), table["distance"].to_pylist(), table["doc_id"].to_pylist()
            ):
                nearest[d].append((far, doc_id))
            for d in nearest:
                nearest[d] = sorted(nearest[d])[:TITLES]
        ids = [doc_id for near in nearest.values() for _, doc_id in near]
        rows = self.documents.rows(ids, ["doc_id", "segments"])
        words = (m.info.get("model") or {}).get("top_words") or []
        found = [
            DomainFacts(
                d,
                size[d],
                tuple(str(w) for w in words[d]) if d < len(words) else (),
                dict(sources[d]),
                tuple(title_of(rows[i]["segments"]) for _, i in nearest[d] if i in rows),
            )
            for d in sorted(size)
        ]
        return found, _by_key(labels)

    def _assigned(self, m: StageManifest) -> list[pa.Table]:
        """doc_id, domain, distance, source and meta of every document, part by part."""
        ingest = {p.name: p for p in self.manifests["ingest"].parts} if "ingest" in self.manifests else {}
        out = []
        for part in _parts(m):
            table = read_columns(
                self.run.stage("cluster").store, part, ["doc_id", "row", "domain", "distance"]
            )
            if part.name not in ingest:
                continue
            about = read_columns(self.run.stage("ingest").store, ingest[part.name], ["source", "meta"])
            about = about.take(table["row"])
            for column in ("source", "meta"):
                table = table.append_column(column, about[column])
            out.append(table)
        return out

    def map_points(self) -> list[MapPoint]:
        """Places in the plane of a sample of documents (the smallest ids of each part), in the order of their ids."""
        if not {"embed", "cluster", "ingest"} <= set(self.manifests):
            return []
        own = {p.name: p for p in self.manifests["cluster"].parts}
        parts = [p for p in _parts(self.manifests["embed"], MAP_PARTS) if p.name in own]
        share = -(-MAP_POINTS // max(1, len(parts)))
        ids: list[str] = []
        domains: list[int] = []
        vectors: list[np.ndarray] = []
        for part in parts:
            table = read_columns(self.run.stage("embed").store, part, ["doc_id", "vector", "has_text"])
            domain = read_columns(self.run.stage("cluster").store, own[part.name], ["domain"])["domain"]
            table = table.append_column("domain", domain).filter(table["has_text"])
            table = table.sort_by("doc_id").slice(0, share)
            if table.num_rows:
                dim = table["vector"].type.list_size
                flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
                vectors.append(flat.reshape(-1, dim))
                ids += table["doc_id"].to_pylist()
                domains += table["domain"].to_pylist()
        if len(ids) < 3:
            return []
        order = sorted(range(len(ids)), key=ids.__getitem__)
        ids, domains = [ids[i] for i in order], [domains[i] for i in order]
        at = map_places(np.concatenate(vectors)[order])
        rows = self.documents.rows(ids, ["doc_id", "source", "segments"])
        titles = [title_of(rows[i]["segments"]) if i in rows else i for i in ids]
        sources = [rows[i]["source"] if i in rows else "" for i in ids]
        return [
            MapPoint(float(x), float(y), d, t, s)
            for (x, y), d, t, s in zip(at, domains, titles, sources, strict=True)
        ]

    def text_bytes(self) -> int | None:
        """UTF-8 bytes of the text of the kept documents; None where it cannot be told cheaply."""
        deciding = self._deciding()
        m = self.manifests.get("annotate")
        if m is None or deciding is None or len(m.parts) > SCANNED_PARTS:
            return None
        kept = {p.name: p for p in self.manifests[deciding].parts}
        total = 0
        for part in _parts(m):
            column = read_columns(self.run.stage("annotate").store, part, ["text_bytes"])["text_bytes"]
            rows = read_columns(self.run.stage(deciding).store, kept[part.name], ["row"])["row"]
            total += pc.sum(column.take(rows)).as_py() or 0
        return total


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    return {v["values"]: v["counts"] for v in pc.value_counts(column).to_pylist()}


def _all_equal(table: pa.Table, values: Mapping[str, str]) -> pa.ChunkedArray:
    masks = [pc.equal(table[column], value) for column, value in values.items()]
    out = masks[0]
    for mask in masks[1:]:
        out = pc.and_(out, mask)
    return out


def _kept_instead(stage: str, row: Mapping[str, Any]) -> str | None:
    """The document kept in the place of a duplicate, when the ledger names one."""
    detail = row["detail"] or ""
    return detail if stage.startswith("dedup") and _ID.match(detail) else None


def _by_key(labels: Mapping[tuple[str, str, int], int]) -> dict[str, dict[str, dict[int, int]]]:
    """key -> label -> domain -> documents, for keys with two labels or more."""
    out: dict[str, dict[str, dict[int, int]]] = {}
    for (key, label, domain), n in sorted(labels.items()):
        out.setdefault(key, {}).setdefault(label, {})[domain] = n
    # A key with a label of its own for nearly every document is a title, not a label.
    size = {key: sum(n for (k, _, _), n in labels.items() if k == key) for key in out}
    return {key: by for key, by in out.items() if 2 <= len(by) <= max(40, size[key] // 20)}
