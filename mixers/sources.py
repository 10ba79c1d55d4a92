"""What a mixture is estimated from: the domains and their sizes in tokens."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardManifest


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain. `tokens` are real tokens under the training tokenizer, after filters and deduplication."""

    name: str
    tokens: int
    tokens_by_modality: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """Domains in order, where they come from, and the fingerprint of the sizes."""

    domains: tuple[Domain, ...]
    fingerprint: str
    origin: str

    @property
    def names(self) -> list[str]:
        return [d.name for d in self.domains]

    @property
    def tokens(self) -> list[int]:
        return [d.tokens for d in self.domains]

    @classmethod
    def from_manifest(cls, manifest: ShardManifest, origin: str = "manifest") -> Sources:
        """Domains of a shard manifest; the fingerprint is the manifest's own."""
        domains = [Domain(d.name, d.tokens, tuple(d.tokens_by_modality.items())) for d in manifest.domains]
        return _checked(domains, origin, manifest.fingerprint)


def load_sources(path: str | Path) -> Sources:
    """Domains of a run directory, a shards directory, a manifest.json, or a CSV with columns domain and tokens.

    Raises:
        UserError: nothing readable there, a column or number that is wrong, a domain named twice or empty.
    """
    if str(path).lower().endswith(".csv"):
        return _from_csv(Path(path))
    return Sources.from_manifest(ShardManifest.load(path), str(path))


def _from_csv(path: Path) -> Sources:
    fix = "give a header line 'domain,tokens' and one line per domain, for example 'wiki,1250000'"
    if not path.is_file():
        raise UserError(f"{path} does not exist", fix=fix)
    with path.open(newline="", encoding="utf-8-sig") as f:
        reader = csv.DictReader(f)
        missing = {"domain", "tokens"} - set(reader.fieldnames or ())
        if missing:
            raise UserError(f"{path} has no column {' or '.join(sorted(missing))}", fix=fix)
        domains = []
        for row in reader:
            text = (row["tokens"] or "").strip().replace("_", "")
            if not text.isdecimal():
                raise UserError(
                    f"{path} line {reader.line_num}: tokens is '{row['tokens']}', not a whole number", fix=fix
                )
            domains.append(Domain((row["domain"] or "").strip(), int(text)))
    sizes = json.dumps([[d.name, d.tokens] for d in domains]).encode()
    return _checked(domains, str(path), hashlib.sha256(sizes).hexdigest())


def _checked(domains: Sequence[Domain], origin: str, fingerprint: str) -> Sources:
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
    return Sources(tuple(domains), fingerprint, origin)
