"""What lies beside the tokens of a sample of a shard: patch lengths, and how long each unit of speech lasts.

Both are members a sample has only where there is something to say. Patch lengths are uint16 [n, most patches], a row for
each context, zeros on the right, and add up to its real tokens; no patch crosses the edge of a document. Durations are
int32 [u], one for each speech id of the sample in the order of the ids, row after row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError

PATCHES, DURATIONS = "patch_lengths", "durations"
MODALITY_OF_UNITS = 2  # the place of speech in manifest.MODALITIES
_FIX = "write the shards from the stage `tokenize` that made these tokens"

Lengths = NDArray[np.uint16]
Durations = NDArray[np.int32]


def cut_patches(lengths: NDArray[np.integer[Any]], start: int, stop: int) -> Lengths:
    """Lengths uint16 of the patches in tokens start..stop of a document; one that reaches over the cut is cut with it.

    Args:
        lengths: integers [p], patches of the whole document, none of them 0.
    """
    edges = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    first, last = np.searchsorted(edges, [start, stop], side="right")
    inner = edges[first:last]
    inside = np.concatenate([[start], inner[inner < stop], [stop]])
    return np.diff(inside).astype(np.uint16) if stop > start else np.zeros(0, np.uint16)


def check_patches(lengths: NDArray[np.integer[Any]], documents: Sequence[int], where: str) -> None:
    """Raise UserError unless patches [p] are those of pieces of these lengths: none empty, none over the edge of one."""
    edges = np.cumsum(lengths, dtype=np.int64)
    wanted = np.cumsum(documents, dtype=np.int64)
    whole = len(edges) and int(edges[-1]) == int(wanted[-1]) and int(np.min(lengths)) > 0
    if not (whole and np.isin(wanted, edges).all()):
        raise UserError(
            f"{where}: its {len(lengths)} patches of {int(edges[-1]) if len(edges) else 0} tokens do not match its"
            f" pieces {list(documents)[:8]}",
            fix=_FIX,
        )


def patch_rows(rows: Sequence[NDArray[np.integer[Any]] | None], name: str) -> Lengths | None:
    """The member of some contexts: uint16 [n, most patches] with zeros on the right; None where none has patches.

    Raises:
        UserError: some have patches and some have none, or a patch has more than 65535 tokens.
    """
    some = [r for r in rows if r is not None]
    if not some:
        return None
    if len(some) < len(rows) or max(int(r.max()) for r in some) > np.iinfo(np.uint16).max:
        raise UserError(
            f"shard {name}: contexts with patches beside contexts without, or a patch of over 65535 tokens",
            fix=_FIX,
        )
    out = np.zeros((len(some), max(map(len, some))), "<u2")
    for i, row in enumerate(some):
        out[i, : len(row)] = row
    return out


def duration_row(
    rows: Sequence[NDArray[np.integer[Any]] | None], units: Sequence[int], name: str
) -> Durations | None:
    """The member of some contexts that hold so many speech ids each: int32 [u]; None where nothing is known of them.

    Raises:
        UserError: durations of another number than there are units, one below 1, or units without durations beside others.
    """
    known = [(r, n) for r, n in zip(rows, units) if n]
    if all(r is None for r, _ in known):
        return None
    if any(r is None or len(r) != n or int(np.min(r)) < 1 for r, n in known):
        raise UserError(
            f"shard {name}: durations do not match the units of speech of their context", fix=_FIX
        )
    return np.concatenate([r for r, _ in known if r is not None]).astype("<i4")


def places(sample: dict[str, Any], name: str, size: int) -> tuple[int, int]:
    """(offset in the tar, columns or items) of a member in the index of a sample; (-1, 0) where there is none.

    Raises:
        ValueError: it lies outside a tar of `size` bytes, or has another form.
    """
    found = sample.get(name)
    if found is None:
        return -1, 0
    at, shape = int(found["offset"]), [int(n) for n in found["shape"]]
    dtype, dimensions = (np.dtype("<u2"), 2) if name == PATCHES else (np.dtype("<i4"), 1)
    rows_fit = dimensions == 1 or shape[0] == int(sample["rows"])
    if len(shape) != dimensions or found["dtype"] != dtype.name or not rows_fit or at < 0:
        raise ValueError(f"{name} of another form")
    if at + int(np.prod(shape)) * dtype.itemsize > size:
        raise ValueError(f"{name} outside the tar")
    return at, shape[-1]


def row_patches(data: NDArray[np.uint8], at: int, width: int, row: int) -> Lengths:
    """The patches of one context, uint16 [p], a view: `data` holds `width` columns from byte `at` on."""
    lengths = np.frombuffer(data, "<u2", width, at + row * width * 2)
    return lengths[: int(np.count_nonzero(lengths))]


def row_durations(
    data: NDArray[np.uint8], at: int, ids: NDArray[Any], row: int, modality: NDArray[np.uint8]
) -> Durations:
    """The durations of the units of one context, int32 [u], a view.

    Args:
        ids: [n, seq_len], the tokens of the sample. modality: uint8 [ids], see `manifest.modality_table`.
    """
    units = np.count_nonzero(modality[ids[: row + 1]] == MODALITY_OF_UNITS, axis=1)
    return np.frombuffer(data, "<i4", int(units[row]), at + 4 * int(units[:row].sum()))
