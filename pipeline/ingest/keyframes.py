"""Keyframes and transcript of a film: a document per line of JSON, its pictures and texts in the order of time.

In the manner of the multimodal textbook (Zhang et al. 2025, arXiv 2501.00958): what is said stands between the frames it is
said between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from mixloom.pipeline.ingest.assemble import Assembler, Item, Output, Ref, Text, as_text
from mixloom.pipeline.ingest.fields import lookup_value, word_times
from mixloom.pipeline.ingest.jsonl import read_lines
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.ingest.timed_config import KeyframesSource

_LONGEST = 1e9  # seconds: above that a number is no time of a film


def read(split: Split, source: KeyframesSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of a keyframes source."""
    make = Assembler(source, root)

    def document(uri: str, record: dict[str, Any], place: dict[str, Any], where: str) -> Iterator[Output]:
        try:
            items = timed_items(record, source, where)
        except Problem as p:
            yield make.fail(p, uri, **place)
            return
        meta = {k: v for k in source.meta_fields if (v := as_text(lookup_value(record, k))) is not None}
        language, timestamp = (
            as_text(lookup_value(record, field)) for field in (source.language_field, source.timestamp_field)
        )
        yield from make.document(uri, items, meta=meta, language=language, timestamp=timestamp, **place)

    def one(uri: str) -> Iterator[Output]:
        return read_lines(make, source, uri, split.start, split.stop, document)

    yield from make.each_file(split.files, one)


class _Timed(NamedTuple):
    """What happens at a time: a frame, or a text and its recording. Sorts by time, then frames first, then as listed."""

    at: float
    rank: int
    number: int
    items: list[Item]


def timed_items(record: dict[str, Any], source: KeyframesSource, where: str) -> list[Item]:
    """What happens in a film, in order of time; at one time frames come before texts, and else the order of the lists holds.

    Raises:
        Problem: missing_field, wrong_type, or bad_segment with the number of the entry.
    """
    timed: list[_Timed] = []
    for field in source.items:
        entries = lookup_value(record, field)
        if entries is None:
            names = ", ".join(sorted(map(str, record))[:20]) or "no fields"
            raise Problem(
                "missing_field",
                f"{where}: the field '{field}' is missing or null (the record has: {names})",
                fix="set items of the source, or repair the record; a film without frames or texts has an empty list",
            )
        if not isinstance(entries, list):
            raise Problem("wrong_type", f"{where}: the field '{field}' is no list", fix=_fix(source))
        for i, entry in enumerate(entries):
            timed.append(_timed(entry, source, f"{where}: entry {i + 1} of '{field}'", len(timed)))
    whole: list[Item] = []
    if source.audio_field is not None:
        path = lookup_value(record, source.audio_field)
        if path is not None and not isinstance(path, str):
            raise Problem(
                "wrong_type",
                f"{where}: the field '{source.audio_field}' is no path",
                fix="name a field that holds a path, or null where there is no recording",
            )
        whole = [Ref("speech", path)] if path else []
    ordered = [item for t in sorted(timed, key=lambda t: t[:3]) for item in t.items]
    return whole + (ordered if source.join is None else _joined(ordered, source.join))


def _timed(entry: Any, source: KeyframesSource, where: str, number: int) -> _Timed:
    if not isinstance(entry, dict):
        raise Problem("bad_segment", f"{where} is no object", fix=_fix(source))
    image, text, audio = (
        _string(entry, key, where, source) for key in (source.image, source.text, source.audio)
    )
    if image is not None:
        if text is not None or audio is not None:
            raise Problem("bad_segment", f"{where} is both a frame and something said", fix=_fix(source))
        at = _seconds(entry, source.time, where, source)
        attrs = {k: v for k in ("alt", "title") if isinstance(v := entry.get(k), str) and v}
        return _Timed(at, 0, number, [Ref("image", image, {**attrs, "time": _shown(at)})])
    if text is None and audio is None:
        raise Problem("bad_segment", f"{where} is neither a frame nor something said", fix=_fix(source))
    start = _seconds(entry, source.start, where, source)
    stop = start if entry.get(source.stop) is None else _seconds(entry, source.stop, where, source)
    if stop < start:
        raise Problem("bad_segment", f"{where} ends at {_shown(stop)} s, before it begins", fix=_fix(source))
    attrs = {"start": _shown(start), "stop": _shown(stop)}
    items: list[Item] = []
    if audio is not None:
        items.append(Ref("speech", audio, {**attrs, **word_times(entry)}))
    if text is not None and text.strip():
        items.append(Text(text, {**attrs, "role": "transcript"}, flow=False))
    at = {"start": start, "middle": (start + stop) / 2, "stop": stop}[source.text_at]
    return _Timed(at, 1, number, items)


def _string(entry: dict[str, Any], key: str, where: str, source: KeyframesSource) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise Problem("bad_segment", f"{where}: '{key}' is no string", fix=_fix(source))
    return value


def _seconds(entry: dict[str, Any], key: str, where: str, source: KeyframesSource) -> float:
    value = entry.get(key)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= _LONGEST:  # type: ignore[operator]
        shown = json.dumps(value, default=str)[:60]
        raise Problem(
            "bad_segment", f"{where}: '{key}' is {shown}, not a number of seconds from 0 on", fix=_fix(source)
        )
    return float(value)  # type: ignore[arg-type]


def _shown(seconds: float) -> str:
    return repr(seconds).removesuffix(".0")


def _fix(source: KeyframesSource) -> str:
    return (
        f'write {{"{source.time}": 3.5, "{source.image}": "path"}} and '
        f'{{"{source.start}": 3.5, "{source.stop}": 7.2, "{source.text}": "..."}}, or name the keys in the source'
    )


def _joined(items: list[Item], between: str) -> list[Item]:
    """Items with texts that follow each other as one, from the begin of the first to the end of the last.

    A text behind its own recording is the transcript of that alone: nothing is added to it.
    """
    out: list[Item] = []
    alone = True
    for item in items:
        last = out[-1] if out else None
        if isinstance(item, Text) and isinstance(last, Text) and not alone:
            stop = max(last.attrs["stop"], item.attrs["stop"], key=float)
            out[-1] = Text(last.text + between + item.text, {**last.attrs, "stop": stop}, flow=False)
            continue
        alone = isinstance(item, Ref) or (isinstance(last, Ref) and last.kind == "speech")
        out.append(item)
    return out
