"""The picture of a mixture, from the mixture and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mixloom.mixers.compare import Compared, beside_unimax, distance, modality_tokens
from mixloom.mixers.estimate import recorded
from mixloom.mixers.mixture import Mixture
from mixloom.pipeline.report.mixture_picture import DomainBar, MethodColumn, MixturePicture, draw


def picture_of(mixture: Mixture, rows: Sequence[Compared] = ()) -> MixturePicture:
    """What is drawn of a mixture: its domains beside UniMax, modalities where the record knows them, and the methods."""
    other, capped = beside_unimax(mixture), set(mixture.capped)
    shares, epochs = mixture.phase_shares, mixture.epochs
    domains = tuple(
        DomainBar(
            d.name,
            tuple(s * p.weights[d.name] for s, p in zip(shares, mixture.phases)),
            other[d.name],
            epochs[d.name],
            d.max_epochs,
            d.name in capped,
        )
        for d in mixture.domains
    )
    phases = ["all of the training"]
    if len(shares) > 1:
        starts = [100 * p.start for p in mixture.phases] + [100.0]
        phases = [f"{a:.3g} to {b:.3g}% of it" for a, b in pairwise(starts)]
    title = f"Mixture by {mixture.estimator}: {mixture.budget_tokens:,} tokens of {len(domains)} domains"
    return MixturePicture(title, tuple(phases), domains, _modalities(mixture), _columns(rows))


def standalone(mixture: Mixture, rows: Sequence[Compared] = ()) -> str:
    """The picture as the text of an SVG file that needs nothing else."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{draw(picture_of(mixture, rows), standalone=True)}\n'


def _modalities(mixture: Mixture) -> tuple[tuple[str, float, float], ...]:
    trained = modality_tokens(mixture)
    if len(trained) < 2:
        return ()
    there = recorded(mixture)[0].tokens_by_modality
    return tuple((name, float(there[name]), n) for name, n in trained.items())


def _columns(rows: Sequence[Compared]) -> tuple[MethodColumn, ...]:
    done = [(r.method, r.mixture) for r in rows if r.mixture is not None]
    base = next((m.weights for name, m in done if name == "unimax"), None)
    return tuple(
        MethodColumn(name, m.weights, m.effective_domains, distance(base, m.weights) if base else 0.0)
        for name, m in done
    )
