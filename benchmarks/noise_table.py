"""Fit how real text goes on from each symbol to the next, and write it as `pipeline/noise_table.py`.

    python benchmarks/noise_table.py --data ROOT [--out pipeline/noise_table.py]

Every second document of each text set is counted (the other half stays out, for the false-positive rates of
`benchmarks/noise.py`), each set with the same weight. Rare steps are smoothed by the step between classes of symbols and
by the letter in any case, and steps of scripts that the sets lack are set by hand.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from text_sets import documents, sets

from mixloom.pipeline import noise_symbols as ns
from mixloom.pipeline.noise_kernel import symbols_kernel
from mixloom.pipeline.noise_symbols import symbol_table
from mixloom.pipeline.words import utf8_buffers

_STEPS = 4  # steps of a bit
_MOST = 22.0  # bits
_DOUBT = 700.0  # steps from a symbol that weigh as much as the smoothed estimate
CHARACTERS = "".join(chr(c) for c in range(0x23, 0x7F) if chr(c) not in "'\\")  # 90 signs for 0 to 22.25 bits

# lower, upper, digit, other ASCII, space, newline, then one class per symbol from ACCENTED on
LOWER, UPPER, DIGIT, SIGN, BLANK, NEWLINE = range(6)
CLASSES = 6 + ns.SYMBOLS - ns.ACCENTED


def classes() -> NDArray[np.int64]:
    """The class of each symbol, int64 [106]."""
    out = np.full(ns.SYMBOLS, SIGN)
    out[ord("a") - 32 : ord("z") - 31] = LOWER
    out[ord("A") - 32 : ord("Z") - 31] = UPPER
    out[ord("0") - 32 : ord("9") - 31] = DIGIT
    out[[0, ns.SPACE]], out[ns.NEWLINE] = BLANK, NEWLINE
    out[ns.ACCENTED :] = np.arange(6, CLASSES)
    return out


def counted(texts: list[str]) -> NDArray[np.float64]:
    """How often each symbol follows each, float64 [106, 106]; a document begins after a newline."""
    pairs = np.zeros(ns.SYMBOLS * ns.SYMBOLS)
    data, offsets = utf8_buffers(pa.array(texts, pa.large_string()))
    for first, last in pairwise(offsets.tolist()):
        symbols = symbols_kernel(data, first, last, symbol_table())
        before = np.concatenate([[ns.NEWLINE], symbols[:-1]])
        pairs += np.bincount(before.astype(np.int64) * ns.SYMBOLS + symbols, minlength=pairs.size)
    return pairs.reshape(ns.SYMBOLS, ns.SYMBOLS)


def by_hand() -> NDArray[np.float64]:
    """Shares of the steps between classes that the sets do not show, as counts, float64 [CLASSES, CLASSES]."""
    at = {s: 6 + s - ns.ACCENTED for s in range(ns.ACCENTED, ns.SYMBOLS)}
    counts = np.full((CLASSES, CLASSES), 2.0)
    counts[:, [at[ns.CONTROL], at[ns.REPLACEMENT]]] = 0.02
    counts[:, at[ns.RARE_CJK]] = 0.2
    han = [at[ns.CJK], at[ns.RARE_CJK]]
    counts[han, at[ns.CJK]] = 20_000
    counts[han, at[ns.RARE_CJK]] = 500
    counts[han, at[ns.SIGN]] = 2_000
    counts[[*range(6), at[ns.SIGN]], at[ns.CJK]] += 300
    counts[han, :6] = 300
    counts[at[ns.OTHER_SCRIPT], at[ns.OTHER]] = 2_000
    counts[at[ns.OTHER], at[ns.OTHER]] = 8_000
    counts[at[ns.SIGN], at[ns.SIGN]] += 300
    return counts


def fitted(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits of each step, float64 [106, 106]."""
    kind = classes()
    one_hot = np.eye(CLASSES)[kind]
    between = one_hot.T @ pairs @ one_hot + by_hand()
    between /= between.sum(axis=1, keepdims=True)
    # Letters of two scripts side by side are common where the sets have few: formulas, transcriptions, names.
    written = [*range(6), *(6 + s - ns.ACCENTED for s in (ns.ACCENTED, ns.SIGN))]
    for other in (6 + s - ns.ACCENTED for s in (ns.OTHER, ns.OTHER_SCRIPT, ns.CJK)):
        between[written, other] = np.maximum(between[written, other], 2.0**-8)
        between[other, written] = np.maximum(between[other, written], 2.0**-6)
    between /= between.sum(axis=1, keepdims=True)
    # Within a class: by the symbol alone, and letters also by the letter before, whatever the case of either.
    alone = pairs.sum(axis=0) + 1.0
    within = alone / (alone @ one_hot)[kind]
    folded = np.arange(ns.SYMBOLS)
    folded[ord("A") - 32 : ord("Z") - 31] += 32
    letters = np.zeros((ns.SYMBOLS, ns.SYMBOLS))
    np.add.at(letters, (folded[:, None], folded[None, :]), pairs)
    letters = letters[folded][:, folded]
    after = (letters + 20 * within[None, :]) / (letters @ one_hot + 20)[:, kind]
    smooth = between[kind][:, kind] * np.where(
        (kind < 2)[:, None] & (kind < 2)[None, :], after, within[None, :]
    )
    share = (pairs + _DOUBT * smooth) / (pairs.sum(axis=1, keepdims=True) + _DOUBT)
    share /= share.sum(axis=1, keepdims=True)
    return _capitals(-np.log2(share))


def _capitals(bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Text in capitals is as natural as the same in small letters, but for half a bit."""
    kind = classes()
    small = np.arange(ns.SYMBOLS)
    small[kind == UPPER] += 32
    in_capitals = ((kind == UPPER)[:, None] & (kind != LOWER)[None, :]) | (kind != LOWER)[:, None] & (
        kind == UPPER
    )[None, :]
    return np.where(in_capitals, np.minimum(bits, bits[small][:, small] + 0.5), bits)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent.parent / "pipeline" / "noise_table.py"
    )
    options = parser.parse_args()
    total = np.zeros((ns.SYMBOLS, ns.SYMBOLS))
    for name, path in sets(options.data).items():
        if name == "text-20news":
            continue  # it holds uuencoded files
        pairs = counted(list(documents(path))[::2])
        total += pairs * min(1.0, 500_000 / max(pairs.sum(), 1.0))
    bits = fitted(total)
    steps = np.round(np.clip(bits, 0, _MOST) * _STEPS).astype(int)
    rows = ["".join(CHARACTERS[v] for v in row) for row in steps]
    body = "\n".join(f'    "{line}",' for line in rows)
    options.out.write_text(
        f'''"""How surprising each step from one symbol to the next is in real text, in bits (written by benchmarks/noise_table.py).

Row: the symbol before, column: the symbol, as `noise_symbols` numbers them; each sign stands for a quarter of a bit.
Counted over prose in 40 languages, code, tables, statutes, specifications and web pages.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS = (
{body}
)
_SIGNS = "{CHARACTERS}"


def natural_bits() -> NDArray[np.float64]:
    """Bits of each step, float64 [106, 106]."""
    value = {{sign: k / {_STEPS} for k, sign in enumerate(_SIGNS)}}
    return np.array([[value[sign] for sign in row] for row in _ROWS])
''',
        encoding="utf-8",
    )
    print(
        f"{options.out}: mean {np.average(bits, weights=total):.2f} bits a character over {total.sum():.0f} steps"
    )


if __name__ == "__main__":
    sys.exit(main())
