"""Gathering examples: every declared document read once, normalised, told apart by a hash, and spooled to disk.

Nothing but hashes and positions is held in memory, so the examples may be larger than it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.quality.config import PreSelectConfig, QualityFitConfig, RunDocuments
from mixloom.pipeline.quality.normalise import normalise, one_line

if TYPE_CHECKING:
    from mixloom.pipeline.ingest.config import Source
    from mixloom.pipeline.run import PartReader, RunDirectory

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Batch:
    """Some documents: large_string texts [n], the name of the source of each, and their ids where they have one."""

    texts: pa.Array
    names: list[str]
    ids: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Examples:
    """n distinct documents, in the order they were read.

    starts, lengths: int64 [n], bytes in the spool file. digest: uint64 [n, 2], of the normalised text. positive:
    bool [n]. source: int64 [n], number in `sources`. counts: documents read and why some were left out.
    """

    path: Path
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    digest: NDArray[np.uint64]
    positive: NDArray[np.bool_]
    source: NDArray[np.int64]
    sources: tuple[str, ...]
    counts: dict[str, int]

    def texts(self, chosen: NDArray[np.int64]) -> pa.LargeStringArray:
        """The normalised texts of some documents."""
        spool = np.memmap(self.path, np.uint8, "r") if self.path.stat().st_size else np.zeros(0, np.uint8)
        parts = [spool[self.starts[i] : self.starts[i] + self.lengths[i]] for i in chosen]
        data = np.concatenate([np.zeros(0, np.uint8), *parts])
        offsets = np.concatenate([[0], np.cumsum(self.lengths[chosen])]).astype(np.int64)
        buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data.tobytes())]
        return pa.LargeStringArray.from_buffers(len(chosen), buffers[1], buffers[2])


class _Spool:
    """Writes texts one after another, and remembers where each lies and whose it is."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        self.rows: list[tuple[int, int, bytes, bool, int]] = []
        self.sources: dict[str, int] = {}
        self.seen: dict[bytes, int] = {}  # digest: bits 1 (negative) and 2 (positive)
        self.counts: Counter[str] = Counter()

    def add(self, batch: Batch, positive: bool, config: QualityFitConfig) -> None:
        texts = one_line(normalise(batch.texts, config.normalisation))
        words = pc.match_substring_regex(texts, r"\S").to_pylist()
        kind = "positive" if positive else "negative"
        with self.path.open("ab") as f:
            for text, name, has_words in zip(texts.to_pylist(), batch.names, words, strict=True):
                self.counts[f"{kind}_read"] += 1
                if not has_words:
                    self.counts[f"{kind}_without_text"] += 1
                    continue
                raw = text.encode("utf-8")
                digest = hashlib.blake2b(raw, digest_size=16).digest()
                before = self.seen.get(digest, 0)
                self.seen[digest] = before | (2 if positive else 1)
                if before & (2 if positive else 1):
                    self.counts[f"{kind}_duplicates"] += 1
                    continue
                source = self.sources.setdefault(f"{kind}: {name}", len(self.sources))
                self.rows.append((self.at, len(raw), digest, positive, source))
                self.at += f.write(raw)

    def finish(self) -> Examples:
        """Leave out the texts that stand in both classes: they would teach nothing."""
        rows = [r for r in self.rows if self.seen[r[2]] != 3]
        self.counts["in_both_classes"] = sum(v == 3 for v in self.seen.values())
        digests = np.frombuffer(b"".join(r[2] for r in rows), ">u8").astype(np.uint64).reshape(-1, 2)
        return Examples(
            self.path,
            np.array([r[0] for r in rows], np.int64),
            np.array([r[1] for r in rows], np.int64),
            digests,
            np.array([r[3] for r in rows], np.bool_),
            np.array([r[4] for r in rows], np.int64),
            tuple(self.sources),
            dict(sorted(self.counts.items())),
        )


def gather(config: QualityFitConfig, spool: Path) -> Examples:
    """Read all examples of a configuration.

    Args:
        spool: a file to write; it must live as long as the result.

    Raises:
        UserError: a source or run is missing, or has no document.
    """
    out = _Spool(spool)
    spool.touch()
    if config.preselect is not None:
        for batch, positive in _preselected(config.preselect, out.counts):
            out.add(batch, positive, config)
        return out.finish()
    for positive, sources in ((True, config.positives), (False, config.negatives)):
        for source in sources:
            found = 0
            batches = run_batches(source.run_dir, source.name, source.survivors) if isinstance(
                source, RunDocuments
            ) else _file_batches(source, config.data_root, out.counts)  # fmt: skip
            for batch in batches:
                out.add(batch, positive, config)
                found += len(batch.names)
            if not found:
                what = source.run_dir if isinstance(source, RunDocuments) else f"the source '{source.name}'"
                raise UserError(
                    f"{what} has no document that can be read", fix="check its path and its fields"
                )
    return out.finish()


