"""The items of the benchmarks that skills are named after: read, cut into pieces, and drawn by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixloom.mixers.medu_config import SkillConfig
from mixloom.pipeline.decontaminate_config import EvaluationSet
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.evaluation_sets import SetFile, read_items, set_files
from mixloom.pipeline.storage import canonical_json, sha256_hex

_TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_PACKED = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill: distinct pieces of the items of its benchmark in the order they are drawn, or a description, or both."""

    name: str
    pieces: tuple[str, ...]
    description: str | None
    fingerprint: str


def read_skill(name: str, config: SkillConfig, *, characters: int, seed: int = 0) -> Skill:
    """Read a skill.

    Args:
        characters: an item longer than this is cut into pieces of this length.
        seed: decides the order of the pieces, with their content; not their order in the files.

    Raises:
        UserError: no file there, one that cannot be read, a field that is missing, or no text.
    """
    pieces: list[str] = []
    if config.path is not None:
        items = read_items(*_evaluation(name, config))
        texts = [
            x.text.encode("utf-8", "replace").decode() for x in items
        ]  # JSON can hold half a surrogate pair
        cut = {t[i : i + characters].strip() for t in texts for i in range(0, len(t), characters)}
        pieces = sorted((p for p in cut if p), key=lambda p: (_drawn(p, seed), p))
        if not pieces:
            raise UserError(
                f"skill '{name}': {config.path} holds no text", fix="check its path and its fields"
            )
    known = sha256_hex(canonical_json([pieces, config.description]))
    return Skill(name, tuple(pieces), config.description, known)


def _drawn(piece: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{piece}".encode(), digest_size=16).digest()


def _evaluation(name: str, config: SkillConfig) -> tuple[EvaluationSet, list[SetFile]]:
    """The set of a skill as stage `decontaminate` would name it, and its files."""
    path = str(config.path)
    place = Path(path).expanduser()
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in name)
    if place.is_dir():
        named = [p for p in sorted(place.rglob("*")) if p.is_file() and not p.name.startswith(".")]
        kinds = {_format(p.name) for p in named}
        if len(kinds) != 1:
            raise UserError(
                f"skill '{name}': the folder {path} holds {'no file' if not named else 'files of several formats'}",
                fix="name a file, or a glob such as folder/*.txt",
            )
        parts = [set_files(EvaluationSet(name=safe, path=str(p), format="text"), ".") for p in named]
        files, kind = [f for p in parts for f in p], kinds.pop()
    else:
        kind = _format(place.name)
        files = set_files(EvaluationSet(name=safe, path=str(place), format="text"), ".")
    if kind == "text":
        if config.fields:
            raise UserError(f"skill '{name}': {path} is text, which has no fields", fix="leave fields out")
        whole = EvaluationSet(name=safe, path=path, format="text", text_items=config.text_items)
        return whole, files
    fields = config.fields or _text_fields(name, path, kind, files)
    return EvaluationSet.model_validate(
        {"name": safe, "path": path, "format": kind, "fields": fields, "join": True}
    ), files


def _format(file: str) -> str:
    for packed in _PACKED:
        file = file.removesuffix(packed)
    return _TABLES.get(Path(file).suffix.lower(), "text")


def _text_fields(name: str, path: str, kind: str, files: list[SetFile]) -> tuple[str, ...]:
    """`text` where the first record has it, else all of its fields that hold text."""
    first: dict[str, Any] | None = next(_first(kind, files), None)
    if first is None or isinstance(first.get("text"), str):
        return ("text",)  # where there is no record, reading the items says why
    found = tuple(k for k, v in first.items() if isinstance(v, str) and v.strip() and "." not in k)
    if not found:
        raise UserError(
            f"skill '{name}': no field of the first record of {path} holds text",
            fix=f"name the fields; there are: {', '.join(sorted(first)) or 'none'}",
        )
    return found


def _first(kind: str, files: list[SetFile]) -> Iterator[dict[str, Any]]:
    for file in files:
        if kind == "jsonl":
            for line in file.data.split(b"\n"):
                if line.strip():
                    try:
                        record = json.loads(line)
                    except ValueError:
                        return  # told, with its line, when the items are read
                    if isinstance(record, dict):
                        yield record
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                yield from pq.read_table(pa.BufferReader(file.data)).slice(0, 1).to_pylist()
            except (pa.ArrowException, OSError):
                return
