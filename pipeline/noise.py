"""Find runs of noise inside documents: random characters, base64, misread encodings, control bytes, hexadecimal dumps.

Whole documents of noise are dropped by rules over the ordinary measures; this looks for what those miss: noise
inside good documents, and noise beyond ASCII.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline import noise_kernel as nk
from mixloom.pipeline.edits import SPANS
from mixloom.pipeline.noise_config import NoiseConfig
from mixloom.pipeline.noise_measures import NOISE_MEASURES
from mixloom.pipeline.noise_symbols import symbol_table, windows_bytes
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
_DROP_BITS = 40.0  # a run ends where its score has fallen so far below its best
_REPLACEMENT = b"\xef\xbf\xbd"


def document_symbols(texts: pa.Array) -> Iterator[NDArray[np.uint8]]:
    """The symbols (`noise_symbols`) of each document, uint8 [characters]."""
    data, offsets = utf8_buffers(texts)
    for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist()):
        yield nk.symbols_kernel(data, a, b, symbol_table())


def _runs(texts: pa.Array, config: NoiseConfig) -> tuple[NDArray[np.int64], list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Disjoint runs, sorted: int64 [s, 5] of document, start, stop (bytes of the document), characters, score; their kinds;
    characters per document and those in misread sequences, int64 [n, 2]; offsets int64 [n+1]."""
    from mixloom.pipeline.noise_model import RUN_KINDS, step_scores

    data, offsets = utf8_buffers(texts)
    scores, hot = step_scores(config.margin)
    least = np.zeros((nk.RUNS, 3), np.int64)
    least[:] = config.min_chars, round(config.min_bits * nk.UNIT), 0
    least[: nk.ALPHABETS, 2] = round(config.min_mean_bits * nk.UNIT)
    least[nk.HEX, 1] = 10 * config.hex_chars
    drop = np.full(nk.RUNS, round(_DROP_BITS * nk.UNIT), np.int64)
    table = symbol_table()
    plain = (table[:128] & 255).astype(np.uint8)
    found, counts = nk.noise_kernel(
        data, offsets, table, plain, windows_bytes(), scores, hot, least, drop, config.hex_chars
    )
    order = np.lexsort((found[:, 3], found[:, 2], found[:, 1]))
    rows: list[list[int]] = []
    kinds: list[str] = []
    best = 0
    for document, start, stop, run, chars, score in found[order].tolist():
        kind = RUN_KINDS[run]
        if run == nk.BAD:
            raw = data[start:stop].tobytes()
            kind = "replacement" if 2 * 3 * raw.count(_REPLACEMENT) > stop - start else "control"
        if kind not in config.kinds:
            continue
        if rows and rows[-1][0] == document and start < rows[-1][2]:
            # The same stretch by another alphabet: the kind is that of the better one.
            last = rows[-1]
            if stop > last[2]:
                tail = data[last[2] : stop]
                last[3] += int(np.count_nonzero((tail & 0xC0) != 0x80))
                last[2] = stop
            if score > best:
                kinds[-1], best, last[4] = kind, score, score
            continue
        rows.append([document, start, stop, chars, score])
        kinds.append(kind)
        best = score
    spans = np.asarray(rows, np.int64).reshape(-1, 5)
    spans[:, 1:3] -= offsets[spans[:, 0]][:, None]
    return spans, kinds, counts, offsets


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
    spans, kinds, _, _ = _runs(texts, config or NoiseConfig())
    return pa.RecordBatch.from_arrays(
        [
            pa.array(spans[:, 0].astype(np.int32)),
            pa.array(spans[:, 1]),
            pa.array(spans[:, 2]),
            pa.array(kinds, pa.string()),
            pa.array((spans[:, 4] / nk.UNIT).astype(np.float32)),
        ],
        schema=FOUND,
    )


def noise_measures(texts: pa.Array, config: NoiseConfig | None = None) -> dict[str, pa.Array]:
    """`NOISE_MEASURES` of n documents, by name: arrays of length n without nulls."""
    spans, _, counts, _ = _runs(texts, config or NoiseConfig())
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
    spans, kinds, _, _ = _runs(texts, config)
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
