"""The manifest of a run's shards: what they hold, in tokens by domain, modality and source, and their hashes.

It is what the mixers read (sizes), what the stream is a function of (its fingerprint) and what a copy of the
shards is checked against. Tokens are real tokens everywhere; padding is never counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mixloom.pipeline.errors import UserError, nearest

VERSION = 1
MANIFEST_NAME = "manifest.json"
MODALITIES: tuple[str, ...] = ("text", "image", "speech")  # the position is the modality id
_NO_MODALITY = 255


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardEntry(_Frozen):
    """One tar and what it holds."""

    name: str = Field(description="File name of the tar, relative to the manifest.")
    domain: str = Field(description="The one domain all its contexts belong to.")
    sha256: str = Field(description="Hash of the tar's bytes.")
    index_sha256: str = Field("", description="Hash of the index beside it; empty: not known.")
    bytes: int = Field(ge=0, description="Size of the tar.")
    contexts: int = Field(ge=0, description="Rows over all samples.")
    documents: int = Field(
        ge=0, description="Documents that begin here; one that goes on elsewhere counts once."
    )
    tokens: int = Field(ge=0, description="Real tokens, padding not counted.")
    tokens_by_modality: dict[str, int] = Field(description="Real tokens per modality.")
    tokens_by_source: dict[str, int] = Field(description="Real tokens per source.")


class DomainEntry(_Frozen):
    """The sum over the shards of one domain."""

    name: str = Field(description="Name of the domain.")
    contexts: int = Field(ge=0, description="Contexts in all its shards.")
    tokens: int = Field(ge=0, description="Real tokens, padding not counted.")
    tokens_by_modality: dict[str, int] = Field(description="Real tokens per modality.")
    tokens_by_source: dict[str, int] = Field(description="Real tokens per source.")
    documents: int = Field(ge=0, description="Documents.")


class TextEntry(_Frozen):
    """How much text of one source and language became how many tokens, before packing."""

    source: str = Field(description="Name of the source.")
    language: str = Field(description="Language of the documents; empty where none is recorded.")
    documents: int = Field(ge=0, description="Documents with text.")
    bytes: int = Field(ge=0, description="UTF-8 bytes of their text.")
    tokens: int = Field(ge=0, description="Text tokens, sentinels not counted.")
    bytes_per_token: float = Field(ge=0, description="bytes / tokens, to four digits after the point.")


class Totals(_Frozen):
    """The sum over all shards."""

    shards: int = Field(ge=0, description="Tars.")
    bytes: int = Field(ge=0, description="Size of all tars.")
    contexts: int = Field(ge=0, description="Contexts.")
    documents: int = Field(ge=0, description="Documents.")
    tokens: int = Field(ge=0, description="Real tokens.")
    tokens_by_modality: dict[str, int] = Field(description="Real tokens per modality.")
    tokens_by_source: dict[str, int] = Field(description="Real tokens per source.")


class ShardManifest(_Frozen):
    """All shards of a run. `fingerprint` is the sha256 over everything else, as canonical JSON."""

    version: int = Field(description="Version of the shard format.")
    seq_len: int = Field(ge=1, description="Slots per context.")
    dtype: str = Field(pattern="^uint(16|32)$", description="Type of the token ids.")
    vocabulary: dict[str, Any] = Field(description="The content of vocab.json.")
    config_fingerprint: str = Field(description="Fingerprint of the configuration that made the shards.")
    shards: tuple[ShardEntry, ...] = Field(description="Every tar, by domain and name.")
    domains: tuple[DomainEntry, ...] = Field(description="Every domain, by name.")
    totals: Totals = Field(description="Sums over all shards.")
    texts: tuple[TextEntry, ...] = Field((), description="Text by source and language.")
    fingerprint: str = Field(description="sha256 over the rest.")

    def domain(self, name: str) -> DomainEntry:
        """The entry of one domain. Raises UserError with the nearest name when there is none."""
        for entry in self.domains:
            if entry.name == name:
                return entry
        known = [d.name for d in self.domains]
        raise UserError(
            f"no domain '{name}' in the manifest{nearest(name, known)}",
            fix=f"use one of: {', '.join(known[:20])}",
        )

    def save(self, directory: str | Path) -> str:
        """Write manifest.json under a temporary name, then rename it; returns its path."""
        body = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        return write_atomically(directory, MANIFEST_NAME, body.encode())

    @classmethod
    def load(cls, path: str | Path) -> ShardManifest:
        """Read a manifest from its file, or from the directory (or run) that holds it; its fingerprint is checked.

        Raises:
            UserError: no manifest there, another version, a field that is wrong, or an edited manifest.
        """
        file = find_manifest(path)
        with fsspec.open(file, "rb") as f:
            raw = f.read()
        try:
            data = json.loads(raw)
        except ValueError as error:
            raise UserError(
                f"{file} is not JSON: {error}",
                fix="write the shards again; the manifest was cut short or edited",
            ) from None
        found = data.get("version") if isinstance(data, dict) else None
        if found != VERSION:
            raise UserError(
                f"{file} has shard format version {found!r}; this mixloom reads version {VERSION}",
                fix="write the shards again with this version, or install the version that wrote them",
            )
        try:
            manifest = cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(x) for x in first["loc"])
            raise UserError(f"{file}: field {where}: {first['msg']}", fix="write the shards again") from None
        if manifest.fingerprint != _fingerprint(data):
            raise UserError(
                f"{file} does not match its own fingerprint {manifest.fingerprint[:12]}: it was edited or damaged",
                fix="restore the file, or write the shards again",
            )
        return manifest


def build_manifest(
    entries: Iterable[ShardEntry],
    vocabulary: Mapping[str, Any],
    *,
    seq_len: int,
    config_fingerprint: str = "",
    texts: Sequence[TextEntry] = (),
) -> ShardManifest:
    """Sum shard entries into a manifest; the order in which they come does not matter.

    Args:
        texts: how much text became how many tokens, from `text_entries`.

    Raises:
        UserError: no entries, two shards of one name, or a vocabulary without a known dtype.
    """
    shards = sorted(entries, key=lambda e: (e.domain, e.name))
    if not shards:
        raise UserError(
            "there are no shards to put into a manifest", fix="check that the filters kept any document"
        )
    names = [e.name for e in shards]
    twice = sorted({n for n, m in zip(sorted(names), sorted(names)[1:]) if n == m})
    if twice:
        raise UserError(f"two shards are named {twice[0]}", fix="give every shard of a domain its own number")
    domains = []
    for name in sorted({e.domain for e in shards}):
        domains.append({"name": name, **_sums([e for e in shards if e.domain == name])})
    totals = {"shards": len(shards), "bytes": sum(e.bytes for e in shards), **_sums(shards)}
    data: dict[str, Any] = {
        "version": VERSION,
        "seq_len": seq_len,
        "dtype": token_dtype(vocabulary).name,
        "vocabulary": json.loads(json.dumps(dict(vocabulary))),
        "config_fingerprint": config_fingerprint,
        "shards": [e.model_dump(mode="json") for e in shards],
        "domains": domains,
        "totals": totals,
        "texts": [t.model_dump(mode="json") for t in sorted(texts, key=lambda t: (t.source, t.language))],
    }
    return ShardManifest.model_validate({**data, "fingerprint": _fingerprint(data)})


def text_entries(info: Mapping[str, Mapping[str, Any]]) -> list[TextEntry]:
    """The texts that the units of the stage `tokenize` counted, summed by source and language."""
    sums: dict[tuple[str, str], list[int]] = {}
    for row in (row for unit in info.values() for row in unit.get("texts", ())):
        total = sums.setdefault((row["source"], row["language"]), [0, 0, 0])
        for i, name in enumerate(("documents", "bytes", "tokens")):
            total[i] += row[name]
    return [
        TextEntry(
            source=source,
            language=language,
            documents=n,
            bytes=size,
            tokens=tokens,
            bytes_per_token=round(size / tokens, 4) if tokens else 0.0,
        )
        for (source, language), (n, size, tokens) in sorted(sums.items())
    ]


def _sums(entries: Sequence[ShardEntry]) -> dict[str, Any]:
    sources = sorted({s for e in entries for s in e.tokens_by_source})
    return {
        "contexts": sum(e.contexts for e in entries),
        "documents": sum(e.documents for e in entries),
        "tokens": sum(e.tokens for e in entries),
        "tokens_by_modality": {m: sum(e.tokens_by_modality.get(m, 0) for e in entries) for m in MODALITIES},
        "tokens_by_source": {s: sum(e.tokens_by_source.get(s, 0) for e in entries) for s in sources},
    }


def _fingerprint(data: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in data.items() if k != "fingerprint"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def find_manifest(path: str | Path) -> str:
    """The manifest.json meant by a file, a shards directory or a run directory (local path or fsspec URL).

    Raises:
        UserError: none of the places it may lie in has one.
    """
    base = str(path).rstrip("/")
    tried = (
        [base] if base.endswith(".json") else [f"{base}/{MANIFEST_NAME}", f"{base}/shards/{MANIFEST_NAME}"]
    )
    for candidate in tried:
        fs, inside = fsspec.core.url_to_fs(candidate)
        if fs.isfile(inside):
            return candidate
    raise UserError(
        f"no shard manifest at {' or '.join(tried)}",
        fix="run the pipeline first: mixloom run CONFIG writes the shards",
    )


def write_atomically(directory: str | Path, name: str, data: bytes) -> str:
    """Write a small file under a temporary name, then rename it; returns its path."""
    fs, root = fsspec.core.url_to_fs(str(directory))
    fs.makedirs(root, exist_ok=True)
    target, temporary = f"{root}/{name}", f"{root}/.{name}.tmp"
    with fs.open(temporary, "wb") as f:
        f.write(data)
    fs.mv(temporary, target)
    return target


def token_dtype(vocabulary: Mapping[str, Any]) -> np.dtype[Any]:
    """The little-endian type of the token ids. Raises UserError for anything but uint16 and uint32."""
    name = vocabulary.get("dtype")
    if name not in ("uint16", "uint32"):
        raise UserError(
            f"vocabulary dtype is {name!r}; allowed: uint16, uint32", fix="fit the vocabulary again"
        )
    return np.dtype("<u2" if name == "uint16" else "<u4")


def modality_table(vocabulary: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Modality of every id: uint8 [size], an index into MODALITIES, or 255 for an id no range owns.

    Raises:
        UserError: a range that leaves the vocabulary, overlaps another, or has an unknown modality.
    """
    table = np.full(int(vocabulary["size"]), _NO_MODALITY, np.uint8)
    for r in vocabulary["ranges"]:
        own = slice(int(r["start"]), int(r["start"]) + int(r["size"]))
        good = own.start >= 0 and own.stop <= len(table) and 0 <= int(r["modality"]) < len(MODALITIES)
        if not good or bool(np.any(table[own] != _NO_MODALITY)):
            raise UserError(
                f"range '{r['name']}' of the vocabulary (ids {own.start} to {own.stop - 1}, modality {r['modality']})"
                f" overlaps another or leaves the {len(table)} ids",
                fix="fit the vocabulary again",
            )
        table[own] = int(r["modality"])
    return table