def _file_batches(source: Source, data_root: str, counts: Counter[str]) -> Iterator[Batch]:
    from mixloom.pipeline.ingest.plan import plan_splits
    from mixloom.pipeline.ingest.readers import read_split
    from mixloom.pipeline.schema import Document
    from mixloom.pipeline.storage import resolve

    root = resolve(data_root, source.path)
    held: list[str] = []
    for split in plan_splits(source, root):
        for item in read_split(split, source, root):
            if isinstance(item, Document):
                held.append("\n\n".join(s.text for s in item.segments if s.kind == "text" and s.text))
            elif item.scope == "document":
                counts["failed"] += 1
            if len(held) == BATCH:
                yield Batch(pa.array(held, pa.large_string()), [source.name] * len(held))
                held = []
    if held:
        yield Batch(pa.array(held, pa.large_string()), [source.name] * len(held))


def run_batches(run_dir: str, name: str | None = None, survivors: str | None = None) -> Iterator[Batch]:
    """The documents of a run, part by part, in order.

    Args:
        name: only this source.
        survivors: only what is left after this stage, with the edits until then; default: all, as ingest wrote it.

    Raises:
        UserError: no run, an unfinished stage, a stage that decides nothing, or a source the run does not have.
    """
    from mixloom.pipeline.annotate import document_text
    from mixloom.pipeline.overlay import edited_documents
    from mixloom.pipeline.run import RunDirectory

    run = RunDirectory.existing(run_dir)
    reader = run.stage("ingest").reader()
    alive = run.stage(survivors).reader() if survivors is not None else None
    if survivors is not None:
        reader = edited_documents(reader, _edits_until(run, survivors))
    met: set[str] = set()
    for part in sorted(p for p in reader.parts if p.startswith("part-")):
        if alive is not None and part not in alive:
            continue
        table = reader.read(part, ["doc_id", "source", "segments"])
        if alive is not None:
            table = table.take(_rows(alive.read(part), f"{run_dir}: the stage '{survivors}'"))
        met.update(pc.unique(table["source"]).to_pylist())
        if name is not None:
            table = table.filter(pc.equal(table["source"], name))
        for batch in table.combine_chunks().to_batches():
            yield Batch(document_text(batch), batch["source"].to_pylist(), batch["doc_id"].to_pylist())
    if name is not None and name not in met:
        raise UserError(
            f"{run_dir} has no source '{name}'{nearest(name, met)}",
            fix=f"use one of: {', '.join(sorted(met))}",
        )


def _edits_until(run: RunDirectory, last: str) -> list[PartReader]:
    """The stages that edited documents, in their order, up to and with `last`."""
    from mixloom.pipeline.overlay import EDITS_FOLDER

    plan = run.plan()
    names = plan[: plan.index(last) + 1] if last in plan else [last]
    readers = [run.stage(n).reader() for n in names if run.stage(n).manifest() is not None]
    return [r for r in readers if any(p.startswith(f"{EDITS_FOLDER}/") for p in r.parts)]


def _rows(table: pa.Table, what: str) -> pa.ChunkedArray:
    if "row" not in table.column_names:
        raise UserError(f"{what} does not decide which documents stay", fix="name filter or a dedup stage")
    return table["row"]


def _preselected(config: PreSelectConfig, counts: Counter[str]) -> Iterator[tuple[Batch, bool]]:
    from mixloom.pipeline.doc_ids import mix
    from mixloom.pipeline.quality.preselect import choose, labels_from_losses, read_losses

    ids, losses, strengths = read_losses(config)
    scores = labels_from_losses(losses, strengths)
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    top, bottom = choose(scores, mix(np.frombuffer(digests, "<u8")), config.top_share, config.bottom_share)
    counts["with_losses"] = int(np.isfinite(scores).sum())
    wanted = {ids[i]: True for i in top} | {ids[i]: False for i in bottom}
    found = 0
    for batch in run_batches(config.run_dir):
        for positive in (True, False):
            rows = [k for k, i in enumerate(batch.ids or ()) if wanted.get(i) is positive]
            found += len(rows)
            if rows:
                yield Batch(batch.texts.take(pa.array(rows)), [batch.names[k] for k in rows]), positive
    counts["not_in_the_run"] = len(wanted) - found
    if not found:
        raise UserError(
            f"none of the {len(ids)} documents of {config.losses} is in {config.run_dir}",
            fix="the column doc_id must hold the ids of that run (`mixloom status` and the parquet files show them)",
        )
