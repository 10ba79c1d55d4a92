"""The layouts in which JSON says how texts and images of one document stand together."""

from __future__ import annotations

from typing import Any

from mixloom.pipeline.ingest.assemble import Item, Ref, Text
from mixloom.pipeline.ingest.fields import lookup_value, segment_items
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.web_config import MatchedImages, ParallelLists, SegmentList


def interleaved_items(record: dict[str, Any], how: SegmentList | ParallelLists | MatchedImages) -> list[Item]:
    """Texts and references in reading order; the targets of references are names as the JSON writes them.

    Raises:
        Problem: missing_field, wrong_type or bad_segment, naming the place at fault.
    """
    if isinstance(how, SegmentList):
        return segment_items(_list(record, how.field), how.field, "the JSON member")
    if isinstance(how, ParallelLists):
        return _parallel(_list(record, how.texts), _list(record, how.images), how)
    return _matched(_list(record, how.texts), _list(record, how.images), how)


def _list(record: dict[str, Any], path: str) -> list[Any]:
    value = lookup_value(record, path)
    if value is None:
        names = ", ".join(sorted(record)[:20]) or "no fields"
        raise Problem(
            "missing_field",
            f"the JSON member has no field '{path}' (it has: {names})",
            fix="name the field in interleaved of the source",
        )
    if not isinstance(value, list):
        raise Problem("wrong_type", f"the field '{path}' is no list", fix="name a field that holds a list")
    return value


def _parallel(texts: list[Any], images: list[Any], how: ParallelLists) -> list[Item]:
    if len(texts) != len(images):
        raise Problem(
            "bad_segment",
            f"'{how.texts}' has {len(texts)} entries and '{how.images}' has {len(images)}; they must be as many",
            fix="write null where the other list has the value",
        )
    out: list[Item] = []
    for i, (text, image) in enumerate(zip(texts, images, strict=True)):
        if isinstance(text, str) and image is None:
            out.append(Text(text, flow=False))
        elif text is None and isinstance(image, str):
            out.append(Ref("image", image))
        else:
            raise Problem(
                "bad_segment",
                f"place {i + 1} of '{how.texts}' and '{how.images}' needs exactly one text or image name",
                fix="write null where the other list has the value",
            )
    return out


def _matched(texts: list[Any], images: list[Any], how: MatchedImages) -> list[Item]:
    beside: list[list[Item]] = [[] for _ in texts]
    for i, image in enumerate(images):
        name = image.get(how.name) if isinstance(image, dict) else None
        index = image.get(how.index) if isinstance(image, dict) else None
        whole = isinstance(index, int) and not isinstance(index, bool)
        if not isinstance(name, str) or not whole or not 0 <= int(index or 0) < len(texts):
            raise Problem(
                "bad_segment",
                f"image {i + 1} of '{how.images}' needs '{how.name}' and '{how.index}' (0 to {len(texts) - 1})",
                fix="name the keys in interleaved of the source, or repair the sample",
            )
        beside[int(index or 0)].append(Ref("image", name))
    out: list[Item] = []
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise Problem(
                "bad_segment", f"entry {i + 1} of '{how.texts}' is no text", fix="repair the sample"
            )
        one: list[Item] = [Text(text, flow=False)]
        out += beside[i] + one if how.place == "before" else one + beside[i]
    return out
