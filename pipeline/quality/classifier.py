"""A fitted classifier: a folder of `mixloom quality fit`, or a bare fastText file with the label that is good."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.model_file import read_file
from mixloom.pipeline.quality.calibration import Calibration
from mixloom.pipeline.quality.config import Normalisation, QualityModelConfig
from mixloom.pipeline.storage import Store, sha256_hex

if TYPE_CHECKING:
    from mixloom.pipeline.fasttext_model import FastTextModel

HEADER, MODEL = "quality.json", "model.bin"
LABEL = "__label__"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Classifier:
    """Scores documents. Immutable: threads of a process may share one.

    label: the label whose probability is the score. sha256: of the model's file.
    """

    label: str
    normalisation: Normalisation
    calibration: Calibration | None
    sha256: str
    _model: FastTextModel = field(repr=False)

    @classmethod
    def load(
        cls, path: str, label: str | None = None, normalisation: Normalisation | None = None
    ) -> Classifier:
        """Load a model folder, or a bare `.bin` or `.ftz` whose positive label is declared.

        Args:
            path: path or URL.
            label: of a bare file, with or without `__label__`; a folder has its own.
            normalisation: of a bare file; default: nothing is changed.

        Raises:
            UserError: nothing there, a changed file, no classifier, or a label the model does not have.
        """
        from mixloom.pipeline.fasttext_model import FastTextModel

        if path.rstrip("/").endswith((".bin", ".ftz")):
            data = read_file(path)
            model = FastTextModel.from_bytes(data, path)
            return cls(
                _chosen(model, label, path), normalisation or Normalisation(), None, sha256_hex(data), model
            )
        header = read_header(path)
        _no_overrides(header, label, normalisation, path)
        data = read_file(f"{path.rstrip('/')}/{MODEL}")
        if sha256_hex(data) != header["sha256"]:
            raise UserError(
                f"{path}/{MODEL} is not the model that {HEADER} describes (its sha256 differs)",
                fix="copy the whole folder again, or fit it again",
            )
        model = FastTextModel.from_bytes(data, f"{path}/{MODEL}")
        return cls(
            _chosen(model, header["positive"], path),
            Normalisation.model_validate(header["normalisation"]),
            Calibration.from_json(header["calibration"]),
            header["sha256"],
            model,
        )

    def score(self, texts: pa.Array) -> NDArray[np.float32]:
        """The probability of the positive label, as the model gives it.

        Args:
            texts: string or large_string array [n].

        Returns:
            float32 [n] in [0, 1]; NaN where a text has no word, for there is nothing to judge.
        """
        from mixloom.pipeline.quality.normalise import normalise

        return self.score_normalised(normalise(texts, self.normalisation))

    def score_normalised(self, texts: pa.Array) -> NDArray[np.float32]:
        """`score` of texts that are normalised already."""
        probabilities, words = self._model.probabilities(texts)
        scores = np.clip(probabilities[:, self._model.labels.index(self.label)], 0, 1)
        return np.where(words > 0, scores, np.nan).astype(np.float32)

    def probability(self, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Calibrated probabilities, float32 [n], of scores [n].

        Raises:
            UserError: a bare file, which has no calibration.
        """
        if self.calibration is None:
            raise UserError(
                "this model is a bare fastText file and has no calibration",
                fix="leave out calibrated, or fit a classifier with `mixloom quality fit`",
            )
        return self.calibration.probability(scores)


def load_configured(config: QualityModelConfig) -> Classifier:
    """The classifier of one entry of `annotate.quality`.

    Raises:
        UserError: as `Classifier.load`; also when a calibrated column is asked of a bare file.
    """
    classifier = Classifier.load(config.model, config.label, config.normalisation)
    if config.calibrated:
        classifier.probability(np.zeros(1))
    return classifier


def quality_column(texts: pa.Array, classifier: Classifier, calibrated: bool = False) -> pa.FloatArray:
    """The annotation column `quality_<name>` of n texts: float32 [n], null where a text has no word."""
    scores = classifier.score(texts)
    unknown = np.isnan(scores)
    if calibrated:
        scores = classifier.probability(scores)
    return pa.array(np.where(unknown, 0, scores).astype(np.float32), pa.float32(), mask=unknown)


def quality_fingerprint(config: QualityModelConfig) -> str:
    """What the key of a stage must hold beside the settings: changes whenever the scores may.

    Raises:
        UserError: nothing is there, or the header of a folder is damaged.
    """
    if config.model.rstrip("/").endswith((".bin", ".ftz")):
        return sha256_hex(read_file(config.model))
    return sha256_hex(read_file(f"{config.model.rstrip('/')}/{HEADER}"))


def read_header(path: str) -> dict[str, Any]:
    """The content of `quality.json` in a model folder.

    Raises:
        UserError: no folder of `mixloom quality fit`, or a damaged header.
    """
    again = "give a folder written by `mixloom quality fit`, or a .bin or .ftz file"
    store = Store.at(path)
    if not store.exists(HEADER):
        what = f"has no {HEADER}" if store.exists("") else "does not exist"
        raise UserError(f"the quality model {path} {what}", fix=again)
    try:
        header = json.loads(store.read(HEADER))
        if header["format"] != FORMAT_VERSION:
            raise ValueError(f"format {header['format']}, and {FORMAT_VERSION} is read")
        for key in ("positive", "normalisation", "calibration", "sha256"):
            header[key]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path}/{HEADER} cannot be read: {e!r}", fix=again) from None
    return dict(header)


def _no_overrides(
    header: dict[str, Any], label: str | None, normalisation: Normalisation | None, path: str
) -> None:
    own = header["positive"]
    if label is not None and label.removeprefix(LABEL) != own.removeprefix(LABEL):
        raise UserError(
            f"label is '{label}', but the model {path} was fitted for '{own}'", fix="leave label out"
        )
    if normalisation is not None:
        raise UserError(
            f"normalisation is given, but the model {path} has its own", fix="leave normalisation out"
        )


def _chosen(model: FastTextModel, label: str | None, path: str) -> str:
    names = [x.removeprefix(LABEL) for x in model.labels]
    shown = ", ".join(model.labels[:8]) + (", ..." if len(names) > 8 else "")
    if label is None:
        raise UserError(
            f"the model {path} is a bare fastText file, and which of its labels is good is not said: {shown}",
            fix=f"set label, for example label: {model.labels[0]}",
        )
    if label.removeprefix(LABEL) not in names:
        hint = nearest(label.removeprefix(LABEL), names)
        raise UserError(f"the model {path} has no label '{label}'{hint}", fix=f"use one of: {shown}")
    return model.labels[names.index(label.removeprefix(LABEL))]
