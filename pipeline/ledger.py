"""The ledger: what came in, what was kept, what was dropped and why, what failed and where.

The conservation law holds for every unit of work, every stage and every run:
documents in = kept + dropped (by reason) + failed (by error).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.schema import REJECTS

# Below this many documents a share says little: one bad file of twenty is not a broken corpus.
SMALL_STAGE = 1000


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents through a stage (or a unit of one). `media` counts items of documents that were kept."""

    documents_in: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    media: dict[str, int] = field(default_factory=dict)

    @property
    def conserved(self) -> bool:
        return self.documents_in == self.kept + sum(self.dropped.values()) + sum(self.failed.values())

    def __add__(self, other: Counts) -> Counts:
        def merged(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
            return dict(sorted((Counter(a) + Counter(b)).items()))

        return Counts(
            self.documents_in + other.documents_in,
            self.kept + other.kept,
            merged(self.dropped, other.dropped),
            merged(self.failed, other.failed),
            merged(self.media, other.media),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "in": self.documents_in,
            "kept": self.kept,
            "dropped": self.dropped,
            "failed": self.failed,
            "media": self.media,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Counts:
        return cls(value["in"], value["kept"], value["dropped"], value["failed"], value.get("media", {}))


def dropped_documents(
    doc_ids: pa.Array, sources: pa.Array, stage: str, why: Mapping[str, pa.Array | pa.ChunkedArray]
) -> pa.Table:
    """The ledger (`REJECTS`) of n documents that a stage judged and dropped.

    why: reason, value and limit of each, and detail where there is one.
    """
    n = len(doc_ids)
    columns = {
        "doc_id": doc_ids,
        "source": sources,
        "locator": pa.nulls(n, REJECTS.field("locator").type),
        "stage": pa.array([stage] * n, pa.string()),
        "scope": pa.array(["document"] * n, pa.string()),
        "outcome": pa.array(["dropped"] * n, pa.string()),
        "detail": pa.nulls(n, pa.string()),
    }
    return pa.table({**columns, **why}).select(REJECTS.names).cast(REJECTS)


def counts_of(kept: int, rejects: pa.Table | pa.RecordBatch | None) -> Counts:
    """Counts from the number of kept documents and the rejects (schema `REJECTS`) beside them."""
    dropped: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    media: Counter[str] = Counter()
    if rejects is not None and rejects.num_rows:
        columns = [rejects.column(c).to_pylist() for c in ("scope", "outcome", "reason")]
        for scope, outcome, reason in zip(*columns, strict=True):
            target = media if scope == "media" else dropped if outcome == "dropped" else failed
            target[reason] += 1
    total = kept + dropped.total() + failed.total()
    return Counts(
        total, kept, dict(sorted(dropped.items())), dict(sorted(failed.items())), dict(sorted(media.items()))
    )


def total(counts: Iterable[Counts]) -> Counts:
    return sum(counts, Counts())


def check_conservation(stage: str, counts: Counts, expected_in: int | None) -> None:
    """Assert the conservation law for a finished stage. A violation is our bug, never the user's."""
    if not counts.conserved:
        raise AssertionError(f"{stage}: documents are not conserved: {counts.to_json()}")
    if expected_in is not None and counts.documents_in != expected_in:
        raise AssertionError(
            f"{stage}: {expected_in} documents came in but {counts.documents_in} are accounted for"
        )


def check_failures(stage: str, counts: Counts, max_share: float, where: str, examples: list[str]) -> None:
    """Stop when more documents failed than the declared share.

    A stage of fewer than `SMALL_STAGE` documents is stopped only when nothing at all was kept.

    Raises:
        UserError: names the stage, the share, the commonest errors and where the ledger is.
    """
    failures = sum(counts.failed.values())
    if not failures or (counts.documents_in < SMALL_STAGE and counts.kept):
        return
    share = failures / counts.documents_in
    if counts.kept and share <= max_share:
        return
    reasons = ", ".join(f"{n} {r}" for r, n in sorted(counts.failed.items(), key=lambda x: (-x[1], x[0]))[:5])
    shown = "".join(f"\n    {e}" for e in examples[:3])
    raise UserError(
        f"{stage}: {failures} of {counts.documents_in} documents failed ({share:.1%}; allowed is "
        f"max_failed_share={max_share:g}): {reasons}{shown}",
        fix=f"look at {where}, repair the input or leave it out, or raise max_failed_share",
    )


def failure_examples(rejects: pa.Table, n: int = 3) -> list[str]:
    """The first few failures as "place: error" lines."""
    if not rejects.num_rows:
        return []
    failed = rejects.filter(pc.equal(rejects["outcome"], "failed")).slice(0, n)
    out = []
    for row in failed.select(["source", "locator", "reason", "detail"]).to_pylist():
        place = row["locator"] or {"uri": "?"}
        out.append(f"{row['source']}/{place['uri']}: {row['reason']}: {row['detail']}")
    return out
