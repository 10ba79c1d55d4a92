"""Contexts to shards: standard WebDataset tars, byte-deterministic, with an index to memory-map them by.

A sample is a block of contexts of one domain, so that a plain WebDataset client pays Python per block and not
per context. Beside each tar lies `<tar>.index.json` with the byte offset of every array inside the tar, which
lets `shard_reader.ShardReader` view the tokens without parsing anything. The format is in docs/shards.md.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline.beside_tokens import (
    DURATIONS,
    MODALITY_OF_UNITS,
    PATCHES,
    check_patches,
    duration_row,
    patch_rows,
)
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import (
    MODALITIES,
    VERSION,
    ShardEntry,
    modality_table,
    token_dtype,
    write_atomically,
)

INDEX_SUFFIX = ".index.json"
_NAME = re.compile(r"[0-9A-Za-z_-]+")
_WRITE = 4 << 20
_RECORD = 10240  # tar archives end on a multiple of this many bytes


@dataclass(frozen=True, slots=True)
class Context:
    """One packed context: the tokens of its pieces in order, and where each piece comes from.

    Attributes:
        input_ids: unsigned integers [1..seq_len], real tokens only.
        doc_lengths: tokens of each piece; they sum to len(input_ids).
        doc_ids: document of each piece.
        sources: source of each piece.
        starts: offset of each piece inside its document, in tokens.
        patch_lengths: integers [p], tokens of each patch, at least 1 each; they sum to len(input_ids). None: no patches.
        durations: integers [u], steps of each speech id, in order. None: not known.
    """

    input_ids: NDArray[np.unsignedinteger[Any]]
    doc_lengths: Sequence[int]
    doc_ids: Sequence[str]
    sources: Sequence[str]
    starts: Sequence[int]
    patch_lengths: NDArray[np.integer[Any]] | None = None
    durations: NDArray[np.integer[Any]] | None = None


def shard_name(domain: str, shard: int, shards: int) -> str:
    """File name of a shard: <domain>-<shard>-of-<shards>.tar. Raises UserError for a domain unfit for a file name."""
    if not _NAME.fullmatch(domain):
        raise UserError(
            f"domain name '{domain}' cannot name a shard",
            fix="use letters, digits, '_' and '-' only (no dots)",
        )
    return f"{domain}-{shard:05d}-of-{shards:05d}.tar"


def key_prefix(domain_index: int, shard: int) -> str:
    """Start of the sample keys of a shard; a key is unique over all shards of a run."""
    return f"d{domain_index:03d}-s{shard:05d}"


def write_shard(
    directory: str | Path,
    name: str,
    domain: str,
    contexts: Iterable[Context],
    *,
    prefix: str,
    seq_len: int,
    vocabulary: Mapping[str, Any],
    block: int = 64,
) -> ShardEntry:
    """Write one shard and its index; the same contexts give the same bytes. Memory is one block and 4 MiB.

    Args:
        directory: local path or fsspec URL.
        name: file name, from `shard_name`.
        domain: the domain all contexts belong to.
        contexts: the contexts, in the order to store them.
        prefix: start of the sample keys, from `key_prefix`.
        seq_len: slots per context; shorter contexts are padded on the right.
        vocabulary: content of vocab.json (`size`, `pad`, `dtype`, `ranges` are read).
        block: contexts per sample.

    Raises:
        UserError: a context that is empty, too long, inconsistent, or holds an id outside every range; no contexts;
            patches or durations that do not belong to their tokens.
    """
    if not _NAME.fullmatch(prefix) or block < 1:
        raise UserError(
            f"key prefix '{prefix}' or block size {block} is not usable",
            fix="keys hold letters, digits, '_' and '-' only (WebDataset cuts a key at its first dot); block >= 1",
        )
    fs, root = fsspec.core.url_to_fs(str(directory))
    fs.makedirs(root, exist_ok=True)
    temporary = f"{root}/.{name}.tmp"
    tally = _Tally(name, seq_len, vocabulary)
    samples: list[dict[str, Any]] = []
    try:
        with fs.open(temporary, "wb") as raw:
            out = _TarStream(raw)
            for number, rows in enumerate(_blocks(contexts, block)):
                samples.append(_write_sample(out, f"{prefix}-b{number:04d}", domain, rows, tally))
            out.close()
        if not samples:
            raise UserError(
                f"shard {name} would be empty", fix="write no shard for a domain without contexts"
            )
        fs.mv(temporary, f"{root}/{name}")
    except BaseException:
        if fs.exists(temporary):
            fs.rm(temporary)
        raise
    digest = out.sha256.hexdigest()
    index = {"version": VERSION, "shard": name, "bytes": out.position, "sha256": digest, "samples": samples}
    text = _json(index) + b"\n"
    write_atomically(directory, name + INDEX_SUFFIX, text)
    return tally.entry(domain, digest, hashlib.sha256(text).hexdigest(), out.position)


def _blocks(contexts: Iterable[Context], block: int) -> Iterator[list[Context]]:
    source = iter(contexts)
    while rows := list(islice(source, block)):
        yield rows


class _TarStream:
    """A ustar archive written front to back, with the offset of everything in it and its running hashes."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._waiting = bytearray()
        self.position = 0
        self.sha256 = hashlib.sha256()
        self.crc32 = 0

    def _put(self, data: bytes | memoryview) -> None:
        # Written in large aligned pieces, a file lies in large pages of memory, and a reader that maps it faults less.
        self._waiting += data
        if len(self._waiting) >= _WRITE:
            whole = len(self._waiting) // _WRITE * _WRITE
            self._raw.write(self._waiting[:whole])
            del self._waiting[:whole]
        self.sha256.update(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        self.position += len(data)

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the byte offset of its content."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        self._put(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
        offset = self.position
        self._put(data)
        self._put(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def close(self) -> None:
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        self._put(bytes(-self.position % _RECORD))
        self._raw.write(self._waiting)


class _Tally:
    """Counts over the blocks of a shard, and the checks a context must pass to be written."""

    def __init__(self, name: str, seq_len: int, vocabulary: Mapping[str, Any]) -> None:
        self.name, self.seq_len = name, seq_len
        self.pad, self.dtype = int(vocabulary["pad"]), token_dtype(vocabulary)
        self._table = modality_table(vocabulary)
        self._modality = np.zeros(256, np.int64)
        self._source: dict[str, int] = {}
        self._contexts = self._documents = 0

    def add(self, row: Context) -> int:
        """Count a context; returns how many speech ids it holds."""
        n, where = len(row.input_ids), f"context {self._contexts} of shard {self.name}"
        parts = {len(row.doc_lengths), len(row.doc_ids), len(row.sources), len(row.starts)}
        if not 0 < n <= self.seq_len:
            raise UserError(
                f"{where} has {n} tokens; allowed: 1 to {self.seq_len}", fix="pack with the same seq_len"
            )
        if len(parts) != 1 or sum(row.doc_lengths) != n or min(row.doc_lengths) < 1:
            raise UserError(
                f"{where}: its {n} tokens do not match its pieces {list(row.doc_lengths)[:8]}",
                fix="give each piece of at least one token one length, document id, source and start",
            )
        top = int(row.input_ids.max())
        counts = np.bincount(self._table[row.input_ids], minlength=256) if top < len(self._table) else None
        if counts is None or counts[len(MODALITIES) :].any():
            raise UserError(
                f"{where} holds token id {top if counts is None else 'of no range'}; the vocabulary has"
                f" {len(self._table)} ids in declared ranges",
                fix="tokenize with the vocabulary that is handed to the shard writer",
            )
        self._modality += counts
        self._contexts += 1
        self._documents += sum(1 for s in row.starts if s == 0)
        for source, length in zip(row.sources, row.doc_lengths):
            self._source[source] = self._source.get(source, 0) + int(length)
        if row.patch_lengths is not None:
            check_patches(row.patch_lengths, row.doc_lengths, where)
        return int(counts[MODALITY_OF_UNITS])

    def entry(self, domain: str, sha256: str, index_sha256: str, size: int) -> ShardEntry:
        return ShardEntry(
            name=self.name,
            domain=domain,
            sha256=sha256,
            index_sha256=index_sha256,
            bytes=size,
            contexts=self._contexts,
            documents=self._documents,
            tokens=int(self._modality.sum()),
            tokens_by_modality={m: int(self._modality[i]) for i, m in enumerate(MODALITIES)},
            tokens_by_source=dict(sorted(self._source.items())),
        )


def _write_sample(
    out: _TarStream, key: str, domain: str, rows: list[Context], tally: _Tally
) -> dict[str, Any]:
    ids = np.full((len(rows), tally.seq_len), tally.pad, tally.dtype)
    lengths = np.zeros((len(rows), max(len(r.doc_lengths) for r in rows)), "<i4")
    about, units = [], []
    for i, row in enumerate(rows):
        units.append(tally.add(row))
        ids[i, : len(row.input_ids)] = row.input_ids
        lengths[i, : len(row.doc_lengths)] = row.doc_lengths
        starts = [int(s) for s in row.starts]
        about.append({"doc_ids": list(row.doc_ids), "sources": list(row.sources), "starts": starts})
    begin, out.crc32 = out.position, 0
    sample: dict[str, Any] = {"key": key, "rows": len(rows), "offset": begin}
    sample["doc_lengths"] = _add_array(out, f"{key}.doc_lengths.npy", lengths)
    sample["input_ids"] = _add_array(out, f"{key}.input_ids.npy", ids)
    beside = {
        PATCHES: patch_rows([r.patch_lengths for r in rows], tally.name),
        DURATIONS: duration_row([r.durations for r in rows], units, tally.name),
    }
    sample |= {name: _add_array(out, f"{key}.{name}.npy", a) for name, a in beside.items() if a is not None}
    text = _json({"contexts": about, "domain": domain})
    sample["json"] = {"offset": out.add(f"{key}.json", text), "bytes": len(text)}
    return {**sample, "bytes": out.position - begin, "crc32": out.crc32}


def _add_array(out: _TarStream, name: str, array: NDArray[Any]) -> dict[str, Any]:
    npy = BytesIO()
    np.lib.format.write_array(npy, array, version=(1, 0), allow_pickle=False)
    data = npy.getvalue()
    header = len(data) - array.nbytes
    return {"offset": out.add(name, data) + header, "dtype": array.dtype.name, "shape": list(array.shape)}


def _json(data: object) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def load_index(directory: str | Path, entry: ShardEntry) -> dict[str, Any]:
    """The index of a shard, checked against its manifest entry. Raises UserError when missing, or of another shard."""
    fs, root = fsspec.core.url_to_fs(str(directory))
    path = f"{root}/{entry.name}{INDEX_SUFFIX}"
    fix = "copy the index together with its tar, or write the shards again"
    if not fs.isfile(path):
        raise UserError(f"the index {path} is missing", fix=fix)
    raw = fs.cat_file(path)
    if entry.index_sha256 and hashlib.sha256(raw).hexdigest() != entry.index_sha256:
        raise UserError(
            f"the index {path} is not the one the manifest names: it is damaged or of another tar", fix=fix
        )
    try:
        index = json.loads(raw)
    except ValueError as error:
        raise UserError(f"the index {path} is not JSON: {error}", fix=fix) from None
    if index.get("version") != VERSION:
        raise UserError(
            f"the index {path} has version {index.get('version')!r}; this mixloom reads {VERSION}",
            fix="write the shards again with this version",
        )
    same = (index.get("shard"), index.get("bytes"), index.get("sha256")) == (
        entry.name,
        entry.bytes,
        entry.sha256,
    )
    rows = sum(int(s["rows"]) for s in index["samples"])
    if not same or rows != entry.contexts:
        raise UserError(f"the index {path} ({rows} contexts) is not of the tar in the manifest", fix=fix)
    return dict(index)


def damaged_sample(entry: ShardEntry, key: str) -> UserError:
    """The error of a sample that is not what was written."""
    return UserError(
        f"sample {key} of shard {entry.name} is damaged: its bytes do not match their checksum",
        fix=f"copy {entry.name} again from where it was written, or write the shards again; `mixloom verify` finds"
        " all that is damaged",
    )


def check_size(fs: fsspec.AbstractFileSystem, path: str, entry: ShardEntry) -> None:
    """Raise UserError when a tar is missing or has another size than the manifest says (a truncated copy)."""
    if not fs.isfile(path):
        raise UserError(
            f"shard {path} is missing", fix="copy every file named in the manifest, or run the pipeline"
        )
    size = int(fs.size(path))
    if size != entry.bytes:
        word = "truncated" if size < entry.bytes else "too long"
        raise UserError(
            f"shard {path} is {word}: {size} bytes, the manifest says {entry.bytes}",
            fix=f"copy {entry.name} again from where it was written, or write the shards again",
        )
