"""The table of what the noise gate measures of a document (no compiled code: rules are checked against it)."""

from __future__ import annotations

import pyarrow as pa

NOISE_MEASURES: dict[str, tuple[pa.DataType, str]] = {
    "noise_char_share": (
        pa.float32(),
        "Share of characters that stand in runs of noise; 0 for an empty document.",
    ),
    "longest_noise_run": (pa.int32(), "Characters of the longest run of noise."),
    "mojibake_char_share": (
        pa.float32(),
        "Share of characters in UTF-8 sequences, and in words of four and more letters of another encoding, read as "
        "Latin-1 or Windows-1252, alone or in runs.",
    ),
}
