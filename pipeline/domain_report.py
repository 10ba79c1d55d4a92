"""What the domains of a run are about, and how well they match known labels. Called once per run, for the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixloom.pipeline.cluster import Domains
from mixloom.pipeline.tfidf import TfidfSvd


def top_words(model: TfidfSvd, domains: Domains, n: int = 10) -> list[list[str]]:
    """The n words that tell each domain apart, best first: its centre less the mean centre, taken back through the SVD.

    Only words that speak for the domain are listed, so there may be fewer than n. The last domain has none.
    """
    common = domains.centres.mean(axis=0, dtype=np.float64) if domains.k > 1 else np.zeros(model.config.dim)
    lists: list[list[str]] = []
    for centre in domains.centres:
        score = model.components.astype(np.float64) @ (centre - common)
        best = np.argsort(-score, kind="stable")
        lists.append([model.terms[i] for i in best if score[i] > 0][:n])
    return [*lists, []]


def purity(labels: Sequence[object], domains: np.ndarray) -> float:
    """Share of documents whose domain is mostly made of their label, in (0, 1]; 1.0 for no documents."""
    table = _contingency(labels, domains)
    return float(table.max(axis=0).sum() / table.sum()) if table.size else 1.0


def nmi(labels: Sequence[object], domains: np.ndarray) -> float:
    """Mutual information of labels and domains over the mean of their entropies, in [0, 1]; 1.0 when both are constant."""
    table = _contingency(labels, domains)
    if table.size == 0:
        return 1.0
    p = table / table.sum()
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    outer = np.outer(rows, columns)
    inside = p > 0
    mutual = float((p[inside] * np.log(p[inside] / outer[inside])).sum())
    entropy = float(-(rows * np.log(rows)).sum() - (columns * np.log(columns)).sum()) / 2
    return 1.0 if entropy <= 0 else min(max(mutual / entropy, 0.0), 1.0)


def _contingency(labels: Sequence[object], domains: np.ndarray) -> np.ndarray:
    """Counts int64 [labels, domains]."""
    if len(labels) != len(domains):
        raise ValueError(f"{len(labels)} labels for {len(domains)} domains")
    names = {name: i for i, name in enumerate(sorted({str(x) for x in labels}))}
    rows = np.array([names[str(x)] for x in labels], dtype=np.int64)
    _, columns = np.unique(domains, return_inverse=True)
    table = np.zeros((len(names), int(columns.max()) + 1 if len(columns) else 0), np.int64)
    np.add.at(table, (rows, columns), 1)
    return table
