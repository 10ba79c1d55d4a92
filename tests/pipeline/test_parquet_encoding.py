import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixloom.pipeline.parquet_encoding import encodings
from mixloom.pipeline.run import parquet_bytes


def table(rows: int) -> pa.Table:
    segment = pa.struct(
        [("kind", pa.string()), ("text", pa.string()), ("attrs", pa.map_(pa.string(), pa.string()))]
    )
    segments = [
        [{"kind": "text", "text": f"text {i}", "attrs": [("role", "body")]}] * (i % 3) for i in range(rows)
    ]
    return pa.table(
        {
            "doc_id": pa.array([f"{i:032x}" for i in range(rows)]),
            "source": pa.array(["web"] * rows),
            "row": pa.array(np.arange(rows, dtype=np.int32)),
            "words": pa.array([None if i % 7 == 0 else i for i in range(rows)], pa.int32()),
            "share": pa.array(np.linspace(0, 1, rows), pa.float32()),
            "hash": pa.array(
                [None if i % 5 == 0 else bytes([i % 256] * 16) for i in range(rows)], pa.binary(16)
            ),
            "segments": pa.array(segments, pa.list_(segment)),
            "spans": pa.array([[i, i + 1] for i in range(rows)], pa.large_list(pa.int32())),
            "vector": pa.array([[0.5, float(i)] for i in range(rows)], pa.list_(pa.float16(), 2)),
        }
    )


def columns(data: bytes) -> dict[str, pq.ColumnChunkMetaData]:
    group = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0)
    return {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}


@pytest.mark.parametrize("rows", [0, 1, 1000, 6000])
def test_what_is_written_is_read_back(rows: int) -> None:
    written = table(rows)
    read = pq.read_table(pa.BufferReader(parquet_bytes(written)))
    assert read.equals(written)
    assert parquet_bytes(table(rows)) == parquet_bytes(written)


def test_every_column_of_the_file_is_named_in_the_compression() -> None:
    written = table(100)
    assert set(encodings(written)["compression"]) == set(columns(parquet_bytes(written)))


def test_hashes_and_vectors_are_stored_as_they_are_and_the_rest_is_compressed() -> None:
    found = columns(parquet_bytes(table(1001)))
    plain = ("doc_id", "hash", "vector.list.element")
    assert {found[name].compression for name in plain} == {"UNCOMPRESSED"}
    numbers = ("row", "words", "share")
    assert {found[name].compression for name in numbers} == {"SNAPPY"}
    assert {c.compression for name, c in found.items() if name not in (*plain, *numbers)} == {"ZSTD"}
    many = columns(parquet_bytes(table(24_000)))
    assert {many[name].compression for name in numbers} == {"ZSTD"}
    few = columns(parquet_bytes(table(1000)))
    text = "segments.list.element.text"
    assert {c.compression for name, c in few.items() if name not in (*plain, text)} == {"SNAPPY"}
    assert few[text].compression == "ZSTD"
    assert {name for name, c in found.items() if c.statistics is None} == {"vector.list.element"}


def test_row_numbers_are_written_as_differences() -> None:
    assert "DELTA_BINARY_PACKED" in columns(parquet_bytes(table(1000)))["row"].encodings


@pytest.mark.parametrize(("rows", "expected"), [(1000, False), (24_000, True)])
def test_numbers_have_a_dictionary_only_in_tables_of_many_rows(rows: int, expected: bool) -> None:
    found = columns(parquet_bytes(table(rows)))
    assert found["words"].has_dictionary_page == found["share"].has_dictionary_page == expected
    assert found["source"].has_dictionary_page
    without = ("doc_id", "hash", "vector.list.element", "segments.list.element.text")
    assert not any(found[name].has_dictionary_page for name in without)
    assert found["segments.list.element.kind"].has_dictionary_page
