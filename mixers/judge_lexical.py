"""A judge that counts words: deterministic, offline, in seconds. The default, and no judge of quality or meaning.

A document is scored by how much likelier its words and pairs of neighbouring words are in the skill's own items than in
everything judged together: the mean over them of log((c / p + mu) / (n + mu)), with c the count in the items, n the sum
of counts, p the share in the background. That is query likelihood with Dirichlet smoothing (Zhai and Lafferty, SIGIR
2001) turned round: the benchmark is the text that is modelled, the document is what is looked up. It is close to the
importance weights of DSIR (Xie et al., arXiv 2302.03169).

A score becomes a label by two anchors, both quantiles fixed beforehand: the upper is what three quarters of the skill's
own items reach when they are scored without themselves, the lower what nine tenths of all documents reach, every source
counting alike. From the upper on a document is Great; below it, four equal steps lead down to the lower.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.mixers.medu_labels import LABELS, Label
from mixloom.pipeline.doc_ids import mix
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.words import cut_terms

SMOOTHING = 2000.0  # mu
OWN_QUANTILE = 0.25
POOL_QUANTILE = 0.10
STEPS = (0.25, 0.5, 0.75, 1.0)  # of the way from the lower anchor to the upper: Poor, Okay, Good, Great
FOLDS = 5
_WORDS_SHOWN = 12
_WORD = re.compile(r"[^\W_]+")

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class LexicalVerdict:
    """What one skill came to.

    Attributes:
        labels: by source, a label per document.
        scores: by source, float64 per document; -inf where a document has no word.
        lower, upper: the anchors.
        words: words that tell the skill from the background, most telling first.
    """

    labels: dict[str, list[Label]]
    scores: dict[str, F64]
    lower: float
    upper: float
    words: tuple[str, ...]

    @property
    def apart(self) -> bool:
        """Whether the skill's own items are told from the documents at all."""
        return self.upper > self.lower


@dataclass(frozen=True, eq=False)
class _Features:
    """The features of n texts: the words of each, then its pairs of words. starts: int64 [n+1] into hashes, uint64."""

    starts: I64
    hashes: U64


@dataclass(frozen=True, eq=False)
class _Texts:
    """As `_Features`, by place in the vocabulary: starts int64 [n+1] into places, int64."""

    starts: I64
    places: I64

    def of(self, rows: NDArray[np.bool_]) -> I64:
        return self.places[np.repeat(rows, np.diff(self.starts))]


