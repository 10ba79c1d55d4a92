"""How well the domains of a run match known labels: purity and normalised mutual information. For the manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def purity(labels: Sequence[object], domains: np.ndarray) -> float:
    """Share of documents whose domain is mostly made of their label, in (0, 1]; 1.0 for no documents."""
    return table_purity(_contingency(labels, domains))


def nmi(labels: Sequence[object], domains: np.ndarray) -> float:
    """Mutual information of labels and domains over the mean of their entropies, in [0, 1]; 1.0 when both are constant."""
    return table_nmi(_contingency(labels, domains))


def table_purity(table: np.ndarray) -> float:
    """As `purity`, from counts int64 [labels, domains]."""
    return float(table.max(axis=0).sum() / table.sum()) if table.sum() else 1.0


def table_nmi(table: np.ndarray) -> float:
    """As `nmi`, from counts int64 [labels, domains]."""
    if table.sum() == 0:
        return 1.0
    p = table / table.sum()
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    outer = np.outer(rows, columns)
    inside = p > 0
    mutual = float((p[inside] * np.log(p[inside] / outer[inside])).sum())
    entropy = (_entropy(rows) + _entropy(columns)) / 2
    return 1.0 if entropy <= 0 else min(max(mutual / entropy, 0.0), 1.0)


def _entropy(share: np.ndarray) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


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


def source_facts(rows: Sequence[tuple[int, str, int]], k: int) -> dict[str, object]:
    """What the manifest tells of k domains, from (domain, source, documents) in any order and any number of pieces.

    sizes: documents by domain, the last those without text. sources: by source, documents by domain. purity and nmi of
    the domains against the sources (documents without text left out), where there are two sources; balance: entropy of
    the sizes over that of equal sizes; largest: size of the largest domain in equal shares.
    """
    names = sorted({source for _, source, _ in rows})
    table = np.zeros((len(names), k + 1), np.int64)
    place = {name: i for i, name in enumerate(names)}
    for domain, source, n in rows:
        table[place[source], domain] += n
    with_text = table[:, :k]
    sizes = with_text.sum(axis=0)
    out: dict[str, object] = {
        "sizes": table.sum(axis=0).tolist(),
        "sources": {name: table[i].tolist() for i, name in enumerate(names)},
    }
    if sizes.sum():
        balance = _entropy(sizes / sizes.sum()) / np.log(k) if k > 1 else 1.0
        out |= {
            "balance": round(float(balance), 4),
            "largest": round(float(sizes.max() * k / sizes.sum()), 4),
        }
        if len(names) > 1:
            out |= {"purity": round(table_purity(with_text), 4), "nmi": round(table_nmi(with_text), 4)}
    return out
