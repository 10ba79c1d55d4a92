"""The language model that is shipped with py3langid, applied to batches by compiled code.

A naive Bayes classifier over byte n-grams that an automaton finds in one walk over the UTF-8 (Lui and Baldwin 2012,
"langid.py"); 139 languages and "zxx" for what is no language (numbers, markup). The package walks its automaton in
Python; the kernel here does the same walk some twenty times faster and holds no interpreter lock.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.words import utf8_buffers

_UNIT = 1 / 2048  # of the weights: they are half-precision numbers above -16, so int16 holds them


@njit(cache=True, nogil=True)
def _posteriors(data, offsets, moves, rows, features, weights, prior):  # type: ignore[no-untyped-def]
    """Probability of each class for n documents, float32 [n, classes]; all 0 where no feature was seen.

    moves: uint32 [distinct rows * 256], the next state by byte. rows: uint16 or uint32 [states], the row of each
    state. features: int32 [states], the feature seen on entering a state, or -1. weights: int16 [features, classes], in
    units of `_UNIT`.
    """
    classes = prior.size
    out = np.empty((offsets.size - 1, classes), np.float32)
    counts = np.zeros(weights.shape[0], np.int32)
    met = np.empty(weights.shape[0], np.int32)
    total = np.empty(classes, np.float32)
    for d in range(offsets.size - 1):
        state = np.int64(0)
        found = 0
        for at in range(offsets[d], offsets[d + 1]):
            state = np.int64(moves[(np.int64(rows[state]) << 8) + data[at]])
            f = features[state]
            if f >= 0:
                if counts[f] == 0:
                    met[found] = f
                    found += 1
                counts[f] += 1
        total[:] = np.float32(0.0)
        for i in range(found):
            f = met[i]
            weight = np.float32(np.log1p(np.float64(counts[f])) * _UNIT)
            counts[f] = 0
            for k in range(classes):
                total[k] += weight * np.float32(weights[f, k])
        # The temperature keeps the probabilities comparable between short and long texts.
        scale = 1.0 / np.sqrt(np.float64(max(1, offsets[d + 1] - offsets[d])))
        most = -np.inf
        for k in range(classes):
            score = (np.float64(total[k]) + prior[k]) * scale
            total[k] = np.float32(score)
            most = max(most, np.float64(total[k]))
        mass = 0.0
        for k in range(classes):
            mass += np.exp(np.float64(total[k]) - most)
        for k in range(classes):
            out[d, k] = np.float32(np.exp(np.float64(total[k]) - most) / mass) if found else np.float32(0.0)
    return out


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """The shipped model as arrays. labels: one per distinct class, ISO 639 codes."""

    labels: tuple[str, ...]
    _columns: NDArray[np.int64]  # the label of each class: some languages have a class per script
    _moves: NDArray[np.uint32]
    _rows: NDArray[np.uint16]
    _features: NDArray[np.int32]
    _weights: NDArray[np.int16]
    _prior: NDArray[np.float32]

    def probabilities(self, texts: pa.Array) -> NDArray[np.float32]:
        """float32 [n, labels] for a string or large_string array [n].

        A row sums to 1, or to 0 where nothing the model knows was found.
        """
        texts = _composed(texts)
        shouted = pc.utf8_is_upper(texts)
        if pc.any(shouted).as_py():
            texts = pc.if_else(shouted, pc.utf8_lower(texts), texts)
        data, offsets = utf8_buffers(texts)
        classes = _posteriors(
            data, offsets, self._moves, self._rows, self._features, self._weights, self._prior
        )
        out = np.zeros((len(texts), len(self.labels)), np.float32)
        for k, column in enumerate(self._columns):
            out[:, column] += classes[:, k]
        return out


def _composed(texts: pa.Array) -> pa.Array:
    """Texts in normal form C. (Arrow's own utf8_normalize answers with form D, whatever it is asked for.)"""
    plain = pc.string_is_ascii(texts)
    if pc.all(plain).as_py():
        return texts
    changed = {
        i: unicodedata.normalize("NFC", text)
        for i, text in enumerate(pc.if_else(plain, None, texts).to_pylist())
        if text is not None and not unicodedata.is_normalized("NFC", text)
    }
    if not changed:
        return texts
    mask = np.zeros(len(texts), np.bool_)
    mask[list(changed)] = True
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(list(changed.values()), texts.type))


@lru_cache(maxsize=1)
def builtin_model() -> BuiltinModel:
    """Load the model of the installed py3langid, once per process (about 80 MB of memory).

    Raises:
        UserError: py3langid is missing, or a version whose model is laid out in another way.
    """
    try:
        from py3langid.langid import MODEL_DIR, MODEL_FILE
        from py3langid.modelio import load_model

        weights, prior, classes, moves, rows, features = load_model(MODEL_DIR / MODEL_FILE)
    except (ImportError, ValueError) as e:
        raise UserError(
            f"the built-in language model cannot be loaded: {e}",
            fix="install py3langid 0.4, or name a fastText model (language.model)",
        ) from None
    labels = tuple(dict.fromkeys(classes))
    return BuiltinModel(
        labels,
        np.array([labels.index(c) for c in classes], np.int64),
        np.asarray(moves, np.uint32),
        np.asarray(rows, np.uint16),
        np.asarray(features, np.int32),
        np.rint(np.asarray(weights, np.float32) / _UNIT).astype(np.int16),
        np.asarray(prior, np.float32),
    )
