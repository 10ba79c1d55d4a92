"""Labels counted: what a judge said of each source for each skill, and the mean of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.medu_labels import LABELS, VALUES, Label
from mixloom.pipeline.errors import UserError


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one document for one skill: a label, or why there is none ("unparsable", or an error)."""

    source: str
    doc_id: str
    skill: str
    label: Label | None
    why: str | None = None
    score: float | None = None


def tally(verdicts: Sequence[Verdict], sources: Sequence[str], skills: Sequence[str]) -> NDArray[np.int64]:
    """How often each label was given: int64 [n, k, 7], the five labels, then unparsable, then failed."""
    row, column = {s: i for i, s in enumerate(sources)}, {s: j for j, s in enumerate(skills)}
    counts = np.zeros((len(sources), len(skills), len(LABELS) + 2), np.int64)
    for v in verdicts:
        if v.label is not None:
            at = LABELS.index(v.label)
        else:
            at = len(LABELS) + (v.why != "unparsable")
        counts[row[v.source], column[v.skill], at] += 1
    return counts


def means(
    counts: NDArray[np.int64], sources: Sequence[str], skills: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean value of the labels and its standard error, float64 [n, k] each; the error of a single document is nan.

    Raises:
        UserError: a source without any label for a skill.
    """
    worth = np.array([VALUES[x] for x in LABELS])
    labelled = counts[:, :, : len(LABELS)].astype(np.float64)
    n = labelled.sum(axis=2)
    if (n == 0).any():
        i, j = (int(x) for x in np.argwhere(n == 0)[0])
        raise UserError(
            f"no document of '{sources[i]}' got a label for '{skills[j]}'",
            fix="look at why in labels.jsonl, and at the answers in calls.jsonl",
        )
    mean = labelled @ worth / n
    spread = (labelled * (worth - mean[:, :, None]) ** 2).sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(spread / (n - 1) / n)
    return np.clip(mean, 0.0, 1.0), np.where(n > 1, error, np.nan)
