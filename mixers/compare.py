"""All methods side by side on the same sizes and budget, as far as they can be computed from what is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mixloom.mixers.estimate import ESTIMATORS, estimate, needs, recorded
from mixloom.mixers.given import Given
from mixloom.mixers.mix_config import MixtureConfig
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.sources import Sources
from mixloom.mixers.utility import Utilities
from mixloom.pipeline.errors import UserError


@dataclass(frozen=True, slots=True)
class Compared:
    """One method: its mixture, or why there is none."""

    method: str
    about: str
    mixture: Mixture | None
    why_not: str = ""


def compare(
    sources: Sources,
    config: MixtureConfig,
    budget_tokens: int | None = None,
    *,
    utilities: Utilities | None = None,
    given: Given | None = None,
) -> list[Compared]:
    """Every method of the table, UniMax first, with the settings of `config` otherwise. Arguments as for `estimate`.

    Raises:
        UserError: what is wrong with the sizes or the budget, for it holds for every method.
    """
    given = given if given is not None else Given.load(config, utilities)
    rows = []
    for name, method in ESTIMATORS.items():
        own = config.model_copy(update={"method": name})
        missing = needs(own, given)
        if name == "odm" and given.losses is None:  # its weights are UniMax's until a training moves them
            missing = method.wants
        if missing:
            rows.append(Compared(name, method.about, None, f"needs {missing}"))
            continue
        try:
            rows.append(Compared(name, method.about, estimate(sources, own, budget_tokens, given=given)))
        except UserError as error:
            if name == "unimax":
                raise
            rows.append(Compared(name, method.about, None, error.what))
    return rows


def compared(mixture: Mixture) -> list[Compared]:
    """Every method on what a mixture records; [] where it records nothing."""
    if "sources" not in mixture.record:
        return []
    sources, config, given = recorded(mixture)
    return compare(sources, config, given=given)


def beside_unimax(mixture: Mixture) -> dict[str, float]:
    """UniMax's weights under the same caps and demands: those on record, else from the sizes and caps alone."""
    known = mixture.record.get("unimax")
    if isinstance(known, Mapping):
        return {name: float(known[name]) for name in mixture.names}
    from mixloom.mixers.unimax import unimax

    room = [d.max_epochs * d.tokens for d in mixture.domains]
    taken = unimax(room, mixture.budget_tokens, 1.0)
    return dict(zip(mixture.names, (taken / taken.sum()).tolist()))


def distance(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Half the sum of |a - b|: the share of the tokens that would have to move, 0 to 1."""
    return round(sum(abs(a[name] - b[name]) for name in a) / 2, 12)


def modality_tokens(mixture: Mixture) -> dict[str, float]:
    """Tokens of the budget by modality, as far as the record knows them; {} where it does not.

    Domains are taken to hold their modalities evenly: a domain that is half served gives half of each.
    """
    about = mixture.record.get("sources")
    if not isinstance(about, Mapping):
        return {}
    sources = Sources.from_rows(about["rows"], about["origin"], about["fingerprint"], about["group_by"])
    weights = mixture.weights
    sums: dict[str, float] = {}
    for d in sources.domains:
        for name, n in d.tokens_by_modality:
            sums[name] = sums.get(name, 0.0) + weights[d.name] * mixture.budget_tokens * n / d.tokens
    return sums
