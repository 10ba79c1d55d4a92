"""Find personal data and secrets in text, and say how to mask them. The values found never leave this module.

A compiled pre-scan over the bytes names the few places where a value could be; exact checks decide each
(`pii_checks`, `pii_phone`). What is found is blanked and its surroundings are searched once more, until nothing new
turns up: a text that has been masked holds nothing that would be masked again.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixloom.pipeline import pii_kernel as pk
from mixloom.pipeline.edits import SPANS
from mixloom.pipeline.pii_checks import (
    Check,
    check_card,
    check_email,
    check_iban,
    check_ipv4,
    check_ipv6,
    check_secret,
    secret_prefixes,
)
from mixloom.pipeline.pii_config import KINDS, PLACEHOLDERS, PiiConfig
from mixloom.pipeline.pii_phone import check_phone, label_ends
from mixloom.pipeline.words import utf8_buffers

FOUND = pa.schema(
    [
        pa.field("document", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
    ]
)
# Of two values that overlap the kind named first is taken.
_PRIORITY = ("secret", "email", "iban", "card", "ipv6", "ipv4", "phone")
_CODES = {
    "email": pk.EMAIL,
    "phone": pk.PHONE,
    "ipv4": pk.IPV4,
    "ipv6": pk.IPV6,
    "iban": pk.IBAN,
    "card": pk.CARD,
    "secret": pk.SECRET,
}
_ANCHORS = {
    "email": b"@",
    "phone": b"0123456789",
    "ipv4": b"0123456789",
    "ipv6": b":",
    "iban": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "card": b"0123456789",
    "secret": b"_-IJGK",
}
_MARGIN = (
    512  # bytes around a value that are searched again once it is blanked; longer than any value but a token
)


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """What the pre-scan needs: ends of labels, and the prefixes of secrets with their bounds and anchors."""
    ends = np.zeros((256, 256), np.bool_)
    for two in label_ends():
        ends[two[0], two[1]] = True
    prefixes, anchors = secret_prefixes()
    bounds = np.cumsum([0, *map(len, prefixes)]).astype(np.int64)
    return ends, np.frombuffer(b"".join(prefixes), np.uint8), bounds, np.asarray(anchors, np.int64)


def _checks(config: PiiConfig) -> dict[int, tuple[int, Check]]:
    """By the code of a kind: its rank among overlapping ones, and its check."""
    public = config.public_ip_only
    checks: dict[str, Check] = {
        "email": check_email,
        "phone": partial(check_phone, regions=config.phone_regions),
        "ipv4": partial(check_ipv4, public_only=public),
        "ipv6": partial(check_ipv6, public_only=public),
        "iban": check_iban,
        "card": check_card,
        "secret": check_secret,
    }
    return {_CODES[k]: (_PRIORITY.index(k), checks[k]) for k in config.sought}


def _scan(
    data: NDArray[np.uint8],
    regions: NDArray[np.int64],
    anchor: NDArray[np.bool_],
    checks: dict[int, tuple[int, Check]],
) -> list[tuple[int, int, int, int]]:
    """(region, start, stop, code) of the values in these regions (int64 [m, 4]: low, high, from, to), disjoint, sorted."""
    ends, prefixes, bounds, anchors = _tables()
    low, high, begin, end = (np.ascontiguousarray(regions[:, c]) for c in range(4))
    candidates = pk.scan_kernel(data, low, high, begin, end, anchor, ends, prefixes, bounds, anchors)
    view = data.data
    out: list[tuple[int, int, int, int]] = []
    last, worst = -1, 0  # region and rank of the last value
    for region, code, place, start in zip(*(c.tolist() for c in candidates)):
        rank, check = checks.get(code, (0, None))
        if check is None or (region == last and place < out[-1][2] and worst == 0):
            continue
        span = check(view, int(low[region]), int(high[region]), place, start)
        if span is None:
            continue
        while region == last and span is not None and span[0] < out[-1][2]:
            if rank >= worst:
                span = None
            else:
                out.pop()
                last = out[-1][0] if out else -1
                worst = checks[out[-1][3]][0] if out else 0
        if span is not None:
            out.append((region, *span, code))
            last, worst = region, rank
    return out


def _around(found: NDArray[np.int64], regions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The regions that remain beside the new values (found: int64 [k, 4] as `_scan` gives them), near them only."""
    region, start, stop = found[:, 0], found[:, 1], found[:, 2]
    first = np.concatenate([[True], region[1:] != region[:-1]])
    final = np.concatenate([first[1:], [True]])
    low, high = regions[region, 0], regions[region, 1]
    # Left of each value, from the value before it; and right of the last value of each region.
    before = np.where(first, low, np.concatenate([[0], stop[:-1]]))
    whole_left = ~first  # between two values both margins count
    left = [
        np.stack([before, start, np.maximum(before, start - _MARGIN), start], axis=1),
        np.stack([before, start, before, np.minimum(start, before + _MARGIN)], axis=1)[whole_left],
        np.stack([stop, high, stop, np.minimum(high, stop + _MARGIN)], axis=1)[final],
    ]
    gaps = np.concatenate(left)
    return gaps[gaps[:, 2] < gaps[:, 3]]


