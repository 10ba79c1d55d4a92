"""The items of evaluation sets, read whole from JSON Lines, Parquet or text files."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec

from mixloom.pipeline.decontaminate_config import EvaluationSet
from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.storage import canonical_json, resolve, sha256_hex


@dataclass(frozen=True, slots=True)
class Item:
    """One text of an evaluation set. `field` is "" where the set has no fields, "a+b" where they are joined."""

    set: str
    id: str
    field: str
    text: str


@dataclass(frozen=True, slots=True)
class SetFile:
    """One file of a set, its bytes decompressed."""

    name: str
    data: bytes


def set_files(evaluation: EvaluationSet, root: str) -> list[SetFile]:
    """The files a set names, sorted by path.

    Args:
        root: folder or URL against which a relative path is resolved.

    Raises:
        UserError: no such file, or one that cannot be read or decompressed.
    """
    url = resolve(root, evaluation.path)
    fs, path = fsspec.core.url_to_fs(url)
    paths = sorted(fs.glob(path)) if any(c in path for c in "*?[") else [path]
    if not paths or not all(fs.isfile(p) for p in paths):
        folder = posixpath.dirname(path)
        beside = (
            sorted(posixpath.basename(p) for p in fs.ls(folder, detail=False)) if fs.isdir(folder) else []
        )
        raise UserError(
            f"the evaluation set '{evaluation.name}' names {url}, where there is no file"
            f"{nearest(posixpath.basename(path), beside)}",
            fix="correct the path of the set (a relative one is looked for below data_root)",
        )
    out = []
    for p in paths:
        try:
            with fs.open(p, "rb", compression="infer" if p.endswith((".gz", ".zst")) else None) as f:
                out.append(SetFile(posixpath.basename(p), bytes(f.read())))
        except Exception as e:  # every codec raises errors of its own
            why = " ".join(str(e).split())
            raise UserError(
                f"{p}, of the evaluation set '{evaluation.name}', cannot be read: {why}", fix="fetch it again"
            ) from e
    return out


def fingerprint(evaluation: EvaluationSet, files: Sequence[SetFile]) -> str:
    """sha256 over the content of a set, whatever its path."""
    described = evaluation.model_dump(mode="json", exclude={"path"})
    return sha256_hex(canonical_json([described, [sha256_hex(f.data) for f in files]]))


def read_items(evaluation: EvaluationSet, files: Sequence[SetFile]) -> list[Item]:
    """The texts of a set, in order; an item has one for each field (one in all with `join`), empty ones left out.

    Raises:
        UserError: a line that is no JSON object, a field that is missing or holds no text; names file and line.
    """
    out: list[Item] = []
    for file in files:
        prefix = f"{file.name}:" if len(files) > 1 else ""
        if evaluation.format == "text":
            out += _text_items(evaluation, file, prefix)
            continue
        rows = _json_rows if evaluation.format == "jsonl" else _parquet_rows
        for number, row in rows(evaluation, file):
            where = f"{file.name}, {'line' if evaluation.format == 'jsonl' else 'row'} {number}"
            name = f"{prefix}{number}"
            if evaluation.id_field is not None:
                name = str(_value(row, evaluation.id_field, evaluation, where))
            texts = {f: _text(row, f, evaluation, where) for f in evaluation.fields}
            if evaluation.join:
                texts = {"+".join(texts): "\n".join(t for t in texts.values() if t)}
            out += [Item(evaluation.name, name, f, t) for f, t in texts.items() if t]
    if not out:
        raise UserError(
            f"the evaluation set '{evaluation.name}' holds no text", fix="check its path, format and fields"
        )
    return out


def _text_items(evaluation: EvaluationSet, file: SetFile, prefix: str) -> list[Item]:
    try:
        text = file.data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise UserError(
            f"{file.name}, of the evaluation set '{evaluation.name}', is not UTF-8 text (byte {e.start})",
            fix="save it as UTF-8",
        ) from None
    if evaluation.text_items == "file":
        return [Item(evaluation.name, file.name, "", text)] if text.strip() else []
    lines = enumerate(text.split("\n"), start=1)
    return [Item(evaluation.name, f"{prefix}{n}", "", line) for n, line in lines if line.strip()]


def _json_rows(evaluation: EvaluationSet, file: SetFile) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file.data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as e:
            row, why = None, f"is not JSON ({e})"
        else:
            why = f"holds {type(row).__name__}, not an object"
        if not isinstance(row, dict):
            raise UserError(
                f"{file.name}, line {number}, of the evaluation set '{evaluation.name}', {why}",
                fix="repair the line, or set the format of the set",
            )
        yield number, row


def _parquet_rows(evaluation: EvaluationSet, file: SetFile) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(file.data))
    except (pa.ArrowException, OSError) as e:
        why = " ".join(str(e).split())
        raise UserError(
            f"{file.name}, of the evaluation set '{evaluation.name}', is not Parquet: {why}",
            fix="set the format of the set, or fetch the file again",
        ) from None
    wanted = [evaluation.id_field, *evaluation.fields] if evaluation.id_field else evaluation.fields
    heads = {str(f).partition(".")[0] for f in wanted}
    # A column that is not there is reported by the first row that lacks it.
    yield from enumerate(table.select([c for c in table.column_names if c in heads]).to_pylist(), start=1)


def _value(row: dict[str, Any], field: str, evaluation: EvaluationSet, where: str) -> Any:
    node: Any = row
    for part in field.split("."):
        if not isinstance(node, dict) or part not in node:
            allowed = sorted(node) if isinstance(node, dict) else []
            raise UserError(
                f"{where}, of the evaluation set '{evaluation.name}', has no field '{field}'"
                f"{nearest(part, allowed)}",
                fix=f"use one of: {', '.join(allowed)}" if allowed else "correct the field",
            )
        node = node[part]
    return node


def _text(row: dict[str, Any], field: str, evaluation: EvaluationSet, where: str) -> str:
    value = _value(row, field, evaluation, where)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(x, str) for x in value):
        return "\n".join(value)
    raise UserError(
        f"{where}, of the evaluation set '{evaluation.name}': the field '{field}' holds "
        f"{type(value).__name__}, not text",
        fix="name a field with a string or a list of strings (dots go into nested objects)",
    )
