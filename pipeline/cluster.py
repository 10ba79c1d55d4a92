"""Stage `cluster`: domains found in document vectors, and the cells inside them.

The method of c-BTM (Gururangan et al., arXiv 2303.14177, section 3.1): balanced k-means on unit vectors finds the
centres, documents then go to the plain nearest centre. `balance: strict` is that. By default groups are capped, not
equal (exact balance tears apart corpora whose sources differ in size), and start from a tree (pipeline/tree_start.py).

Where each function is called: `fit_domains` once per run on the sampled vectors; `Domains.assign` (through
`assign_batch`) per part, with the saved model as a side input. The report's measures are in pipeline/domain_report.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from mixloom.pipeline.cells import split_domain
from mixloom.pipeline.choose_k import KTried, choose_k
from mixloom.pipeline.distances import nearest, nearest_within
from mixloom.pipeline.embed import vectors_of
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.kmeans import Start, draw, fit_centres, means
from mixloom.pipeline.model_store import header_of, read_model, write_model

KIND = "domains"
NO_TEXT = "no-text"

DOMAINS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("domain", pa.int32(), nullable=False),
        pa.field("cell", pa.int32(), nullable=False),
        pa.field(
            "distance", pa.float32(), nullable=False
        ),  # squared, to the centre of the domain; 0.0 without text
    ]
)


class ClusterConfig(BaseModel):
    """Settings of domain discovery."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        16, description="number of domains, or 'auto' for the best of `k_grid`"
    )
    k_grid: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (4, 8, 12, 16, 24, 32, 48, 64),
        description="numbers tried when k is 'auto'; the highest mean silhouette wins",
    )
    sample_documents: int = Field(
        50_000, ge=1, description="most vectors the domain centres are estimated from"
    )
    iterations: int = Field(20, ge=1, description="most rounds of balanced k-means")
    restarts: int = Field(
        10, ge=1, description="random starts that compete; none are needed for `capped` and up to 500 domains"
    )
    balance: Literal["capped", "strict"] = Field(
        "capped",
        description="while centres are estimated. capped: no group above `max_share`; strict: equal groups (c-BTM)",
    )
    max_share: float = Field(
        2.0, ge=1, description="most a group may hold while centres are estimated, in equal shares (capped)"
    )
    tolerance: float = Field(
        1e-3, ge=0, description="stop when the squared shift of all centres is below this"
    )
    max_cell: int = Field(50_000, ge=2, description="documents a cell may be expected to hold")
    min_cell: int = Field(
        50, ge=0, description="cells expected to hold fewer are merged into their neighbours"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the sample and of the starts")


@dataclass(frozen=True, eq=False)
class Domains:
    """Fitted domains 0..k-1 and the cells inside each; documents without text form the last domain, `no_text` = k.

    centres float32 [k, d]; cells float32 [m, d], grouped by domain; cell_starts int64 [k+1], domain j owns the cells
    cell_starts[j]..cell_starts[j+1]; the one cell of the last domain is m.
    """

    config: ClusterConfig
    centres: np.ndarray
    cells: np.ndarray
    cell_starts: np.ndarray
    tried: tuple[KTried, ...] = ()

    @property
    def k(self) -> int:
        return len(self.centres)

    @property
    def no_text(self) -> int:
        return self.k

    @property
    def cell_count(self) -> int:
        """Cells in all, the one without text included."""
        return len(self.cells) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """d000, d001, ..., no-text: one per domain."""
        return (*(f"d{j:03d}" for j in range(self.k)), NO_TEXT)

    def assign(
        self, vectors: np.ndarray, has_text: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(domain int32 [n], cell int32 [n], squared distance to the centre of the domain float32 [n]).

        Plain nearest centre, ties by the lower index; bits do not depend on the batch. A zero vector, or
        `has_text` bool [n] False, goes to the last domain at distance 0.

        Raises:
            UserError: the vectors are not as long as the centres.
        """
        if vectors.shape[1] != self.centres.shape[1]:
            what = f"vectors have {vectors.shape[1]} numbers, and these domains were fitted on {self.centres.shape[1]}"
            raise UserError(what, fix="fit the domains again on vectors of the same embedder")
        n = len(vectors)
        text = vectors.any(axis=1) if has_text is None else has_text.astype(bool) & vectors.any(axis=1)
        domain, cell = np.full(n, self.no_text, np.int32), np.full(n, len(self.cells), np.int32)
        distance = np.zeros(n, np.float32)
        if self.k and text.any():
            domain[text], distance[text] = nearest(vectors[text], self.centres)
            cell[text] = nearest_within(vectors[text], self.cells, domain[text], self.cell_starts)[0]
        return domain, cell, distance

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over settings and arrays."""
        return str(header_of(KIND, self._content(), self._arrays())["fingerprint"])

    def save(self, directory: str | Path) -> None:
        """Write `model.json` and `.npy` arrays; byte-deterministic."""
        write_model(directory, KIND, self._content(), self._arrays())

    @classmethod
    def load(cls, directory: str | Path) -> Domains:
        """Read saved domains. Raises UserError when they are none, incomplete or changed."""
        content, arrays = read_model(directory, KIND)
        config = ClusterConfig.model_validate(content["config"])
        tried = tuple(KTried(**t) for t in content["tried"])
        return cls(config, arrays["centres"], arrays["cells"], arrays["cell_starts"], tried)

    def _content(self) -> dict[str, object]:
        return {"config": self.config.model_dump(mode="json"), "tried": [asdict(t) for t in self.tried]}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"centres": self.centres, "cells": self.cells, "cell_starts": self.cell_starts}


def fit_domains(vectors: np.ndarray, config: ClusterConfig, *, documents: int | None = None) -> Domains:
    """Find domains and cells from sampled unit vectors float32 [n, d], in the order of `doc_id`; zero rows are ignored.

    Fewer distinct vectors than k give fewer domains. Cells are sized for `documents` documents in the whole corpus
    (default: n); every given vector helps to size them, so give at least twenty per expected cell.
    """
    total = len(vectors) if documents is None else documents
    vectors = np.ascontiguousarray(vectors, np.float32)
    scale = total / max(len(vectors), 1)
    vectors = vectors[vectors.any(axis=1)]
    if len(vectors) == 0:
        none = np.zeros((0, vectors.shape[1]), np.float32)
        return Domains(config, none, none, np.zeros(1, np.int64))
    rng = np.random.Generator(np.random.PCG64(config.seed))
    sample = vectors[draw(len(vectors), config.sample_documents, rng)]
    centres, tried = _centres(sample, config, rng)
    labels = nearest(vectors, centres)[0]
    centres = centres[np.unique(labels)]  # a centre that is nearest to nobody is no domain
    labels = nearest(vectors, centres)[0]
    cells = [
        split_domain(
            vectors[labels == j],
            documents=scale * int((labels == j).sum()),
            max_cell=config.max_cell,
            min_cell=config.min_cell,
            iterations=config.iterations,
            rng=rng,
        )
        for j in range(len(centres))
    ]
    starts = np.zeros(len(centres) + 1, np.int64)
    np.cumsum([len(c) for c in cells], out=starts[1:])
    return Domains(config, centres, np.concatenate(cells), starts, tuple(tried))


def _centres(
    sample: np.ndarray, config: ClusterConfig, rng: np.random.Generator
) -> tuple[np.ndarray, list[KTried]]:
    """Centres float32 [at most k, d] from sampled vectors, and what was tried to find k."""
    strict = config.balance == "strict"
    k, tried = config.k, list[KTried]()
    iterations, restarts, tolerance = config.iterations, config.restarts, config.tolerance
    if k == "auto":
        share = None if strict else config.max_share
        k, tried = choose_k(sample, config.k_grid, iterations=iterations, rng=rng, max_share=share)
    if strict:
        centres = fit_centres(
            sample, k, iterations=iterations, restarts=restarts, rng=rng, tolerance=tolerance
        )
        return centres, tried
    start = Start.draw(sample, k, rng)
    centres = start.centres(
        k,
        max_share=config.max_share,
        iterations=iterations,
        restarts=restarts,
        rng=rng,
        tolerance=tolerance,
    )
    if len(start.points) < len(sample):  # once more from all of it: a mean of more vectors
        centres = means(sample, nearest(sample, centres)[0], centres)
    return centres, tried


def assign_batch(domains: Domains, batch: pa.RecordBatch) -> pa.RecordBatch:
    """A DOMAINS batch for a VECTORS batch, same documents in the same order."""
    text = batch.column("has_text").to_numpy(zero_copy_only=False)
    domain, cell, distance = domains.assign(vectors_of(batch), text)
    columns = [
        batch.column("doc_id"),
        batch.column("row"),
        pa.array(domain),
        pa.array(cell),
        pa.array(distance),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=DOMAINS)
