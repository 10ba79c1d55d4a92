"""Fit a quality classifier the DCLM way: fastText on good against ordinary documents (Li et al. 2024, arXiv 2406.11794).

Which documents are taken, and which of them train, calibrate and test, is decided by a hash of their text: the same
text never stands on both sides, and neither the order of files nor the number of sources changes a choice.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline.console import Console
from mixloom.pipeline.doc_ids import mix
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.quality import metrics
from mixloom.pipeline.quality.calibration import Calibration, fit_calibration
from mixloom.pipeline.quality.classifier import FORMAT_VERSION, HEADER, LABEL, MODEL, Classifier
from mixloom.pipeline.quality.config import FastTextConfig, QualityFitConfig
from mixloom.pipeline.quality.examples import BATCH, Examples, gather
from mixloom.pipeline.storage import Store, sha256_hex

LEAST_TRAINING, LEAST_HELD_OUT = 20, 5  # documents of each class
_ROC_POINTS = 200  # kept of the curve


@dataclass(frozen=True, slots=True)
class Splits:
    """Indices into the examples, int64 each, in the order in which they are used."""

    train: NDArray[np.int64]
    calibration: NDArray[np.int64]
    test: NDArray[np.int64]
    left_out: int  # by balance and max_documents


def split_examples(examples: Examples, config: QualityFitConfig) -> Splits:
    """Choose, balance and split by hashes of the texts.

    Raises:
        UserError: a class is too small for one of the splits.
    """
    seed = np.uint64(config.seed)
    hi, lo = examples.digest[:, 0], examples.digest[:, 1]
    rank = mix(hi ^ mix(np.uint64(3) + (seed << np.uint64(2)) + np.zeros(1, np.uint64)))
    place = mix(lo ^ mix(np.uint64(1) + (seed << np.uint64(2)) + np.zeros(1, np.uint64)))
    order = np.lexsort((lo, hi, rank))
    classes = [order[examples.positive[order] == kind] for kind in (True, False)]
    most = min(map(len, classes)) if config.balance else max(map(len, classes))
    most = min(most, config.max_documents or most)
    kept = np.zeros(len(order), np.bool_)
    for members in classes:
        kept[members[:most]] = True
    chosen = order[kept[order]]
    share = (place[chosen] >> np.uint64(11)).astype(np.float64) / 2.0**53
    held = config.test_share + config.calibration_share
    out = Splits(
        chosen[share >= held],
        chosen[(share >= config.test_share) & (share < held)],
        chosen[share < config.test_share],
        len(order) - len(chosen),
    )
    for name, rows, least in (
        ("training", out.train, LEAST_TRAINING),
        ("calibration", out.calibration, LEAST_HELD_OUT),
        ("test", out.test, LEAST_HELD_OUT),
    ):
        for kind, word in ((True, "positives"), (False, "negatives")):
            n = int((examples.positive[rows] == kind).sum())
            if n < least:
                raise UserError(
                    f"only {n} {word} are left for {name}, and {least} are needed ({len(classes[0])} distinct "
                    f"positives and {len(classes[1])} negatives were read)",
                    fix="give more documents, or change test_share and calibration_share",
                )
    return out


def fit_quality(config: QualityFitConfig, console: Console) -> dict[str, Any]:
    """Read the examples, train, calibrate, test, and write the model folder.

    Writes model.bin, report.html and, last, quality.json into `config.out`.

    Returns:
        The content of quality.json.

    Raises:
        UserError: a source is missing or too small, or the classes cannot be told apart.
    """
    from mixloom.pipeline.quality.report import report_page

    store = Store.at(config.out)
    with tempfile.TemporaryDirectory(prefix="mixloom-quality-") as folder:
        examples = gather(config, Path(folder, "texts"))
        splits = split_examples(examples, config)
        console.say(
            f"{len(splits.train)} documents to train on, {len(splits.calibration)} to calibrate, "
            f"{len(splits.test)} to test ({splits.left_out} left out)"
        )
        data = train_fasttext(examples, splits.train, config, Path(folder))
        classifier = _uncalibrated(data, config)
        scores = {
            name: score_examples(classifier, examples, rows)
            for name, rows in (("calibration", splits.calibration), ("test", splits.test))
        }
        calibration = fit_calibration(
            scores["calibration"], examples.positive[splits.calibration], config.calibration
        )
        header = _header(config, examples, splits, scores["test"], calibration)
    header["sha256"] = sha256_hex(data)
    store.write(MODEL, data)
    store.write("report.html", report_page(header).encode("utf-8"))
    store.write_json(HEADER, header)
    return header


def train_fasttext(
    examples: Examples, rows: NDArray[np.int64], config: QualityFitConfig, folder: Path
) -> bytes:
    """Train on some examples, in the order given; returns the bytes of the model's file.

    Raises:
        UserError: fastText diverged, found no word, or has too few rows to quantise.
    """
    import fasttext

    file, f = folder / "train.txt", config.fasttext
    names = (config.negative_label, config.positive_label)
    with file.open("wb") as out:
        for start in range(0, len(rows), BATCH):
            block = rows[start : start + BATCH]
            for text, positive in zip(
                examples.texts(block).to_pylist(), examples.positive[block], strict=True
            ):
                out.write(f"{LABEL}{names[int(positive)]} {text}\n".encode())
    try:
        model = fasttext.train_supervised(
            str(file), dim=f.dim, epoch=f.epochs_for(len(rows)), lr=f.lr, wordNgrams=f.word_ngrams, minCount=f.min_count,
            bucket=f.bucket, minn=f.min_chars, maxn=f.max_chars, loss="softmax", thread=1, seed=config.seed, verbose=0,
        )  # fmt: skip
        if f.quantize:
            model.quantize(verbose=0)
        model.save_model(str(folder / MODEL))
    except (RuntimeError, ValueError) as e:
        raise UserError(f"fastText could not be trained: {e}", fix=_advice(str(e), f)) from None
    return (folder / MODEL).read_bytes()


def _advice(error: str, f: FastTextConfig) -> str:
    if "NaN" in error:
        return f"lower fasttext.lr (it is {f.lr})"
    if "quantization" in error:
        return "leave out fasttext.quantize: the model is too small for it"
    return f"lower fasttext.min_count (it is {f.min_count}), or give more documents"


def _uncalibrated(data: bytes, config: QualityFitConfig) -> Classifier:
    from mixloom.pipeline.fasttext_model import FastTextModel

    model = FastTextModel.from_bytes(data, MODEL)
    return Classifier(LABEL + config.positive_label, config.normalisation, None, sha256_hex(data), model)


def score_examples(
    classifier: Classifier, examples: Examples, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Raw scores, float32 [rows], of spooled (so normalised) texts."""
    blocks = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return np.concatenate([classifier.score_normalised(examples.texts(b)) for b in blocks])


