"""Web archives to documents: pages, their images where they stand, and a line for everything left out."""

import gzip
import sys
from pathlib import Path

import pytest

from mixloom.pipeline.ingest.media import open_media
from mixloom.pipeline.ingest.plan import plan_splits
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.readers import read_split, reader_settings
from mixloom.pipeline.schema import Document

sys.path.insert(0, str(Path(__file__).parent))
from warc_files import arc, block_digest, http, pack, page, record, response


def reasons(failures):
    return [(f.reason, f.outcome, f.locator.offset) for f in failures]


def test_a_capture_becomes_a_document_with_its_place_time_and_address(bench):
    made = [record("warcinfo", "", b"x"), record("request", "http://a.org/1", b"GET / HTTP/1.1\r\n\r\n"),
            response("http://a.org/1", page("Wells"))]  # fmt: skip
    bench.write("a.warc.gz", pack(made, "gzip"))
    (document,), failures = bench.read("warc")
    assert failures == []
    sizes = [len(gzip.compress(r, mtime=0)) for r in made]
    assert (document.locator.uri, document.locator.offset) == ("a.warc.gz", sum(sizes[:2]))
    assert document.locator.length == sizes[2]
    assert document.timestamp == "2024-05-06T07:08:09Z"
    assert document.language == "en"
    assert document.meta == {
        "url": "http://a.org/1",
        "status": "200",
        "mime": "text/html",
        "title": "On Wells",
    }
    text = document.segments[0].text or ""
    assert text.startswith("On Wells\n\nThis page tells about Wells")
    assert "Home" not in text


def test_extract_all_keeps_the_whole_page(bench):
    bench.write("a.warc", response("http://a.org/", page("Wells")))
    (document,), _ = bench.read("warc", extract="all", drop=["script"])
    assert "Home" in (document.segments[0].text or "")


def test_status_and_type_decide_what_is_read_and_the_rest_is_counted(bench):
    made = [
        record("response", "http://a.org/1", http(b"gone", status=404)),
        record("response", "http://a.org/2", http(b"{}", "application/json")),
        record("response", "http://a.org/3", http(b"moved", status=301)),
        response("http://a.org/4", b"plain words", "text/plain"),
    ]
    bench.write("a.warc", pack(made, "plain"))
    (document,), failures = bench.read("warc")
    assert document.segments[0].text == "plain words"
    assert [(f.reason, f.outcome) for f in failures] == [
        ("http_status", "dropped"),
        ("mime_type", "dropped"),
        ("http_status", "dropped"),
    ]
    assert "HTTP status 404 (http://a.org/1)" in failures[0].detail
    assert "application/json is not in mime of the source" in failures[1].detail
    documents, failures = bench.read("warc", status=[200, 404], mime=["text/*"])
    assert len(documents) == 2
    assert len(failures) == 2


def test_the_identified_type_wins_over_what_the_server_said(bench):
    made = [response("http://a.org/1", page("Wells"), "application/octet-stream",
                     WARC_Identified_Payload_Type="text/html"),
            response("http://a.org/2", b"%PDF", "text/html", WARC_Identified_Payload_Type="application/pdf")]  # fmt: skip
    bench.write("a.warc", pack(made, "plain"))
    (document,), (failure,) = bench.read("warc")
    assert document.meta["url"] == "http://a.org/1"
    assert failure.reason == "mime_type"


def test_a_page_whose_server_named_no_type_is_told_by_how_it_begins(bench):
    bare = b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n"
    made = [
        record("response", "http://a.org/1", bare + b"\n  " + page("Wells")),
        record("response", "http://a.org/2", bare + b"<htmlish>no</htmlish>"),
        record("response", "http://a.org/3", bare + b"\x89PNG"),
    ]
    bench.write("a.warc", pack(made, "plain"))
    (document,), failures = bench.read("warc")
    assert (document.meta["url"], document.meta["mime"]) == ("http://a.org/1", "text/html")
    assert [f.reason for f in failures] == ["mime_type", "mime_type"]


def test_wet_and_resource_records_are_documents_and_logs_of_the_crawler_are_not(bench):
    made = [
        record(
            "conversion", "http://a.org/1", b"the text of a page", WARC_Identified_Content_Language="eng,deu"
        ),
        record("resource", "http://a.org/2", page("Wells"), Content_Type="text/html"),
        record("resource", "metadata://gnu.org/software/wget/warc/wget.log", b"a log"),
        record("metadata", "http://a.org/1", b"{}", Content_Type="application/json"),
    ]
    bench.write("a.warc.wet.gz", pack(made, "gzip"))
    documents, failures = bench.read("warc")
    assert failures == []
    assert [d.meta["url"] for d in documents] == ["http://a.org/1", "http://a.org/2"]
    assert documents[0].meta["identified_language"] == "eng,deu"
    assert "status" not in documents[0].meta


