"""Documents -> token ids, media read and encoded where they lie. The Beam side is `tokenize_transform`.

Rows of a part are sorted by cell with one row group per cell, so that the packer of a cell reads exactly the
row groups it needs from every part.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.media import load_audio, load_image, open_media
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.schema import REJECTS
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.pipeline.storage import sha256_hex
from mixloom.tokenizers.arranged import pieces_of
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.interleave import Span, Written, encode_pieces
from mixloom.tokenizers.layout_config import READING_ORDER, LayoutConfig
from mixloom.tokenizers.pairs import Piece
from mixloom.tokenizers.vocab import Vocabulary

SPAN = pa.struct(
    [
        pa.field("kind", pa.string()),
        pa.field("start", pa.int32()),
        pa.field("stop", pa.int32()),
        pa.field("segment", pa.int32()),  # number of the segment in the document
        pa.field(
            "at", pa.int32()
        ),  # where the piece begins in it: UTF-8 bytes of a text, units of a recording
    ]
)

TOKENS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("domain", pa.int32(), nullable=False),
        pa.field("cell", pa.int32(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),  # number of tokens
        pa.field("input_ids", pa.list_(pa.uint32()), nullable=False),
        pa.field("spans", pa.list_(SPAN), nullable=False),  # tokens of each segment, its sentinels included
        pa.field("language", pa.string()),
        pa.field("text_bytes", pa.int32(), nullable=False),  # UTF-8 bytes of its text segments
        pa.field("text_tokens", pa.int32(), nullable=False),  # tokens they became, sentinels left out
        pa.field(
            "durations", pa.list_(pa.int32())
        ),  # steps of each of its speech units in order; null without any
        pa.field(
            "patch_lengths", pa.list_(pa.uint16())
        ),  # they add up to length; null where none are declared
    ]
)


class Encoded(NamedTuple):
    """A document as tokens.

    ids uint32 [n]; a span per piece, in the order of writing; the steps of each speech unit, int32 [u]; UTF-8 bytes of
    the texts that were written; and what its layout met (see `layouts`).
    """

    ids: np.ndarray
    spans: list[Span]
    durations: np.ndarray
    text_bytes: int
    met: Counter[str]
    patches: np.ndarray | None = None


class _MediaError(Exception):
    """One medium of a document could not be encoded; the document fails."""


def _encode_media(
    kind: str, source: str, media: dict[str, Any], roots: dict[str, str], codecs: Codecs
) -> Any:
    """What stands for one medium before batching: pixels uint8 [H, W, 3], or units int64 [u] and durations int32 [u]."""
    where = f"{media['uri']}{'#' + media['member'] if media['member'] else ''}"
    try:
        data = open_media(roots[source], media["uri"], media["member"])
        if sha256_hex(data) != media["sha256"]:
            raise _MediaError(
                f"{where}: its content has changed since ingest read it; run again to read it anew"
            )
        codec: Any = codecs.image if kind == "image" else codecs.speech
        if codec is None:
            raise _MediaError(f"{where}: no {kind} codec could be fitted, for no {kind} could be read")
        if kind == "image":
            return np.asarray(codec.prepare(load_image(data)))
        return codec.encode(load_audio(data, codec.rate))
    except (Problem, UserError, OSError, ValueError, SyntaxError) as e:
        raise _MediaError(f"{where}: {type(e).__name__}: {e}") from e


def tokenize(
    documents: pa.RecordBatch,
    codecs: Codecs,
    roots: dict[str, str],
    layout: LayoutConfig = READING_ORDER,
) -> tuple[list[Encoded | None], list[tuple[int, str]]]:
    """Encode a batch of documents (columns doc_id, source, segments; and meta, where word times may stand).

    Texts and images of the whole batch are each encoded in one call.

    Returns:
        Per document what it became, or None where it failed; and the failures as (row, what happened).
    """
    names = [name for name in ("doc_id", "source", "segments", "meta") if name in documents.schema.names]
    batch = _Batch([], [])
    plan: list[_Planned | None] = []
    failures: list[tuple[int, str]] = []
    for i, document in enumerate(documents.select(names).to_pylist()):
        first_text, first_pixel = len(batch.texts), len(batch.pixels)
        try:
            plan.append(_planned(document, batch, codecs, roots, layout))
        except _MediaError as e:
            del batch.texts[first_text:], batch.pixels[first_pixel:]
            failures.append((i, str(e)))
            plan.append(None)
    text_ids = codecs.text.encode_batch(batch.texts)
    codes: Any = codecs.image.encode(np.stack(batch.pixels)) if batch.pixels and codecs.image else []
    return [_join(p, text_ids, codes, codecs.vocabulary) if p else None for p in plan], failures


class _Batch(NamedTuple):
    """Texts and pictures of all documents, to be encoded together."""

    texts: list[str]
    pixels: list[np.ndarray]


class _Item(NamedTuple):
    """A piece, where it begins in its segment, and its place among the texts or pixels of the batch, or its units."""

    piece: Piece
    at: int
    place: int = -1
    units: Any = None
    durations: Any = None


class _Planned(NamedTuple):
    items: list[_Item]
    text_bytes: int
    met: Counter[str]


def _planned(
    document: dict[str, Any], batch: _Batch, codecs: Codecs, roots: dict[str, str], layout: LayoutConfig
) -> _Planned:
    """What a document is written as; its texts and pictures are added to those of the batch."""
    segments, source = document["segments"], document["source"]
    media = {
        i: _encode_media(s["kind"], source, s["media"], roots, codecs)
        for i, s in enumerate(segments)
        if s["kind"] != "text"
    }
    units = {i: media[i] for i, s in enumerate(segments) if s["kind"] == "speech"}
    met: Counter[str] = Counter()
    try:
        pieces = pieces_of(segments, units, document, layout, codecs.speech, met)
    except UserError as e:
        raise _MediaError(str(e)) from e
    items, written = [], 0
    for piece in pieces:
        if piece.kind == "text":
            at = len(segments[piece.segment]["text"][: piece.start].encode()) if piece.start else 0
            items.append(_Item(piece, at, len(batch.texts)))
            batch.texts.append(piece.text)
            written += len(piece.text.encode())
        elif piece.kind == "image":
            items.append(_Item(piece, 0, len(batch.pixels)))
            batch.pixels.append(media[piece.segment])
        else:
            own, durations = (x[piece.start : piece.stop] for x in media[piece.segment])
            items.append(_Item(piece, piece.start, units=own, durations=durations))
    return _Planned(items, written, met)


def _join(planned: _Planned, text_ids: list[np.ndarray], codes: Any, vocabulary: Vocabulary) -> Encoded:
    written = []
    for item in planned.items:
        kind = item.piece.kind
        local = item.units if kind == "speech" else (text_ids if kind == "text" else codes)[item.place]
        written.append(Written(kind, local, item.piece.segment, item.at))
    ids, spans = encode_pieces(written, vocabulary)
    durations = [item.durations for item in planned.items if item.piece.kind == "speech"]
    lasting = np.concatenate([np.zeros(0, np.int32), *durations])
    return Encoded(ids, spans, lasting, planned.text_bytes, planned.met)


def tokens_output(
    part: str, documents: pa.RecordBatch, encoded: list[Any], failures: list[tuple[int, str]]
) -> UnitOutput:
    """Encoded documents of a part (with columns domain and cell) -> the rows of `TOKENS` by cell, and the ledger."""
    done = [i for i, e in enumerate(encoded) if e is not None]
    cells = np.asarray(documents.column("cell"))
    order = sorted(done, key=lambda i: (cells[i], i))
    picked = documents.select(["doc_id", "source", "domain", "cell"]).take(pa.array(order, pa.int64()))
    ids = [encoded[i][0] for i in order]
    spans = [[s._asdict() for s in encoded[i].spans] for i in order]
    text_tokens = [sum(s.stop - s.start for s in encoded[i][1] if s.kind == "text") for i in order]
    text_bytes = [encoded[i].text_bytes for i in order]
    lengths = np.array([len(x) for x in ids], np.int32)
    flat = np.concatenate(ids) if ids else np.zeros(0, np.uint32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = [*picked.columns, pa.array(lengths)]
    columns += [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat)),
        pa.array(spans, TOKENS.field("spans").type),
        documents.column("language").take(pa.array(order, pa.int64())),
        pa.array(text_bytes, pa.int32()),
        pa.array(text_tokens, pa.int32()),
        pa.array(
            [d if len(d := encoded[i].durations) else None for i in order], TOKENS.field("durations").type
        ),
        pa.array([encoded[i].patches for i in order], TOKENS.field("patch_lengths").type),
    ]
    table = pa.table(columns, schema=TOKENS)
    groups = np.unique(cells[order], return_counts=True)[1].tolist() if order else [0]
    output = OutputTable(part, table, groups)
    info: dict[str, Any] = {"texts": text_counts(table)}
    layouts = layout_counts(picked["source"].to_pylist(), [encoded[i].met for i in order])
    if layouts:
        info["layouts"] = layouts
    return UnitOutput(part, (output,), _failures(documents, failures), len(order), info=info)


def layout_counts(sources: list[str], met: list[Counter[str]]) -> dict[str, dict[str, int]]:
    """What the layouts of documents met, summed by source, sorted; sources that keep the order of documents are left out."""
    found: dict[str, Counter[str]] = {}
    for source, own in zip(sources, met):
        if own:
            found.setdefault(source, Counter()).update(own)
    return {s: {k: n for k, n in sorted(found[s].items()) if n} for s in sorted(found)}


def text_counts(tokens: pa.Table) -> list[dict[str, Any]]:
    """Documents with text, its bytes and its tokens, by source and language: rows for the manifest."""
    some = tokens.select(["source", "language", "text_bytes", "text_tokens"])
    some = some.filter(pc.greater(some["text_bytes"], 0))
    sums = some.group_by(["source", "language"], use_threads=False).aggregate(
        [("text_bytes", "sum"), ("text_tokens", "sum"), ("text_bytes", "count")]
    )
    rows = [
        {
            "source": r["source"],
            "language": r["language"] or "",
            "documents": r["text_bytes_count"],
            "bytes": r["text_bytes_sum"],
            "tokens": r["text_tokens_sum"],
        }
        for r in sums.to_pylist()
    ]
    return sorted(rows, key=lambda r: (r["source"], r["language"]))


def _failures(documents: pa.RecordBatch, failures: list[tuple[int, str]]) -> pa.Table:
    ids, sources = documents.column("doc_id"), documents.column("source")
    rows = [
        {
            "doc_id": ids[i].as_py(),
            "source": sources[i].as_py(),
            "stage": "tokenize",
            "scope": "document",
            "outcome": "failed",
            "reason": "media_not_encodable",
            "detail": detail,
        }
        for i, detail in failures
    ]
    return pa.Table.from_pylist(rows, schema=REJECTS)
