"""What a mixture is estimated from: the domains and their sizes, from a shard manifest or a CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mixloom.mixers.tables import csv_line
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import MODALITIES, ShardManifest

_FIX = "give a header line 'domain,tokens' and one line per domain, for example 'wiki,1250000'"
_COLUMNS = {"domain", "tokens", "bytes", "modality", "licence", "source"}


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain.

    Attributes:
        tokens: real tokens under the training tokenizer, after filters and deduplication.
        tokens_by_modality: (modality, tokens) of those above 0; empty where not known.
        tokens_by_source: (source, tokens) of those above 0; empty where not known.
        bytes: UTF-8 bytes of its text before packing; None where not known.
        licence: licence of all of it; empty where not known.
    """

    name: str
    tokens: int
    tokens_by_modality: tuple[tuple[str, int], ...] = ()
    tokens_by_source: tuple[tuple[str, int], ...] = ()
    bytes: int | None = None
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """Domains in order, the fingerprint of the sizes, where they come from, and what was made one domain."""

    domains: tuple[Domain, ...]
    fingerprint: str
    origin: str
    group_by: tuple[str, ...] = ("domain",)
    notes: tuple[str, ...] = field(default=())

    @property
    def names(self) -> list[str]:
        return [d.name for d in self.domains]

    @property
    def tokens(self) -> list[int]:
        return [d.tokens for d in self.domains]

    @property
    def tokens_by_modality(self) -> dict[str, int]:
        """Tokens of all domains by modality; those of domains whose modality is not known are left out."""
        sums: dict[str, int] = {}
        for d in self.domains:
            for name, n in d.tokens_by_modality:
                sums[name] = sums.get(name, 0) + n
        return sums

    @classmethod
    def from_manifest(
        cls, manifest: ShardManifest, origin: str = "manifest", group_by: Sequence[str] = ("domain",)
    ) -> Sources:
        """Domains of a shard manifest; the fingerprint is the manifest's own.

        Raises:
            UserError: a grouping by source and modality, which a manifest does not count.
        """
        cells: dict[tuple[str, str, str], int] = {}
        axes = frozenset(group_by)
        if {"source", "modality"} <= axes:
            raise UserError(
                "a manifest counts tokens by source and by modality, but not by both",
                fix="give the run directory or its shards: the tokens themselves are counted then",
            )
        for d in manifest.domains:
            parts = d.tokens_by_source if "source" in axes else d.tokens_by_modality
            for name, n in parts.items():
                key = (name, d.name, "") if "source" in axes else ("", d.name, name)
                cells[key] = cells.get(key, 0) + n
        found = _grouped(cells, group_by)
        if axes == {"domain"}:  # both counts are known of whole domains
            by_source = {d.name: _positive(d.tokens_by_source) for d in manifest.domains}
            found = [replace(d, tokens_by_source=by_source[d.name]) for d in found]
        texts: dict[str, int] = {}
        for t in manifest.texts:
            texts[t.source] = texts.get(t.source, 0) + t.bytes
        if axes == {"source"}:
            found = [replace(d, bytes=texts.get(d.name)) for d in found]
        return checked_sources(found, origin, manifest.fingerprint, group_by)

    @classmethod
    def from_cells(
        cls,
        cells: Mapping[tuple[str, str, str], int],
        manifest: ShardManifest,
        origin: str,
        group_by: Sequence[str],
    ) -> Sources:
        """Domains from tokens by (source, domain, modality), as `cross_counts.count_cells` finds them."""
        return checked_sources(_grouped(cells, group_by), origin, manifest.fingerprint, group_by)

    def rows(self) -> list[str]:
        """The domains as lines of a CSV that `from_rows` reads back: header first, columns only where anything is known."""
        modalities = [
            m for m in MODALITIES if any(m == k for d in self.domains for k, _ in d.tokens_by_modality)
        ]
        others = {k for d in self.domains for k, _ in d.tokens_by_modality} - set(MODALITIES)
        modalities += sorted(others)
        sources = sorted({k for d in self.domains for k, _ in d.tokens_by_source})
        extra = [
            c for c in ("bytes", "licence") if any(getattr(d, c) not in (None, "") for d in self.domains)
        ]
        lines = [
            [
                "domain",
                "tokens",
                *extra,
                *(f"tokens:{m}" for m in modalities),
                *(f"source:{s}" for s in sources),
            ]
        ]
        for d in self.domains:
            known, own = dict(d.tokens_by_modality), dict(d.tokens_by_source)
            given = ["" if getattr(d, c) is None else str(getattr(d, c)) for c in extra]
            counts = [str(known.get(m, "")) for m in modalities] + [str(own.get(s, "")) for s in sources]
            lines.append([d.name, str(d.tokens), *given, *counts])
        return [csv_line(line) for line in lines]

    @classmethod
    def from_rows(
        cls, lines: Iterable[str], origin: str, fingerprint: str = "", group_by: Sequence[str] = ("domain",)
    ) -> Sources:
        """Domains from the lines of a CSV. See `load_sources` for its columns and errors."""
        reader = csv.DictReader(lines)
        header = list(reader.fieldnames or ())
        missing = {"domain", "tokens"} - set(header)
        if missing:
            raise UserError(f"{origin} has no column {' or '.join(sorted(missing))}", fix=_FIX)
        known = _COLUMNS | {"license"}
        ignored = [c for c in header if c not in known and not c.startswith(("tokens:", "source:"))]
        domains = [_domain(row, f"{origin} line {reader.line_num}") for row in reader]
        found = checked_sources(domains, origin, fingerprint, group_by)
        if not fingerprint:
            sizes = json.dumps(found.rows()).encode()
            found = replace(found, fingerprint=hashlib.sha256(sizes).hexdigest())
        note = f"columns of the counts that nothing reads: {', '.join(ignored)}"
        return replace(found, notes=(note,)) if ignored else found


