"""Documents -> token ids, media read and encoded where they lie. The Beam side is `tokenize_transform`.

Rows of a part are sorted by cell with one row group per cell, so that the packer of a cell reads exactly the
row groups it needs from every part.
"""

from __future__ import annotations

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
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.interleave import Span, encode_document
from mixloom.tokenizers.vocab import Vocabulary

SPAN = pa.struct([pa.field("kind", pa.string()), pa.field("start", pa.int32()), pa.field("stop", pa.int32())])

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
    ]
)


class Encoded(NamedTuple):
    """A document as tokens: ids uint32 [n], a span per segment, and the steps of each speech unit, int32 [u]."""

    ids: np.ndarray
    spans: list[Span]
    durations: np.ndarray


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
    documents: pa.RecordBatch, codecs: Codecs, roots: dict[str, str]
) -> tuple[list[Encoded | None], list[tuple[int, str]]]:
    """Encode a batch of documents (columns doc_id, source, segments).

    Texts and images of the whole batch are each encoded in one call.

    Returns:
        Per document what it became, or None where it failed; and the failures as (row, what happened).
    """
    sources = documents.column("source").to_pylist()
    rows = documents.column("segments").to_pylist()
    texts: list[str] = []
    pixels: list[np.ndarray] = []
    plan: list[list[tuple[str, Any]] | None] = []
    failures: list[tuple[int, str]] = []
    for i, segments in enumerate(rows):
        items: list[tuple[str, Any]] = []
        first_text, first_pixel = len(texts), len(pixels)
        try:
            for s in segments:
                if s["kind"] == "text":
                    items.append(("text", len(texts)))
                    texts.append(s["text"])
                    continue
                encoded = _encode_media(s["kind"], sources[i], s["media"], roots, codecs)
                if s["kind"] == "image":
                    items.append(("image", len(pixels)))
                    pixels.append(encoded)
                else:
                    items.append(("speech", encoded))
            plan.append(items)
        except _MediaError as e:
            del texts[first_text:], pixels[first_pixel:]
            failures.append((i, str(e)))
            plan.append(None)
    text_ids = codecs.text.encode_batch(texts)
    codes: Any = codecs.image.encode(np.stack(pixels)) if pixels and codecs.image else []
    return [_join(p, text_ids, codes, codecs.vocabulary) for p in plan], failures


def _join(
    items: list[tuple[str, Any]] | None, text_ids: list[np.ndarray], codes: Any, vocabulary: Vocabulary
) -> Encoded | None:
    if items is None:
        return None
    kinds: list[Any] = [kind for kind, _ in items]
    by_kind: dict[str, list[np.ndarray]] = {"text": [], "image": [], "speech": []}
    for kind, at in items:
        by_kind[kind].append(at[0] if kind == "speech" else text_ids[at] if kind == "text" else codes[at])
    ids, spans = encode_document(kinds, by_kind["text"], by_kind["image"], by_kind["speech"], vocabulary)
    durations = [at[1] for kind, at in items if kind == "speech"]
    return Encoded(ids, spans, np.concatenate([np.zeros(0, np.int32), *durations]))


def tokens_output(
    part: str, documents: pa.RecordBatch, encoded: list[Any], failures: list[tuple[int, str]]
) -> UnitOutput:
    """Encoded documents of a part (with columns domain and cell) -> the rows of `TOKENS` by cell, and the ledger."""
    done = [i for i, e in enumerate(encoded) if e is not None]
    cells = np.asarray(documents.column("cell"))
    order = sorted(done, key=lambda i: (cells[i], i))
    picked = documents.select(["doc_id", "source", "domain", "cell"]).take(pa.array(order, pa.int64()))
    ids = [encoded[i][0] for i in order]
    spans = [[{"kind": s.kind, "start": s.start, "stop": s.stop} for s in encoded[i][1]] for i in order]
    text_tokens = [sum(s.stop - s.start for s in encoded[i][1] if s.kind == "text") for i in order]
    text_bytes = _text_bytes(documents)[order]
    lengths = np.array([len(x) for x in ids], np.int32)
    flat = np.concatenate(ids) if ids else np.zeros(0, np.uint32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = [*picked.columns, pa.array(lengths)]
    columns += [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat)),
        pa.array(spans, TOKENS.field("spans").type),
        documents.column("language").take(pa.array(order, pa.int64())),
        pa.array(text_bytes.astype(np.int32)),
        pa.array(text_tokens, pa.int32()),
        pa.array(
            [d if len(d := encoded[i].durations) else None for i in order], TOKENS.field("durations").type
        ),
    ]
    table = pa.table(columns, schema=TOKENS)
    groups = np.unique(cells[order], return_counts=True)[1].tolist() if order else [0]
    output = OutputTable(part, table, groups)
    return UnitOutput(
        part, (output,), _failures(documents, failures), len(order), info={"texts": text_counts(table)}
    )


def _text_bytes(documents: pa.RecordBatch) -> np.ndarray:
    """UTF-8 bytes of the text segments of each document: int64 [n]."""
    segments = documents.column("segments")
    flat = segments.flatten()
    lengths = pc.if_else(pc.equal(flat.field("kind"), "text"), pc.binary_length(flat.field("text")), 0)
    row = np.repeat(np.arange(documents.num_rows), np.asarray(segments.value_lengths(), np.int64))
    each = np.asarray(pc.fill_null(lengths, 0), np.float64)  # whole numbers far below 2 ** 53
    return np.bincount(row, each, documents.num_rows).astype(np.int64)


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