def find_pii(texts: pa.Array, config: PiiConfig | None = None) -> pa.RecordBatch:
    """Where personal data and secrets stand in each of n documents.

    Args:
        texts: string or large_string array [n]; null reads as "".
        config: the kinds that are looked for (all whose action is not "off").

    Returns:
        `FOUND`: document (index in the batch), start, stop (bytes of that document's UTF-8), kind; sorted and
        disjoint. Never the value.

    Raises:
        TypeError: `texts` holds no strings.
    """
    config = config or PiiConfig()
    data, offsets = utf8_buffers(texts)
    checks = _checks(config)
    anchor = np.zeros(256, np.bool_)
    for kind in config.sought:
        anchor[list(_ANCHORS[kind])] = True
    regions = np.stack([offsets[:-1], offsets[1:], offsets[:-1], offsets[1:]], axis=1)
    found: list[tuple[int, int, int]] = []
    while len(regions) and len(data):
        new = np.asarray(_scan(data, regions, anchor, checks), np.int64).reshape(-1, 4)
        if len(new) == 0:
            break
        found += [(a, b, c) for _, a, b, c in new.tolist()]
        regions = _around(new, regions)
    found = sorted(set(found))
    spans = np.asarray(found, np.int64).reshape(-1, 3)
    document = np.searchsorted(offsets, spans[:, 0], side="right") - 1
    names = {code: kind for kind, code in _CODES.items()}
    return pa.RecordBatch.from_arrays(
        [
            pa.array(document.astype(np.int32)),
            pa.array(spans[:, 0] - offsets[document]),
            pa.array(spans[:, 1] - offsets[document]),
            pa.array([names[c] for c in spans[:, 2].tolist()], pa.string()),
        ],
        schema=FOUND,
    )


def count_pii(found: pa.RecordBatch, documents: int) -> pa.RecordBatch:
    """Values per document by kind: columns `pii_email` and so on for all `KINDS`, int32 [documents]."""
    document = np.asarray(found.column("document"), np.int64)
    columns = {}
    for kind in KINDS:
        mine = np.asarray(pc.equal(found.column("kind"), kind))
        columns[f"pii_{kind}"] = pa.array(np.bincount(document[mine], minlength=documents).astype(np.int32))
    return pa.RecordBatch.from_pydict(columns)


def pii_edits(texts: pa.Array, config: PiiConfig | None = None) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """What masking changes in n documents, and how much was found in each.

    Returns:
        (edits.SPANS with the placeholder as replacement and `pii_<kind>` as reason, for the kinds that are masked;
        `count_pii` of everything found, n rows).
    """
    config = config or PiiConfig()
    found = find_pii(texts, config)
    masked = {
        k: config.rule(k).placeholder or PLACEHOLDERS[k] for k in KINDS if config.rule(k).action == "mask"
    }
    chosen = found.filter(pc.is_in(found.column("kind"), pa.array(list(masked), pa.string())))
    kinds = chosen.column("kind").to_pylist()
    nothing = pa.nulls(len(chosen), pa.float64())
    columns = [
        *(chosen.column(c) for c in ("document", "start", "stop")),
        pa.array([masked[k] for k in kinds], pa.string()),
        pa.array([f"pii_{k}" for k in kinds], pa.string()),
        nothing,
        nothing,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SPANS), count_pii(found, len(texts))


def pii_drops(counts: pa.RecordBatch, config: PiiConfig | None = None) -> pa.RecordBatch:
    """The documents with more of a kind than the config allows: document int32, reason, value, limit (float64).

    One row per document, for the first of `KINDS` that is beyond its limit; sorted by document.
    """
    config = config or PiiConfig()
    rows: dict[int, tuple[str, float, float]] = {}
    for kind in KINDS:
        limit = config.rule(kind).limit
        if limit is not None:
            count = np.asarray(counts.column(f"pii_{kind}"))
            for d in np.flatnonzero(count > limit).tolist():
                rows.setdefault(d, (f"pii_{kind}", float(count[d]), float(limit)))
    ordered = sorted(rows)
    return pa.RecordBatch.from_pydict(
        {
            "document": pa.array(ordered, pa.int32()),
            "reason": pa.array([rows[d][0] for d in ordered], pa.string()),
            "value": pa.array([rows[d][1] for d in ordered], pa.float64()),
            "limit": pa.array([rows[d][2] for d in ordered], pa.float64()),
        }
    )