def test_a_revisit_is_counted_with_the_capture_it_repeats(bench):
    fields = {"WARC_Refers_To_Target_URI": "http://a.org/1", "WARC_Refers_To_Date": "2020-01-01T00:00:00Z"}
    bench.write("a.warc", record("revisit", "http://a.org/2", http(b""), **fields))
    documents, (failure,) = bench.read("warc")
    assert documents == []
    assert (failure.reason, failure.outcome) == ("revisit", "dropped")
    assert "the same content as the capture of http://a.org/1 on 2020-01-01T00:00:00Z" in failure.detail


def test_images_stand_in_place_and_are_read_again_from_the_archive(bench, segments, make_png):
    one, two = make_png(7, 5), make_png(9, 4)
    body = page("Wells", "<p>Look:</p><img src='/one.png' alt='first'><p>between the two of them</p>"
                         "<img src='//b.org/two%20x.png'><img src='elsewhere.png'>")  # fmt: skip
    made = [
        response("http://a.org/deep/page", body),
        record(
            "response",
            "https://a.org/one.png",
            http(gzip.compress(one), "image/png", Content_Encoding="gzip"),
        ),
        response("http://b.org/two x.png", two, "image/png"),
    ]
    for packing, name in (("gzip", "a.warc.gz"), ("plain", "a.warc"), ("zstd", "a.warc.zst"),
                          ("gzip-whole", "w.warc.gz")):  # fmt: skip
        bench.write(name, pack(made, packing))
        (document,), failures = bench.read("warc", glob=name)
        assert failures == []
        kinds = [s.kind for s in document.segments]
        assert kinds == ["text", "image", "text", "image", "text"]
        assert (document.segments[2].text or "").strip() == "between the two of them"
        assert document.segments[1].attrs == {"alt": "first"}
        assert document.meta["images_not_captured"] == "1"
        media = [s.media for s in document.segments if s.media]
        assert [m.width for m in media] == [7, 9]
        assert [open_media(str(bench.root), m.uri, m.member) for m in media] == [one, two]


def test_markup_of_a_page_is_kept_and_an_image_that_was_not_captured_leaves_no_tag(bench, make_png):
    body = page("Wells", "<img src='/one.png' alt='first'><img src='elsewhere.png' alt='second'>")
    made = [response("http://a.org/x", body), response("http://a.org/one.png", make_png(), "image/png")]
    bench.write("a.warc", pack(made, "plain"))
    (document,), failures = bench.read("warc", extract="all", markup=True)
    assert failures == []
    assert [s.kind for s in document.segments] == ["text", "image", "text"]
    first, last = document.segments[0].text or "", document.segments[2].text or ""
    assert first.startswith("<h1>On Wells</h1>\n<p>This page")
    assert first.endswith('</p><img alt="first">')
    assert last.startswith("<p>A second paragraph")


def test_images_may_be_left_out_or_looked_for_in_every_file(bench, make_png):
    bench.write("a.warc.gz", pack([response("http://a.org/", page("Wells", "<img src='i.png'>"))], "gzip"))
    bench.write("b.warc.gz", pack([response("http://a.org/i.png", make_png(), "image/png")], "gzip"))
    found = {}
    for images in ("none", "file", "source"):
        documents, failures = bench.read("warc", images=images)
        found[images] = [s.media.uri for d in documents for s in d.segments if s.media]
        assert [(f.reason, f.locator.uri) for f in failures] == (
            [("mime_type", "b.warc.gz")] if images == "none" else [("no_records", "b.warc.gz")]
        )
    assert found == {"none": [], "file": [], "source": ["b.warc.gz"]}


def test_a_revisited_image_is_the_one_whose_digest_it_names(bench, make_png):
    made = [
        response("http://a.org/", page("Wells", "<img src='again.png'>")),
        response("http://a.org/first.png", make_png(6, 6), "image/png", WARC_Payload_Digest="sha1:ABC"),
        record("revisit", "http://a.org/again.png", http(b"", "image/png"), WARC_Payload_Digest="sha1:ABC"),
    ]
    bench.write("a.warc", pack(made, "plain"))
    (document,), _ = bench.read("warc")
    assert [s.media.width for s in document.segments if s.media] == [6]


def test_a_broken_image_costs_that_image_only(bench, make_png):
    bad = make_png(40, 40)[:-30]
    made = [response("http://a.org/", page("Wells", "<img src='i.png'>")),
            response("http://a.org/i.png", bad, "image/png")]  # fmt: skip
    bench.write("a.warc", pack(made, "plain"))
    (document,), (failure,) = bench.read("warc")
    assert [s.kind for s in document.segments] == ["text"]
    assert (failure.scope, failure.reason) == ("media", "truncated_image")
    assert "'i.png'" in failure.detail


