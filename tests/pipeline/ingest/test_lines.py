import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixloom.pipeline.ingest.config import JsonlSource, TextSource
from mixloom.pipeline.ingest.decode import trim
from mixloom.pipeline.ingest.files import SourceFiles
from mixloom.pipeline.ingest.lines import lines
from mixloom.pipeline.ingest.readers import read_split
from mixloom.pipeline.ingest.split import Split

quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(
    content=st.binary(max_size=60).map(lambda b: b.replace(b"a", b"\n")), cuts=st.lists(st.integers(0, 60))
)
def test_any_cut_of_a_file_gives_the_same_lines(tmp_path: Path, content: bytes, cuts: list[int]):
    (tmp_path / "f").write_bytes(content)
    files = SourceFiles(str(tmp_path))
    bounds = sorted({0, len(content), *(c for c in cuts if c < len(content))})
    got = []
    for start, stop in pairwise(bounds):
        got += [(x.offset, x.data) for x in lines(files, "f", start, stop, 1000)]
    plain = []
    at = 0
    for piece in content.split(b"\n"):
        plain.append((at, piece))
        at += len(piece) + 1
    if plain[-1][1] == b"":
        plain.pop()
    assert got == plain


def test_a_cut_does_not_depend_on_how_much_is_read_at_a_time(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"a\nbb\n\nccc\ndddd")
    files = SourceFiles(str(tmp_path))
    whole = [(x.offset, x.data) for x in lines(files, "f", 0, -1, 100)]
    monkeypatch.setattr("mixloom.pipeline.ingest.lines.CHUNK", 1)
    for cut in range(1, 14):
        parts = [*lines(files, "f", 0, cut, 100), *lines(files, "f", cut, 14, 100)]
        assert [(x.offset, x.data) for x in parts] == whole


@quick
@given(
    rows=st.lists(st.text(max_size=8), max_size=8),
    cut=st.integers(1, 200),
    junk=st.lists(st.integers(0, 7), max_size=2),
)
def test_any_cut_of_jsonl_gives_the_same_documents_and_failures(tmp_path: Path, rows, cut, junk):
    body = [json.dumps({"text": r}, ensure_ascii=False) for r in rows]
    for at in junk:
        body.insert(at, '{"text": ')
    data = "\n".join(body).encode("utf-8", "surrogatepass")
    (tmp_path / "f.jsonl").write_bytes(data)
    source = JsonlSource(name="s", path="x", format="jsonl")
    size = len(data)

    def read(start: int, stop: int, unit: str) -> list:
        split = Split(source="s", unit=unit, files=("f.jsonl",), start=start, stop=stop)
        return list(read_split(split, source, str(tmp_path)))

    whole = read(0, -1, "files")
    if 0 < cut < size:
        assert [*read(0, cut, "bytes"), *read(cut, size, "bytes")] == whole


def test_a_line_over_the_limit_is_one_failure_and_the_rest_goes_on(bench):
    bench.write("f.txt", "short\n" + "x" * 500 + "\nafter\n")
    documents, failures = bench.read("text", split="lines", max_bytes=100)
    assert [d.segments[0].text for d in documents] == ["short", "after"]
    assert failures[0].reason == "too_large"
    assert "the line has 500 bytes, more than max_bytes (100)" in failures[0].detail
    assert failures[0].locator.offset == 6


def _gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


ROWS = b"".join(b'{"text": "row %d %s"}\n' % (i, b"x" * (i % 50)) for i in range(20000))