def _header(
    config: QualityFitConfig,
    examples: Examples,
    splits: Splits,
    scores: NDArray[np.float32],
    calibration: Calibration,
) -> dict[str, Any]:
    positive, source = examples.positive[splits.test], examples.source[splits.test]
    fpr, tpr, auc = metrics.roc(scores, positive)
    probability = calibration.probability(scores)
    raw_groups, groups = metrics.reliability(scores, positive), metrics.reliability(probability, positive)
    every = max(1, -(-len(fpr) // _ROC_POINTS))
    points = sorted({*range(0, len(fpr), every), len(fpr) - 1})
    return {
        "format": FORMAT_VERSION,
        "positive": LABEL + config.positive_label,
        "labels": [LABEL + config.positive_label, LABEL + config.negative_label],
        "normalisation": config.normalisation.model_dump(mode="json"),
        "calibration": calibration.to_json(),
        "fasttext": config.fasttext.model_dump(mode="json")
        | {"epochs": config.fasttext.epochs_for(len(splits.train))},
        "seed": config.seed,
        "counts": examples.counts | {"left_out": splits.left_out},
        "splits": {
            name: {
                "positives": int(examples.positive[rows].sum()),
                "negatives": int((~examples.positive[rows]).sum()),
            }
            for name, rows in (
                ("train", splits.train), ("calibration", splits.calibration), ("test", splits.test)
            )
        },
        "metrics": {
            "auc": _round(auc),
            "calibration_error": _round(metrics.calibration_error(groups)),
            "calibration_error_raw": _round(metrics.calibration_error(raw_groups)),
            "brier": _round(metrics.brier(probability, positive)),
            "brier_raw": _round(metrics.brier(scores, positive)),
        },
        "roc": [[_round(fpr[i]), _round(tpr[i])] for i in points],
        "reliability": {"calibrated": _rounded(groups), "raw": _rounded(raw_groups)},
        "histograms": metrics.histograms(scores, source, examples.sources),
        "thresholds": _rounded(metrics.thresholds(scores[~positive], scores[positive])),
        "versions": {p: version(p) for p in ("fasttext-community", "mixloom", "scikit-learn")},
    }  # fmt: skip


def _round(value: float) -> float:
    return float(f"{value:.9g}")


def _rounded(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: _round(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
