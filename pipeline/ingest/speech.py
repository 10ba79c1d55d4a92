"""Recordings with their transcripts: a document per recording."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from mixloom.pipeline.ingest.assemble import Assembler, Item, Output, Ref, Text
from mixloom.pipeline.ingest.config import SpeechSource
from mixloom.pipeline.ingest.plan import list_documents
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.ingest.tables import Row, Table, load_table, media_key


def read(split: Split, source: SpeechSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of a speech source.

    The split of unit "table" yields a failure for each row that has no recording or cannot be read.
    """
    make = Assembler(source, root)
    table = _table(source, root)
    if split.unit == "table":
        yield from _unused_rows(make, source, table)
        return
    label = re.compile(source.label_from_path) if source.label_from_path else None

    def one(uri: str) -> Iterator[Output]:
        speech = Ref("speech", uri, exact=True)
        if source.order == "speech_only":
            yield from make.document(uri, [speech], media_scope="document")
            return
        if label is not None:
            words, times = _label(source, label, uri), {}
        else:
            row = _transcript(source, table, uri)
            words, times = row.text, row.meta
        transcript = Text(words, {"role": "transcript"}, flow=False)
        items: list[Item] = [replace(speech, attrs=times), transcript]
        if source.order == "transcript_first":
            items.reverse()
        yield from make.document(uri, items, media_scope="document")

    yield from make.each_file(split.files, one)


def _table(source: SpeechSource, root: str) -> Table:
    if source.transcripts is None:
        return Table({}, [])
    return load_table(
        root, source.transcripts, source.encoding, source.on_encoding_error, source.max_bytes, source.name
    )


def _transcript(source: SpeechSource, table: Table, uri: str) -> Row:
    assert source.transcripts is not None
    key = media_key(uri, source.transcripts.match, is_file=True)
    rows = table.rows.get(key)
    if not rows:
        raise Problem(
            "missing_transcript",
            f"'{source.transcripts.path}' has no row for this recording (looked for id '{key}')",
            fix="add the row, exclude the recording, or check id_column and match of transcripts",
        )
    if not rows[0].text:
        raise Problem(
            "missing_transcript",
            f"the transcript in row {rows[0].number} of '{source.transcripts.path}' is empty",
            fix="write the transcript, or exclude the recording",
        )
    return rows[0]


def _label(source: SpeechSource, pattern: re.Pattern[str], uri: str) -> str:
    match = pattern.search(uri)
    if match is None or match["label"] is None:
        raise Problem(
            "missing_transcript",
            f"label_from_path ({source.label_from_path}) does not match '{uri}'",
            fix="correct the regex, or exclude the file",
        )
    label = match["label"]
    pieces = label.split(source.label_split) if source.label_split else [label]
    if not source.label_map:
        return " ".join(pieces)
    unknown = [p for p in pieces if p not in source.label_map]
    if unknown:
        known = ", ".join(sorted(source.label_map))
        raise Problem(
            "unknown_label",
            f"the label '{unknown[0]}' of '{uri}' is not in label_map (it has: {known})",
            fix="add it to label_map, or exclude the file",
        )
    return " ".join(source.label_map[p] for p in pieces)


def _unused_rows(make: Assembler, source: SpeechSource, table: Table) -> Iterator[Output]:
    assert source.transcripts is not None
    match = source.transcripts.match
    there = {media_key(e.uri, match, is_file=True) for e in list_documents(source, make.files)}
    for number, problem in table.bad:
        yield make.fail(problem, source.transcripts.path, offset=number, length=1)
    for key, rows in table.rows.items():
        for i, row in enumerate(rows):
            unused = _unused(row, i, rows[0], there, key)
            if unused is not None:
                yield make.fail(unused, source.transcripts.path, member=row.id, offset=row.number, length=1)


def _unused(row: Row, i: int, first: Row, there: set[str], key: str) -> Problem | None:
    if key not in there:
        return Problem(
            "missing_media",
            f"row {row.number} is for '{row.id}', but there is no such recording",
            fix="restore the recording, remove the row, or check glob and match",
        )
    if i > 0:
        return Problem(
            "duplicate_id",
            f"row {row.number} gives '{row.id}' a second transcript; the one in row {first.number} was taken",
            fix="remove one of the rows",
        )
    return None
