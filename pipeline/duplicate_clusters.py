"""Clusters of duplicates, gathered from the ledger of a run: a kept document and those dropped for its sake."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LARGEST, CLOSEST, SAMPLED = 4, 4, 4  # clusters chosen of each kind
MEMBERS = 4  # shown of a cluster
BINS = 10  # of the histogram of similarities
_KEPT = re.compile(r"([0-9a-f]{32})(?: of (.+))?\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A dropped document and its similarity to the one kept in its place."""

    doc_id: str
    source: str
    similarity: float | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A kept document (of an earlier run, where `kept_run` names one) and `total` dropped ones, some of them here.

    `why` says for what the cluster was chosen: largest, closest (to the limit) or sample.
    """

    kept_id: str
    kept_run: str
    total: int
    least: float | None
    members: tuple[Duplicate, ...]
    why: str


@dataclass(frozen=True, slots=True)
class StageDuplicates:
    """What one reason of one stage dropped: numbers, similarities in equal bins from `limit` to 1, and clusters."""

    stage: str
    reason: str
    dropped: int
    clusters: int
    limit: float | None
    histogram: tuple[int, ...]
    shown: tuple[Cluster, ...]


def kept_of(detail: str | None) -> tuple[str, str] | None:
    """(id, run) of the document kept in the place of a duplicate, as the ledger names it; run is "" for this one."""
    found = _KEPT.match(detail or "")
    return (found[1], found[2] or "") if found else None


def stage_duplicates(stage: str, ledger: pa.Table) -> list[StageDuplicates]:
    """The clusters of each reason of a stage by which documents were dropped for the sake of others.

    Args:
        ledger: rows of schema `REJECTS`; rows whose detail names no kept document are left out.
    """
    documents = ledger.filter(
        pc.and_(
            pc.equal(ledger["scope"], "document"),
            pc.fill_null(pc.match_substring_regex(ledger["detail"], r"^[0-9a-f]{32}($| of )"), False),
        )
    )
    reasons = sorted(set(documents["reason"].to_pylist()))
    return [_of_reason(stage, r, documents.filter(pc.equal(documents["reason"], r))) for r in reasons]


def _of_reason(stage: str, reason: str, rows: pa.Table) -> StageDuplicates:
    groups = rows.group_by("detail").aggregate([("value", "count"), ("value", "min"), ("doc_id", "count")])
    groups = groups.sort_by("detail")
    details = groups["detail"].to_pylist()
    totals = np.asarray(groups["doc_id_count"])
    least = groups["value_min"].to_numpy(zero_copy_only=False).astype(np.float64)
    values = rows["value"].drop_null().to_numpy()
    limits = rows["limit"].drop_null().to_numpy()
    limit = float(limits.min()) if len(limits) else None
    chosen = _chosen(totals, least)
    return StageDuplicates(
        stage,
        reason,
        rows.num_rows,
        len(details),
        limit,
        _histogram(values, limit),
        tuple(_cluster(rows, details[i], int(totals[i]), why) for i, why in chosen),
    )


def _chosen(totals: np.ndarray, least: np.ndarray) -> list[tuple[int, str]]:
    """Clusters to show, each once: the largest, those with the least similarity, and some of the rest, evenly."""
    ids = np.arange(len(totals))
    picks: dict[int, str] = {int(i): "largest" for i in np.lexsort((ids, -totals))[:LARGEST]}
    for i in np.lexsort((ids, np.nan_to_num(least, nan=2.0))):
        if sum(why == "closest" for why in picks.values()) == CLOSEST or not least[i] < 1.0:
            break
        picks.setdefault(int(i), "closest")
    rest = [i for i in ids.tolist() if i not in picks]
    for k in range(min(SAMPLED, len(rest))):
        picks[rest[k * len(rest) // min(SAMPLED, len(rest))]] = "sample"
    return list(picks.items())


def _cluster(rows: pa.Table, detail: str, total: int, why: str) -> Cluster:
    kept = kept_of(detail)
    assert kept is not None
    mine = rows.filter(pc.equal(rows["detail"], detail)).sort_by(
        [("value", "ascending"), ("doc_id", "ascending")]
    )
    least = pc.min(mine["value"]).as_py()
    members = mine.slice(0, MEMBERS)  # the least similar ones: a mistake would be among them
    found = zip(*(members[c].to_pylist() for c in ("doc_id", "source", "value")), strict=True)
    return Cluster(kept[0], kept[1], total, least, tuple(Duplicate(*d) for d in found), why)


def _histogram(values: Sequence[float] | np.ndarray, limit: float | None) -> tuple[int, ...]:
    """How many similarities fall into each of `BINS` equal bins from the limit to 1; () where all are 1."""
    if limit is None or limit >= 1.0 or not len(values):
        return ()
    return tuple(int(n) for n in np.histogram(np.clip(values, limit, 1.0), BINS, (limit, 1.0))[0])


def wanted_ids(found: Sequence[StageDuplicates]) -> set[str]:
    """Ids of all documents of this run that the shown clusters name."""
    clusters = [c for s in found for c in s.shown]
    kept = {c.kept_id for c in clusters if not c.kept_run}
    return kept | {m.doc_id for c in clusters for m in c.members}
