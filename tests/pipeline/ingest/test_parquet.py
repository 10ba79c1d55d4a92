import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.media import open_media
from mixloom.pipeline.ingest.plan import plan_splits
from mixloom.pipeline.ingest.readers import read_split
from mixloom.pipeline.ingest.split import Split


def _write(bench, name, table, **options):
    path = bench.root / name
    pq.write_table(table, path, **options)
    return path


def test_rows_are_documents_with_their_row_number(bench):
    table = pa.table({"text": ["a", "b", "c"], "lang": ["en", "de", None], "big": [b"x" * 10] * 3})
    _write(bench, "f.parquet", table, row_group_size=2)
    documents, failures = bench.read("parquet", language_field="lang", meta_fields=["lang"])
    assert failures == []
    assert [(d.segments[0].text, d.locator.offset, d.language) for d in documents] == [
        ("a", 0, "en"),
        ("b", 1, "de"),
        ("c", 2, None),
    ]


def test_only_named_columns_are_read(bench, monkeypatch):
    _write(bench, "f.parquet", pa.table({"text": ["a"], "other": ["b"]}))
    asked = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, *a, **k: asked.append(k["columns"]) or original(self, *a, **k),
    )
    bench.read("parquet")
    assert asked == [["text"]]


def test_row_groups_split_a_file_without_changing_a_document(bench):
    table = pa.table({"text": [f"row {i} " + "x" * 50 for i in range(1000)]})
    _write(bench, "f.parquet", table, row_group_size=90, compression="none")
    source = bench.source("parquet")
    splits = plan_splits(source, str(bench.root), max_bytes=12_000)
    assert len(splits) > 3
    assert {s.unit for s in splits} == {"row_groups"}
    assert [s.start for s in splits] == [0, *(s.stop for s in splits[:-1])]
    parts = [x for s in splits for x in read_split(s, source, str(bench.root))]
    whole = Split(source="s", unit="files", files=("f.parquet",))
    assert parts == list(read_split(whole, source, str(bench.root)))
    assert len(parts) == 1000


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_a_broken_file_is_one_failure(bench, content):
    bench.write("f.parquet", content)
    documents, failures = bench.read("parquet")
    assert documents == []
    assert [f.reason for f in failures] == ["bad_parquet"]
    assert "fix: write it again" in failures[0].detail


def test_a_damaged_row_group_costs_itself_only(bench):
    table = pa.table({"text": [f"row {i} " + "y" * 80 for i in range(300)]})
    path = _write(bench, "f.parquet", table, row_group_size=100, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    at = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[at : at + 60] = b"\xee" * 60
    path.write_bytes(bytes(data))
    documents, failures = bench.read("parquet")
    assert {d.locator.offset for d in documents} == {*range(100), *range(200, 300)}
    assert [f.reason for f in failures] == ["bad_parquet"]
    assert "row group 1" in failures[0].detail
    assert (failures[0].locator.offset, failures[0].locator.length) == (100, 100)


def test_a_missing_column_names_those_there_are(bench):
    _write(bench, "f.parquet", pa.table({"body": ["a"], "n": [1]}))
    _, failures = bench.read("parquet")
    assert failures[0].reason == "missing_column"
    assert "there is no column 'text' (the file has: body, n)" in failures[0].detail


def test_a_string_that_is_not_utf8_costs_its_row_only(bench):
    raw = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary())
    column = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    _write(bench, "f.parquet", pa.table({"text": column}))
    documents, failures = bench.read("parquet")
    assert [d.segments[0].text for d in documents] == ["good", "fine"]
    assert failures[0].reason == "invalid_utf8"
    assert "row 1: the field 'text' is not valid utf-8: byte 0xff" in failures[0].detail


def test_a_table_without_rows_is_counted(bench):
    _write(bench, "f.parquet", pa.table({"text": pa.array([], pa.string())}))
    _, failures = bench.read("parquet")
    assert [(f.outcome, f.reason) for f in failures] == [("dropped", "empty_document")]


@pytest.mark.parametrize("struct", [True, False])
def test_images_held_in_the_table_can_be_opened_again(bench, make_png, struct):
    images = [make_png(4 + i, 3) for i in range(5)]
    values = [{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(images)] if struct else images
    table = pa.table({"text": [f"t{i}" for i in range(5)], "image": values})
    _write(bench, "f.parquet", table, row_group_size=2)
    documents, failures = bench.read("parquet", image_field="image")
    assert failures == []
    for i, d in enumerate(documents):
        media = d.segments[0].media
        assert media is not None
        assert (media.width, media.member) == (4 + i, f"image:{i}")
        assert open_media(str(bench.root), media.uri, media.member) == images[i]


def test_nothing_that_matches_is_a_user_error(bench):
    bench.write("f.parq", "x")
    with pytest.raises(
        UserError, match=r"nothing below .* matches '\*\*/\*.parquet'. Files there by suffix: .parq \(1\)"
    ):
        bench.read("parquet")
