"""Parquet: a document per row, read by row group, only the columns that are named."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from mixloom.pipeline.ingest.assemble import Assembler, Output
from mixloom.pipeline.ingest.config import ParquetSource
from mixloom.pipeline.ingest.fields import record_document
from mixloom.pipeline.ingest.files import SourceFiles
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.split import Split

_ROWS = 512  # rows turned into Python objects at a time


def read(split: Split, source: ParquetSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of a Parquet source; locators hold row numbers."""
    make = Assembler(source, root)

    def one(uri: str) -> Iterator[Output]:
        return _read_file(make, source, uri, split)

    yield from make.each_file(split.files, one)


def open_parquet(files: SourceFiles, uri: str) -> Any:
    """A pyarrow ParquetFile; Problem ("bad_parquet") when it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = files.size(uri)
    if size == 0:
        raise Problem("bad_parquet", "the file is empty (0 bytes)", fix="write it again or remove it")
    try:
        return pq.ParquetFile(files.open(uri), pre_buffer=False)
    except (pa.ArrowException, OSError, ValueError) as e:
        raise _bad(e) from None


def _bad(e: BaseException) -> Problem:
    text = " ".join(str(e).split())[:300]
    return Problem(
        "bad_parquet",
        f"not a whole Parquet file ({text or 'no reason given'})",
        fix="write it again, or remove it",
    )


def _columns(source: ParquetSource, file: Any) -> list[str]:
    names = [source.segments_field] if source.segments_field else [source.text_field]
    names += [source.image_field, source.audio_field, source.language_field, source.timestamp_field]
    wanted = [n for n in [*names, *source.meta_fields] if n]
    present = file.schema_arrow.names
    required = [
        n for n in (source.segments_field, source.text_field, source.image_field, source.audio_field) if n
    ]
    if source.segments_field:
        required = [source.segments_field]
    for name in required:
        if name not in present and name.split(".")[0] not in present:
            raise Problem(
                "missing_column",
                f"there is no column '{name}' (the file has: {', '.join(present)})",
                fix="set the field name in the source",
            )
    tops = {n if n in present else n.split(".")[0] for n in wanted}
    return [n for n in present if n in tops]


def _read_file(make: Assembler, source: ParquetSource, uri: str, split: Split) -> Iterator[Output]:
    import pyarrow as pa

    with open_parquet(make.files, uri) as file:
        columns = _columns(source, file)
        total = file.metadata.num_row_groups
        stop = total if split.unit != "row_groups" or split.stop < 0 else min(split.stop, total)
        row = sum(file.metadata.row_group(g).num_rows for g in range(split.start))
        if file.metadata.num_rows == 0:
            yield make.fail(
                Problem(
                    "empty_document",
                    "the table has no rows",
                    outcome="dropped",
                    fix="remove it, or leave it: it is only counted",
                ),
                uri,
            )
        for group in range(split.start, stop):
            rows = file.metadata.row_group(group).num_rows
            done = 0
            try:
                for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False):
                    for record in _records(batch):
                        place = {"offset": row + done, "length": 1}
                        where = f"row {row + done}"
                        yield from record_document(
                            make, source, uri, record, place=place, where=where, row=row + done
                        )
                        done += 1
            except (pa.ArrowException, OSError, ValueError) as e:
                problem = _bad(e)
                problem.detail = f"row group {group}, after row {row + done - 1}: {problem.detail}"
                yield make.fail(problem, uri, offset=row + done, length=rows - done)
            row += rows


def _records(batch: Any) -> list[dict[str, Any]]:
    """Rows as Python dicts. Strings that are not UTF-8 fail one by one in the caller, not the whole batch."""
    try:
        return batch.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        import pyarrow as pa

        names = batch.schema.names
        safe = []
        for column in batch.columns:
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                raw = column.cast(pa.large_binary()).to_pylist()
                safe.append([None if x is None else _try_text(x) for x in raw])
            else:
                safe.append(column.to_pylist())
        return [dict(zip(names, row, strict=True)) for row in zip(*safe, strict=True)]


def _try_text(data: bytes) -> Any:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


@functools.lru_cache(maxsize=2)
def _column(root: str, uri: str, column: str, group: int, stamp: int) -> Any:
    from mixloom.pipeline.ingest.files import source_files

    with open_parquet(source_files(root), uri) as file:
        return file.read_row_group(group, columns=[column], use_threads=False).column(0)


def read_cell(files: SourceFiles, uri: str, column: str, row: int) -> bytes:
    """The bytes in one cell of a binary column, or of the `bytes` of a struct column.

    Raises:
        Problem: no such cell, or nothing binary in it.
    """
    size = files.size(uri)
    with open_parquet(files, uri) as file:
        group, first = 0, 0
        while group < file.metadata.num_row_groups:
            rows = file.metadata.row_group(group).num_rows
            if first <= row < first + rows:
                break
            first, group = first + rows, group + 1
        else:
            raise Problem("missing_media", f"'{uri}' has no row {row}", fix="run ingest again")
        if column not in file.schema_arrow.names:
            raise Problem("missing_media", f"'{uri}' has no column '{column}'", fix="run ingest again")
    value = _column(files.root, uri, column, group, size)[row - first].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise Problem(
            "missing_media", f"'{uri}' row {row}, '{column}' holds no bytes", fix="run ingest again"
        )
    return data
