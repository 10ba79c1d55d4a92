"""Documents to token streams and back.

    <doc> segment segment ... </doc>      text: its ids    image: <image> codes </image>    speech: <speech> units </speech>

with `<break>` between two adjacent texts. Sentinels are ids, never strings, so no text can imitate one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.schema import KINDS, Kind
from mixloom.tokenizers.vocab import (
    BREAK,
    DOC,
    END_DOC,
    END_IMAGE,
    END_SPEECH,
    IMAGE,
    SPEECH,
    Block,
    Vocabulary,
)

SENTINELS: dict[Kind, tuple[int, int]] = {"image": (IMAGE, END_IMAGE), "speech": (SPEECH, END_SPEECH)}


class Span(NamedTuple):
    """Tokens `start..stop` (stop not included) of one segment, or of a piece of it, its sentinels included.

    Attributes:
        segment: number of the segment in the document. A text of an image's number is from the attributes of that image.
        at: where the piece begins in its segment: in UTF-8 bytes of a text, in units of a recording.
    """

    kind: Kind
    start: int
    stop: int
    segment: int
    at: int = 0


class Written(NamedTuple):
    """What is to be written next: local ids, 1-d, of a segment or a piece of it; `segment` and `at` as in `Span`."""

    kind: Kind
    ids: npt.NDArray[np.integer]
    segment: int
    at: int = 0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DecodedSegment:
    """One segment found in a token stream.

    `ids` int64 [n] are local to the codec of `kind`. `start` is the position of the first of them in the stream,
    `document` counts the documents met (a context holds several). `complete` is False where the stream cut the
    segment: an image or a recording lacking one of its sentinels, a text at the very start or end of the stream.
    """

    kind: Kind
    ids: npt.NDArray[np.int64]
    start: int
    document: int
    complete: bool


def encode_document(
    segments: Sequence[Kind],
    texts_ids: Sequence[npt.NDArray[np.integer]],
    image_codes: Sequence[npt.NDArray[np.integer]],
    speech_units: Sequence[npt.NDArray[np.integer]],
    vocab: Vocabulary,
) -> tuple[npt.NDArray[np.uint32], list[Span]]:
    """Join the local ids of a document's segments into one stream of vocabulary ids.

    Args:
        segments: the kind of each segment, in order.
        texts_ids, image_codes, speech_units: local ids, each 1-d, of the text, image and speech segments in order.

    Returns:
        ids uint32 [n], starting with <doc> and ending with </doc>; and one span per segment. A segment without
        ids gets an empty span and writes nothing.

    Raises:
        ValueError: the lists do not match `segments`, or a local id does not exist in the vocabulary.
    """
    queues = {"text": texts_ids, "image": image_codes, "speech": speech_units}
    for kind in KINDS:
        if sum(s == kind for s in segments) != len(queues[kind]):
            raise ValueError(
                f"{sum(s == kind for s in segments)} {kind} segments but ids for {len(queues[kind])}"
            )
    rest = {kind: iter(ids) for kind, ids in queues.items()}
    return encode_pieces([Written(kind, next(rest[kind]), i) for i, kind in enumerate(segments)], vocab)


def encode_pieces(written: Sequence[Written], vocab: Vocabulary) -> tuple[npt.NDArray[np.uint32], list[Span]]:
    """Join local ids into one stream of vocabulary ids, in the given order; as `encode_document`, with a span per piece.

    Raises:
        ValueError: a local id does not exist in the vocabulary.
    """
    pieces: list[npt.NDArray[np.uint32]] = [_DOC]
    spans: list[Span] = []
    at, last = 1, ""
    for kind, ids, segment, begin in written:
        local = np.asarray(ids)
        if not local.size:
            spans.append(Span(kind, at, at, segment, begin))
            continue
        if kind == "text" and last == "text":
            pieces.append(_BREAK)
            at += 1
        body = _global(local, vocab.block(kind))
        if kind in SENTINELS:
            first, end = SENTINELS[kind]
            body = np.concatenate((np.array([first], np.uint32), body, np.array([end], np.uint32)))
        pieces.append(body)
        spans.append(Span(kind, at, at + len(body), segment, begin))
        at += len(body)
        last = kind
    pieces.append(_END_DOC)
    return np.concatenate(pieces), spans


def read_spans(
    ids: npt.ArrayLike, spans: Sequence[Span], vocab: Vocabulary
) -> dict[tuple[int, Kind], list[tuple[int, npt.NDArray[np.int64]]]]:
    """The way back from a document's whole stream: per segment and kind its pieces (at, local ids), in the order of the segment.

    Raises:
        ValueError: a span holds ids of another kind than it says.
    """
    tokens = np.asarray(ids).astype(np.int64, copy=False)
    found: dict[tuple[int, Kind], list[tuple[int, npt.NDArray[np.int64]]]] = {}
    for span in spans:
        inner = 1 if span.kind in SENTINELS and span.stop > span.start else 0
        block = vocab.block(span.kind)
        local = tokens[span.start + inner : span.stop - inner] - block.start
        if local.size and not 0 <= int(local.min()) <= int(local.max()) < block.size:
            raise ValueError(f"tokens {span.start}..{span.stop} are not those of a {span.kind}")
        found.setdefault((span.segment, span.kind), []).append((span.at, local))
    for pieces in found.values():
        pieces.sort(key=lambda piece: piece[0])
    return found


_DOC, _END_DOC, _BREAK = (np.array([i], np.uint32) for i in (DOC, END_DOC, BREAK))


def _global(local: npt.NDArray[np.integer], block: Block) -> npt.NDArray[np.uint32]:
    low, high = int(local.min()), int(local.max())
    if low < 0 or high >= block.used:
        raise ValueError(
            f"{block.name} ids {low}..{high} are not in the vocabulary, which holds {block.used}"
        )
    return (local.astype(np.int64, copy=False) + block.start).astype(np.uint32)


def decode_tokens(ids: npt.ArrayLike, vocab: Vocabulary) -> list[DecodedSegment]:
    """The segments in a stream of vocabulary ids, in order; padding and sentinels left out.

    Works on any cut of a stream (a context may begin or end inside a segment) and on what a model has
    sampled: a segment is a run of ids of one block, ended by any special or by an id of another block.

    Raises:
        ValueError: an id outside the vocabulary.
    """
    tokens = np.asarray(ids).astype(np.int64, copy=False)
    if tokens.ndim != 1:
        raise ValueError(f"expected a 1-d stream of ids, got shape {tokens.shape}")
    modality = vocab.modality(tokens).astype(np.int64)
    inner = tokens >= vocab.block("special").stop
    label = np.where(inner, modality, -1)
    edges = np.flatnonzero(np.diff(label)) + 1
    starts = np.concatenate(([0], edges))
    stops = np.concatenate((edges, [len(tokens)]))
    documents = np.cumsum(tokens == DOC)
    first = int(
        len(tokens) > 0 and tokens[0] == DOC
    )  # a stream that begins inside a document is in document 0
    found = []
    for start, stop in zip(starts.tolist(), stops.tolist()):
        if start == stop or label[start] < 0:
            continue
        kind = KINDS[label[start]]
        found.append(
            DecodedSegment(
                kind=kind,
                ids=tokens[start:stop] - vocab.block(kind).start,
                start=start,
                document=int(documents[start]) - first,
                complete=_complete(tokens, start, stop, kind),
            )
        )
    return found


def _complete(tokens: npt.NDArray[np.int64], start: int, stop: int, kind: Kind) -> bool:
    if start == 0 or stop == len(tokens):
        return False
    if kind in SENTINELS:
        return (int(tokens[start - 1]), int(tokens[stop])) == SENTINELS[kind]
    return True
