"""WebDataset tars: members that share a name up to its first dot are a sample, and a sample is a document.

Media stay in the tar: a reference holds the member and the byte of its header, so that it is read again without
unpacking anything.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from mixloom.pipeline.ingest.assemble import Assembler, Item, Output, Ref, Text, as_text
from mixloom.pipeline.ingest.config import WebDatasetSource
from mixloom.pipeline.ingest.decode import decode, newlines, split_bom
from mixloom.pipeline.ingest.fields import lookup_value
from mixloom.pipeline.ingest.interleaved import interleaved_items
from mixloom.pipeline.ingest.problems import Problem, printable
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.ingest.tars import Entry, Tape, find_entry, next_entry, read_entry, skip_entry
from mixloom.pipeline.ingest.text import empty_file


@dataclass
class Member:
    """One member of a sample and its bytes."""

    name: str
    suffix: str
    offset: int
    data: bytes


@dataclass
class Sample:
    """The members of one key in the order of the tar; `stop` is the byte after the last."""

    key: str
    offset: int
    stop: int
    members: list[Member] = field(default_factory=list)
    size: int = 0
    problem: Problem | None = None


def read(split: Split, source: WebDatasetSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of a WebDataset source; a locator holds the key and the byte of a sample."""
    make = Assembler(source, root)

    def one(uri: str) -> Iterator[Output]:
        return _read_file(make, source, uri)

    yield from make.each_file(split.files, one)


def _read_file(make: Assembler, source: WebDatasetSource, uri: str) -> Iterator[Output]:
    if make.files.size(uri) == 0:
        yield make.fail(empty_file(), uri)
        return
    count = 0
    for found in _samples(Tape(make.files, uri), source):
        count += 1
        if isinstance(found, Problem):
            yield make.fail(found, uri)
        else:
            yield from _document(make, source, uri, found)
    if count == 0:
        problem = Problem(
            "no_records",
            "the tar holds no member that belongs to a sample",
            outcome="dropped",
            fix="remove it, or leave it: it is only counted",
        )
        yield make.fail(problem, uri)


