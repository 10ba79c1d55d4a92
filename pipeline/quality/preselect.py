"""Labels from the losses of models of known strength (PreSelect, Shum et al. 2025, arXiv 2503.00808, section 2).

A document is predictive when models that are better at the benchmark also read it better: over all pairs of models,
the share in which the stronger one has the lower loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.quality.config import PreSelectConfig

if TYPE_CHECKING:
    import pyarrow as pa


def labels_from_losses(losses: NDArray[np.float64], strengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank agreement of each document: 1 where losses fall strictly as models get stronger, 0 where they rise.

    S(d) = share of the pairs (i weaker than j) with loss_i(d) > loss_j(d). Pairs of equally strong models do not
    count; equal losses do not agree.

    Args:
        losses: float [documents, models].
        strengths: float [models], a benchmark score each; higher is stronger.

    Returns:
        float64 [documents] in [0, 1]; NaN where a loss is not finite.

    Raises:
        ValueError: shapes that do not fit, a strength that is not finite, or no two different strengths.
    """
    losses, strengths = np.asarray(losses, np.float64), np.asarray(strengths, np.float64)
    if losses.ndim != 2 or losses.shape[1:] != strengths.shape:
        raise ValueError(f"losses {losses.shape} do not fit strengths {strengths.shape}")
    if not np.isfinite(strengths).all():
        raise ValueError("a strength is not finite")
    pairs = [
        (i, j) for i in range(len(strengths)) for j in range(len(strengths)) if strengths[i] < strengths[j]
    ]
    if not pairs:
        raise ValueError("no model is stronger than another")
    agreeing = np.zeros(len(losses), np.int64)
    for weak, strong in pairs:
        agreeing += losses[:, weak] > losses[:, strong]
    return np.where(np.isfinite(losses).all(axis=1), agreeing / len(pairs), np.nan)


def choose(
    scores: NDArray[np.float64], tie_break: NDArray[np.uint64], top_share: float, bottom_share: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the best and of the worst documents, each by (score, tie_break); NaN is never chosen.

    A score of few models takes few values, so the border runs through equal scores: there `tie_break` (a hash of the
    document) decides, which is as good as drawing.
    """
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.lexsort((tie_break[known], scores[known]))]
    bottom, top = round(bottom_share * len(order)), round(top_share * len(order))
    return order[len(order) - top :], order[:bottom]


def read_losses(config: PreSelectConfig) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """The table of losses.

    Returns:
        Document ids, losses float64 [documents, models] (NaN where empty), strengths float64 [models].

    Raises:
        UserError: the file is missing or no table, a column is missing or no number, or an id stands twice.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _read_table(config.losses)
    for column in ("doc_id", *config.strengths):
        if column not in table.column_names:
            raise UserError(
                f"{config.losses} has no column '{column}'{nearest(column, table.column_names)}; it has "
                f"{', '.join(table.column_names)}",
                fix="name a column of it for every model in preselect.strengths, beside doc_id",
            )
    for column in config.strengths:
        kind = table.schema.field(column).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise UserError(
                f"{config.losses}: the column '{column}' holds {kind}, not numbers", fix="write losses"
            )
    ids = table["doc_id"].cast(pa.string()).to_pylist()
    if len(set(ids)) != len(ids):
        twice = pc.value_counts(table["doc_id"].cast(pa.string())).to_pylist()
        worst = max(twice, key=lambda x: (x["counts"], x["values"] or ""))["values"]
        raise UserError(
            f"{config.losses}: the document {worst} has two rows", fix="keep one row per document"
        )
    columns = [table[c].cast(pa.float64()).to_numpy() for c in config.strengths]
    strengths = np.array(list(config.strengths.values()), np.float64)
    return ids, np.stack(columns, axis=1), strengths


def _read_table(path: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    from mixloom.pipeline.model_file import read_file

    data = pa.BufferReader(read_file(path, "the table of losses"))
    suffix = PurePosixPath(path).suffix.lower()
    try:
        if suffix == ".parquet":
            return pq.read_table(data)
        if suffix in (".csv", ".tsv"):
            types: Mapping[str, pa.DataType] = {"doc_id": pa.string()}
            parse = csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",")
            return csv.read_csv(
                data, parse_options=parse, convert_options=csv.ConvertOptions(column_types=types)
            )
    except pa.ArrowException as e:
        raise UserError(f"{path} cannot be read: {' '.join(str(e).split())}", fix="write it again") from None
    raise UserError(
        f"{path} is neither .parquet nor .csv nor .tsv", fix="give the table one of these suffixes"
    )
