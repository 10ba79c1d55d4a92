"""A split: the piece of a source that one worker reads at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Unit = Literal["files", "bytes", "row_groups", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A piece of a source; a plain value that survives JSON.

    `unit` says what is meant: whole "files"; the lines or records of one file that start in the "bytes" [start, stop);
    the "row_groups" [start, stop) of one Parquet file; or the caption or transcript "table" itself, read only
    for its rows without a file. `size` is bytes on disk; `limit` is the most documents to yield (-1: all).
    """

    source: str
    unit: Unit
    files: tuple[str, ...]
    start: int = 0
    stop: int = -1
    size: int = 0
    limit: int = -1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "files": list(self.files)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Split:
        return cls(**{**value, "files": tuple(value["files"])})
