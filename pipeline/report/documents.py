"""Documents of a run by id: where they lie, what they say, and their pictures and sound from the source itself."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.report.media import CLIP_RATE, Clip, Picture, clip, thumbnail
from mixloom.pipeline.report.samples import LONG, SEGMENTS, Piece, Sample
from mixloom.pipeline.run import Part, PartReader, RunDirectory
from mixloom.pipeline.storage import Store, resolve

SCANNED_PARTS = 2000  # more parts than this are sampled evenly
PICTURES, CLIPS = 4, 2  # of one document


def spread(parts: Sequence[Part], most: int) -> list[Part]:
    """At most `most` of the parts, evenly over the list."""
    if len(parts) <= most:
        return list(parts)
    return [parts[i * len(parts) // most] for i in range(most)]


def read_columns(store: Store, part: Part, columns: list[str] | None = None) -> pa.Table:
    """Some columns of a part; nothing else of the file is read.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with fsspec.open(store.url(part.file), "rb") as f:
            file = pq.ParquetFile(f, page_checksum_verification=True)
            return file.read(columns=columns, use_threads=False)
    except (OSError, pa.ArrowInvalid) as e:
        raise UserError(
            f"{store.url(part.file)} cannot be read: {e}",
            fix=f"remove {store.url('stage.json')} and run again: the stage will be redone",
        ) from None


def source_roots(run: RunDirectory, config: Mapping[str, Any]) -> dict[str, str]:
    """Where each source lies, by the saved configuration of the run.

    A source inside the run directory (the demo's corpus) is found wherever the run directory is now.
    """
    data_root, stated = str(config.get("data_root", ".")), str(config.get("run_dir", ""))
    roots = {}
    for source in config.get("sources") or []:
        path = resolve(data_root, str(source.get("path", ".")))
        if "://" not in path:
            inside = os.path.relpath(path, resolve(".", stated)) if stated else ".."
            if not inside.startswith(".."):
                path = posixpath.join(run.store.root, inside)
        roots[str(source.get("name"))] = path
    return roots


class Documents:
    """Looks documents up in `ingest`. Ids that are not there are left out of every answer.

    Args:
        roots: where each source lies, by name; media of other sources are shown as missing.
    """

    def __init__(self, run: RunDirectory, roots: Mapping[str, str]) -> None:
        directory = run.stage("ingest")
        manifest = directory.manifest()
        parts = [p for p in manifest.parts if p.file.endswith(".parquet")] if manifest else []
        self._store, self._roots = directory.store, dict(roots)
        self._seen: dict[str, tuple[str, int]] = {}
        self._parts = spread(parts, SCANNED_PARTS)
        self._reader = PartReader(directory.store, {p.name: p for p in parts})

    def locate(self, ids: Iterable[str]) -> dict[str, tuple[str, int]]:
        """Part and row of each id."""
        ids = set(ids)
        wanted = sorted(ids - set(self._seen))
        for part in self._parts if wanted else []:
            column = read_columns(self._store, part, ["doc_id"])["doc_id"]
            for row in np.flatnonzero(np.asarray(pc.is_in(column, value_set=pa.array(wanted)))).tolist():
                self._seen[column[row].as_py()] = (part.name, row)
        return {i: self._seen[i] for i in sorted(ids) if i in self._seen}

    def rows(self, ids: Iterable[str], columns: list[str] | None = None) -> dict[str, dict[str, Any]]:
        """The rows (schema `DOCUMENTS`) of these ids."""
        by_part: dict[str, list[int]] = {}
        for part, row in self.locate(ids).values():
            by_part.setdefault(part, []).append(row)
        wanted = columns or ["doc_id", "source", "locator", "segments", "meta"]
        out: dict[str, dict[str, Any]] = {}
        for part, rows in sorted(by_part.items()):
            table = self._reader.read_rows(part, np.sort(np.array(rows)), wanted)
            out |= {r["doc_id"]: r for r in table.to_pylist()}
        return out

    def samples(self, ids: Iterable[str]) -> dict[str, Sample]:
        """Documents made ready to be shown."""
        return {doc_id: self._sample(row) for doc_id, row in self.rows(ids).items()}

    def picture(self, source: str, media: Mapping[str, Any], alt: str) -> Picture | None:
        """A thumbnail of an image, or None where it cannot be read (any more)."""
        image = self.image(source, media)
        return thumbnail(image, alt) if image is not None else None

    def image(self, source: str, media: Mapping[str, Any]) -> Any:
        """The image as PIL RGB, or None where it cannot be read."""
        from mixloom.pipeline.ingest.media import load_image

        data = self._bytes(source, media)
        try:
            return load_image(data) if data else None
        except (
            Exception
        ):  # a source may have changed in any way since the run; the page says it is not at hand
            return None

    def clip(self, source: str, media: Mapping[str, Any], label: str) -> Clip | None:
        """The beginning of a recording, or None where it cannot be read."""
        from mixloom.pipeline.ingest.media import load_audio

        data = self._bytes(source, media)
        try:
            return clip(load_audio(data, CLIP_RATE), CLIP_RATE, label) if data else None
        except Exception:  # as above
            return None

    def _bytes(self, source: str, media: Mapping[str, Any]) -> bytes | None:
        from mixloom.pipeline.ingest.media import open_media

        try:
            return open_media(self._roots[source], media["uri"], media["member"] or "")
        except Exception:  # as above
            return None

    def _sample(self, row: Mapping[str, Any]) -> Sample:
        pieces: list[Piece] = []
        seen = {"image": 0, "speech": 0}
        for s in row["segments"][:SEGMENTS]:
            kind, attrs = s["kind"], dict(s["attrs"] or [])
            words = attrs.get("alt") or attrs.get("title") or ""
            if kind == "text":
                text = s["text"] or ""
                pieces.append(Piece("text", text[: LONG + 1], len(text)))
                continue
            seen[kind] += 1
            media = s["media"] or {}
            if kind == "image" and seen[kind] <= PICTURES:
                alt = words or f"image {seen[kind]} of document {row['doc_id'][:12]}"
                pieces.append(Piece("image", picture=self.picture(row["source"], media, alt), note=words))
            elif kind == "speech" and seen[kind] <= CLIPS:
                label = words or f"recording {seen[kind]} of document {row['doc_id'][:12]}"
                pieces.append(Piece("speech", clip=self.clip(row["source"], media, label), note=words))
        meta = tuple((str(k), str(v)) for k, v in (row["meta"] or []))
        where = place(row["locator"])
        return Sample(row["doc_id"], row["source"], where, tuple(pieces), len(row["segments"]), meta)


def place(locator: Mapping[str, Any] | None) -> str:
    """A locator in words: path, member and offset."""
    if not locator:
        return ""
    where = f"{locator['uri']}#{locator['member']}" if locator["member"] else str(locator["uri"])
    offset = locator["offset"]
    return f"{where}@{offset:,}" if offset is not None and offset >= 0 else where


def title_of(segments: Sequence[Mapping[str, Any]]) -> str:
    """The first words of a document; for one without words, what it holds."""
    for s in segments:
        words = (s["text"] or "").strip() or str(dict(s["attrs"] or []).get("alt") or "").strip()
        if words:
            return " ".join(words[:300].split())[:100]
    return ", ".join(s["kind"] for s in segments[:3]) or "empty document"
