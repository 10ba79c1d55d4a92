"""Calibration: from raw scores to probabilities, by a few plain numbers that never reverse an order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError

_LEAST = 1e-7  # scores are kept this far from 0 and 1 before their logit is taken


def _logit(scores: NDArray[Any]) -> NDArray[np.float64]:
    s = np.clip(np.asarray(scores, np.float64), _LEAST, 1 - _LEAST)
    return np.log(s) - np.log1p(-s)


@dataclass(frozen=True, slots=True)
class Calibration:
    """`platt`: x = (slope, intercept) on the logit of the score (Platt 1999). `isotonic`: knots x and y, straight
    lines between them (Zadrozny and Elkan 2002)."""

    method: Literal["platt", "isotonic"]
    x: tuple[float, ...]
    y: tuple[float, ...] = ()

    def probability(self, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities, float32 [n], of raw scores [n] in [0, 1]; NaN stays NaN. Never falls where a score rises."""
        scores = np.asarray(scores, np.float64)
        if self.method == "platt":
            slope, intercept = self.x
            odds = np.clip(slope * _logit(scores) + intercept, -700.0, 700.0)  # beyond it `exp` overflows
            return (1.0 / (1.0 + np.exp(-odds))).astype(np.float32)
        return np.interp(scores, self.x, self.y).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, "x": list(self.x), "y": list(self.y)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Calibration:
        return cls(value["method"], tuple(map(float, value["x"])), tuple(map(float, value["y"])))


def fit_calibration(
    scores: NDArray[Any], positive: NDArray[np.bool_], method: Literal["platt", "isotonic"]
) -> Calibration:
    """Fit on documents the classifier has not seen.

    Args:
        scores: raw scores [n] in [0, 1].
        positive: bool [n], both values present.

    Raises:
        UserError: positives do not score higher than negatives, so no rising curve fits.
    """
    scores = np.asarray(scores, np.float64)
    if scores[positive].mean() <= scores[~positive].mean():
        raise UserError(
            f"the classifier cannot tell positives from negatives: held-out positives score "
            f"{scores[positive].mean():.3f} on average, negatives {scores[~positive].mean():.3f}",
            fix="check that positives and negatives are what they should be, give more documents, or more epochs",
        )
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, positive)
        knots = zip(model.X_thresholds_, model.y_thresholds_, strict=True)
        x, y = zip(*((round(float(a), 9), round(float(b), 9)) for a, b in knots), strict=True)
        return Calibration("isotonic", x, y)
    from sklearn.linear_model import LogisticRegression

    # Platt's targets are a little inside 0 and 1, so that separable scores have a finite slope.
    up, down = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (up + 1) / (up + 2), 1 / (down + 2))
    logits = np.concatenate([_logit(scores)] * 2)[:, None]
    weight = np.concatenate([target, 1 - target])
    label = np.repeat([1, 0], len(scores))
    fitted = LogisticRegression(C=1e6, tol=1e-10, max_iter=1000).fit(logits, label, sample_weight=weight)
    slope, intercept = max(float(fitted.coef_[0, 0]), 1e-3), float(fitted.intercept_[0])
    return Calibration("platt", (round(slope, 9), round(intercept, 9)))
