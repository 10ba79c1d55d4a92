"""An order of the cells of one domain in which neighbouring cells are alike.

Called by the stage `pack`, once per domain, to join what is left over at the end of one cell with the next.
"""

from __future__ import annotations

import numpy as np

from mixloom.pipeline.joining import join
from mixloom.pipeline.linking import Fragments


def cell_path(centres: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Cells in an order that makes the cosines of neighbours large: a permutation int64 [m] of 0..m-1.

    The greedy linking of pipeline/linking.py over the centres: among all pairs up to 300 cells, among nearest
    neighbours beyond. Ties go to the lower index, and of the two directions of the path the one that begins at the lower
    index is given. Cells without documents or with a zero centre come last.

    Args:
        centres: float32 [m, d], of any length; nan is not allowed.
        sizes: int64 [m], documents in each cell.

    Raises:
        ValueError: the lengths differ, or a centre is not finite.
    """
    if len(centres) != len(sizes):
        raise ValueError(f"{len(centres)} centres for {len(sizes)} sizes")
    x = np.array(centres, np.float32)
    if not np.isfinite(x).all():
        raise ValueError("a centre is not finite")
    norm = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    x = (x / np.where(norm > 0, norm, 1)).astype(np.float32)
    filled = np.flatnonzero((np.asarray(sizes) > 0) & x.any(axis=1))
    path = filled[join(np.ascontiguousarray(x[filled]), Fragments.single(len(filled)))]
    rest = np.ones(len(x), bool)
    rest[filled] = False
    return np.concatenate([path, np.flatnonzero(rest)])
