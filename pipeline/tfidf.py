"""Document vectors from words alone: tf-idf, truncated SVD, unit length.

The features of c-BTM (Gururangan et al., arXiv 2303.14177, section 3.1): tokens that begin with a digit and
English stop words are left out, tf-idf, SVD, L2.

Where it is called: `TfidfSvd.fit` once per run on a sample of documents (the fit step of stage `embed`);
`TfidfSvd.transform` once per part, through `embed.embed_batch`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mixloom.pipeline.model_store import header_of, read_model, write_model
from mixloom.pipeline.one_thread import one_thread
from mixloom.pipeline.projection import project, tfidf_rows

KIND = "tfidf-svd"

# Scripts written without spaces (kana, Han, Thai, Lao, Myanmar, Khmer) are cut into single characters:
# a whole sentence would otherwise be one word that never occurs twice.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ffff"
)
_TOKEN = re.compile(rf"[{_UNSPACED}]|(?<![^\W{_UNSPACED}])[^\W\d{_UNSPACED}][^\W{_UNSPACED}]+")


class EmbedConfig(BaseModel):
    """Settings of the tf-idf + SVD embedder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(100, ge=1, le=4096, description="length of a document vector")
    vocabulary: int = Field(50_000, ge=1, description="most terms kept; the ones in most documents stay")
    min_df: int = Field(2, ge=1, description="a term must occur in at least this many sampled documents")
    max_df: float = Field(0.5, gt=0, le=1, description="a term may occur in at most this share of them")
    stop_words: Literal["english", "none"] = Field("english", description="list of words left out")
    sublinear_tf: bool = Field(True, description="count a term as 1 + ln(count) instead of its count")
    max_characters: int = Field(100_000, ge=1, description="characters of a document that are read")
    sample_documents: int = Field(50_000, ge=1, description="documents the model is fitted on")
    power_iterations: int = Field(5, ge=0, le=50, description="power iterations of the randomised SVD")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the sample and of the randomised SVD")


def tokens(text: str) -> list[str]:
    """Lower-case words of two characters or more that do not begin with a digit.

    Numbers are one symbol to c-BTM, and that symbol is a stop word: they are left out. In scripts written
    without spaces every character is a token.
    """
    return _TOKEN.findall(text.lower())


class _TermIds(dict[str, int]):
    """Token to term id, -1 for every token that is no term."""

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__((t, i) for i, t in enumerate(terms))

    def __missing__(self, token: str) -> int:
        return -1

    def __reduce__(self) -> tuple[object, ...]:
        return (_TermIds, (list(self),))


def choose_terms(texts: Iterable[str], config: EmbedConfig) -> tuple[list[str], np.ndarray]:
    """Terms in alphabetical order, and the number of documents (int64) that hold each.

    Limits by document frequency come first, then the `vocabulary` most frequent, ties by the term. When the
    limits leave nothing (two documents, say), they are lifted: a tiny corpus still gets vectors.
    """
    df: Counter[str] = Counter()
    n = 0
    for text in texts:
        df.update(set(tokens(text[: config.max_characters])))
        n += 1
    if config.stop_words == "english":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        for word in sorted(ENGLISH_STOP_WORDS):
            df.pop(word, None)
    within = [(c, t) for t, c in df.items() if config.min_df <= c <= config.max_df * n]
    chosen = sorted(within or [(c, t) for t, c in df.items()], key=lambda x: (-x[0], x[1]))[
        : config.vocabulary
    ]
    chosen.sort(key=lambda x: x[1])
    return [t for _, t in chosen], np.array([c for c, _ in chosen], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class TfidfSvd:
    """A fitted embedder. `components` float32 [terms, dim], `idf` float64 [terms], `terms` in their order."""

    config: EmbedConfig
    terms: tuple[str, ...]
    idf: np.ndarray
    components: np.ndarray
    _ids: _TermIds = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", _TermIds(self.terms))

    @classmethod
    def fit(cls, texts: Sequence[str], config: EmbedConfig) -> TfidfSvd:
        """Fit on texts, taken in the order given (hand them over in the order of `doc_id`).

        Fewer documents or terms than `dim` leave the last columns zero; an empty corpus gives a model that
        maps everything to zero. Bits do not depend on the number of threads.
        """
        terms, df = choose_terms(texts, config)
        # Smoothed as in scikit-learn: as if one more document held every term.
        idf = np.log((1.0 + len(texts)) / (1.0 + df.astype(np.float64))) + 1.0
        empty = cls(config, tuple(terms), idf, np.zeros((len(terms), config.dim), np.float32))
        if not terms:
            return empty
        flat, starts = empty._term_ids(texts)
        columns, weights, rows = tfidf_rows(flat, starts, idf, config.sublinear_tf)
        components = _svd(columns, weights, rows, len(terms), config)
        return cls(config, tuple(terms), idf, components)

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [n, dim]; a zero row for a text with no known term, or none the SVD kept any of.

        A text gives the same bits alone or in any batch: each row is summed on its own, in term order.
        """
        flat, starts = self._term_ids(texts)
        return project(flat, starts, self.idf, self.components, self.config.sublinear_tf)

    def _term_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Term ids of all texts in a row, sorted inside each text (int32), and where each text starts (int64 [n+1])."""
        look, cap = self._ids.__getitem__, self.config.max_characters
        rows = [np.fromiter(map(look, tokens(text[:cap])), dtype=np.int32) for text in texts]
        rows = [np.sort(r[r >= 0]) for r in rows]
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(r) for r in rows], out=starts[1:])
        return (np.concatenate(rows) if rows else np.zeros(0, np.int32)), starts

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over settings, terms and arrays: equal models, equal vectors."""
        return str(header_of(KIND, self._content(), self._arrays())["fingerprint"])

    def save(self, directory: str | Path) -> None:
        """Write `model.json`, `idf.npy` and `components.npy`; byte-deterministic."""
        write_model(directory, KIND, self._content(), self._arrays())

    @classmethod
    def load(cls, directory: str | Path) -> TfidfSvd:
        """Read a saved model. Raises UserError when it is not one, incomplete or changed."""
        content, arrays = read_model(directory, KIND)
        config = EmbedConfig.model_validate(content["config"])
        return cls(config, tuple(content["terms"]), arrays["idf"], arrays["components"])

    def _content(self) -> dict[str, object]:
        return {"config": self.config.model_dump(mode="json"), "terms": list(self.terms)}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"idf": self.idf, "components": self.components}


def _svd(
    columns: np.ndarray, weights: np.ndarray, rows: np.ndarray, terms: int, config: EmbedConfig
) -> np.ndarray:
    """Right singular vectors as float32 [terms, dim], signs fixed, zero columns beyond the rank."""
    from scipy.sparse import csr_array
    from sklearn.utils.extmath import randomized_svd

    matrix = csr_array((weights, columns, rows), shape=(len(rows) - 1, terms))
    rank = min(config.dim, *matrix.shape)
    components = np.zeros((terms, config.dim), np.float32)
    if matrix.nnz == 0:
        return components
    with one_thread():
        _, values, vt = randomized_svd(
            matrix,
            rank,
            n_oversamples=20,
            n_iter=config.power_iterations,
            power_iteration_normalizer="QR",
            flip_sign=False,
            random_state=config.seed,
        )
    real = values > values[0] * 1e-7  # directions of rounding noise would be blown up to unit length
    vt = vt[real]
    largest = np.take_along_axis(vt, np.argmax(np.abs(vt), axis=1)[:, None], axis=1)
    components[:, : len(vt)] = (vt * np.where(largest < 0, -1.0, 1.0)).T
    return components
