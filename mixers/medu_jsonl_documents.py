"""Documents of JSONL files for a judge."""

from __future__ import annotations

import glob
import hashlib
import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixloom.mixers.medu_drawing import Smallest, draw_key
from mixloom.pipeline.errors import UserError

_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")


def jsonl_files(place: str) -> list[str]:
    """The JSONL files at a place (a file, a folder or a glob), sorted.

    Raises:
        UserError: there is none.
    """
    path = Path(place)
    if path.is_dir():
        found = [str(p) for p in path.rglob("*") if p.name.endswith(_JSONL) and p.is_file()]
    elif path.is_file():
        found = [place]
    else:
        found = [p for p in glob.glob(place, recursive=True) if p.endswith(_JSONL)]
    if not found:
        raise UserError(
            f"{place} is no run directory and holds no .jsonl file",
            fix="name the run_dir of a run, or a .jsonl file with a text and a source in each record",
        )
    return sorted(found)


def jsonl_documents(
    place: str, wanted: int, seed: int, text_field: str, source_field: str, id_field: str | None
) -> dict[str, list[tuple[str, str]]]:
    """(id, text) of up to so many documents of each source, in the order they are drawn; see `medu_documents.draw`.

    Raises:
        UserError: no file there, or a record that is no object or has no text.
    """
    smallest = Smallest(wanted)
    for file in jsonl_files(place):
        stem = posixpath.basename(file).partition(".jsonl")[0].partition(".ndjson")[0]
        for where, record in _records(file):
            text = record.get(text_field)
            if not isinstance(text, str):
                raise UserError(
                    f"{where} has no text in '{text_field}'; its fields are {', '.join(sorted(record)) or 'none'}",
                    fix="name the field with --text-field",
                )
            text = text.encode("utf-8", "replace").decode()  # JSON can hold half a surrogate pair
            if not text.strip():
                continue
            source = str(record.get(source_field, stem))
            doc_id = str(record[id_field]) if id_field and id_field in record else ""
            doc_id = doc_id or hashlib.sha256(f"{source}\0{text}".encode()).hexdigest()[:32]
            smallest.add(source, draw_key(doc_id, seed), doc_id, (doc_id, text))
    return smallest.groups()


def _records(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import fsspec

    with fsspec.open(file, "rb", compression="infer") as f:
        for number, line in enumerate(f, start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number},"
            try:
                record = json.loads(line)
            except ValueError as e:
                raise UserError(f"{where} is not JSON: {e}", fix="repair or remove the line") from None
            if not isinstance(record, dict):
                raise UserError(
                    f"{where} holds {type(record).__name__}, not an object", fix="give one object a line"
                )
            yield where, record