def test_a_reference_into_an_archive_that_changed_says_so(bench):
    bench.write("a.warc", response("http://a.org/", page("Wells")))
    with pytest.raises(Problem, match=r"no record starts here|not a WARC"):
        open_media(str(bench.root), "a.warc", "@5")


def test_a_base_element_and_late_images_are_followed(bench, make_png):
    html = (b"<html><head><base href='http://cdn.org/x/'></head><body><article><p>" + b"Some words. " * 30
            + b"</p><img src='data:image/gif;base64,AAAA' data-src='i.png'><p>" + b"More words. " * 30
            + b"</p></article></body></html>")  # fmt: skip
    made = [response("http://a.org/", html), response("http://cdn.org/x/i.png", make_png(), "image/png")]
    bench.write("a.warc", pack(made, "plain"))
    for extract in ("all", "resiliparse", "trafilatura"):
        (document,), failures = bench.read("warc", extract=extract)
        assert [s.kind for s in document.segments] == ["text", "image", "text"], extract
        assert failures == []


def test_damage_is_told_with_its_place_and_the_rest_is_read(bench):
    members = [gzip.compress(response(f"http://a.org/{i}", page(f"item {i}")), mtime=0) for i in range(4)]
    hurt = bytearray(members[1])
    hurt[60:70] = b"\xff" * 10
    bench.write("a.warc.gz", b"".join([members[0], bytes(hurt), *members[2:], b"\x1f\x8b\x08junk"]))
    documents, failures = bench.read("warc")
    assert [d.meta["url"][-1] for d in documents] == ["0", "2", "3"]
    assert failures[0].reason == "broken_gzip"
    assert failures[0].locator.offset == len(members[0])
    assert "records before and after the damage were kept" in failures[0].detail
    assert failures[1].locator.offset == sum(map(len, members))


def test_a_block_that_does_not_match_its_digest_is_a_failure(bench):
    good, bad = http(page("Wells")), http(page("Springs"))
    made = [record("response", "http://a.org/1", good, WARC_Block_Digest=block_digest(good)),
            record("response", "http://a.org/2", bad, WARC_Block_Digest=block_digest(good)),
            record("response", "http://a.org/3", bad, WARC_Block_Digest="crc9:1234")]  # fmt: skip
    bench.write("a.warc", pack(made, "plain"))
    documents, (failure,) = bench.read("warc")
    assert [d.meta["url"][-1] for d in documents] == ["1", "3"]
    assert failure.reason == "digest_mismatch"
    assert "verify_digests: false" in failure.detail
    documents, failures = bench.read("warc", verify_digests=False)
    assert len(documents) == 3
    assert failures == []


def test_a_body_the_crawler_cut_is_kept_and_marked(bench):
    body = gzip.compress(page("Wells", "<p>" + " ".join(map(str, range(3000))) + "</p>"))[:-100]
    block = http(body, Content_Encoding="gzip")
    made = [record("response", "http://a.org/1", block), record("response", "http://a.org/2", block,
                                                                WARC_Truncated="length")]  # fmt: skip
    bench.write("a.warc", pack(made, "plain"))
    (document,), (failure,) = bench.read("warc")
    assert document.meta["truncated"] == "length"
    assert (failure.reason, failure.locator.offset) == ("truncated_body", 0)
    assert "http://a.org/1" in failure.detail


def test_encodings_come_from_the_bytes_the_header_the_page_and_the_detector(bench):
    words = "Größe und Maß der Bäume im Frühling über den Dächern der Städte"
    cyrillic = "Быстрая бурая лиса прыгает через ленивую собаку и бежит дальше по дороге к лесу"
    made = [
        response("http://a.org/utf8-whatever-said", words.encode(), "text/plain; charset=iso-8859-1"),
        response("http://a.org/header", words.encode("cp1252"), "text/plain; charset=windows-1252"),
        response(
            "http://a.org/meta", b"<meta charset='koi8-r'><body><p>" + cyrillic.encode("koi8-r"), "text/html"
        ),
        response("http://a.org/detected", cyrillic.encode("cp1251"), "text/plain"),
        response("http://a.org/mark", words.encode("utf-16"), "text/plain; charset=utf-8"),
    ]
    bench.write("a.warc", pack(made, "plain"))
    documents, failures = bench.read("warc", extract="all")
    assert failures == []
    texts = {d.meta["url"].rpartition("/")[2]: d.segments[0].text for d in documents}
    assert texts == {"utf8-whatever-said": words, "header": words, "meta": cyrillic, "detected": cyrillic,
                     "mark": words}  # fmt: skip


