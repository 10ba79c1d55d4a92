"""Documents of a run for a judge: those the last finished stage kept, as they stand, by source or by domain.

Only ids, sources and domains are read of all documents; text is read of those drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixloom.mixers.medu_drawing import Smallest
from mixloom.pipeline.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from mixloom.pipeline.run import PartReader, RunDirectory

_SPARE = 4  # ids kept for each document wanted, as some documents have no text


def run_documents(place: str, wanted: int, seed: int, group: str) -> dict[str, list[tuple[str, str]]]:
    """(id, text) of somewhat more documents than wanted of each group, in the order they are drawn.

    Raises:
        UserError: no run there, or no domains in it.
    """
    from mixloom.pipeline.run import RunDirectory

    run = RunDirectory.existing(place)
    documents, alive = _survivors(run)
    domains = _domains(run) if group == "domain" else None
    smallest = Smallest(wanted * _SPARE)
    for part in sorted(p for p in documents.parts if p.startswith("part-")):
        if alive is None or part in alive:
            _add_part(smallest, part, _rows(part, documents, alive, domains), seed)
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


def _rows(part: str, documents: PartReader, alive: PartReader | None, domains: PartReader | None) -> pa.Table:
    """Every document alive in a part: doc_id, row, group."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from mixloom.tokenizers.stages import domain_name

    if domains is None:
        table = documents.read(part, ["doc_id", "source"]).rename_columns(["doc_id", "group"])
        table = table.append_column("row", pa.array(np.arange(table.num_rows, dtype=np.int32)))
    elif part in domains:
        table = domains.read(part, ["doc_id", "row", "domain"])
        names = pa.array([domain_name(d) for d in table["domain"].to_pylist()], pa.string())
        table = table.select(["doc_id", "row"]).append_column("group", names)
    else:
        return pa.table({"doc_id": pa.array([], pa.string()), "group": pa.array([], pa.string()), "row": []})
    if alive is None:
        return table
    return table.filter(pc.is_in(table["row"], alive.read(part, ["row"])["row"].combine_chunks()))


def _add_part(smallest: Smallest, part: str, table: pa.Table, seed: int) -> None:
    """Add the documents of a part; most are passed over by their keys alone."""
    import numpy as np

    from mixloom.pipeline.doc_ids import mix, pack_ids

    ids = pack_ids(table["doc_id"])
    keys = mix(ids[:, 0] ^ mix(ids[:, 1] ^ mix(np.full(1, seed, np.uint64))))
    groups = table["group"].combine_chunks().dictionary_encode()
    limits = np.array([smallest.limit(g) for g in groups.dictionary.to_pylist()] or [0], np.uint64)
    near = np.flatnonzero(keys <= limits[groups.indices.to_numpy()]) if len(keys) else np.zeros(0, np.int64)
    chosen = table.take(near)
    for key, doc_id, row, group in zip(
        keys[near].tolist(), *(chosen[c].to_pylist() for c in ("doc_id", "row", "group"))
    ):
        smallest.add(group, key, doc_id, (part, row, doc_id))


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
