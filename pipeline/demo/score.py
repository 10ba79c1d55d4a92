"""How well a run recovered the planted truth: a pure function of the truth and of what the run says it did.

Shares are in [0, 1]. A share of nothing is 0.0, so a run that judged nothing cannot look perfect; precision is
1.0 when nothing was removed, and recall tells that story.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from mixloom.pipeline.demo.truth import Place, Truth

# Stages that may drop a document before deduplication sees it.
BEFORE_DEDUP = frozenset({"annotate", "filter"})


class DocumentRow(NamedTuple):
    """A document that ingest read, and where from (columns of DOCUMENTS and its locator)."""

    doc_id: str
    source: str
    uri: str
    offset: int


class DropRow(NamedTuple):
    """A document that a stage after ingest dropped (columns of REJECTS)."""

    doc_id: str
    stage: str
    reason: str
    detail: str


class FailureRow(NamedTuple):
    """An input that ingest could not read, whole or in part (columns of REJECTS and its locator)."""

    source: str
    uri: str
    offset: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a run did.

    documents: all that ingest read. failures: the ledger of ingest. drops: the ledgers of later stages.
    kept_exact, kept_near: ids alive after exact and after near deduplication. domains: domain of each id that
    was clustered.
    """

    documents: Sequence[DocumentRow]
    failures: Sequence[FailureRow]
    drops: Sequence[DropRow]
    kept_exact: Set[str]
    kept_near: Set[str]
    domains: Mapping[str, int | str]


def score(truth: Truth, facts: Facts) -> dict[str, float | int]:
    """The figures of a run against the truth; see docs/demo.md for each of them."""
    ids = _ids(truth, facts)
    out: dict[str, float | int] = {"documents_planted": len(truth.documents), "documents_found": len(ids)}
    out |= _exact(truth, facts, ids)
    out |= _near(truth, facts, ids)
    out |= _noise(truth, facts, ids)
    out |= _domains(truth, facts, ids)
    out |= _corrupt(truth, facts)
    return out


def _ids(truth: Truth, facts: Facts) -> dict[Place, str]:
    """The id of every planted document that ingest read. The offset counts only for lines of a file."""
    by_line = {Place(d.source, d.uri, d.offset): d.doc_id for d in facts.documents}
    by_file = {Place(d.source, d.uri): d.doc_id for d in facts.documents}
    found = {
        d.place: by_line.get(d.place) if d.place.offset >= 0 else by_file.get(d.place)
        for d in truth.documents
    }
    return {place: doc_id for place, doc_id in found.items() if doc_id is not None}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _exact(truth: Truth, facts: Facts, ids: dict[Place, str]) -> dict[str, float | int]:
    """Every document is one content, but for planted groups: of those one copy is to stay, the others are to go."""
    reached = {d.doc_id for d in facts.documents} - {d.doc_id for d in facts.drops if d.stage in BEFORE_DEDUP}
    groups = [{ids[p] for p in group if p in ids} & reached for group in truth.exact_duplicate_groups]
    extra = sum(max(0, len(g) - 1) for g in groups)
    removed = sum(len(g) - max(1, len(g & facts.kept_exact)) for g in groups if len(g) > 1)
    single = reached - {doc_id for g in groups for doc_id in g}
    lost = len(single - facts.kept_exact) + sum(bool(g) and not g & facts.kept_exact for g in groups)
    return {
        "exact_duplicates_planted": sum(len(g) - 1 for g in truth.exact_duplicate_groups),
        "exact_duplicates_judged": extra,
        "exact_duplicate_recall": _share(removed, extra),
        "distinct_documents_lost": lost,
    }


