"""Web archives and pages of the real sets, where they lie beside the checkout; skipped where they do not."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from mixloom.pipeline.ingest.assemble import Ref, Text
from mixloom.pipeline.ingest.charset import decode_page
from mixloom.pipeline.ingest.config import SourceConfig
from mixloom.pipeline.ingest.extract import main_content
from mixloom.pipeline.ingest.media import open_media
from mixloom.pipeline.ingest.plan import plan_splits
from mixloom.pipeline.ingest.readers import read_split
from mixloom.pipeline.ingest.web_config import Extraction
from mixloom.pipeline.schema import Document

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real sets do not lie beside this checkout")
ADAPTER = TypeAdapter(SourceConfig)
WARC = DATA / "web-warc"


def read(path: Path, **settings):
    source = ADAPTER.validate_python({"name": "s", "path": "x", "format": "warc", **settings})
    out = [x for s in plan_splits(source, str(path)) for x in read_split(s, source, str(path))]
    return [x for x in out if isinstance(x, Document)], [x for x in out if not isinstance(x, Document)]


@pytest.mark.parametrize("extract", ["resiliparse", "trafilatura", "all"])
def test_the_captured_encyclopedia_page_is_interleaved_with_its_images(extract):
    path = WARC / "wikipedia-mona-lisa" / "flashfrozen-jwat-recompressed.warc.gz"
    documents, failures = read(path, extract=extract)
    assert [d.meta["title"] for d in documents] == ["Mona Lisa - Wikipedia, the free encyclopedia"] * 2
    assert {f.outcome for f in failures} == {"dropped"}
    one = documents[0]
    images = [s.media for s in one.segments if s.media]
    assert len(images) >= 14
    kinds = "".join(s.kind[0] for s in one.segments)
    assert kinds.count("ti") >= 8  # text and images take turns
    for media in images:
        data = open_media(str(path), media.uri, media.member)
        assert len(data) == media.bytes
    text = " ".join(s.text or "" for s in one.segments)
    assert text.index("half-length portrait of a woman") < text.index("Agostino Vespucci")
    assert max(m.width for m in images if m.width) >= 220


def test_one_common_crawl_capture_is_the_same_packed_and_plain_and_its_text_form_agrees():
    folder = WARC / "whirlwind"
    plain, packed = (read(folder / f"whirlwind.warc{x}")[0][0] for x in ("", ".gz"))
    assert [s.text for s in plain.segments] == [s.text for s in packed.segments]
    assert plain.meta == packed.meta
    raw = (folder / "whirlwind.warc.gz").read_bytes()
    place = packed.locator
    assert gzip.decompress(raw[place.offset : place.offset + place.length]).startswith(b"WARC/1.0")
    (wet,), _ = read(folder / "whirlwind.warc.wet.gz")
    assert wet.meta["url"] == plain.meta["url"]
    words = Counter((wet.segments[0].text or "").split())
    kept = Counter(" ".join(s.text or "" for s in plain.segments).split())
    assert sum((kept & words).values()) > 0.9 * sum(kept.values())


EDGES = {
    "bad.arc": (0, {"bad_record_header": 3, "bad_http": 1}),
    "example-bad-non-chunked.warc.gz": (1, {"revisit": 1}),
    "example-bad.warc.gz.bad": (1, {"revisit": 1, "http_status": 1}),
    "example-digest.warc": (0, {"no_records": 1}),
    "example-iana.org-chunked.warc": (1, {}),
    "example-resource.warc.gz": (1, {}),
    "example-space-in-target-uri.warc.gz": (0, {"no_records": 1}),
    "example-space-in-url.arc": (0, {"truncated_record": 1}),
    "example-trunc.warc": (0, {"digest_mismatch": 1}),
    "example-wget-bad-target-uri.warc.gz": (1, {}),
    "example-wrong-chunks.warc.gz": (0, {"digest_mismatch": 1}),
    "example.arc": (1, {}),
    "example.arc.gz": (1, {}),
    "example.warc": (1, {"revisit": 1}),
    "example.warc.gz": (1, {"revisit": 1}),
    "post-test.warc.gz": (0, {"mime_type": 3}),
}


@pytest.mark.parametrize("name", EDGES)
def test_every_odd_archive_gives_what_it_holds(name):
    documents, failures = read(WARC / "warcio" / name)
    count, reasons = EDGES[name]
    assert len(documents) == count
    assert Counter(f.reason for f in failures) == reasons


def test_a_broken_archive_may_be_read_without_its_digest():
    documents, _ = read(WARC / "warcio" / "example-wrong-chunks.warc.gz", verify_digests=False)
    assert "Example Domain" in (documents[0].segments[0].text or "")


@pytest.mark.parametrize(("extract", "least_avoided"), [("resiliparse", 0.97), ("trafilatura", 1.0)])
def test_pages_with_gold_keep_what_they_must_and_lose_what_they_must(extract, least_avoided):
    folder = DATA / "web-html-cc"
    kept: list[bool] = []
    avoided: list[bool] = []
    for line in (folder / "gold.jsonl").read_text().splitlines():
        gold = json.loads(line)
        html, _, _ = decode_page((folder / gold["file"]).read_bytes(), None, "utf-8", "replace", "the page")
        items = main_content(html, Extraction(extract=extract))
        text = " ".join("".join(x.text for x in items if isinstance(x, Text)).split())
        kept += [s in text for s in gold.get("with", [])]
        avoided += [s not in text for s in gold.get("without", [])]
        assert all(x.target for x in items if isinstance(x, Ref))
    assert len(kept) == len(avoided) == 38
    assert all(kept)
    assert sum(avoided) >= least_avoided * len(avoided)
