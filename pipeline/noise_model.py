"""What each alphabet of noise makes of a step between two symbols, against what real text makes of it.

A step from symbol p to symbol c scores log2 of its probability as noise over its probability as text, less a margin. A
run of noise is a stretch whose scores add up (maximal scoring segments, Karlin and Altschul 1990): it needs no window, and
its ends are where noise begins and ends.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline import noise_symbols as ns
from mixloom.pipeline.noise_table import natural_bits

_FLOOR = 2.0**-11  # of a symbol that an alphabet lacks
_UNIT = 16  # scores are in sixteenths of a bit

# Kinds of the runs, in the order of the kernel; where it says control, the characters decide (control or replacement).
RUN_KINDS = (
    *("random", "base64", "random", "random", "binary", "random", "random", "random"),
    *("control", "mojibake", "hex"),
)


def _alphabet(**shares: float) -> NDArray[np.float64]:
    """Probability of each symbol; a share is spread evenly over the symbols of its name."""
    groups: dict[str, list[int]] = {
        "printable": list(range(95)),
        "base64": [ord(c) - 32 for c in "+/-_"] + [*range(16, 26), *range(33, 59), *range(65, 91)],
        "uuencoded": list(range(65)),
        "equals": [ord("=") - 32],
        "lower": list(range(65, 91)),
        "upper": list(range(33, 59)),
        "blank": [0],
        "newline": [ns.NEWLINE],
        "tab": [ns.SPACE],
        "accented": [ns.ACCENTED],
        "latin1": [ns.LATIN1_SIGN],
        "sign": [ns.SIGN],
        "cjk": [ns.CJK],
        "rare": [ns.RARE_CJK],
        "other": [ns.OTHER],
        "script": [ns.OTHER_SCRIPT],
        "control": [ns.CONTROL],
    }
    out = np.full(ns.SYMBOLS, _FLOOR)
    for name, share in shares.items():
        out[groups[name]] += share / len(groups[name])
    return out


def alphabets() -> NDArray[np.float64]:
    """Probability of each symbol in each alphabet of noise, float64 [8, 106]."""
    return np.stack(
        [
            _alphabet(printable=0.98, newline=0.02),
            _alphabet(base64=0.97, equals=0.01, newline=0.02),
            _alphabet(lower=0.86, blank=0.12, newline=0.02),
            _alphabet(upper=0.86, blank=0.12, newline=0.02),
            _alphabet(
                printable=0.37, accented=0.24, latin1=0.13, control=0.21, sign=0.02, tab=0.02, newline=0.01
            ),
            _alphabet(rare=0.63, cjk=0.37),
            _alphabet(
                rare=0.3,
                cjk=0.1,
                control=0.12,
                script=0.3,
                other=0.08,
                sign=0.07,
                accented=0.02,
                newline=0.01,
            ),
            _alphabet(uuencoded=0.98, newline=0.02),
        ]
    )


@lru_cache(maxsize=4)
def step_scores(margin: float) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """(scores in sixteenths of a bit, int16 [106 * 106 * 8]; whether any of a step is one bit or more, bool [106, 106])."""
    bits = natural_bits()[:, :, None] + np.log2(alphabets().T)[None] - margin
    scores = np.round(bits * _UNIT).astype(np.int16)
    hot = np.asarray((scores >= _UNIT).any(axis=2))
    scores.setflags(write=False)
    hot.setflags(write=False)
    return scores.reshape(-1), hot


def mean_bits(margin: float) -> NDArray[np.float64]:
    """Bits that a character of each alphabet adds to its run on average, float64 [8]; for letters, a quarter less: words of
    random letters, as long as real words, give so much."""
    shares = alphabets()
    shares /= shares.sum(axis=1, keepdims=True)
    scores = step_scores(margin)[0].reshape(ns.SYMBOLS, ns.SYMBOLS, -1) / _UNIT
    mean = np.einsum("kp,kc,pck->k", shares, shares, scores)
    mean[2:4] *= 0.75
    return np.asarray(mean)
