"""Exact word-shingle Jaccard, the definition planted near-duplicates are measured by.

A word is a run of letters and digits, lower-cased; a shingle is 5 words in a row; the similarity of two texts
is |A and B| / |A or B| over their sets of shingles (Broder 1997, "On the resemblance and containment of
documents", section 2).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

WIDTH = 5
Shingle = tuple[str, ...]

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The lower-cased alphanumeric words of a text, in order."""
    return _WORD.findall(text.lower())


def shingles(text: str, width: int = WIDTH) -> frozenset[Shingle]:
    """The set of runs of `width` words; empty when the text is shorter."""
    found = words(text)
    return frozenset(tuple(found[i : i + width]) for i in range(len(found) - width + 1))


def jaccard(a: str, b: str) -> float:
    """Exact similarity in [0, 1]; 0.0 when neither text has a shingle."""
    x, y = shingles(a), shingles(b)
    union = len(x | y)
    return len(x & y) / union if union else 0.0


class ShingleIndex:
    """Texts looked up by exact similarity, through an inverted index of their shingles."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._where: dict[Shingle, list[int]] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def similar(self, text: str) -> Iterator[tuple[int, float]]:
        """(number of an added text, similarity) for every one that shares a shingle with `text`."""
        mine = shingles(text)
        shared = Counter(n for s in mine for n in self._where.get(s, ()))
        for n, both in sorted(shared.items()):
            yield n, both / (len(mine) + self._sizes[n] - both)

    def nearest(self, text: str) -> float:
        """Highest similarity of `text` to any added text; 0.0 when none shares a shingle."""
        return max((s for _, s in self.similar(text)), default=0.0)

    def add(self, text: str) -> int:
        """Add a text; returns its number."""
        n = len(self._sizes)
        mine = shingles(text)
        self._sizes.append(len(mine))
        for s in sorted(mine):
            self._where.setdefault(s, []).append(n)
        return n

    def add_if_new(self, text: str, limit: float) -> bool:
        """Add a text unless some added text is at least `limit` similar; says whether it was added."""
        if self.nearest(text) >= limit:
            return False
        self.add(text)
        return True