@pytest.mark.parametrize(
    ("suffix", "pack", "reason"),
    [
        (".gz", _gz, "truncated_gzip"),
        (".zst", zstandard.ZstdCompressor().compress, "truncated_zstd"),
    ],
)
def test_a_truncated_archive_keeps_what_came_before(bench, suffix, pack, reason):
    packed = pack(ROWS)
    bench.write(f"f.jsonl{suffix}", packed[: len(packed) * 3 // 4])
    documents, failures = bench.read("jsonl")
    assert 5000 < len(documents) < 20000
    assert [d.segments[0].text.split()[1] for d in documents] == [str(i) for i in range(len(documents))]
    assert [f.reason for f in failures] == [reason]
    assert "ends in the middle; what came before it was kept; fix: fetch the file again" in failures[0].detail
    assert failures[0].locator.offset == documents[-1].locator.offset + documents[-1].locator.length + 1


@pytest.mark.parametrize(
    ("suffix", "pack", "reason"),
    [
        (".gz", _gz, "broken_gzip"),
        (".zst", zstandard.ZstdCompressor(write_checksum=True).compress, "broken_zstd"),
    ],
)
def test_a_damaged_archive_is_one_failure(bench, suffix, pack, reason):
    packed = bytearray(pack(ROWS))
    half = len(packed) // 2
    packed[half : half + 40] = b"\xff" * 40
    bench.write(f"f.jsonl{suffix}", bytes(packed))
    documents, failures = bench.read("jsonl")
    assert failures[-1].reason == reason
    assert len(documents) + len(failures) < 20001


def test_archives_of_several_members_are_read_to_the_end(bench):
    bench.write("a.jsonl.gz", _gz(b'{"text": "1"}\n') + _gz(b'{"text": "2"}\n') + b"\0" * 100)
    compress = zstandard.ZstdCompressor().compress
    bench.write("b.jsonl.zst", compress(b'{"text": "3"}\n') + compress(b'{"text": "4"}\n'))
    documents, failures = bench.read("jsonl")
    assert [d.segments[0].text for d in documents] == ["1", "2", "3", "4"]
    assert failures == []


def test_text_after_an_archive_is_not_taken_for_part_of_it(bench):
    bench.write("a.jsonl.gz", _gz(b'{"text": "1"}\n') + b"garbage")
    documents, failures = bench.read("jsonl")
    assert len(documents) == 1
    assert failures[0].reason == "broken_gzip"


def test_a_bomb_is_stopped_at_the_limit(bench):
    bench.write("bomb.txt.gz", _gz(b"a" * 5_000_000))
    documents, failures = bench.read("text", max_bytes=1_000_000)
    assert documents == []
    assert "holds more than max_bytes (1000000) bytes when decompressed" in failures[0].detail


@given(st.text())
def test_trimming_drops_only_white_space_and_keeps_the_first_indent(text):
    out = trim(text)
    assert out.strip() == text.strip()
    assert out == out.rstrip()
    if text.strip():
        assert "\n" not in out[: len(out) - len(out.lstrip())]


def test_lines_of_a_text_source_have_byte_offsets(bench):
    bench.write("f.txt", "\ufeffäö\n\n  \nß\r\n".encode())
    documents, _ = bench.read("text", split="lines")
    assert [(d.segments[0].text, d.locator.offset, d.locator.length) for d in documents] == [
        ("äö", 0, 7),
        ("ß", 12, 3),
    ]


def test_utf16_lines_are_cut_after_decoding(bench):
    bench.write("f.txt", "one\ntwo\u0a0a\n".encode("utf-16-le"))
    documents, failures = bench.read("text", split="lines", encoding="utf-16-le")
    assert [d.segments[0].text for d in documents] == ["one", "two\u0a0a"]
    assert failures == []
    assert isinstance(bench.source("text"), TextSource)


@pytest.mark.parametrize("format", ["text", "jsonl"])
def test_a_mark_of_another_encoding_is_one_failure_that_names_it(bench, format):
    name = "f.txt" if format == "text" else "f.jsonl"
    bench.write(name, '{"text": "a"}\n{"text": "b"}\n'.encode("utf-16"))
    settings_ = {"split": "lines"} if format == "text" else {}
    documents, failures = bench.read(format, **settings_)
    assert documents == []
    assert len(failures) == 1
    assert "starts with the byte order mark of utf-16-le; fix: set encoding: utf-16" in failures[0].detail
    documents, failures = bench.read(format, encoding="utf-16", **settings_)
    assert len(documents) == 2
    assert failures == []


@pytest.mark.parametrize("name", ["f.txt", "f.jsonl"])
def test_a_file_of_blank_lines_is_counted(bench, name):
    bench.write(name, "\n \n\n")
    settings_ = {"format": "text", "split": "lines"} if name == "f.txt" else {"format": "jsonl"}
    documents, failures = bench.read(**settings_)
    assert documents == []
    assert [f.outcome for f in failures] == ["dropped"]
    assert "the file holds nothing but white space (4 bytes)" in failures[0].detail
