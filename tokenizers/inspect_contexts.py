"""A context as a person can read it: its documents, and in each the text, pictures, sound and sentinels in their places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mixloom.tokenizers.inspect_decoders import Decoders
from mixloom.tokenizers.inspect_source import StoredContext
from mixloom.tokenizers.interleave import DecodedSegment, decode_tokens
from mixloom.tokenizers.objective_settings import OBJECTIVE_SPECIALS
from mixloom.tokenizers.vocab import END_DOC, SPECIALS

PieceKind = Literal["text", "image", "speech", "sentinel"]
_NAMES = {i: name for name, i in {**SPECIALS, **OBJECTIVE_SPECIALS}.items()}
_JOINED = 8  # tokens at most that are read together where none of them ends on a whole character


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive text tokens that end on a whole character, nearly always one: their ids in the vocabulary and their text.

    `patch`: whether a stored patch begins here.
    """

    ids: tuple[int, ...]
    text: str
    patch: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A run of tokens of one kind.

    Attributes:
        start: place of its first token in the context.
        ids: int64 [n], ids in the vocabulary.
        groups: the tokens of a text in order; their texts joined are the text.
        patches: places among `ids` where stored patches of units begin. durations: int32 [n], steps of each unit.
        picture: uint8 [h, w, 3]; wave: float32 [samples] at `rate`.
        note: why something is not shown, or not whole.
    """

    kind: PieceKind
    start: int
    ids: npt.NDArray[np.int64]
    text: str = ""
    groups: tuple[Group, ...] = ()
    picture: npt.NDArray[np.uint8] | None = None
    wave: npt.NDArray[np.float32] | None = None
    rate: int = 0
    note: str = ""
    patches: frozenset[int] = frozenset()
    durations: npt.NDArray[np.int32] | None = None


class _Beside(NamedTuple):
    """What is stored beside the tokens of a context: where patches begin, and the steps of each token (0: no unit)."""

    begins: npt.NDArray[np.bool_] | None
    steps: npt.NDArray[np.int32] | None

    def patches(self, start: int, count: int) -> set[int]:
        """Places among `count` tokens from `start` on where patches begin."""
        if self.begins is None:
            return set()
        return set(np.flatnonzero(self.begins[start : start + count]).tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """The part of a document that lies in a context: tokens `start` to `start + tokens` (not included) of it.

    `ends`: whether its last token is here.
    """

    doc_id: str
    source: str
    at: int
    start: int
    tokens: int
    ends: bool
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ReadContext:
    """One context: where it is stored, its documents, and how many of its slots are real tokens.

    `modalities` uint8 [tokens] is the modality of each real token.
    """

    domain: str
    number: int
    shard: str
    key: str
    row: int
    slots: int
    tokens: int
    modalities: npt.NDArray[np.uint8]
    documents: tuple[Document, ...]


def read_context(stored: StoredContext, decoders: Decoders) -> ReadContext:
    """Decode a context.

    Raises:
        ValueError: an id outside the vocabulary, or lengths that are longer than the context.
    """
    total = int(stored.lengths.sum())
    if total > len(stored.ids):
        raise ValueError(
            f"pieces of {total} tokens in a context of {len(stored.ids)}, row {stored.row} of {stored.key}"
        )
    beside = _beside(stored, total, decoders)
    documents, at = [], 0
    about = zip(
        stored.lengths.tolist(), stored.pieces["doc_ids"], stored.pieces["sources"], stored.pieces["starts"]
    )
    for length, doc_id, source, start in about:
        ids = stored.ids[at : at + length].astype(np.int64)
        documents.append(
            Document(
                str(doc_id),
                str(source),
                at,
                int(start),
                length,
                bool(length and ids[-1] == END_DOC),
                tuple(_pieces(ids, at, decoders, beside)),
            )
        )
        at += length
    return ReadContext(
        stored.domain,
        stored.number,
        stored.shard,
        stored.key,
        stored.row,
        len(stored.ids),
        total,
        decoders.vocabulary.modality(stored.ids[:total]),
        tuple(documents),
    )


def _beside(stored: StoredContext, total: int, decoders: Decoders) -> _Beside:
    begins = steps = None
    if stored.patches is not None:
        if int(stored.patches.sum(dtype=np.int64)) != total:
            raise ValueError(f"patches do not add up to {total} tokens, row {stored.row} of {stored.key}")
        begins = np.zeros(total, np.bool_)
        begins[np.cumsum([0, *stored.patches[:-1].tolist()])] = True
    if stored.durations is not None:
        units = decoders.vocabulary.block("speech")
        spoken = (stored.ids[:total] >= units.start) & (stored.ids[:total] < units.stop)
        steps = np.zeros(total, np.int32)
        steps[spoken] = stored.durations
    return _Beside(begins, steps)


def _pieces(ids: npt.NDArray[np.int64], offset: int, decoders: Decoders, beside: _Beside) -> list[Piece]:
    """Segments and sentinels of one document's part, in order; together they are all its tokens."""
    out: list[Piece] = []
    at = 0
    for segment in decode_tokens(ids, decoders.vocabulary):
        out += [_sentinel(ids, i, offset) for i in range(at, segment.start)]
        at = segment.start + len(segment.ids)
        start = offset + segment.start
        out.append(_SHOW[segment.kind](segment, ids[segment.start : at], start, decoders, beside))
    return out + [_sentinel(ids, i, offset) for i in range(at, len(ids))]


