"""Media checks: one row of measures for every image and recording of a batch of documents, decoded where it lies.

The judgement comes later, by rules over these rows; a file that cannot be read or decoded is a row that says so.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.image_checks import measure_image
from mixloom.pipeline.ingest.media import open_media
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.media_check_config import MediaCheckConfig
from mixloom.pipeline.media_items import ITEMS
from mixloom.pipeline.speech_checks import measure_speech

_TRANSCRIPT = "transcript"  # the role of a text segment, as ingest names it


def measure_media(
    documents: pa.RecordBatch, roots: dict[str, str], config: MediaCheckConfig
) -> pa.RecordBatch:
    """Measure every image and speech segment of n documents (columns source and segments; row, where there is one).

    An item that stands in the batch several times is decoded once. Errors of an item are told in its row.

    Args:
        roots: where each source lies, by name.

    Returns:
        `ITEMS`, sorted by row and segment; the metadata of the input's schema are kept.
    """
    lists = documents.column("segments")
    offsets = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    bounds, segments = offsets - offsets[0], lists.flatten()
    owner = np.repeat(np.arange(len(documents)), np.diff(bounds))
    chosen = np.flatnonzero(
        pc.is_in(segments.field("kind"), pa.array(["image", "speech"])).to_numpy(zero_copy_only=False)
    )
    kinds, media = (segments.field(f).take(pa.array(chosen)).to_pylist() for f in ("kind", "media"))
    rows = (
        np.asarray(documents.column("row")) if "row" in documents.schema.names else np.arange(len(documents))
    )
    sources = documents.column("source").take(pa.array(owner[chosen])).to_pylist()
    spoken = {int(owner[at]) for at, kind in zip(chosen, kinds) if kind == "speech"}
    transcripts: dict[int, str | None] = {}
    for d in sorted(spoken):
        found = paired_transcripts(lists[d].as_py())
        transcripts |= {int(bounds[d]) + segment: text for segment, text in found.items()}
    known: dict[tuple[str, str], dict[str, Any]] = {}
    out: list[dict[str, Any]] = []
    for at, kind, item, source in zip(chosen.tolist(), kinds, media, sources):
        key = (kind, item["sha256"])
        if key not in known:
            known[key] = _measure(kind, item, roots.get(source), config)
        measured = known[key]
        if "error" in measured:  # another file with the same content may be readable
            del known[key]
        if kind == "speech":
            measured = measured | _pace(transcripts.get(at), measured.get("seconds"))
        d = int(owner[at])
        place = {"row": int(rows[d]), "segment": at - int(bounds[d]), "kind": kind}
        out.append(place | measured | {"sha256": item["sha256"]})
    out.sort(key=lambda r: (r["row"], r["segment"]))
    return pa.RecordBatch.from_pylist(out, schema=ITEMS).replace_schema_metadata(documents.schema.metadata)


def _measure(kind: str, media: dict[str, Any], root: str | None, config: MediaCheckConfig) -> dict[str, Any]:
    if root is None:
        return {"decoded": 0, "error": "unknown_source: no root is known for the source of this document"}
    try:
        data = open_media(root, media["uri"], media["member"] or "", max_bytes=config.max_bytes)
    except Problem as problem:
        return {"decoded": 0, "error": f"{problem.reason}: {problem.detail}"}
    except Exception as e:  # whatever a remote file system raises
        return {"decoded": 0, "error": f"unreadable: {type(e).__name__}: {' '.join(str(e).split())}"}
    if media["sha256"] and hashlib.sha256(data).hexdigest() != media["sha256"]:
        return {"decoded": 0, "error": f"changed: '{media['uri']}' is not what it was when ingest read it"}
    return measure_image(data, config) if kind == "image" else measure_speech(data, config)


def _pace(transcript: str | None, seconds: float | None) -> dict[str, Any]:
    if transcript is None:
        return {}
    words = transcript.split()
    out: dict[str, Any] = {"transcript_words": len(words)}
    if seconds:
        out["words_per_second"] = len(words) / seconds
        out["chars_per_second"] = sum(map(len, words)) / seconds
    return out


def paired_transcripts(segments: list[dict[str, Any]]) -> dict[int, str | None]:
    """The transcript of each speech segment of a document, by its index; None where it has none.

    Text segments of the role "transcript" belong to the clips in order when there are as many of them; otherwise to
    the clip right before, or else right after them. In a document of one clip and one text the text is the transcript.
    An attribute "transcript" of the clip itself goes before all that.
    """
    clips = [i for i, s in enumerate(segments) if s["kind"] == "speech"]
    texts = [i for i, s in enumerate(segments) if s["kind"] == "text"]
    said = [i for i in texts if dict(segments[i]["attrs"] or ()).get("role") == _TRANSCRIPT]
    if len(clips) == len(said):
        pairs: dict[int, int | None] = dict(zip(clips, said))
    elif len(clips) == len(texts) == 1:
        pairs = {clips[0]: texts[0]}
    else:
        pairs = {c: next((i for i in (c + 1, c - 1) if i in said), None) for c in clips}
    out: dict[int, str | None] = {}
    for c in clips:
        own = dict(segments[c]["attrs"] or ()).get(_TRANSCRIPT)
        at = pairs.get(c)
        out[c] = own if own is not None else None if at is None else segments[at]["text"]
    return out
