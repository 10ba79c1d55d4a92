"""Find runs of noise inside documents: random characters, base64, misread encodings, control bytes, hexadecimal dumps.

Whole documents of noise are dropped by rules over the ordinary measures; this looks for what those miss: noise
inside good documents, and noise beyond ASCII.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline import noise_kernel as nk
from mixloom.pipeline.edits import SPANS
from mixloom.pipeline.noise_config import NoiseConfig
from mixloom.pipeline.noise_measures import NOISE_MEASURES
from mixloom.pipeline.noise_model import RUN_KINDS, mean_bits, step_scores
from mixloom.pipeline.noise_symbols import CONTROL, REPLACEMENT, symbol_table, windows_bytes
from mixloom.pipeline.words import utf8_buffers

FOUND = pa.schema(
    [
        pa.field("document", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)
_DUMP_DENSITY = 3.5  # twentieths of a hexadecimal digit for each character of a dump; tools give 4 to 12
_BROKEN_DENSITY = 0.6  # bits a character: 40 % of them are broken (3 bits each, the others -1)
_SURE = 16  # what says why the characters are wrong names a run before an alphabet that it merely fits
_DROP_BITS = 40.0  # a run ends where its score has fallen so far below its best


def _is_protein(run: NDArray[np.uint8]) -> bool:
    """Whether nine tenths of these bytes are capitals and all of those one of the 20 amino acids or X."""
    capitals = np.bincount(run, minlength=256)[65:91]
    return bool(10 * capitals.sum() > 9 * len(run) and capitals[[ord(c) - 65 for c in "BJOUZ"]].sum() == 0)


def _scan(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], config: NoiseConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What the kernel returns for these documents under a config."""
    scores, hot = step_scores(config.margin)
    least = np.zeros((nk.RUNS, 3), np.int64)
    least[:] = config.min_chars, round(config.min_bits * nk.UNIT), 0
    least[: nk.ALPHABETS, 2] = np.round(100 * config.min_density * mean_bits(config.margin) * nk.UNIT)
    least[[nk.BAD, nk.MOJIBAKE], 2] = round(100 * _BROKEN_DENSITY * nk.UNIT)
    least[nk.HEX, 1:] = nk.HEX_UNIT * config.hex_chars, round(100 * _DUMP_DENSITY)
    drop = np.full(nk.RUNS, round(_DROP_BITS * nk.UNIT), np.int64)
    table = symbol_table()
    plain = (table[:128] & 255).astype(np.uint8)
    found, counts = nk.noise_kernel(
        data, offsets, table, plain, windows_bytes(), scores, hot, least, drop, config.hex_chars
    )
    return found, counts


def _runs(texts: pa.Array, config: NoiseConfig) -> tuple[NDArray[np.int64], list[str], NDArray[np.int64]]:
    """Disjoint runs, sorted: int64 [s, 5] of document, start, stop (bytes of the document), characters, score; their kinds;
    characters per document and those in misread sequences, int64 [n, 2]."""
    data, offsets = utf8_buffers(texts)
    found, counts = _scan(data, offsets, config)
    order = np.lexsort((found[:, 3], found[:, 2], found[:, 1]))
    rows: list[list[int]] = []
    kinds: list[str] = []
    best = 0
    for document, start, stop, run, chars, score in found[order].tolist():
        kind = RUN_KINDS[run]
        if run == nk.BAD:
            symbols = nk.symbols_kernel(data, start, stop, symbol_table())
            unreadable, broken = (
                np.count_nonzero(symbols == REPLACEMENT),
                np.count_nonzero(symbols == CONTROL),
            )
            kind = "replacement" if unreadable > broken else "control"
        if kind not in config.kinds or (run < nk.ALPHABETS and _is_protein(data[start:stop])):
            continue
        sure = _SURE * score if run in (nk.BAD, nk.MOJIBAKE) else score
        if rows and rows[-1][0] == document and start < rows[-1][2]:
            # The same stretch by another alphabet: the kind is that of the better one.
            last = rows[-1]
            if stop > last[2]:
                tail = data[last[2] : stop]
                last[3] += int(np.count_nonzero((tail & 0xC0) != 0x80))
                last[2] = stop
            if sure > best:
                kinds[-1], best, last[4] = kind, sure, score
            continue
        rows.append([document, start, stop, chars, score])
        kinds.append(kind)
        best = sure
    spans = np.asarray(rows, np.int64).reshape(-1, 5)
    spans[:, 1:3] -= offsets[spans[:, 0]][:, None]
    return spans, kinds, counts


def find_noise(texts: pa.Array, config: NoiseConfig | None = None) -> pa.RecordBatch:
    """Runs of noise in each of n documents.

    Args:
        texts: string or large_string array [n]; null reads as "".
        config: which kinds, and how long and how sure a run must be.

    Returns:
        `FOUND`: document (index in the batch), start, stop (bytes of that document's UTF-8), kind, score (bits by which
        the run is likelier as noise than as text; for hex, hexadecimal digits); sorted, disjoint, on character borders.

    Raises:
        TypeError: `texts` holds no strings.
    """
    spans, kinds, _ = _runs(texts, config or NoiseConfig())
    units = np.array([nk.HEX_UNIT if kind == "hex" else nk.UNIT for kind in kinds], np.float64)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(spans[:, 0].astype(np.int32)),
            pa.array(spans[:, 1]),
            pa.array(spans[:, 2]),
            pa.array(kinds, pa.string()),
            pa.array((spans[:, 4] / units).astype(np.float32)),
        ],
        schema=FOUND,
    )


def noise_measures(texts: pa.Array, config: NoiseConfig | None = None) -> dict[str, pa.Array]:
    """`NOISE_MEASURES` of n documents, by name: arrays of length n without nulls."""
    spans, _, counts = _runs(texts, config or NoiseConfig())
    n = len(counts)
    inside, longest = np.zeros(n, np.int64), np.zeros(n, np.int64)
    np.add.at(inside, spans[:, 0], spans[:, 3])
    np.maximum.at(longest, spans[:, 0], spans[:, 3])
    chars = np.maximum(counts[:, 0], 1)
    values = {
        "noise_char_share": inside / chars,
        "longest_noise_run": longest,
        "mojibake_char_share": counts[:, 1] / chars,
    }
    return {name: pa.array(values[name]).cast(kind, safe=False) for name, (kind, _) in NOISE_MEASURES.items()}


def noise_edits(texts: pa.Array, config: NoiseConfig | None = None) -> pa.RecordBatch:
    """The edits (edits.SPANS) that cut the runs of noise out of n documents: reason `noise_<kind>`, value the characters
    of the run, limit `min_chars`. Empty unless the action is "remove"."""
    config = config or NoiseConfig()
    spans, kinds, _ = _runs(texts, config)
    if config.action != "remove":
        spans, kinds = spans[:0], []
    return pa.RecordBatch.from_arrays(
        [
            pa.array(spans[:, 0].astype(np.int32)),
            pa.array(spans[:, 1]),
            pa.array(spans[:, 2]),
            pa.array([""] * len(kinds), pa.string()),
            pa.array([f"noise_{k}" for k in kinds], pa.string()),
            pa.array(spans[:, 3].astype(np.float64)),
            pa.array(np.full(len(kinds), config.min_chars, np.float64)),
        ],
        schema=SPANS,
    )
