"""How the columns of a part are written in Parquet: encodings that suit batches of some thousand documents.

Parquet's own default is a dictionary for every column. For numbers of so few documents, hashes and vectors that
costs a third of the time of writing and often bytes too; row numbers and offsets are best written as differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

_LEVEL = 3  # of zstd
_MANY_ROWS = 20_000  # from so many rows on numbers have a dictionary
_FEW_ROWS = 1_000  # up to so many rows zstd takes longer to begin than to work
_DISTINCT = ("doc_id", "text")  # strings no two rows share
_ASCENDING = ("row", "start", "stop", "next")


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The columns Parquet makes of a field, by path."""
    if pa.types.is_struct(kind):
        for f in kind:
            yield from _leaves(f"{path}.{f.name}", f.type)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", kind.key_type)
        yield from _leaves(f"{path}.key_value.value", kind.item_type)
    elif pa.types.is_nested(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path, kind


def encodings(table: pa.Table) -> dict[str, Any]:
    """Options of `pyarrow.parquet.ParquetWriter`: which columns have a dictionary or hold differences, how each is compressed, and which have statistics."""
    dictionary: list[str] = []
    column_encoding: dict[str, str] = {}
    compression: dict[str, str] = {}
    statistics: list[str] = []
    for field_ in table.schema:
        for path, kind in _leaves(field_.name, field_.type):
            flat = path == field_.name
            name = path.rpartition(".")[2]
            # Hashes and vectors do not compress, and the least and largest number of a vector tell nothing.
            vector = pa.types.is_float16(kind) or (not flat and pa.types.is_floating(kind))
            number = flat and (pa.types.is_integer(kind) or pa.types.is_floating(kind))
            compression[path] = "none" if vector or pa.types.is_fixed_size_binary(kind) else "zstd"
            if path == "doc_id":
                # 32 digits of a hash: zstd finds nothing but that they are digits, and takes long for it.
                compression[path] = "none"
            if number and not vector and table.num_rows < _MANY_ROWS:
                compression[path] = "snappy"  # on so few numbers zstd takes longer to begin than to work
            if compression[path] == "zstd" and name != "text" and table.num_rows <= _FEW_ROWS:
                compression[path] = "snappy"
            statistics += [] if vector else [path]
            if flat and name in _ASCENDING and pa.types.is_integer(kind):
                column_encoding[path] = "DELTA_BINARY_PACKED"
            elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
                dictionary += [path] if name not in _DISTINCT else []
            elif pa.types.is_integer(kind):
                dictionary += [path] if not flat or table.num_rows >= _MANY_ROWS else []
            elif pa.types.is_floating(kind):
                dictionary += [path] if flat and table.num_rows >= _MANY_ROWS else []
    levels = {path: _LEVEL for path, how in compression.items() if how == "zstd"}
    return {
        "use_dictionary": dictionary,
        "column_encoding": column_encoding or None,
        "compression": compression,
        "compression_level": levels or None,
        "write_statistics": statistics,
    }
