"""The documents a judge is shown: a sample of each source or domain, drawn by document id, from a run or from JSONL.

Only ids and sources are read of all documents; text is read of those drawn.
"""

from __future__ import annotations

import glob
import hashlib
import heapq
import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.storage import Store, canonical_json, sha256_hex

if TYPE_CHECKING:
    from mixloom.pipeline.run import PartReader, RunDirectory

_SPARE = 4  # ids kept for each document wanted, as some documents have no text
_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")


@dataclass(frozen=True, slots=True)
class Shown:
    """A document as a judge sees it: the beginning of its text."""

    source: str
    doc_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The documents drawn, by source and then in the order they were drawn.

    sources: all that have documents with text, sorted. without_text: sources whose drawn documents had none.
    """

    documents: tuple[Shown, ...]
    sources: tuple[str, ...]
    without_text: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """sha256 over what is shown of every document."""
        return sha256_hex(canonical_json([[d.source, d.doc_id, sha256_hex(d.text.encode("utf-8", "replace"))]
                                          for d in self.documents]))  # fmt: skip


class _Smallest:
    """The `most` smallest keys of each group, with a value each; its content does not depend on the order of `add`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heaps: dict[str, list[tuple[int, str, Any]]] = {}
        self._held: dict[str, set[str]] = {}

    def add(self, group: str, key: int, doc_id: str, value: Any) -> None:
        heap, held = self._heaps.setdefault(group, []), self._held.setdefault(group, set())
        item = (-key, doc_id, value)
        if doc_id in held:
            return
        if len(heap) < self._most:
            heapq.heappush(heap, item)
        elif item[:2] > heap[0][:2]:
            held.discard(heapq.heapreplace(heap, item)[1])
        else:
            return
        held.add(doc_id)

    def groups(self) -> dict[str, list[Any]]:
        """The values of each group, smallest key first, groups sorted."""
        return {
            g: [v for _, _, v in sorted(self._heaps[g], key=lambda x: x[:2], reverse=True)]
            for g in sorted(self._heaps)
        }


def draw_key(doc_id: str, seed: int) -> int:
    """Where a document stands in the order of drawing: 64 bits of a hash of its id and the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{doc_id}".encode(), digest_size=8).digest(), "big")


def draw(
    place: str,
    *,
    per_source: int,
    characters: int,
    seed: int = 0,
    group: Literal["source", "domain"] = "source",
    text_field: str = "text",
    source_field: str = "source",
    id_field: str | None = None,
) -> Sample:
    """Draw up to `per_source` documents with text of every source.

    Args:
        place: a run directory, a .jsonl file (also .gz, .zst), a folder or a glob of such files.
        characters: so many are kept of the beginning of each text.
        group: "domain" takes the domains that stage `cluster` of the run found, by the names the shards give them.
        text_field, source_field, id_field: of JSONL records; without the source field the file name is the source,
            without an id the id is a hash of source and text.

    Raises:
        UserError: nothing there, a record without text, no domains in the run, or no text at all.
    """
    if Store.at(place).exists("config.yaml"):
        found = _of_run(place, per_source, seed, group)
    elif group == "domain":
        raise UserError(f"{place} is no run directory, and only a run has domains", fix="use --group source")
    else:
        found = _of_jsonl(place, per_source, seed, text_field, source_field, id_field)
    documents: list[Shown] = []
    sources: list[str] = []
    empty: list[str] = []
    for name, rows in found.items():
        own = [Shown(name, i, text[:characters]) for i, text in rows if text[:characters].strip()][
            :per_source
        ]
        (sources if own else empty).append(name)
        documents += own
    if not documents:
        raise UserError(f"{place} holds no document with text", fix="name a run or a .jsonl with text")
    return Sample(tuple(documents), tuple(sources), tuple(empty))


def _of_run(place: str, wanted: int, seed: int, group: str) -> dict[str, list[tuple[str, str]]]:
    from mixloom.pipeline.run import RunDirectory

    run = RunDirectory.existing(place)
    documents, alive = _survivors(run)
    domains = _domains(run) if group == "domain" else None
    smallest = _Smallest(wanted * _SPARE)
    for part in sorted(p for p in documents.parts if p.startswith("part-")):
        if alive is not None and part not in alive:
            continue
        for doc_id, row, name in _rows(part, documents, alive, domains):
            smallest.add(name, draw_key(doc_id, seed), doc_id, (part, row, doc_id))
    chosen = smallest.groups()
    texts = _texts(documents, [v for rows in chosen.values() for v in rows])
    return {name: [(i, texts[i]) for _, _, i in rows] for name, rows in chosen.items()}


def _survivors(run: RunDirectory) -> tuple[PartReader, PartReader | None]:
    """The documents as they are after the last finished edit, and the last stage that decided which are kept."""
    from mixloom.pipeline.overlay import EDITS_FOLDER, edited_documents
    from mixloom.pipeline.report.facts import DECIDING

    reader = run.stage("ingest").reader()
    edits, alive = [], None
    for name in run.plan():
        if not DECIDING.fullmatch(name) or run.stage(name).manifest() is None:
            continue
        alive = run.stage(name).reader()
        if any(p.startswith(f"{EDITS_FOLDER}/") for p in alive.parts):
            edits.append(alive)
    return edited_documents(reader, edits), alive


def _domains(run: RunDirectory) -> PartReader:
    if run.stage("cluster").manifest() is None:
        raise UserError(
            f"{run.store.root} has no domains: stage cluster has not finished",
            fix="finish `mixloom run`, or use --group source",
        )
    return run.stage("cluster").reader()


def _rows(
    part: str, documents: PartReader, alive: PartReader | None, domains: PartReader | None
) -> Iterator[tuple[str, int, str]]:
    """Id, row and group of every document alive in a part."""
    from mixloom.tokenizers.stages import domain_name

    if domains is not None:
        if part not in domains:
            return
        table = domains.read(part, ["doc_id", "row", "domain"])
        kept = None if alive is None else set(alive.read(part, ["row"])["row"].to_pylist())
        for doc_id, row, domain in zip(*(table[c].to_pylist() for c in ("doc_id", "row", "domain"))):
            if kept is None or row in kept:
                yield doc_id, row, domain_name(domain)
        return
    table = documents.read(part, ["doc_id", "source"])
    ids, names = table["doc_id"].to_pylist(), table["source"].to_pylist()
    rows = range(len(ids)) if alive is None else alive.read(part, ["row"])["row"].to_pylist()
    for row in rows:
        yield ids[row], row, names[row]


def _texts(documents: PartReader, wanted: list[tuple[str, int, str]]) -> dict[str, str]:
    """The text of some documents, by id; each part is opened once."""
    import numpy as np

    from mixloom.pipeline.annotate import document_text
    from mixloom.pipeline.run import one_batch

    by_part: dict[str, list[int]] = {}
    for part, row, _ in wanted:
        by_part.setdefault(part, []).append(row)
    out: dict[str, str] = {}
    for part, rows in sorted(by_part.items()):
        batch = one_batch(documents.read_rows(part, np.array(sorted(rows), np.int64), ["doc_id", "segments"]))
        out.update(zip(batch.column("doc_id").to_pylist(), document_text(batch).to_pylist()))
    return out


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


def _of_jsonl(
    place: str, wanted: int, seed: int, text_field: str, source_field: str, id_field: str | None
) -> dict[str, list[tuple[str, str]]]:
    smallest = _Smallest(wanted)
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