def _split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member: the name is cut at the first dot after its last slash, as WebDataset does."""
    folder, base = posixpath.split(name)
    stem, _, suffix = base.partition(".")
    return posixpath.join(folder, stem), suffix.lower()


def _samples(tape: Tape, source: WebDatasetSource) -> Iterator[Sample | Problem]:
    """Whole samples, and the damage between them. The sample in which damage lies is lost with it."""
    now: Sample | None = None
    broken_key: str | None = None  # what follows damage may be the rest of a sample
    while True:
        try:
            entry = next_entry(tape)
            if entry is None:
                if now is not None:
                    yield now
                    now = None
                if find_entry(tape):  # tars put together by `cat`
                    continue
                return
            key, suffix = _split_name(entry.name)
            base = posixpath.basename(entry.name)
            if not entry.regular or not suffix or not posixpath.basename(key) or base.startswith("__"):
                skip_entry(tape, entry)
                continue
            if now is not None and now.key != key:
                yield now
                now = None
            if key == broken_key:
                skip_entry(tape, entry)
                continue
            broken_key = None
            if now is None:
                now = Sample(key, entry.offset, entry.offset)
            _add(tape, source, now, entry, suffix)
        except Problem as p:
            if now is not None:
                p.detail = f"in or after the sample '{printable(now.key)}', which is lost with it: {p.detail}"
                broken_key, now = now.key, None
            yield p
            if p.reason != "broken_tar" or not find_entry(tape):
                return


def _add(tape: Tape, source: WebDatasetSource, sample: Sample, entry: Entry, suffix: str) -> None:
    wanted = suffix in (*source.text, *source.images, *source.audio, source.json_member)
    kind = suffix.rpartition(".")[2]
    wanted = wanted or kind in (*source.images, *source.audio)  # "0.jpg", as interleaved samples name them
    sample.size += entry.size if wanted else 0
    if any(m.suffix == suffix for m in sample.members):
        sample.problem = Problem(
            "duplicate_member",
            f"the sample '{printable(sample.key)}' has two members '.{suffix}'",
            fix="write each sample once, with one member per suffix",
        )
    if sample.size > source.max_bytes:
        sample.problem = Problem(
            "too_large",
            f"the sample '{printable(sample.key)}' has more than max_bytes ({source.max_bytes}) bytes",
            fix="raise max_bytes of the source",
        )
    if wanted and sample.problem is None:
        sample.members.append(Member(entry.name, suffix, entry.offset, read_entry(tape, entry)))
    else:
        skip_entry(tape, entry)
    sample.stop = tape.at


def _document(make: Assembler, source: WebDatasetSource, uri: str, sample: Sample) -> Iterator[Output]:
    place: dict[str, Any] = {
        "member": sample.key,
        "offset": sample.offset,
        "length": sample.stop - sample.offset,
    }
    try:
        if sample.problem is not None:
            raise sample.problem
        record = _json(source, sample)
        items = _items(source, sample, record)
    except Problem as p:
        p.offset = -1
        yield make.fail(p, uri, **place)
        return
    named = {k: as_text(lookup_value(record, k)) for k in source.meta_fields}
    yield from make.document(
        uri,
        items,
        meta={k: v for k, v in named.items() if v is not None},
        language=as_text(lookup_value(record, source.language_field)),
        timestamp=as_text(lookup_value(record, source.timestamp_field)),
        **place,
    )


def _json(source: WebDatasetSource, sample: Sample) -> dict[str, Any]:
    """The object of the JSON member; {} when there is none and none is needed."""
    member = next((m for m in sample.members if m.suffix == source.json_member), None)
    if member is None:
        if source.interleaved is None and source.text_field is None:
            return {}
        raise Problem(
            "missing_member",
            f"the sample '{printable(sample.key)}' has no member '.{source.json_member}' (it has: "
            f"{', '.join(m.suffix for m in sample.members) or 'none that the source names'})",
            fix="set json_member of the source, or repair the sample",
        )
    try:
        value = json.loads(_text(source, member))
    except (ValueError, RecursionError) as e:
        raise Problem("malformed_json", f"'{printable(member.name)}': {e}", fix="repair the member") from None
    if not isinstance(value, dict):
        raise Problem(
            "not_an_object", f"'{printable(member.name)}' holds no JSON object", fix="repair the member"
        )
    return value


def _text(source: WebDatasetSource, member: Member) -> str:
    bom, encoding = split_bom(member.data, source.encoding)
    what = f"'{printable(member.name)}'"
    return newlines(decode(member.data[bom:], encoding, source.on_encoding_error, base=bom, what=what))


def _items(source: WebDatasetSource, sample: Sample, record: dict[str, Any]) -> list[Item]:
    if source.interleaved is not None:
        return [_placed(source, sample, x) for x in interleaved_items(record, source.interleaved)]
    media: list[Item] = []
    for m in sample.members:
        kind = _kind(source, m.suffix)
        if kind is not None:
            media.append(_ref(kind, m, {}))
    texts = [m for suffix in source.text for m in sample.members if m.suffix == suffix]
    text: list[Item] = [Text(_text(source, m), flow=False) for m in texts]
    if source.text_field is not None:
        value = lookup_value(record, source.text_field)
        if not isinstance(value, str):
            state = "is missing" if value is None else "is no text"
            raise Problem(
                "missing_field" if value is None else "wrong_type",
                f"the JSON member of '{printable(sample.key)}': the field '{source.text_field}' {state} (it has: "
                f"{', '.join(sorted(record)[:20]) or 'no fields'})",
                fix="set text_field of the source, or repair the sample",
            )
        text.append(Text(value, flow=False))
    return media + text if source.order == "media_first" else text + media


def _kind(source: WebDatasetSource, suffix: str) -> Literal["image", "speech"] | None:
    for name in (suffix, suffix.rpartition(".")[2]):
        if name in source.images:
            return "image"
        if name in source.audio:
            return "speech"
    return None


def _ref(kind: Literal["image", "speech"], member: Member, attrs: dict[str, str]) -> Ref:
    name = printable(member.name)
    return Ref(kind, f"{name}@{member.offset}", attrs, data=member.data)


def _placed(source: WebDatasetSource, sample: Sample, item: Item) -> Item:
    """A reference to the member a document names: by its whole name, its suffix, or its file name."""
    if isinstance(item, Text):
        return item
    wanted = item.target.lower()
    for m in sample.members:
        if wanted in (m.name.lower(), m.suffix, posixpath.basename(m.name).lower()):
            return _ref(item.kind, m, item.attrs)
    return Ref(item.kind, item.target, item.attrs, absent=f"the sample '{printable(sample.key)}'")