def _near(truth: Truth, facts: Facts, ids: dict[Place, str]) -> dict[str, float | int]:
    """Pairs whose two documents both reached near deduplication; of such a pair one is to go."""
    alive = facts.kept_exact

    def judged(pairs: Iterable[tuple[Place, Place]]) -> list[tuple[str, str]]:
        known = [(ids[a], ids[b]) for a, b in pairs if a in ids and b in ids]
        return [(a, b) for a, b in known if a in alive and b in alive]

    def merged(pairs: list[tuple[str, str]]) -> int:
        return sum(not (a in facts.kept_near and b in facts.kept_near) for a, b in pairs)

    near = judged((a, b) for a, b, _ in truth.near_duplicate_pairs)
    groups = _groups(near)
    removed = alive - facts.kept_near
    wrong = removed - {doc_id for group in groups for doc_id in group}
    emptied = sum(not group & facts.kept_near for group in groups)
    return {
        "near_pairs_planted": len(truth.near_duplicate_pairs),
        "near_pairs_judged": len(near),
        "near_duplicate_recall": _share(merged(near), len(near)),
        "near_duplicate_precision": 1.0 - _share(len(wrong) + emptied, len(removed)),
        "near_documents_lost": len(wrong) + emptied,
        "hard_negatives_merged": merged(judged((a, b) for a, b, _ in truth.hard_negative_pairs)),
        "same_words_merged": merged(judged(truth.same_words_pairs)),
    }


def _groups(pairs: list[tuple[str, str]]) -> list[set[str]]:
    """Connected components of pairs."""
    groups: list[set[str]] = []
    for a, b in pairs:
        touched = [g for g in groups if a in g or b in g]
        groups = [g for g in groups if g not in touched]
        groups.append({a, b}.union(*touched))
    return groups


def _noise(truth: Truth, facts: Facts, ids: dict[Place, str]) -> dict[str, float | int]:
    """Noise is recalled when a rule dropped it or ingest refused it; any other document a rule drops is a mistake."""
    dropped = {d.doc_id for d in facts.drops if d.stage in BEFORE_DEDUP}
    refused = {(f.source, f.uri, f.offset) for f in facts.failures}
    noise = set(truth.noise)
    gone = sum(
        (ids[p] in dropped) if p in ids else (p.source, p.uri, p.offset) in refused for p in truth.noise
    )
    clean = {doc_id for place, doc_id in ids.items() if place not in noise}
    return {
        "noise_planted": len(truth.noise),
        "noise_recall": _share(gone, len(truth.noise)),
        "clean_documents_dropped": len(clean & dropped),
    }


def _domains(truth: Truth, facts: Facts, ids: dict[Place, str]) -> dict[str, float | int]:
    """Purity: the share of documents whose label is the commonest of their domain (Manning et al. 2008, section 16.3).

    `domain_unity` is the same the other way round, the share whose domain is the commonest of their label: it
    falls when a run buys purity with many small domains.
    """
    rows = [
        (facts.domains[ids[d.place]], d.domain, d.kind)
        for d in truth.documents
        if d.domain is not None and ids.get(d.place) in facts.domains
    ]
    prose = [(found, label) for found, label, kind in rows if kind == "text"]
    everything = [(found, label) for found, label, _ in rows]
    return {
        "domain_documents": len(rows),
        "domains_planted": len({d.domain for d in truth.documents if d.domain is not None}),
        "domains_found": len({found for found, _ in everything}),
        "domain_purity": _purity(everything),
        "domain_purity_prose": _purity(prose),
        "domain_unity": _purity([(label, found) for found, label in everything]),
    }


def _purity(rows: Sequence[tuple[object, object]]) -> float:
    best: dict[object, int] = {}
    for (group, _), count in Counter(rows).items():
        best[group] = max(best.get(group, 0), count)
    return _share(sum(best.values()), len(rows))


def _corrupt(truth: Truth, facts: Facts) -> dict[str, float | int]:
    """A planted damage is in the ledger when a failure stands at its place; named, when the reason fits too."""
    at_line = {Place(f.source, f.uri, f.offset) for f in facts.failures}
    at_file = {Place(f.source, f.uri) for f in facts.failures}
    reasons: dict[Place, set[str]] = {}
    for f in facts.failures:
        reasons.setdefault(Place(f.source, f.uri), set()).add(f.reason)
        reasons.setdefault(Place(f.source, f.uri, f.offset), set()).add(f.reason)
    found = [c for c in truth.corrupt if c.place in (at_line if c.place.offset >= 0 else at_file)]
    expected = {c.place for c in truth.corrupt} | set(truth.noise)
    surprises = [
        f for f in facts.failures
        if Place(f.source, f.uri) not in expected and Place(f.source, f.uri, f.offset) not in expected
    ]  # fmt: skip
    return {
        "corrupt_planted": len(truth.corrupt),
        "corrupt_in_ledger": len(found),
        "corrupt_named": sum(bool(reasons[c.place] & set(c.reasons)) for c in found),
        "failures_unplanted": len(surprises),
    }
