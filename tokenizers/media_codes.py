"""The media of a batch of documents, read where they lie and encoded in micro-batches over all its documents.

A micro-batch is as many pictures as fit into so many pixels, or recordings that last so many seconds together. It bounds
what is held and lets a GPU work on several at once; what becomes of a picture or recording never depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.media import load_audio, load_image, open_media
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.storage import sha256_hex
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.pairs import TRANSCRIPTS, Part, pairs_of
from mixloom.tokenizers.recorded_patches import recording_patches
from mixloom.tokenizers.settings import NO_PATCHES, WHOLE_PART, MicroBatchConfig, SpeechPatchConfig
from mixloom.tokenizers.speech_patches import WORD_TIMES

Row = Mapping[str, Any]


class Recording(NamedTuple):
    """Units int64 [u], durations int32 [u] in steps, and lengths int32 [p] of the patches of the units; None: no patches."""

    units: npt.NDArray[np.int64]
    durations: npt.NDArray[np.int32]
    patches: npt.NDArray[np.int32] | None = None


Coded = dict[int, Any]
"""What stands for the media of a document, by the number of the segment: codes int64 [tokens], or a `Recording`."""


class MediaError(Exception):
    """One medium of a document could not be encoded; the document fails."""


class _Waiting(NamedTuple):
    """A picture (uint8 [h, w, 3]) or wave that waits for its micro-batch: of which document and segment, and what it is called."""

    document: int
    segment: int
    where: str
    loaded: Any


def encode_media(
    documents: Sequence[Row],
    codecs: Codecs,
    roots: Mapping[str, str],
    micro_batch: MicroBatchConfig = WHOLE_PART,
    speech_patches: SpeechPatchConfig = NO_PATCHES,
) -> tuple[list[Coded], dict[int, str]]:
    """What stands for the media of documents (source, segments; and meta, where word times may stand).

    Returns:
        For each document its media by segment, and what happened, by the number of the document, where one of them
        could not be encoded.
    """
    coded: list[Coded] = [{} for _ in documents]
    failed: dict[int, str] = {}

    def pictures(batch: Sequence[_Waiting]) -> Sequence[Any]:
        assert codecs.image is not None
        return list(codecs.image.encode(np.stack([w.loaded for w in batch])))

    def recordings(batch: Sequence[_Waiting]) -> Sequence[Any]:
        codec = codecs.speech
        assert codec is not None
        out = []
        for w, (units, durations) in zip(batch, codec.encode_batch([w.loaded for w in batch])):
            known = () if speech_patches.kind != "aligned" else _words(documents[w.document], w.segment)
            patches = recording_patches(speech_patches, w.loaded, codec, durations, *(known or ({}, ())))
            out.append(Recording(units, durations, patches))
        return out

    rate = codecs.speech.rate if codecs.speech else 1
    queues = {
        "image": _Queue(pictures, lambda x: x.shape[0] * x.shape[1], micro_batch.pixels),
        "speech": _Queue(recordings, lambda x: len(x) / rate, micro_batch.seconds),
    }
    for i, document in enumerate(documents):
        for j, segment in enumerate(document["segments"]):
            kind = segment["kind"]
            if kind == "text" or i in failed:
                continue
            try:
                where, loaded = _load(kind, document["source"], segment["media"], codecs, roots)
            except MediaError as e:
                failed[i] = str(e)
                continue
            queues[kind].add(_Waiting(i, j, where, loaded), coded, failed)
    for queue in queues.values():
        queue.encode(coded, failed)
    return coded, failed


class _Queue:
    """What waits to be encoded; it is, as soon as the next would exceed `most`."""

    def __init__(
        self, encode: Callable[[Sequence[_Waiting]], Sequence[Any]], size: Callable[[Any], float], most: float
    ) -> None:
        self._encode, self._size, self._most = encode, size, most
        self._waiting: list[_Waiting] = []
        self._held = 0.0

    def add(self, one: _Waiting, coded: list[Coded], failed: dict[int, str]) -> None:
        size = self._size(one.loaded)
        if self._waiting and self._held + size > self._most:
            self.encode(coded, failed)
        self._waiting.append(one)
        self._held += size

    def encode(self, coded: list[Coded], failed: dict[int, str]) -> None:
        """Encode what waits; where that fails, one by one, so that only the document of the culprit does."""
        waiting, self._waiting, self._held = self._waiting, [], 0.0
        try:
            done = list(zip(waiting, self._encode(waiting))) if waiting else []
        except (UserError, ValueError):
            done = []
            for one in waiting:
                try:
                    done.append((one, self._encode([one])[0]))
                except (UserError, ValueError) as e:
                    failed.setdefault(one.document, f"{one.where}: {type(e).__name__}: {e}")
        for one, result in done:
            coded[one.document][one.segment] = result


def _load(
    kind: str, source: str, media: Row, codecs: Codecs, roots: Mapping[str, str]
) -> tuple[str, npt.NDArray[Any]]:
    """The name of a medium, and its pixels uint8 [h, w, 3] as the codec wants them or its wave float32 [t]."""
    where = f"{media['uri']}{'#' + media['member'] if media['member'] else ''}"
    try:
        data = open_media(roots[source], media["uri"], media["member"])
        if sha256_hex(data) != media["sha256"]:
            raise MediaError(
                f"{where}: its content has changed since ingest read it; run again to read it anew"
            )
        codec: Any = codecs.image if kind == "image" else codecs.speech
        if codec is None:
            raise MediaError(f"{where}: no {kind} codec could be fitted, for no {kind} could be read")
        loaded = codec.prepare(load_image(data)) if kind == "image" else load_audio(data, codec.rate)
        return where, np.asarray(loaded)
    except (Problem, UserError, OSError, ValueError, SyntaxError) as e:
        raise MediaError(f"{where}: {type(e).__name__}: {e}") from e


def _words(document: Row, i: int) -> tuple[dict[str, str], list[str]]:
    """What is known of when the words of recording `i` of a document are said: attributes, and the words in order."""
    parts = [Part(s["kind"], s["text"] or "", dict(s["attrs"] or {})) for s in document["segments"]]
    pairs = {p.medium: p.texts for p in pairs_of(parts, "speech", TRANSCRIPTS, False, set())}
    texts = [parts[t] for t in pairs.get(i, ())]
    attrs: dict[str, str] = {}
    if sum(p.kind == "speech" for p in parts) == 1:
        meta = dict(document.get("meta") or ())
        attrs = {k: meta[k] for k in (WORD_TIMES,) if k in meta}
    for part in (*texts, parts[i]):
        attrs |= {k: v for k, v in part.attrs.items() if k == WORD_TIMES}
    return attrs, [word for t in texts for word in t.text.split()]
