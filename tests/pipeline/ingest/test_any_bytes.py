"""Whatever bytes a file holds, a reader answers with documents and failures, and nothing disappears."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.config import SourceConfig
from mixloom.pipeline.ingest.plan import plan_splits
from mixloom.pipeline.ingest.readers import read_split
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.schema import Document, Failure, documents_batch, failures_batch

ADAPTER = TypeAdapter(SourceConfig)
CASES = {
    "text": ("f.txt", {}),
    "text-split": ("f.txt", {"split": "^#"}),
    "text-lines": ("f.txt", {"split": "lines", "encoding": "shift_jis"}),
    "text-headers": ("f.txt", {"strip_headers": True, "on_encoding_error": "replace"}),
    "text-gz": ("f.txt.gz", {}),
    "jsonl": ("f.jsonl", {}),
    "jsonl-segments": ("f.jsonl", {"segments_field": "text"}),
    "keyframes": ("f.jsonl", {"items": ["text"]}),
    "jsonl-gz": ("f.jsonl.gz", {}),
    "jsonl-zst": ("f.jsonl.zst", {}),
    "parquet": ("f.parquet", {}),
    "csv": ("f.csv", {}),
    "csv-gz": ("f.csv.gz", {"encoding": "utf-16", "text_field": "a"}),
    "webdataset": ("f.tar", {}),
    "webdataset-json": ("f.tar.gz", {"interleaved": {"kind": "segments"}}),
    "warc": ("f.warc", {}),
    "warc-all": ("f.warc.gz", {"extract": "all", "on_encoding_error": "fail", "images": "source"}),
    "warc-trafilatura": ("f.arc", {"extract": "trafilatura"}),
    "html-resiliparse": ("f.html", {"extract": "resiliparse"}),
    "html-trafilatura": ("f.html", {"extract": "trafilatura"}),
    "markdown": ("f.md", {}),
    "html": ("f.html", {}),
    "html-split": ("f.xhtml", {"split_on": "//p", "encoding": "latin-1"}),
    "xml": ("f.xml", {}),
    "xml-record": ("f.xml", {"record": "p", "html": True, "text": ["p", "p@x"], "image": "img@src"}),
    "xml-xpath": ("f.xml", {"record": "//p"}),
    "image_caption": ("f.png", {"captions": {"kind": "file_name", "pattern": "(?P<caption>f)"}}),
    "speech": ("f.wav", {"order": "speech_only"}),
}


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (
            ("a.txt", b"words"),
            ("a.json", b'{"segments": [{"text": "x"}]}'),
            ("b.png", b"none"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()[: 6 * 512]


_TAR = _tar()
SEEDS = [
    b'{"text": "a"}\n', b'{"text": [{"image": "../x"}]}\n', b"<p x='1'>", b"</p>", b"<img src=/etc/passwd>", b"&x;", b"\xff",
    b"\xff\xfe", b"\xef\xbb\xbf", b"---\n", b"a: [*b]\n", b"![a](/../b)", b"```\n", b"\0", b"\x1f\x8b\x08\0", b"PAR1",
    b"(\xb5/\xfd", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WAVE", b"fLaC", b"<?xml encoding='utf-16'?>", b"<!DOCTYPE x [",
    b"text\n", b'"a', b'a","b"\n', b"WARC/1.0\r\n", b"WARC-Type: response\r\n", b"Content-Length: 60\r\n\r\n", b"\r\n\r\n",
    b"Content-Type: application/http\r\n", b"HTTP/1.1 200 OK\r\n", b"Content-Type: text/html\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n", b"5\r\n", b"http://a.org/ 1.1.1.1 20200101000000 text/html 30\n", _TAR, _TAR[:600], b"\0" * 512,
    b"\r\n", b"# x\n", b"Subject: x\n", b"\n\n", b"\\ud800", b"<svg", b"\xed\xa0\x80",
]  # fmt: skip
CONTENT = st.lists(st.one_of(st.sampled_from(SEEDS), st.binary(max_size=12)), max_size=8).map(b"".join)


@pytest.mark.parametrize("case", CASES)
def test_any_bytes_give_documents_or_failures(tmp_path: Path, case: str):
    name, settings_ = CASES[case]
    source = ADAPTER.validate_python({"name": "s", "path": "x", "format": case.split("-")[0], **settings_})

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(CONTENT)
    def check(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        out = [x for s in plan_splits(source, str(tmp_path)) for x in read_split(s, source, str(tmp_path))]
        assert all(isinstance(x, Document | Failure) for x in out)
        documents_batch([x for x in out if isinstance(x, Document)])
        failures = [x for x in out if isinstance(x, Failure)]
        failures_batch(failures, "ingest")
        assert all(f.reason != "unreadable" for f in failures), failures  # every case was foreseen
        assert out, "nothing came of the file"

    check()


@pytest.mark.parametrize("kind", ["transcripts", "table", "coco"])
def test_any_bytes_as_a_table_are_a_user_error_or_failures(tmp_path: Path, make_png, make_sound, kind: str):
    (tmp_path / "f.png").write_bytes(make_png())
    (tmp_path / "f.wav").write_bytes(make_sound())
    if kind == "transcripts":
        settings_ = {"format": "speech", "transcripts": {"path": "t"}}
    elif kind == "table":
        table = {"kind": "table", "path": "t", "image_column": 0, "caption_column": 1}
        settings_ = {"format": "image_caption", "captions": table}
    else:
        settings_ = {"format": "image_caption", "captions": {"kind": "coco", "path": "t"}}
    source = ADAPTER.validate_python({"name": "s", "path": "x", **settings_})
    words = st.sampled_from(
        [b"f|one\n", b'f.png,"a\n', b"f.png,x\n", b'"', b"\n", b'{"images": [], "annotations": [1]}']
    )

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.one_of(words, st.binary(max_size=8)), max_size=5).map(b"".join))
    def check(content: bytes) -> None:
        (tmp_path / "t").write_bytes(content)
        try:
            splits = plan_splits(source, str(tmp_path))
        except UserError:  # a table that fits no source; its texts are tested with the formats
            return
        out = [x for s in splits for x in read_split(s, source, str(tmp_path))]
        failures_batch([x for x in out if isinstance(x, Failure)], "ingest")
        assert out

    check()


def test_a_reader_that_breaks_is_a_failure_not_a_traceback(bench, monkeypatch):
    bench.write("a.txt", "x")
    bench.write("b.txt", "y")

    def broken(*_: object) -> object:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("mixloom.pipeline.ingest.text.newlines", broken)
    documents, failures = bench.read("text")
    assert documents == []
    assert [(f.reason, f.locator.uri) for f in failures] == [("unreadable", "a.txt"), ("unreadable", "b.txt")]
    assert "ZeroDivisionError: a bug; fix: open the file with another program" in failures[0].detail


def test_a_file_that_went_away_after_planning_is_a_failure(bench):
    source = bench.source("text")
    out = list(read_split(Split(source="s", unit="files", files=("gone.txt",)), source, str(bench.root)))
    assert [x.reason for x in out] == ["missing_file"]