def test_bad_bytes_are_replaced_and_counted_or_fail_by_setting(bench):
    body = ("Größe und Maß über den Dächern " * 3).encode() + b"\xff!"
    bench.write("a.warc", response("http://a.org/", body, "text/plain; charset=utf-8"))
    (document,), _ = bench.read("warc")
    assert (document.segments[0].text or "").endswith("Dächern \ufffd!")
    assert document.meta["replaced_characters"] == "1"
    documents, (failure,) = bench.read("warc", on_encoding_error="fail")
    assert documents == []
    assert failure.reason == "invalid_utf8"
    assert "byte 0xff" in failure.detail


def test_a_page_on_which_the_extractor_breaks_goes_to_the_ledger(bench, monkeypatch):
    import mixloom.pipeline.ingest.extract as extract

    def breaks(html, how):
        if "item 1" in html:
            raise ZeroDivisionError("a bug of theirs")
        return real(html, how)

    real = extract._resiliparse
    monkeypatch.setattr(extract, "_resiliparse", breaks)
    bench.write("a.warc", pack([response(f"http://a.org/{i}", page(f"item {i}")) for i in range(3)], "plain"))
    documents, (failure,) = bench.read("warc")
    assert len(documents) == 2
    assert failure.reason == "extractor_failed"
    assert "failed on the page (ZeroDivisionError: a bug of theirs)" in failure.detail
    assert "http://a.org/1" in failure.detail


def test_a_page_longer_than_the_bound_fails_by_its_size_and_never_by_a_clock(bench):
    bench.write("a.warc", response("http://a.org/", page("Wells", "<p>word</p>" * 500)))
    documents, (failure,) = bench.read("warc", max_page_chars=2000)
    assert documents == []
    assert failure.reason == "page_too_long"
    assert "more than max_page_chars (2000)" in failure.detail
    documents, _ = bench.read("warc", max_page_chars=2000, extract="all")
    assert len(documents) == 1


@pytest.mark.parametrize("packing", ["plain", "gzip"])
def test_a_large_archive_is_cut_and_any_cut_gives_the_same_documents(bench, packing):
    made = [response(f"http://a.org/{i}", page(f"item {i}")) for i in range(20)]
    raw = pack(made, packing)
    bench.write("a.warc.gz", raw)
    source = bench.source("warc")
    root = str(bench.root)
    whole = [x.doc_id for x in read_split(plan_splits(source, root)[0], source, root)]
    assert len(whole) == 20
    for size in (len(raw) // 2, 1500, 700):
        splits = plan_splits(source, root, max_bytes=size)
        assert len(splits) == -(-len(raw) // size)
        assert {s.unit for s in splits} == {"bytes"}
        found = [x for s in splits for x in read_split(s, source, root)]
        assert [x.doc_id for x in found if isinstance(x, Document)] == whole
        assert len(found) == 20


def test_max_documents_reads_the_first_so_many(bench):
    bench.write("a.warc", pack([response(f"http://a.org/{i}", page(f"item {i}")) for i in range(9)], "plain"))
    documents, _ = bench.read("warc", max_documents=4)
    assert [d.meta["url"][-1] for d in documents] == ["0", "1", "2", "3"]


def test_an_arc_file_gives_documents(bench):
    made = arc([("http://a.org/one", http(page("Wells"))), ("dns:a.org", b"20240101 a.org")])
    bench.write("a.arc.gz", pack(made, "gzip"))
    (document,), failures = bench.read("warc")
    assert document.meta["url"] == "http://a.org/one"
    assert document.timestamp == "2024-05-06T07:08:09Z"
    assert failures == []


def test_segmented_records_and_blocks_that_are_no_http_are_told(bench):
    made = [response("http://a.org/1", page("Wells"), WARC_Segment_Number="1"),
            record("continuation", "http://a.org/1", b"rest", WARC_Segment_Number="2"),
            record("response", "http://a.org/2", b"<p>no status line</p>")]  # fmt: skip
    bench.write("a.warc", pack(made, "plain"))
    documents, failures = bench.read("warc")
    assert documents == []
    assert [f.reason for f in failures] == ["segmented_record", "segmented_record", "bad_http"]


def test_files_without_pages_are_counted(bench):
    bench.write("a.warc", record("warcinfo", "", b"software: x"))
    bench.write("b.warc", b"")
    bench.write("c.warc", b"no archive at all\n")
    documents, failures = bench.read("warc")
    assert documents == []
    assert [f.reason for f in failures] == ["no_records", "empty_document", "not_a_record"]
    assert "it starts with b'no archive at al'" in failures[2].detail


def test_the_extractor_and_its_version_are_part_of_the_settings(bench):
    from importlib.metadata import version

    assert reader_settings(bench.source("warc")) == {"extractor": f"resiliparse {version('resiliparse')}"}
    assert reader_settings(bench.source("html")) == {}
    assert reader_settings(bench.source("html", extract="trafilatura")) == {
        "extractor": f"trafilatura {version('trafilatura')}"
    }
    assert reader_settings(bench.source("text")) == {}
