"""Score the documents of a run, outside of its stages: to look before `annotate.quality` makes it a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline.quality import metrics
from mixloom.pipeline.quality.classifier import Classifier
from mixloom.pipeline.quality.examples import run_batches

SCORES = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("score", pa.float32()),  # null: the document has no word
        pa.field("probability", pa.float32()),  # null too where the model has no calibration
    ]
)


@dataclass(frozen=True, slots=True)
class Applied:
    """Scores of n documents (table of `SCORES`), and what they come to.

    histograms: documents in equal intervals of the score, by source. thresholds: see `metrics.thresholds`.
    """

    table: pa.Table
    row_groups: list[int]
    histograms: dict[str, list[int]]
    thresholds: list[dict[str, float]]

    def summary(self) -> list[dict[str, Any]]:
        """One row per source: documents, documents without words, mean score, histogram."""
        out = []
        source = np.asarray(self.table["source"].to_pylist(), object)
        score = _numpy(self.table["score"])
        for name, counts in self.histograms.items():
            own = score[source == name]
            known = own[~np.isnan(own)]
            mean = float(known.mean(dtype=np.float64)) if len(known) else None
            out.append(
                {
                    "source": name,
                    "documents": len(own),
                    "without_words": len(own) - len(known),
                    "mean": mean,
                    "histogram": counts,
                }
            )
        return out


def _numpy(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return column.cast(pa.float64()).to_numpy()


def apply_quality(classifier: Classifier, run_dir: str, survivors: str | None = None) -> Applied:
    """Score every document of a run's ingest (or those left after a stage), in order.

    Raises:
        UserError: no run there, or the stage is missing or decides nothing.
    """
    tables = []
    for batch in run_batches(run_dir, None, survivors):
        scores = classifier.score(batch.texts)
        unknown = np.isnan(scores)
        calibrated = classifier.calibration is not None
        probability = classifier.probability(scores) if calibrated else np.zeros(len(scores), np.float32)
        columns = [
            pa.array(batch.ids, pa.string()),
            pa.array(batch.names, pa.string()),
            pa.array(scores, pa.float32(), mask=unknown),
            pa.array(probability, pa.float32(), mask=unknown | (not calibrated)),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=SCORES))
    table = pa.concat_tables(tables) if tables else SCORES.empty_table()
    names = sorted(set(table["source"].to_pylist()))
    index = {name: k for k, name in enumerate(names)}
    source = np.array([index[s] for s in table["source"].to_pylist()], np.int64)
    score = _numpy(table["score"])
    return Applied(
        table,
        [t.num_rows for t in tables],
        metrics.histograms(score, source, names),
        metrics.thresholds(score),
    )