def load_sources(path: str | Path, group_by: Sequence[str] = ("domain",)) -> Sources:
    """Domains of a run directory, a shards directory, a manifest.json, or a CSV.

    A CSV has the columns domain and tokens, and may have bytes, modality (of the whole domain), licence, source (of the
    whole domain), and tokens:MODALITY and source:NAME for domains that are mixed.

    Raises:
        UserError: nothing readable there, a column or number that is wrong, a domain named twice or empty, or a grouping
            that the counts do not allow.
    """
    if str(path).lower().endswith(".csv"):
        file = Path(path)
        if tuple(group_by) != ("domain",):
            raise UserError(
                f"group_by is {list(group_by)}, but the lines of {file} are the domains",
                fix="leave group_by out, and give one line per group",
            )
        if not file.is_file():
            raise UserError(f"{file} does not exist", fix=_FIX)
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8: {error}", fix=_FIX) from None
        return Sources.from_rows(io.StringIO(text, newline=""), str(path))
    manifest = ShardManifest.load(path)
    if {"source", "modality"} <= set(group_by):
        from mixloom.mixers.cross_counts import count_cells

        cells, note = count_cells(path)
        return replace(Sources.from_cells(cells, manifest, str(path), group_by), notes=(note,))
    return Sources.from_manifest(manifest, str(path), group_by)


def checked_sources(
    domains: Sequence[Domain], origin: str, fingerprint: str, group_by: Sequence[str] = ("domain",)
) -> Sources:
    """Domains as Sources. Raises UserError for none at all, an empty or repeated name, or a domain without tokens."""
    if not domains:
        raise UserError(f"{origin} has no domains", fix="give at least one domain with its tokens")
    seen: set[str] = set()
    for d in domains:
        if not d.name or d.name in seen:
            raise UserError(
                f"{origin}: domain name '{d.name}' is empty or used twice", fix="give each domain one line"
            )
        if d.tokens < 1:
            raise UserError(
                f"{origin}: domain '{d.name}' has {d.tokens} tokens", fix="leave empty domains out"
            )
        seen.add(d.name)
    return Sources(tuple(domains), fingerprint, origin, tuple(group_by))


def _grouped(cells: Mapping[tuple[str, str, str], int], group_by: Sequence[str]) -> list[Domain]:
    """Domains by some axes of (source, domain, modality), in order of their names; groups without tokens are left out."""
    place = {"source": 0, "domain": 1, "modality": 2}
    chosen = [place[a] for a in ("source", "domain", "modality") if a in group_by]
    sums: dict[tuple[str, ...], int] = {}
    modality: dict[tuple[str, ...], dict[str, int]] = {}
    source: dict[tuple[str, ...], dict[str, int]] = {}
    for cell, n in cells.items():
        key = tuple(cell[i] for i in chosen)
        sums[key] = sums.get(key, 0) + n
        for parts, own in ((modality, cell[2]), (source, cell[0])):
            if own:
                there = parts.setdefault(key, {})
                there[own] = there.get(own, 0) + n
    return [
        Domain("/".join(key), n, _positive(modality.get(key, {})), _positive(source.get(key, {})))
        for key, n in sorted(sums.items())
        if n > 0
    ]


def _positive(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    known = [m for m in MODALITIES if m in counts]
    return tuple((m, counts[m]) for m in [*known, *sorted(set(counts) - set(known))] if counts[m] > 0)


def _domain(row: Mapping[str, Any], where: str) -> Domain:
    if None in row:
        raise UserError(f"{where} has more cells than the header", fix=_FIX)
    tokens = _whole(row, "tokens", where)
    assert tokens is not None
    parts = []
    for single, prefix in (("modality", "tokens:"), ("source", "source:")):
        whole = (row.get(single) or "").strip()
        counts = {k[len(prefix) :]: _whole(row, k, where, True) or 0 for k in row if k.startswith(prefix)}
        if whole:
            counts = {whole: tokens}
        if counts and sum(counts.values()) != tokens and any(counts.values()):
            raise UserError(
                f"{where}: the columns {prefix}* sum to {sum(counts.values()):,}, tokens is {tokens:,}",
                fix="let them sum to tokens, or leave them empty",
            )
        parts.append(_positive(counts))
    size = _whole(row, "bytes", where, True) if "bytes" in row else None
    licence = (row.get("licence") or row.get("license") or "").strip()
    return Domain((row["domain"] or "").strip(), tokens, parts[0], parts[1], size, licence)


def _whole(row: Mapping[str, Any], column: str, where: str, empty: bool = False) -> int | None:
    text = (row[column] or "").strip().replace("_", "")
    if empty and not text:
        return None
    if not text.isdecimal():
        raise UserError(f"{where}: {column} is '{row[column]}', not a whole number", fix=_FIX)
    return int(text)
