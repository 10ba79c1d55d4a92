"""Readers of documents and annotations as they are after the editing stages of a run.

An editing stage writes, per part: `edits/<part>` (schema `EDITS`), and for the documents it changed
`annotations/<part>` (measured again, with their row) and `media/<part>`. These readers lay them over what ingest
and annotate wrote, in the order of the stages, so that every stage after them sees one corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.edits import apply_edits
from mixloom.pipeline.run import PartReader, one_batch

EDITS_FOLDER, ANNOTATIONS_FOLDER, MEDIA_FOLDER, LINES_FOLDER = "edits", "annotations", "media", "lines"


@dataclass(frozen=True, slots=True)
class EditedDocuments(PartReader):
    """Parts of ingest with the edits of later stages applied; reads as a `PartReader`."""

    edits: tuple[PartReader, ...] = ()

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A whole part, edited."""
        return self._edited(name, PartReader.read(self, name, self._columns(columns)), None)

    def read_rows(self, name: str, rows: np.ndarray, columns: list[str]) -> pa.Table:
        """Some rows of a part, edited."""
        return self._edited(name, PartReader.read_rows(self, name, rows, self._columns(columns) or []), rows)

    def _columns(self, columns: list[str] | None) -> list[str] | None:
        # Edits need whole segments; a request for a part of them gets all of them.
        if columns is None or not self.edits:
            return columns
        return list(dict.fromkeys(c.split(".")[0] for c in columns))

    def _edited(self, name: str, table: pa.Table, rows: np.ndarray | None) -> pa.Table:
        part = f"{EDITS_FOLDER}/{name}"
        if "segments" not in table.column_names or not any(part in e for e in self.edits):
            return table
        numbers = np.arange(table.num_rows) if rows is None else np.asarray(rows)
        batch = one_batch(table.append_column("row", pa.array(numbers.astype(np.int32))))
        for reader in self.edits:
            if part in reader:
                batch = apply_edits(batch, reader.read(part))
        return pa.Table.from_batches([batch]).drop_columns(["row"])


@dataclass(frozen=True, slots=True)
class EditedAnnotations(PartReader):
    """Parts of annotate with the rows of changed documents replaced; reads as a `PartReader`."""

    replaced: tuple[PartReader, ...] = ()

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A whole part, with the annotations of each document as it is now."""
        table = PartReader.read(self, name, columns)
        part = f"{ANNOTATIONS_FOLDER}/{name}"
        for reader in self.replaced:
            if part in reader:
                wanted = None if columns is None else [*dict.fromkeys([*columns, "row"])]
                table = replace_rows(table, np.arange(table.num_rows), reader.read(part, wanted))
        return table

    def read_rows(self, name: str, rows: np.ndarray, columns: list[str]) -> pa.Table:
        """Some rows of a part."""
        return self.read(name, columns).take(pa.array(rows))


def replace_rows(table: pa.Table, rows: np.ndarray, new: pa.Table) -> pa.Table:
    """`table`, whose rows are these rows of a part (ascending), with those of `new` (a column `row`) in their place."""
    order = np.arange(len(rows))
    order[np.searchsorted(rows, np.asarray(new["row"]))] = len(rows) + np.arange(new.num_rows)
    both = pa.concat_tables([table, new.select(table.column_names).cast(table.schema)])
    return both.take(pa.array(order)).combine_chunks()


def replace_items(items: pa.Table, changed: pa.ChunkedArray, new: pa.Table) -> pa.Table:
    """Items of documents (row, segment, ...) with those of the `changed` rows given anew, in order."""
    old = items.filter(pc.invert(pc.is_in(items["row"], changed.combine_chunks())))
    both = pa.concat_tables([old, new.select(old.column_names).cast(old.schema)])
    return both.sort_by([("row", "ascending"), ("segment", "ascending")])


@dataclass(frozen=True, slots=True)
class EditedMedia(PartReader):
    """The measures of images and recordings, without those of removed segments and with their present places."""

    replaced: tuple[PartReader, ...] = ()

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """The items of a part (`media_items`), sorted by (row, segment); `name` is the part of the documents."""
        part = f"{MEDIA_FOLDER}/{name}"
        wanted = None if columns is None else [*dict.fromkeys([*columns, "row", "segment"])]
        table = PartReader.read(self, part, wanted)
        for reader in self.replaced:
            if part in reader:
                changed = reader.read(f"{ANNOTATIONS_FOLDER}/{name}", ["row"])["row"]
                table = replace_items(table, changed, reader.read(part, wanted))
        return table if columns is None else table.select(columns)


@dataclass(frozen=True, slots=True)
class SurvivingRows(PartReader):
    """Parts of a stage with a column `row`, without the rows that a later stage dropped; reads as a `PartReader`."""

    survivors: PartReader | None = None

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A whole part, as far as it is alive."""
        assert self.survivors is not None
        wanted = None if columns is None else [*dict.fromkeys([*columns, "row"])]
        table = PartReader.read(self, name, wanted)
        alive = self.survivors.read(name, ["row"])["row"].combine_chunks()
        table = table.filter(pc.is_in(table["row"], alive))
        return table if columns is None else table.select(columns)


def edited_documents(base: PartReader, stages: Sequence[PartReader]) -> PartReader:
    """`base` (parts of ingest) as the documents are after these stages, in their order."""
    return EditedDocuments(base.store, base.parts, tuple(stages)) if stages else base


def edited_annotations(base: PartReader, stages: Sequence[PartReader]) -> PartReader:
    """`base` (parts of annotate) as the annotations are after these stages, in their order."""
    return EditedAnnotations(base.store, base.parts, tuple(stages)) if stages else base


def surviving(base: PartReader, survivors: PartReader | None) -> PartReader:
    """`base` without what a deciding stage after it dropped; as it is where there is none."""
    return base if survivors is None else SurvivingRows(base.store, base.parts, survivors)


def edited_media(base: PartReader, stages: Sequence[PartReader]) -> EditedMedia:
    """The media measures of annotate as they are after these stages, in their order."""
    return EditedMedia(base.store, base.parts, tuple(stages))
