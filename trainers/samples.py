"""Prompts from texts and files, and samples of a model as files: text, PNG, WAV, and a page that shows them in place."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.media import load_audio, load_image
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.schema import Kind
from mixloom.tokenizers.inspect_contexts import Piece, ReadContext, read_context
from mixloom.tokenizers.inspect_decoders import Decoders
from mixloom.tokenizers.inspect_page import inspect_page
from mixloom.tokenizers.inspect_source import StoredContext
from mixloom.tokenizers.interleave import encode_document
from mixloom.tokenizers.objective_settings import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX
from mixloom.tokenizers.vocab import DOC, MASK_START

GAP = "@gap"  # stands for the part of a prompt that is to be filled in
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SOUNDS = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Sample:
    """One sampled document: its ids, how many of them are the prompt, and the seed it was drawn with."""

    ids: list[int]
    prompt: int
    seed: int


def prompt_ids(items: Sequence[str], decoders: Decoders, infill: Literal["cm3", "fim"] | None) -> list[int]:
    """The ids a document begins with.

    Args:
        items: in order: a text, `@FILE` for a picture or a recording, or `@gap` for a part to fill in.
        infill: what a gap is asked for with; None: as cm3 where there is one.

    Raises:
        UserError: a file that cannot be read, no tokenizer for it, or more than one gap.
    """
    gaps = [i for i, item in enumerate(items) if item == GAP]
    if len(gaps) > 1:
        raise UserError(
            f"the prompt has {len(gaps)} gaps", fix=f"give {GAP} once; the gap is filled in one piece"
        )
    if not gaps:
        return _encoded(items, decoders)
    before, after = (_encoded(part, decoders)[1:] for part in (items[: gaps[0]], items[gaps[0] + 1 :]))
    if infill == "fim":
        return [DOC, FIM_PREFIX, *before, FIM_SUFFIX, *after, FIM_MIDDLE]
    return [DOC, *before, MASK_START, *after, MASK_START]


def _encoded(items: Sequence[str], decoders: Decoders) -> list[int]:
    """<doc> and the ids of the items."""
    kinds: list[Kind] = []
    texts: list[np.ndarray] = []
    images: list[np.ndarray] = []
    speech: list[np.ndarray] = []
    for item in items:
        if not item.startswith("@"):
            kinds.append("text")
            texts.append(_need(decoders, "text").encode_batch([item])[0])
            continue
        path = Path(item[1:])
        suffix = path.suffix.lower()
        if suffix not in (*_PICTURES, *_SOUNDS):
            raise UserError(
                f"the prompt names '{path}', which is neither a picture nor a recording by its name",
                fix=f"use one of {', '.join((*_PICTURES, *_SOUNDS))}; a text is given without @",
            )
        try:
            data = path.read_bytes()
            if suffix in _PICTURES:
                kinds.append("image")
                images.append(_need(decoders, "image").encode_batch([load_image(data)])[0])
            else:
                kinds.append("speech")
                codec = _need(decoders, "speech")
                speech.append(codec.encode(load_audio(data, codec.rate))[0])
        except (OSError, Problem) as error:
            raise UserError(
                f"cannot read the prompt '{path}': {error}", fix="name a file that opens"
            ) from None
    ids, _ = encode_document(kinds, texts, images, speech, decoders.vocabulary)
    return ids[:-1].tolist()


def _need(decoders: Decoders, name: str) -> Any:
    found = getattr(decoders, name)
    if found is None:
        why = decoders.missing.get(name, f"the vocabulary has no {name}")
        raise UserError(
            f"the prompt holds {name}, which cannot be encoded: {why}",
            fix="give the tokenizers with --tokenizer RUN, or leave it out of the prompt",
        )
    return found


def read_sample(sample: Sample, number: int, decoders: Decoders) -> ReadContext:
    """A sample as the inspector reads a context."""
    ids = np.asarray(sample.ids, np.uint32)
    about = f"prompt of {sample.prompt} token{'s' if sample.prompt > 1 else ''}"
    pieces = {"doc_ids": [about], "sources": [f"seed {sample.seed}"], "starts": [0]}
    stored = StoredContext(
        ids,
        np.array([len(ids)], np.int32),
        pieces,
        "sampled",
        number,
        "",
        f"Sample {number}",
        0,
    )
    return read_context(stored, decoders)


def write_samples(
    folder: Path, samples: Sequence[Sample], decoders: Decoders, title: str, about: dict[str, Any]
) -> None:
    """Write samples into a folder: index.html, samples.json, and for each its text, pictures and recordings.

    A text names its pictures and recordings where they stand: `[sample-000-image-1.png]`.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder", fix="name a folder for the samples with --out")
    folder.mkdir(parents=True, exist_ok=True)
    read = [read_sample(s, i, decoders) for i, s in enumerate(samples)]
    told = []
    for i, (sample, context) in enumerate(zip(samples, read, strict=True)):
        parts: list[str] = []
        files: list[str] = []
        for piece in (p for d in context.documents for p in d.pieces):
            name, data = _file(piece, f"sample-{i:03d}-{piece.kind}-{len(files) + 1}")
            if data:
                (folder / name).write_bytes(data)
                files.append(name)
            parts.append(piece.text if piece.kind == "text" else f"[{name}]" if data else "")
        text = "".join(parts)
        (folder / f"sample-{i:03d}.txt").write_text(text, encoding="utf-8")
        told.append({**asdict(sample), "text": text, "files": files})
    notes = list(decoders.missing.values())
    page = inspect_page(title, read, notes=notes)
    (folder / "index.html").write_text(page, encoding="utf-8")
    body = json.dumps({**about, "samples": told}, indent=1, ensure_ascii=False)
    (folder / "samples.json").write_text(body + "\n", encoding="utf-8")


def _file(piece: Piece, stem: str) -> tuple[str, bytes]:
    """Name and content of the file of a picture or recording; no content where there is nothing to see or hear."""
    out = io.BytesIO()
    if piece.picture is not None:
        from PIL import Image

        Image.fromarray(piece.picture).save(out, "PNG", optimize=True)
        return f"{stem}.png", out.getvalue()
    if piece.wave is not None:
        import soundfile

        soundfile.write(out, piece.wave, piece.rate, format="WAV", subtype="PCM_16")
        return f"{stem}.wav", out.getvalue()
    return "", b""