def _sentinel(ids: npt.NDArray[np.int64], i: int, offset: int) -> Piece:
    number = int(ids[i])
    return Piece("sentinel", offset + i, ids[i : i + 1], _NAMES.get(number, f"<{number}>"))


def _text(
    segment: DecodedSegment, ids: npt.NDArray[np.int64], start: int, decoders: Decoders, beside: _Beside
) -> Piece:
    coder = decoders.text
    note = _unknown(segment, decoders)
    if coder is None or note:
        note = note or "its tokenizer is not at hand"
        return Piece("text", start, ids, groups=tuple(Group((i,), "") for i in ids.tolist()), note=note)
    found = split_text(segment.ids, coder.decode)
    text = "".join(part for _, part in found)
    begins = beside.patches(start, len(ids))
    groups, at = [], 0
    for count, part in found:
        patch = any(i in begins for i in range(at, at + count))
        groups.append(Group(tuple(ids[at : at + count].tolist()), part, patch))
        at += count
    note = "" if len(found) > 1 or len(ids) <= _JOINED else "its tokens cannot be told apart in the text"
    return Piece("text", start, ids, text, tuple(groups), note=note)


def split_text(ids: npt.NDArray[np.int64], decode: Callable[[Any], str]) -> list[tuple[int, str]]:
    """A text's local ids [n] as (how many ids, their text), in order; joined, the texts are `decode(ids)`.

    A token may end inside a character, and some tokenizers write a token differently at the start of a text: each is
    read after the one before it, together with as many after it as make whole characters. Where the parts do not add
    up to the text (broken characters), all of it is one part.
    """
    out: list[tuple[int, str]] = []
    at, before = 0, 0
    while at < len(ids):
        known = decode(ids[at - before : at]) if before else ""
        first = ""
        for count in range(1, min(_JOINED, len(ids) - at) + 1):
            text = decode(ids[at - before : at + count])[len(known) :]
            first = first if count > 1 else text
            if not text.endswith("\ufffd"):
                break
        else:
            count, text = 1, first
        out.append((count, text))
        at, before = at + count, count
    whole = decode(ids)
    return out if "".join(text for _, text in out) == whole else [(len(ids), whole)]


def _image(
    segment: DecodedSegment, ids: npt.NDArray[np.int64], start: int, decoders: Decoders, beside: _Beside
) -> Piece:
    codec = decoders.image
    note = _unknown(segment, decoders)
    if note or codec is None:
        note = note or "the image codec is not at hand"
    elif not codec.can_decode:
        note = "this codec cannot draw its codes"
    elif len(segment.ids) != codec.tokens:
        note = f"{len(segment.ids)} of {codec.tokens} codes: {'not a whole picture' if segment.complete else 'cut'}"
    if note or codec is None:
        return Piece("image", start, ids, note=note)
    drawn = codec.decode(segment.ids[None])[0]
    return Piece("image", start, ids, picture=drawn, note="" if segment.complete else "a sentinel is missing")


def _speech(
    segment: DecodedSegment, ids: npt.NDArray[np.int64], start: int, decoders: Decoders, beside: _Beside
) -> Piece:
    codec = decoders.speech
    begins = frozenset(beside.patches(start, len(ids)))
    lasting = None if beside.steps is None else beside.steps[start : start + len(ids)]
    note = _unknown(segment, decoders)
    if note or codec is None:
        note = note or "the speech codec is not at hand"
    elif not codec.can_decode:
        note = "this codec cannot sound its units"
    if note or codec is None:
        return Piece("speech", start, ids, note=note, patches=begins, durations=lasting)
    wave = np.asarray(codec.decode(segment.ids, lasting), np.float32)
    note = "" if lasting is not None else "each unit as long as it is on average"
    if not segment.complete:
        note += f"{'; ' if note else ''}the recording goes on in another context"
    return Piece(
        "speech", start, ids, wave=wave, rate=codec.rate, note=note, patches=begins, durations=lasting
    )


_SHOW: dict[str, Callable[[DecodedSegment, npt.NDArray[np.int64], int, Decoders, _Beside], Piece]] = {
    "text": _text,
    "image": _image,
    "speech": _speech,
}


def _unknown(segment: DecodedSegment, decoders: Decoders) -> str:
    used = decoders.vocabulary.block(segment.kind).used
    return "" if int(segment.ids.max()) < used else f"ids that the {segment.kind} tokenizer does not give out"
