"""Descriptions merged two by two until one is left (MEDU, Held et al., arXiv 2501.11747)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Described:
    """A description, and how many items of the benchmark it was made from."""

    text: str
    items: int


Merge = Callable[[list[tuple[Described, Described]]], list[str]]


def merge_pairwise(descriptions: Sequence[Described], merge: Merge) -> Described:
    """One description of all: m descriptions take exactly m - 1 merges, in a tree that m alone decides.

    In every round neighbours are merged. With an odd number left the first two are merged first, by themselves.

    Args:
        descriptions: m >= 1, in an order that does not depend on chance.
        merge: the merged texts of some pairs, in their order; all pairs of a round are handed over together.

    Raises:
        ValueError: no description, or `merge` gives back another number of texts than it got pairs.
    """
    if not descriptions:
        raise ValueError("there is no description to merge")
    left = list(descriptions)
    while len(left) > 1:
        odd = len(left) % 2
        end = 2 if odd else len(left)
        pairs = list(zip(left[:end:2], left[1:end:2]))
        texts = merge(pairs)
        if len(texts) != len(pairs):
            raise ValueError(f"{len(pairs)} pairs were merged into {len(texts)} descriptions")
        merged = [Described(text, a.items + b.items) for text, (a, b) in zip(texts, pairs)]
        left = [*merged, *left[end:]]
    return left[0]
