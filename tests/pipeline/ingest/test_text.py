import pytest

from mixloom.pipeline.ingest.text import strip_headers

WIKI = " \n = One = \n\n text of one\n = = Section = = \n more\n = Two = \n text of two\n"


def test_a_file_is_a_document_with_its_line_ends_made_plain(bench):
    bench.write("b/x.txt", "line one\r\nline two\r\n\r\n")
    bench.write("a.txt", "\n\n    indented\n  less\n")
    documents, failures = bench.read("text", license="CC0-1.0", language="en", meta={"k": "v"})
    assert failures == []
    assert [(d.locator.uri, d.segments[0].text) for d in documents] == [
        ("a.txt", "    indented\n  less"),
        ("b/x.txt", "line one\nline two"),
    ]
    assert documents[0].license == "CC0-1.0"
    assert documents[0].language == "en"
    assert documents[0].meta == {"k": "v"}


def test_a_document_starts_at_each_match_of_the_split(bench):
    bench.write("w.txt", WIKI)
    documents, failures = bench.read("text", split=r"^ = [^=\n].*[^=\n] = *$")
    assert failures == []
    assert [d.segments[0].text.split("\n")[0] for d in documents] == [" = One = ", " = Two = "]
    assert "Section" in documents[0].segments[0].text
    raw = WIKI.encode()
    for d in documents:
        piece = raw[d.locator.offset : d.locator.offset + d.locator.length].decode()
        assert piece.strip() == d.segments[0].text.strip()


def test_what_stands_before_the_first_match_is_not_lost(bench):
    bench.write("w.txt", "preface\n= A\nx\n")
    documents, _ = bench.read("text", split="^= ")
    assert [d.segments[0].text for d in documents] == ["preface", "= A\nx"]


def test_offsets_count_bytes_not_characters(bench):
    bench.write("w.txt", "\ufeffäää\n#b\n".encode())
    documents, _ = bench.read("text", split="^#")
    assert [d.locator.offset for d in documents] == [3, 10]


def test_path_groups_become_meta_and_language(bench):
    bench.write("tatoeba.dan-eng.dan", "hej\n")
    documents, _ = bench.read(
        "text",
        glob="*",
        split="lines",
        language="en",
        meta_from_path=r"\.(?P<pair>[a-z]+-eng)\.(?P<language>[a-z]+)$",
    )
    assert documents[0].language == "dan"
    assert documents[0].meta == {"pair": "dan-eng"}


def test_an_empty_file_and_a_blank_one_are_dropped_not_lost(bench):
    bench.write("a.txt", "")
    bench.write("b.txt", " \n\n")
    documents, failures = bench.read("text")
    assert documents == []
    assert [(f.outcome, f.reason) for f in failures] == [("dropped", "empty_document")] * 2
    assert "the file is empty (0 bytes)" in failures[0].detail
    assert "holds no text and no media" in failures[1].detail


@pytest.mark.parametrize(
    ("content", "encoding", "reason", "words"),
    [
        (b"good \xff bad", "utf-8", "invalid_utf8", "'a.txt' is not valid utf-8: byte 0xff at byte offset 5"),
        (b"\xef\xbb\xbfgood \xff", "utf-8", "invalid_utf8", "byte 0xff at byte offset 8"),
        (b"cut \xe2\x82", "utf-8", "invalid_utf8", "byte 0xe2 at byte offset 4 (unexpected end of data)"),
        (b"\xff", "ascii", "invalid_encoding", "not valid ascii"),
    ],
)
def test_bytes_that_are_no_text_say_where_and_what_to_do(bench, content, encoding, reason, words):
    bench.write("a.txt", content)
    documents, failures = bench.read("text", encoding=encoding)
    assert documents == []
    assert failures[0].reason == reason
    assert words in failures[0].detail
    assert "fix: set encoding of the source (older files are often latin-1)" in failures[0].detail


def test_bad_bytes_can_be_replaced_and_other_encodings_read(bench):
    bench.write("a.txt", b"caf\xe9")
    assert bench.read("text", on_encoding_error="replace")[0][0].segments[0].text == "caf\ufffd"
    assert bench.read("text", encoding="latin-1")[0][0].segments[0].text == "café"


def test_a_bad_line_costs_that_line_only(bench):
    bench.write("a.txt", b"one\ntw\xffo\nthree\n")
    documents, failures = bench.read("text", split="lines")
    assert [d.segments[0].text for d in documents] == ["one", "three"]
    assert failures[0].locator.offset == 4
    assert "byte offset 6" in failures[0].detail


def test_a_byte_order_mark_decides_the_encoding(bench):
    bench.write("a.txt", "größe".encode("utf-16"))
    assert bench.read("text")[0][0].segments[0].text == "größe"


POST = "From: a@b.c\nSubject: Re: a long\n  subject\nDate: 16 Apr 1993 04:04:08 GMT\nLines: 1\n\nBody: not a header\n"


def test_a_header_block_is_dropped_and_its_subject_kept(bench):
    bench.write("a.txt", POST)
    documents, _ = bench.read("text", strip_headers=True)
    assert documents[0].segments[0].text == "Body: not a header"
    assert documents[0].meta == {"subject": "Re: a long subject"}
    assert documents[0].timestamp == "1993-04-16T04:04:08+00:00"


@pytest.mark.parametrize(
    "text", ["plain text\n\nmore", "Note: one line only\n\nmore", "A: b\nnot a header\n\nx", ""]
)
def test_text_without_headers_is_left_alone(text):
    assert strip_headers(text) == (text, {}, None)


def test_a_date_nobody_can_read_is_no_timestamp(bench):
    bench.write("a.txt", "From: x\nDate: yesterday\n\nbody")
    documents, failures = bench.read("text", strip_headers=True)
    assert failures == []
    assert documents[0].timestamp is None