class LexicalJudge:
    """Labels documents by their words.

    Args:
        documents: texts by source.
        skills: items of each skill's benchmark, by name, in an order that does not depend on chance.

    Raises:
        UserError: a skill with fewer than two items, or without any word.
    """

    def __init__(self, documents: Mapping[str, Sequence[str]], skills: Mapping[str, Sequence[str]]) -> None:
        for name, items in skills.items():
            if len(items) < 2:
                raise UserError(
                    f"skill '{name}' has {len(items)} items; the lexical judge needs 2 at least, better 50",
                    fix="give a path to items of the benchmark, or use another judge",
                )
        self._items = skills
        by_source = {name: _features(texts) for name, texts in sorted(documents.items())}
        by_skill = {name: _features(items) for name, items in skills.items()}
        for name, found in by_skill.items():
            if not len(found.hashes):
                raise UserError(
                    f"skill '{name}' has no word in its items", fix="check its path and its fields"
                )
        self._vocabulary, self._background = _background([*by_source.values(), *by_skill.values()])
        self._documents = {name: self._placed(found) for name, found in by_source.items()}
        self._skills = {name: self._placed(found) for name, found in by_skill.items()}

    def _placed(self, found: _Features) -> _Texts:
        return _Texts(found.starts, np.searchsorted(self._vocabulary, found.hashes).astype(np.int64))

    def judge(self, skill: str) -> LexicalVerdict:
        """The labels of all documents for one skill."""
        own = self._skills[skill]
        weights = self._weights(own.places)
        scores = {name: self._scores(found, weights) for name, found in self._documents.items()}
        upper = float(np.quantile(self._scores_apart(own), OWN_QUANTILE))
        lower = _pool_quantile(list(scores.values()), POOL_QUANTILE)
        edges = np.array([lower + max(upper - lower, 0.0) * s for s in STEPS])
        edges[-1] = upper  # not a rounding error away from it
        if upper <= lower:
            edges[:] = upper
        worst_first = LABELS[::-1]
        labels = {
            n: [worst_first[i] for i in np.searchsorted(edges, s, side="right")] for n, s in scores.items()
        }
        return LexicalVerdict(labels, scores, lower, upper, self._telling(skill, weights))

    def _weights(self, places: I64) -> F64:
        """What each feature of the vocabulary adds to a score, float64 [v], by the items with these features."""
        counts = np.bincount(places, minlength=len(self._vocabulary))
        weights: F64 = np.log((counts / self._background + SMOOTHING) / (len(places) + SMOOTHING))
        return weights

    def _scores(self, found: _Texts, weights: F64) -> F64:
        """The mean weight of the features of each text, float64 [n]; -inf for none."""
        sizes = np.diff(found.starts)
        scores = np.full(len(sizes), -np.inf)
        full = np.flatnonzero(sizes)
        if len(full):
            scores[full] = np.add.reduceat(weights[found.places], found.starts[full]) / sizes[full]
        return scores

    def _scores_apart(self, own: _Texts) -> F64:
        """The scores of a skill's items with words, each by the weights of items of other folds."""
        n = len(own.starts) - 1
        fold = np.arange(n) % min(FOLDS, n)
        scores = np.full(n, -np.inf)
        for f in range(min(FOLDS, n)):
            weights = self._weights(own.of(fold != f))
            scores[fold == f] = self._scores(own, weights)[fold == f]
        return scores[np.isfinite(scores)]

    def _telling(self, skill: str, weights: F64) -> tuple[str, ...]:
        words = sorted({w for item in self._items[skill] for w in _WORD.findall(item.lower())})
        hashed = _features(words)
        single = np.flatnonzero(np.diff(hashed.starts) == 1)  # a word that is cut into one term
        wanted = hashed.hashes[hashed.starts[single]]
        at = np.minimum(np.searchsorted(self._vocabulary, wanted), len(self._vocabulary) - 1)
        own = np.bincount(self._skills[skill].places, minlength=len(self._vocabulary))
        here = self._vocabulary[at] == wanted
        single, at = single[here], at[here]
        gain = own[at] * weights[at]
        order = np.lexsort((single, -gain))
        return tuple(words[i] for i in single[order[:_WORDS_SHOWN]])


def _features(texts: Sequence[str]) -> _Features:
    """Cut texts into words and pairs of neighbouring words, as hashes."""
    cuts = cut_terms(pa.array(texts, pa.large_string()))
    starts, words = cuts.term_offsets, cuts.term_hashes
    sizes = np.diff(starts)
    pairs = mix(words[:-1]) + words[1:] if len(words) else words
    bounds = np.concatenate([[0], np.cumsum(sizes + np.maximum(sizes - 1, 0))]).astype(np.int64)
    hashes = np.empty(bounds[-1], np.uint64)
    for i, n in enumerate(sizes.tolist()):
        a, b = int(starts[i]), int(bounds[i])
        hashes[b : b + n] = words[a : a + n]
        hashes[b + n : bounds[i + 1]] = pairs[a : a + max(n - 1, 0)]
    return _Features(bounds, hashes)


def _background(groups: Sequence[_Features]) -> tuple[U64, F64]:
    """All features, sorted, and the mean over the groups of the share each has in it."""
    tables = [np.unique(g.hashes, return_counts=True) for g in groups]
    vocabulary = np.unique(np.concatenate([t[0] for t in tables]))
    share = np.zeros(len(vocabulary))
    for hashes, counts in tables:
        if len(hashes):
            share[np.searchsorted(vocabulary, hashes)] += counts / counts.sum()
    return vocabulary, share / len(groups)


def _pool_quantile(groups: Sequence[F64], q: float) -> float:
    """The quantile of the finite scores of all groups, each group weighing the same."""
    groups = [x for x in (g[np.isfinite(g)] for g in groups) if len(x)]
    if not groups:
        return -np.inf
    values = np.concatenate(groups)
    weights = np.concatenate([np.full(len(g), 1.0 / len(g)) for g in groups])
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, q * len(groups))])
