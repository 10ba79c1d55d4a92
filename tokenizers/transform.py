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

from mixloom.pipeline.beside_tokens import cut_patches
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.schema import REJECTS
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.tokenizers.arranged import pieces_of
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.interleave import Span, Written, encode_pieces
from mixloom.tokenizers.layout_config import READING_ORDER, LayoutConfig
from mixloom.tokenizers.media_codes import Coded, Recording, encode_media
from mixloom.tokenizers.pairs import Piece
from mixloom.tokenizers.recorded_patches import document_patches
from mixloom.tokenizers.settings import NO_PATCHES, WHOLE_PART, MicroBatchConfig, SpeechPatchConfig

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


def tokenize(
    documents: pa.RecordBatch,
    codecs: Codecs,
    roots: dict[str, str],
    layout: LayoutConfig = READING_ORDER,
    speech_patches: SpeechPatchConfig = NO_PATCHES,
    micro_batch: MicroBatchConfig = WHOLE_PART,
) -> tuple[list[Encoded | None], list[tuple[int, str]]]:
    """Encode a batch of documents (columns doc_id, source, segments; and meta, where word times may stand).

    Texts of the whole batch are encoded in one call, media in micro-batches.

    Returns:
        Per document what it became, or None where it failed; and the failures as (row, what happened).
    """
    rows = documents.select(["doc_id", "source", "segments"]).to_pylist()
    if "meta" in documents.schema.names:
        meta = documents.column("meta")
        for i, row in enumerate(rows):  # maps are slow to convert, and most documents have no recording
            if any(s["kind"] == "speech" for s in row["segments"]):
                row["meta"] = meta[i].as_py()
    media, failed = encode_media(rows, codecs, roots, micro_batch, speech_patches)
    texts: list[str] = []
    plan: list[_Planned | None] = []
    for i, document in enumerate(rows):
        try:
            plan.append(None if i in failed else _planned(document, media[i], texts, codecs, layout))
        except UserError as e:
            failed[i] = str(e)
            plan.append(None)
    text_ids = codecs.text.encode_batch(texts)
    grouped = speech_patches.kind != "none"
    return [_join(p, text_ids, codecs, grouped) if p else None for p in plan], sorted(failed.items())


class _Item(NamedTuple):
    """A piece and where it begins in its segment; the place of its text among those of the batch, or its codes or recording."""

    piece: Piece
    at: int
    place: int = -1
    coded: Any = None


class _Planned(NamedTuple):
    items: list[_Item]
    text_bytes: int
    met: Counter[str]


def _planned(
    document: dict[str, Any], media: Coded, texts: list[str], codecs: Codecs, layout: LayoutConfig
) -> _Planned:
    """What a document is written as; its texts are added to those of the batch."""
    segments = document["segments"]
    units = {i: (m.units, m.durations) for i, m in media.items() if isinstance(m, Recording)}
    met: Counter[str] = Counter()
    pieces = pieces_of(segments, units, document, layout, codecs.speech, met)
    items, written = [], 0
    for piece in pieces:
        if piece.kind == "text":
            at = len(segments[piece.segment]["text"][: piece.start].encode()) if piece.start else 0
            items.append(_Item(piece, at, len(texts)))
            texts.append(piece.text)
            written += len(piece.text.encode())
        elif piece.kind == "image":
            items.append(_Item(piece, 0, coded=media[piece.segment]))
        else:
            items.append(_Item(piece, piece.start, coded=_stretch(media[piece.segment], piece)))
    return _Planned(items, written, met)


def _stretch(recording: Recording, piece: Piece) -> Recording:
    """The part of a recording that a piece is."""
    here, patches = slice(piece.start, piece.stop), recording.patches
    if patches is not None:
        patches = cut_patches(patches, piece.start, piece.stop).astype(np.int32)
    return Recording(recording.units[here], recording.durations[here], patches)


def _join(planned: _Planned, text_ids: list[np.ndarray], codecs: Codecs, grouped: bool) -> Encoded:
    """The document. `grouped`: whether units of speech are."""
    written = []
    for item in planned.items:
        kind = item.piece.kind
        local = (
            text_ids[item.place] if kind == "text" else item.coded.units if kind == "speech" else item.coded
        )
        written.append(Written(kind, local, item.piece.segment, item.at))
    ids, spans = encode_pieces(written, codecs.vocabulary)
    heard = [item.coded for item in planned.items if item.piece.kind == "speech"]
    lasting = np.concatenate([np.zeros(0, np.int32), *(h.durations for h in heard)])
    units = np.concatenate([np.zeros(0, np.int32), *(h.patches for h in heard if h.patches is not None)])
    patches = document_patches(ids, codecs.vocabulary, codecs.text, units if grouped else None)
    return Encoded(ids, spans, lasting, planned.text_bytes, planned.met, patches)


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
