"""Document vectors from words alone: tf-idf, truncated SVD, unit length.

The features of c-BTM (Gururangan et al., arXiv 2303.14177, section 3.1): tokens that begin with a digit and
English stop words are left out, tf-idf, SVD, L2.

Where it is called: `TfidfSvd.fit_counts` once per run on the counts of a sample of documents (the fit step of stage
`embed`, see `tfidf_sample`); `TfidfSvd.embed` once per part, through `embed.embed_batch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from mixloom.pipeline.embed import text_column
from mixloom.pipeline.embed_config import TfidfConfig
from mixloom.pipeline.model_store import header_of, read_model, write_model
from mixloom.pipeline.one_thread import one_thread
from mixloom.pipeline.projection import project, tfidf_weights
from mixloom.pipeline.term_token_kernel import known_terms, term_table
from mixloom.pipeline.term_tokens import cut_tokens
from mixloom.pipeline.tfidf_counts import candidates, choose_terms, count_matrix, count_texts

KIND = "tfidf-svd"


@dataclass(frozen=True, eq=False)
class TfidfSvd:
    """A fitted embedder. `components` float32 [terms, dim], `idf` float64 [terms], `terms` in their order."""

    config: TfidfConfig
    terms: tuple[str, ...]
    idf: np.ndarray
    components: np.ndarray
    seed: int = 0

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.config.dim

    @classmethod
    def fit(cls, texts: Sequence[str], config: TfidfConfig, seed: int = 0) -> TfidfSvd:
        """Fit on texts, taken in the order given (hand them over in the order of `doc_id`).

        Fewer documents or terms than `dim` leave the last columns zero; an empty corpus gives a model that
        maps everything to zero. Bits do not depend on the number of threads.
        """
        ids = pa.nulls(len(texts), pa.string()).fill_null("")
        counted, frequencies = count_texts(ids, pa.array(texts, pa.large_string()), config.max_characters)
        found = candidates(frequencies, len(texts), config)
        if not found.num_rows:
            found = candidates(frequencies, len(texts), config, limits=False)
        return cls.fit_counts(counted, choose_terms([found], config), config, seed)

    @classmethod
    def fit_counts(cls, counted: pa.Table, terms: pa.Table, config: TfidfConfig, seed: int = 0) -> TfidfSvd:
        """Fit on counted documents (`tfidf_counts.COUNTED`), in the order given, and the terms chosen for them."""
        df = np.asarray(terms["df"]).astype(np.float64)
        # Smoothed as in scikit-learn: as if one more document held every term.
        idf = np.log((1.0 + counted.num_rows) / (1.0 + df)) + 1.0
        columns, counts, rows = count_matrix(counted, terms)
        weights = tfidf_weights(columns, counts, rows, idf, config.sublinear_tf)
        components = _svd(columns, weights, rows, len(idf), config, seed)
        return cls(config, tuple(terms["word"].to_pylist()), idf, components, seed)

    def embed(self, documents: pa.RecordBatch) -> np.ndarray:
        """Unit or zero vectors of the words of n documents (column `segments`), float32 [n, dim]."""
        return self._vectors(text_column(documents))

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [n, dim]; a zero row for a text with no known term, or none the SVD kept any of.

        A text gives the same bits alone or in any batch: each row is summed on its own, in term order.
        """
        return self._vectors(pa.array(texts, pa.large_string()))

    def _vectors(self, texts: pa.Array) -> np.ndarray:
        tokens = cut_tokens(texts, self.config.max_characters)
        flat, starts = known_terms(tokens.hashes, tokens.offsets, *self._table)
        return project(flat, starts, self.idf, self.components, self.config.sublinear_tf)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Where to find a term by its hash. Every term is one token, so cutting them all gives a hash each."""
        table: tuple[np.ndarray, np.ndarray] = term_table(
            cut_tokens(pa.array(self.terms, pa.large_string()), self.config.max_characters).hashes
        )
        return table

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
        config = TfidfConfig.model_validate(content["config"])
        return cls(config, tuple(content["terms"]), arrays["idf"], arrays["components"], content["seed"])

    def _content(self) -> dict[str, object]:
        return {"config": self.config.model_dump(mode="json"), "terms": list(self.terms), "seed": self.seed}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"idf": self.idf, "components": self.components}


def _svd(
    columns: np.ndarray, weights: np.ndarray, rows: np.ndarray, terms: int, config: TfidfConfig, seed: int
) -> np.ndarray:
    """Right singular vectors as float32 [terms, dim], signs fixed, zero columns beyond the rank."""
    from scipy.sparse import csr_array
    from sklearn.utils.extmath import randomized_svd

    components = np.zeros((terms, config.dim), np.float32)
    if not len(weights):
        return components
    matrix = csr_array((weights, columns, rows), shape=(len(rows) - 1, terms))
    rank = min(config.dim, *matrix.shape)
    with one_thread():
        _, values, vt = randomized_svd(
            matrix,
            rank,
            n_oversamples=20,
            n_iter=config.power_iterations,
            power_iteration_normalizer="QR",
            flip_sign=False,
            random_state=seed,
        )
    real = values > values[0] * 1e-7  # directions of rounding noise would be blown up to unit length
    vt = vt[real]
    largest = np.take_along_axis(vt, np.argmax(np.abs(vt), axis=1)[:, None], axis=1)
    components[:, : len(vt)] = (vt * np.where(largest < 0, -1.0, 1.0)).T
    return components
