"""How well scores tell positives from negatives, and which thresholds keep how much. Plain numpy, no ties broken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEEP_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # DCLM keeps the best tenth (arXiv 2406.11794)
BINS = 20


def roc(
    scores: NDArray[Any], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The ROC curve and its area.

    Returns:
        False positive rates and true positive rates, rising, from (0, 0) to (1, 1), one point per distinct score;
        and the area under them (ties count half).
    """
    order = np.argsort(-scores, kind="stable")
    s, p = scores[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(s)), len(s) - 1)
    true, false = np.cumsum(p)[last], np.cumsum(~p)[last]
    tpr = np.concatenate([[0.0], true / max(1, int(p.sum()))])
    fpr = np.concatenate([[0.0], false / max(1, int((~p).sum()))])
    return fpr, tpr, float(np.trapezoid(tpr, fpr))


def reliability(
    probability: NDArray[Any], positive: NDArray[np.bool_], bins: int = 10
) -> list[dict[str, float]]:
    """Documents in `bins` groups of about equal size by probability: mean probability and share of positives."""
    order = np.argsort(probability, kind="stable")
    out = []
    for group in np.array_split(order, min(bins, max(1, len(order)))):
        if len(group):
            out.append(
                {
                    "documents": len(group),
                    "probability": float(np.mean(probability[group], dtype=np.float64)),
                    "positive": float(np.mean(positive[group])),
                }
            )
    return out


def calibration_error(groups: Sequence[dict[str, float]]) -> float:
    """Expected calibration error: mean distance of probability and share, weighted by documents."""
    total = sum(g["documents"] for g in groups)
    gap = sum(g["documents"] * abs(g["probability"] - g["positive"]) for g in groups)
    return gap / total if total else 0.0


def brier(probability: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """Mean squared distance of probability and truth."""
    return float(np.mean((np.asarray(probability, np.float64) - positive) ** 2))


def histogram(scores: NDArray[Any]) -> list[int]:
    """Documents in `BINS` equal intervals of [0, 1]; NaN is counted nowhere."""
    known = np.asarray(scores, np.float64)[~np.isnan(scores)]
    return np.histogram(np.clip(known, 0, 1), bins=BINS, range=(0, 1))[0].tolist()


def histograms(scores: NDArray[Any], source: NDArray[np.int64], names: Sequence[str]) -> dict[str, list[int]]:
    """`histogram` of the scores of each source; source int64 [n] numbers the names."""
    return {name: histogram(scores[source == k]) for k, name in enumerate(names)}


def thresholds(pool: NDArray[Any], positives: NDArray[Any] | None = None) -> list[dict[str, float]]:
    """For each share to keep of a pool of scores: the threshold that keeps it, and what it keeps of the positives.

    A document is kept when its score is at least the threshold. Where scores tie, more than the share is kept;
    `kept` is what really is.
    """
    ordered = np.sort(np.asarray(pool, np.float64)[~np.isnan(pool)])[::-1]
    out: list[dict[str, float]] = []
    for share in KEEP_SHARES if len(ordered) else ():
        limit = float(ordered[max(1, round(share * len(ordered))) - 1])
        row = {"share": share, "threshold": limit, "kept": float(np.mean(ordered >= limit))}
        if positives is not None and len(positives):
            row["positives_kept"] = float(np.mean(np.asarray(positives, np.float64) >= limit))
        out.append(row)
    return out
