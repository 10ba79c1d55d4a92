"""What the stages `order` and `pack` say of their cells, summed up over a run: for `status` and for the report.

Light: reads manifests only. Cells are summed, never averaged; a figure that a stage did not write is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Info = Mapping[str, Any]
Row = dict[str, Any]

ORDERS = ("path", "cluster", "random")
SUMMED = (
    "contexts",
    "slots",
    "tokens",
    "extra",
    "documents",
    "cut_documents",
    "long_documents",
    "cosine",
    "pairs",
)


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """Order of all cells. Cosines are means over documents; None: no cell says.

    bound_share: weight of all paths over the most that any path on the same graphs could weigh.
    """

    cells: int
    documents: int
    mean_cosine: float | None = None
    random_cosine: float | None = None
    cluster_cosine: float | None = None
    bound: float | None = None
    bound_share: float | None = None
    jumps: int | None = None
    near_duplicate_pairs: int | None = None


@dataclass(frozen=True, slots=True)
class PackFacts:
    """Packing of all cells: contexts, share of their slots that hold a token, cuts inside a block that had to be made.

    rows: by window and order, see `merged`. window: the one the contexts were packed with, where it is known.
    """

    contexts: int
    fill: float
    forced_cuts: int
    window: int | None = None
    rows: Sequence[Row] = field(default_factory=tuple)

    def row(self, order: str) -> Row | None:
        """The row of the window in use."""
        found = (r for r in self.rows if r["window"] == self.window and r["order"] == order)
        return next(found, None)


def order_facts(infos: Iterable[Info]) -> OrderFacts | None:
    """Facts of the cells of `order` (their `info`); None without a cell."""
    cells = [i for i in infos if "documents" in i]
    if not cells:
        return None
    weights = [i for i in cells if i.get("bound") is not None and i.get("path_weight") is not None]
    bound = math.fsum(i["bound"] for i in weights) if weights else None
    reached = math.fsum(i["path_weight"] for i in weights)
    return OrderFacts(
        cells=len(cells),
        documents=sum(int(i["documents"]) for i in cells),
        mean_cosine=_mean(cells, "mean_cosine"),
        random_cosine=_mean(cells, "random_cosine"),
        cluster_cosine=_mean(cells, "cluster_cosine"),
        bound=bound,
        bound_share=reached / bound if bound else None,
        jumps=_total(cells, "jumps"),
        near_duplicate_pairs=_total(cells, "near_duplicate_pairs"),
    )


def pack_facts(infos: Iterable[Info], config: Mapping[str, Any] | None = None) -> PackFacts | None:
    """Facts of the cells of `pack`; None without a context. config: the settings of the stage."""
    # A cell that keeps no context, for all its documents went to those of the domain, still counts its cuts.
    cells = [i for i in infos if "contexts" in i]
    contexts = sum(int(i["contexts"]) for i in cells)
    if not contexts:
        return None
    fill = math.fsum(i.get("fill", 0.0) * i["contexts"] for i in cells) / contexts
    rows = merged(i["windows"] for i in cells if i.get("windows"))
    return PackFacts(contexts, fill, _total(cells, "forced_cuts") or 0, (config or {}).get("window"), rows)


def merged(tables: Iterable[Sequence[Mapping[str, Any]]]) -> list[Row]:
    """The tables of several cells (`context_similarity.window_table`) as one, by window and order, with two means.

    fill: share of the slots that hold a token, None without a slot. similarity: mean cosine of documents that share
    a context, None without a pair. Windows ascend; orders stand as in `ORDERS`.
    """
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in (r for table in tables for r in table):
        groups.setdefault((int(row["window"]), str(row["order"])), []).append(row)
    out = []
    for window, order in sorted(groups, key=lambda k: (k[0], (*ORDERS, k[1]).index(k[1]), k[1])):
        rows = groups[window, order]
        sums = {key: sum(r[key] for r in rows) for key in SUMMED}
        sums["cosine"] = math.fsum(r["cosine"] for r in rows)  # exact, so cells may come in any order
        fill = sums["tokens"] / sums["slots"] if sums["slots"] else None
        similarity = sums["cosine"] / sums["pairs"] if sums["pairs"] else None
        out.append({"window": window, "order": order, **sums, "fill": fill, "similarity": similarity})
    return out


def told(stage: str, infos: Iterable[Info], config: Mapping[str, Any] | None = None) -> str:
    """One line about what a stage named `order` or `pack` has reached so far; empty for others and without a figure."""
    if stage == "order" and (order := order_facts(infos)) is not None:
        return _order_line(order)
    if stage == "pack" and (pack := pack_facts(infos, config)) is not None:
        return _pack_line(pack)
    return ""


def _order_line(o: OrderFacts) -> str:
    if o.mean_cosine is None:
        return ""
    said = [f"neighbours have a cosine of {o.mean_cosine:.3f}"]
    if o.random_cosine is not None:
        said[0] += f" (random order {o.random_cosine:.3f})"
    if o.bound_share is not None:
        said.append(f"{100 * o.bound_share:.1f}% of the bound")
    if o.jumps is not None:
        said.append(f"{o.jumps:,} jumps")
    return ", ".join(said)


def _pack_line(p: PackFacts) -> str:
    said = [f"{p.contexts:,} contexts", f"fill {100 * p.fill:.2f}%"]
    path, random = p.row("path"), p.row("random")
    if path is not None and path["similarity"] is not None:
        said.append(f"documents of a context have a cosine of {path['similarity']:.3f}")
        if random is not None and random["similarity"] is not None:
            said[-1] += f" (random order {random['similarity']:.3f})"
    return ", ".join(said)


def _mean(cells: Sequence[Info], key: str) -> float | None:
    """Weighted by documents, over the cells that say."""
    known = [(i[key], i["documents"]) for i in cells if i.get(key) is not None]
    weight = sum(n for _, n in known)
    return math.fsum(v * n for v, n in known) / weight if weight else None


def _total(cells: Sequence[Info], key: str) -> int | None:
    known = [int(i[key]) for i in cells if i.get(key) is not None]
    return sum(known) if known else None
