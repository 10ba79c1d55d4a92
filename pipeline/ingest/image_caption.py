"""Images with captions, from a COCO file, a table, text files beside them, or their names."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from mixloom.pipeline.ingest.assemble import Assembler, Item, Output, Ref, Text
from mixloom.pipeline.ingest.config import (
    CocoCaptions,
    FileNameCaptions,
    ImageCaptionSource,
    SidecarCaptions,
    TableCaptions,
)
from mixloom.pipeline.ingest.decode import decode, newlines, split_bom
from mixloom.pipeline.ingest.plan import list_documents, list_sidecars
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.ingest.tables import Row, Table, load_table, media_key


def read(split: Split, source: ImageCaptionSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of an image-caption source.

    The split of unit "table" yields a failure for each caption that has no image or cannot be read.
    """
    make = Assembler(source, root)
    captions = source.captions
    table = Table({}, [])
    if isinstance(captions, CocoCaptions | TableCaptions):
        table = load_table(
            root, captions, source.encoding, source.on_encoding_error, source.max_bytes, source.name
        )
    if split.unit == "table":
        yield from _unused(make, source, table)
        return

    def one(uri: str) -> Iterator[Output]:
        texts, meta = _captions(make, source, table, uri)
        if source.captions_policy == "first":
            texts = texts[:1]
        items: list[Item] = [Text(t, {"role": "caption"}, flow=False) for t in texts]
        image = Ref("image", uri, exact=True)
        items = [image, *items] if source.order == "image_first" else [*items, image]
        yield from make.document(uri, items, meta=meta, media_scope="document")

    yield from make.each_file(split.files, one)


def _captions(
    make: Assembler, source: ImageCaptionSource, table: Table, uri: str
) -> tuple[list[str], dict[str, str]]:
    captions = source.captions
    if isinstance(captions, CocoCaptions | TableCaptions):
        key = media_key(uri, captions.match, is_file=True)
        rows = [r for r in table.rows.get(key, ()) if r.text]
        if not rows:
            raise _missing(f"'{captions.path}' has none for it (looked for '{key}')", "match of captions")
        return [r.text for r in rows], rows[0].meta
    if isinstance(captions, SidecarCaptions):
        return [_sidecar(make, source, captions, uri)], {}
    return [_from_name(captions, uri)], {}


def _missing(what: str, check: str) -> Problem:
    return Problem(
        "missing_caption",
        f"the image has no caption: {what}",
        fix=f"add a caption, exclude the image, or check {check}",
    )


def _sidecar(make: Assembler, source: ImageCaptionSource, captions: SidecarCaptions, uri: str) -> str:
    beside = posixpath.splitext(uri)[0] + captions.suffix
    if not make.files.is_file(beside):
        raise _missing(f"there is no file '{beside}'", "suffix of captions")
    data = make.files.read(beside, source.max_bytes)
    bom, encoding = split_bom(data, source.encoding)
    text = decode(data[bom:], encoding, source.on_encoding_error, base=bom, what=f"'{beside}'")
    if not text.strip():
        raise _missing(f"'{beside}' is empty", "suffix of captions")
    return newlines(text).strip()


def _from_name(captions: FileNameCaptions, uri: str) -> str:
    match = re.search(captions.pattern, uri)
    text = match["caption"] if match is not None else None
    if captions.separators and text:
        text = " ".join(re.sub(f"[{re.escape(captions.separators)}]", " ", text).split())
    if not text:
        raise _missing(f"its name does not match {captions.pattern}", "pattern of captions")
    return text


def _unused(make: Assembler, source: ImageCaptionSource, table: Table) -> Iterator[Output]:
    captions = source.captions
    images = list_documents(source, make.files)
    if isinstance(captions, SidecarCaptions):
        stems = {posixpath.splitext(e.uri)[0] for e in images}
        for entry in list_sidecars(source, make.files, captions.suffix):
            if entry.uri.removesuffix(captions.suffix) not in stems:
                yield make.fail(_no_image(f"the caption file '{entry.uri}'"), entry.uri)
        return
    if isinstance(captions, FileNameCaptions):
        return
    for number, problem in table.bad:
        yield make.fail(problem, captions.path, offset=number, length=1)
    there = {media_key(e.uri, captions.match, is_file=True) for e in images}
    for key, rows in table.rows.items():
        if key not in there:
            first: Row = rows[0]
            problem = _no_image(f"row {first.number} ('{first.id}')")
            yield make.fail(problem, captions.path, member=first.id, offset=first.number, length=len(rows))


def _no_image(what: str) -> Problem:
    return Problem(
        "missing_media",
        f"{what} has no image",
        fix="restore the image, remove the caption, or check glob and match",
    )
