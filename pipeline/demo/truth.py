"""The planted truth: what lies in a demo corpus, where, and what a run should make of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mixloom.pipeline.errors import UserError

FILE = "truth.json"
VERSION = 1


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a document or a failure is: source, path relative to the source, byte offset (-1: whole file).

    The offset of a line counts decompressed bytes, as ingest counts them.
    """

    source: str
    uri: str
    offset: int = -1

    def __str__(self) -> str:
        return f"{self.source}:{self.uri}" + (f"@{self.offset}" if self.offset >= 0 else "")

    @classmethod
    def parse(cls, text: str) -> Place:
        """The inverse of `str`."""
        source, _, rest = text.partition(":")
        uri, at, offset = rest.rpartition("@")
        return cls(source, uri, int(offset)) if at and offset.isdigit() else cls(source, rest)


@dataclass(frozen=True, slots=True)
class Planted:
    """A document: its kind (text, guide, scene, speech, noise), its domain when it has one, its line (from 1)."""

    place: Place
    kind: str
    domain: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Corrupt:
    """A broken input: what is wrong with it, and the reasons of failure that name the damage rightly.

    `place.offset` is -1 where the whole file, or any place in it, will do.
    """

    place: Place
    damage: str
    reasons: tuple[str, ...]
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """Everything that was planted. Pairs are (place, place, exact similarity)."""

    seed: int
    scale: float
    python: str
    sources: dict[str, str]  # source: folder below the root
    missing_domains: tuple[str, ...]
    documents: tuple[Planted, ...]
    exact_duplicate_groups: tuple[tuple[Place, ...], ...]
    near_duplicate_pairs: tuple[tuple[Place, Place, float], ...]
    hard_negative_pairs: tuple[tuple[Place, Place, float], ...]
    same_words_pairs: tuple[
        tuple[Place, Place], ...
    ]  # equal captions or transcripts, different pictures or voices
    noise: tuple[Place, ...]
    corrupt: tuple[Corrupt, ...]
    totals: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; places become `source:path@offset`."""
        return {"version": VERSION, **_plain({f.name: getattr(self, f.name) for f in fields(self)})}

    def save(self, root: Path) -> None:
        text = json.dumps(self.to_json(), indent=1, sort_keys=True, ensure_ascii=False)
        (root / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, root: Path) -> Truth:
        """Read `truth.json` below a root.

        Raises:
            UserError: there is none, or it is not one of ours.
        """
        file = root / FILE
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
            return cls._from_json(raw)
        except FileNotFoundError:
            raise UserError(f"there is no {file}", fix="write a demo corpus there first") from None
        except (KeyError, TypeError, ValueError) as e:
            raise UserError(
                f"{file} is not a truth file of this version ({type(e).__name__}: {e})",
                fix="write the corpus again",
            ) from None

    @classmethod
    def _from_json(cls, raw: dict[str, Any]) -> Truth:
        if raw.pop("version") != VERSION:
            raise ValueError("another version")
        at = Place.parse
        lists: dict[str, Any] = {
            "missing_domains": tuple(raw["missing_domains"]),
            "documents": tuple(Planted(**{**d, "place": at(d["place"])}) for d in raw["documents"]),
            "exact_duplicate_groups": tuple(tuple(map(at, g)) for g in raw["exact_duplicate_groups"]),
            "near_duplicate_pairs": tuple((at(a), at(b), s) for a, b, s in raw["near_duplicate_pairs"]),
            "hard_negative_pairs": tuple((at(a), at(b), s) for a, b, s in raw["hard_negative_pairs"]),
            "same_words_pairs": tuple((at(a), at(b)) for a, b in raw["same_words_pairs"]),
            "noise": tuple(map(at, raw["noise"])),
            "corrupt": tuple(
                Corrupt(**{**c, "place": at(c["place"]), "reasons": tuple(c["reasons"])})
                for c in raw["corrupt"]
            ),
        }
        return cls(**{**raw, **lists})


def _plain(value: Any) -> Any:
    if isinstance(value, Place):
        return str(value)
    if isinstance(value, Planted | Corrupt):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
