"""The text of a demo corpus: prose by domain with its copies, look-alikes and noise, as files and JSON Lines."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mixloom.pipeline.demo.corrupt import Broken, broken_lines, broken_records, broken_text
from mixloom.pipeline.demo.planting import NEAR, NOISE, hard_negative, near_duplicate
from mixloom.pipeline.demo.prose import FAMILIES, Prose, read_families
from mixloom.pipeline.demo.shingles import ShingleIndex, jaccard, words
from mixloom.pipeline.demo.truth import Corrupt, Place, Planted

UNSORTED = "unsorted"  # folder of what has no domain
_PER_DOMAIN, _DONORS = 90, 3
_COPIES = (2, 2, 2, 3)  # sizes of the groups of exact duplicates in each domain
_NEAR = (1, 1, 1, 1, 1, 1, 2)  # changed copies of each near-duplicated document
_HARD, _NOISE_EACH = 4, 8
_IN_RECORDS = 0.4  # share of documents that go to JSON Lines instead of a file of their own
_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_FEWEST = 12  # a domain with fewer documents is left out


@dataclass
class TextPart:
    """Texts gathered so far, and what relates them, by number; `write` turns numbers into places."""

    texts: list[str] = field(default_factory=list)
    domains: list[str | None] = field(default_factory=list)
    exact: list[list[int]] = field(default_factory=list)
    near: list[tuple[int, int, float]] = field(default_factory=list)
    hard: list[tuple[int, int, float]] = field(default_factory=list)
    missing: tuple[str, ...] = ()

    def add(self, text: str, domain: str | None) -> int:
        """Add a document; returns its number."""
        self.texts.append(text)
        self.domains.append(domain)
        return len(self.texts) - 1


def gather(library: Path, index: ShingleIndex, scale: float, rng: np.random.Generator) -> TextPart:
    """Prose of every family of a standard library, what is planted in it, and noise."""
    part = TextPart()
    families = {d: docs for d, docs in read_families(library, index).items() if len(docs) >= _FEWEST}
    part.missing = tuple(d for d in FAMILIES if d not in families)
    for domain, docs in families.items():
        order = rng.permutation(len(docs)).tolist()
        most = min(scaled(_PER_DOMAIN, scale), len(docs) - _DONORS)
        chosen = [part.add(docs[i].text, domain) for i in order[:most]]
        _plant(part, domain, chosen, [docs[i] for i in order[most : most + 4 * _DONORS]], scale, rng)
    for make in NOISE.values():
        for _ in range(scaled(_NOISE_EACH, scale)):
            part.add(make(rng) + "\n", None)
    return part


def scaled(count: int, scale: float) -> int:
    """A count times the scale, at least 1."""
    return max(1, round(count * scale))


def _plant(
    part: TextPart,
    domain: str,
    chosen: list[int],
    donors: list[Prose],
    scale: float,
    rng: np.random.Generator,
) -> None:
    """Copies, changed copies and hard negatives of different documents of one domain."""
    left = iter(chosen)
    for size in _repeat(_COPIES, scale):
        first = next(left, None)
        if first is not None:
            part.exact.append([first, *(part.add(part.texts[first], domain) for _ in range(size - 1))])
    for copies in _repeat(_NEAR, scale):
        first = next((n for n in left if len(words(part.texts[n])) >= 70), None)
        if first is not None:
            _plant_near(part, domain, first, copies, rng)
    wanted = len(_repeat((0,) * _HARD, scale))
    for n in left:
        if not wanted:
            break
        made = hard_negative(part.texts[n], donors[wanted % len(donors)].text, rng)
        if made is not None:
            part.hard.append((n, part.add(made[0], domain), made[1]))
            wanted -= 1


def _plant_near(part: TextPart, domain: str, first: int, copies: int, rng: np.random.Generator) -> None:
    group = [first]
    for _ in range(copies):
        text, _alike = near_duplicate(part.texts[first], rng)
        if all(part.texts[n] != text for n in group):
            group.append(part.add(text, domain))
    for i, a in enumerate(group):
        for b in group[i + 1 :]:
            alike = jaccard(part.texts[a], part.texts[b])
            if alike >= NEAR:
                part.near.append((a, b, alike))


def _repeat(pattern: tuple[int, ...], scale: float) -> list[int]:
    return [pattern[i % len(pattern)] for i in range(scaled(len(pattern), scale))]


@dataclass
class WrittenText:
    """Where every text of a `TextPart` lies, and what is broken beside them."""

    places: list[Place]
    lines: list[int | None]
    corrupt: list[Corrupt]

    def planted(self, part: TextPart) -> list[Planted]:
        return [
            Planted(place, "text" if domain is not None else "noise", domain, line)
            for place, domain, line in zip(self.places, part.domains, self.lines, strict=True)
        ]


def write(part: TextPart, root: Path, spare: list[str], rng: np.random.Generator) -> WrittenText:
    """Write every text as a file below `text/` or a line below `records/`, in an order that tells nothing.

    `spare` are a few texts that occur nowhere else, for the broken files.
    """
    count = len(part.texts)
    out = WrittenText([Place("", "")] * count, [None] * count, [])
    to_records: dict[str, list[int]] = {}
    used: dict[str, int] = {}
    for n in rng.permutation(count).tolist():
        domain = part.domains[n] or UNSORTED
        if rng.random() < _IN_RECORDS:
            to_records.setdefault(domain, []).append(n)
            continue
        used[domain] = used.get(domain, 0) + 1
        uri = f"{domain}/{used[domain]:04d}.txt"
        _write(root / "text" / uri, part.texts[n].encode())
        out.places[n] = Place("prose", uri)
    for i, domain in enumerate(sorted(to_records)):
        _write_records(
            part, out, root, domain + _SUFFIXES[i % 3], to_records[domain], spare[0] if i == 0 else None
        )
    for broken in [*broken_text(spare[0]), *broken_records(spare[1:])]:
        folder = "text" if broken.source == "prose" else "records"
        write_broken(root / folder, broken, out.corrupt)
    return out


def write_broken(folder: Path, broken: Broken, corrupt: list[Corrupt]) -> None:
    """Write a broken file below the folder of its source, and note it."""
    _write(folder / broken.uri, broken.data)
    corrupt.append(Corrupt(Place(broken.source, broken.uri), broken.damage, broken.reasons))


def _write_records(
    part: TextPart, out: WrittenText, root: Path, uri: str, numbers: list[int], spoil: str | None
) -> None:
    """One JSON Lines file; with `spoil`, broken lines stand between the good ones."""
    data, line = b"", 0
    bad = list(enumerate(broken_lines(spoil))) if spoil is not None else []
    for i, n in enumerate(numbers):
        if bad and i == 2 * bad[0][0] + 1:
            text, damage, reasons = bad.pop(0)[1]
            line += 1
            out.corrupt.append(Corrupt(Place("records", uri, len(data)), damage, reasons, line))
            data += text.encode() + b"\n"
        line += 1
        out.places[n], out.lines[n] = Place("records", uri, len(data)), line
        record = {"domain": part.domains[n] or UNSORTED, "text": part.texts[n]}
        data += json.dumps(record, ensure_ascii=False).encode() + b"\n"
    _write(root / "records" / uri, _compressed(data, uri))


def _compressed(data: bytes, uri: str) -> bytes:
    if uri.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    if uri.endswith(".zst"):
        import zstandard

        return zstandard.ZstdCompressor(level=6).compress(data)
    return data


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
