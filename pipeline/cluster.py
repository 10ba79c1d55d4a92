"""Stage `cluster`: domains found in document vectors, and the cells inside them.

The method of c-BTM (Gururangan et al., arXiv 2303.14177, section 3.1): balanced k-means on unit vectors finds the
centres, documents then go to the plain nearest centre. `balance: strict` is that. By default groups are capped, not
equal (exact balance tears apart corpora whose sources differ in size), and start from a tree (pipeline/tree_start.py).

Where each function is called: `fit_domains` once per run on the sampled vectors; `Domains.assign` (through
`assign_batch`) per part, with the saved model as a side input. The report's measures are in pipeline/domain_report.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from mixloom.pipeline.cell_cuts import CellAxes, cell_keys, fit_axes
from mixloom.pipeline.cells import split_domain
from mixloom.pipeline.choose_k import KTried, choose_k
from mixloom.pipeline.cluster_config import ClusterConfig
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


@dataclass(frozen=True, eq=False)
class Domains:
    """Fitted domains 0..k-1 and the cells inside each; documents without text form the last domain, `no_text` = k.

    centres float32 [k, d]; cells float32 [m, d], grouped by domain; cell_starts int64 [k+1], domain j owns the cells
    cell_starts[j]..cell_starts[j+1]; cell m is that of the last domain. A cell may be cut into pieces by keys of its
    documents (`cell_cuts`): cut_keys uint64 [c], of cell i those at cut_starts[i]..cut_starts[i+1] (int64 [m+2]),
    ascending. Pieces are numbered on, cell by cell, and are what `assign` calls a cell.
    """

    config: ClusterConfig
    centres: np.ndarray
    cells: np.ndarray
    cell_starts: np.ndarray
    axes: CellAxes
    tried: tuple[KTried, ...]
    cut_keys: np.ndarray
    cut_starts: np.ndarray

    @property
    def k(self) -> int:
        return len(self.centres)

    @property
    def no_text(self) -> int:
        return self.k

    @property
    def cell_count(self) -> int:
        """Cells in all, those without text included."""
        return len(self.cells) + 1 + len(self.cut_keys)

    @property
    def names(self) -> tuple[str, ...]:
        """d000, d001, ..., no-text: one per domain."""
        return (*(f"d{j:03d}" for j in range(self.k)), NO_TEXT)

    def with_cuts(self, cuts: Mapping[int, Sequence[int]]) -> Domains:
        """The same domains, with these cells (0..m) cut at these keys (`KeyRanges.cuts`) and no others."""
        starts = np.zeros(len(self.cells) + 2, np.int64)
        np.cumsum([len(cuts.get(i, ())) for i in range(len(self.cells) + 1)], out=starts[1:])
        keys = np.array([key for i in sorted(cuts) for key in cuts[i]], np.uint64)
        return replace(self, cut_keys=keys, cut_starts=starts)

    def place(
        self, vectors: np.ndarray, has_text: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `assign`, with the cell before it is cut (0..m)."""
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

    def assign(
        self,
        vectors: np.ndarray,
        has_text: np.ndarray | None = None,
        doc_ids: Sequence[str] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(domain int32 [n], cell int32 [n], squared distance to the centre of the domain float32 [n]).

        Plain nearest centre, ties by the lower index; bits do not depend on the batch. A zero vector, or
        `has_text` bool [n] False, goes to the last domain at distance 0.

        Args:
            doc_ids: needed where a document falls into a cell that is cut.

        Raises:
            UserError: the vectors are not as long as the centres.
            ValueError: ids are needed and not given.
        """
        domain, cell, distance = self.place(vectors, has_text)
        before, after = self.cut_starts[cell], self.cut_starts[cell + 1]
        piece = np.zeros(len(cell), np.int64)
        rows = np.flatnonzero(after > before)
        if len(rows):
            if doc_ids is None:
                raise ValueError("cells of these domains are cut: doc_ids are needed to tell their pieces")
            ids = [doc_ids[i] for i in rows.tolist()]
            keys = cell_keys(np.asarray(vectors, np.float32)[rows], cell[rows], self.axes, ids)
            for i, key in zip(rows, keys, strict=True):
                piece[i] = np.searchsorted(self.cut_keys[before[i] : after[i]], key, side="right")
        return domain, (cell + before + piece).astype(np.int32), distance

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
        return cls(
            ClusterConfig.model_validate(content["config"]),
            arrays["centres"],
            arrays["cells"],
            arrays["cell_starts"],
            CellAxes(arrays["directions"], arrays["stretch"]),
            tuple(KTried(**t) for t in content["tried"]),
            arrays["cut_keys"],
            arrays["cut_starts"],
        )

    def _content(self) -> dict[str, object]:
        return {"config": self.config.model_dump(mode="json"), "tried": [asdict(t) for t in self.tried]}

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {
            name: getattr(self, name)
            for name in ("centres", "cells", "cell_starts", "cut_keys", "cut_starts")
        }
        return {**arrays, "directions": self.axes.directions, "stretch": self.axes.stretch}


def fit_domains(vectors: np.ndarray, config: ClusterConfig, *, documents: int | None = None) -> Domains:
    """Find domains and cells from sampled unit vectors float32 [n, d], in the order of `doc_id`; zero rows are ignored.

    Fewer distinct vectors than k give fewer domains. Cells are sized for `documents` documents in the whole corpus
    (default: n); every given vector helps to size them, so give at least twenty per expected cell.
    """
    total = len(vectors) if documents is None else documents
    vectors = np.ascontiguousarray(vectors, np.float32)
    scale = total / max(len(vectors), 1)
    vectors = vectors[vectors.any(axis=1)]
    centres, tried = np.zeros((0, vectors.shape[1]), np.float32), list[KTried]()
    cells = [centres]
    if len(vectors):
        rng = np.random.Generator(np.random.PCG64(config.seed))
        sample = vectors[draw(len(vectors), config.sample_documents, rng)]
        centres, tried = _centres(sample, config, rng)
        # A centre that is nearest to nobody is no domain.
        centres = centres[np.unique(nearest(vectors, centres)[0])]
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
    np.cumsum([len(c) for c in cells[: len(centres)]], out=starts[1:])
    cell_centres = np.concatenate(cells)
    axes = CellAxes.none(*cell_centres.shape)
    if len(vectors) and total > config.max_cell:  # only then can a cell be too large
        within = nearest_within(vectors, cell_centres, labels, starts)[0]
        axes = fit_axes(vectors, within, len(cell_centres))
    none = np.zeros(0, np.uint64)
    no_cuts = np.zeros(len(cell_centres) + 2, np.int64)
    return Domains(config, centres, cell_centres, starts, axes, tuple(tried), none, no_cuts)


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
    ids = batch.column("doc_id").to_pylist() if len(domains.cut_keys) else None
    domain, cell, distance = domains.assign(vectors_of(batch), text, ids)
    columns = [
        batch.column("doc_id"),
        batch.column("row"),
        pa.array(domain),
        pa.array(cell),
        pa.array(distance),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=DOMAINS)
