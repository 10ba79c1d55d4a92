"""Mixtures as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixloom.mixers.compare import Compared, beside_unimax, distance, modality_tokens
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.sources import Sources

SHOWN = 60  # domains of a comparison; the largest, where there are more


def show(mixture: Mixture, console: Console) -> None:
    """Print a mixture: its domains beside UniMax's weights, what binds, and what to know about it."""
    table = Table(title=Text(f"{mixture.estimator}, {mixture.budget_tokens:,} tokens"), title_justify="left")
    table.add_column("domain")
    other, before, many = beside_unimax(mixture), mixture.record.get("before"), len(mixture.phases) > 1
    bytes_of = _bytes(mixture)
    titles = ["tokens", *(["bytes"] if bytes_of else []), "weight"]
    titles += [f"from {100 * p.start:.4g}%" for p in mixture.phases] if many else []
    titles += [
        *(["UniMax"] if mixture.estimator != "unimax" or many else []),
        *(["before opt-out"] if before else []),
    ]
    for name in (*titles, "trained on", "epochs", "cap"):
        table.add_column(name, justify="right")
    weights, epochs, capped = mixture.weights, mixture.epochs, set(mixture.capped)
    for d in mixture.domains:
        cells = [f"{d.tokens:,}"]
        cells += [f"{bytes_of[d.name]:,}" if d.name in bytes_of else ""] if bytes_of else []
        cells += [f"{weights[d.name]:.4f}"]
        cells += [f"{p.weights[d.name]:.4f}" for p in mixture.phases] if many else []
        cells += [f"{other[d.name]:.4f}"] if "UniMax" in titles else []
        cells += [f"{before[d.name]:.4f}"] if before else []
        trained = f"{round(weights[d.name] * mixture.budget_tokens):,}"
        binding = f"{'binds' if d.name in capped else ''} {d.max_epochs:g}".strip()
        table.add_row(Text(d.name), *cells, trained, f"{epochs[d.name]:.2f}", binding)
    console.print(table)
    apart = distance(weights, other)
    console.print(
        f"effective number of domains {mixture.effective_domains:.2f} of {len(mixture.domains)}"
        + (f" (UniMax {_effective(other):.2f})" if "UniMax" in titles else "")
        + f"; caps bind for {len(capped)}"
        + (f"; {100 * apart:.1f}% of the tokens differ from UniMax" if "UniMax" in titles else ""),
        markup=False,
        soft_wrap=True,
    )
    parts = modality_tokens(mixture)
    if len(parts) > 1:
        whole = mixture.budget_tokens
        shown = ", ".join(f"{m} {round(n):,} ({100 * n / whole:.1f}%)" for m, n in parts.items())
        console.print(f"tokens by modality: {shown}", markup=False, soft_wrap=True)
    for note in mixture.notes:
        console.print(note, markup=False, soft_wrap=True)


def show_comparison(rows: Sequence[Compared], console: Console) -> None:
    """Print all methods side by side: weights, then what tells them apart; those without weights below, with the reason."""
    done = [(r, r.mixture) for r in rows if r.mixture is not None]
    first = done[0][1]
    table = Table(title=Text(f"weights for {first.budget_tokens:,} tokens"), title_justify="left")
    table.add_column("domain", min_width=len("apart from UniMax"))
    table.add_column("tokens", justify="right")
    for row, _ in done:
        table.add_column(row.method, justify="right")
    domains = sorted(first.domains, key=lambda d: -d.tokens)[:SHOWN]
    kept = {d.name for d in domains}
    for d in first.domains:
        if d.name in kept:
            table.add_row(Text(d.name), f"{d.tokens:,}", *(f"{m.weights[d.name]:.4f}" for _, m in done))
    table.add_section()
    base = first.weights
    lines = {
        "effective number": [f"{m.effective_domains:.2f}" for _, m in done],
        "caps that bind": [str(len(m.capped)) for _, m in done],
        "fewest epochs": [f"{min(m.epochs.values()):.2f}" for _, m in done],
        "most epochs": [f"{max(m.epochs.values()):.2f}" for _, m in done],
        "apart from UniMax": [f"{100 * distance(base, m.weights):.1f}%" for _, m in done],
    }
    for name, cells in lines.items():
        table.add_row(name, "", *cells)
    console.print(table)
    if len(first.domains) > SHOWN:
        console.print(
            f"the {SHOWN} largest of {len(first.domains)} domains are shown", markup=False, soft_wrap=True
        )
    for row, _ in done:
        console.print(f"{row.method}: {row.about}", markup=False, soft_wrap=True)
    for row in rows:
        if row.mixture is None:
            console.print(
                f"{row.method}: {row.about}; not computed: {row.why_not}", markup=False, soft_wrap=True
            )


def _effective(weights: dict[str, float]) -> float:
    return 1.0 / sum(w * w for w in weights.values())


def _bytes(mixture: Mixture) -> dict[str, int]:
    about = mixture.record.get("sources")
    if not about or "bytes" not in about["rows"][0].split(","):
        return {}
    sources = Sources.from_rows(about["rows"], about["origin"], about["fingerprint"], about["group_by"])
    return {d.name: d.bytes for d in sources.domains if d.bytes is not None}
